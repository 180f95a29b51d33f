"""Run the whole chain on a clip: a camera (replay) → segment → recorder, each a ROS 2 process, then a report.

Writes overlay.mp4, contact_sheet.png, frames.csv, bag/ (masks, diagnostics) and summary.json to one folder.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from vss_ros.config import SegmentConfig, VssError, share_dir
from vss_ros.images import contact_sheet
from vss_ros.sources import Source, open_source

QUIET = 2.0
"""Seconds without a new mask, after the camera has ended, that end the recording."""
START = 600.0
"""Seconds that a model may take to be prepared; the first time it is exported and compiled."""
NODES = ("recorder", "segment", "replay")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = SegmentConfig()
    parser.add_argument("--input", default="street", help="video, folder of images, rosbag2 or street[:SEED]")
    parser.add_argument("--topic", default="", help="image topic of a rosbag2 that has several")
    parser.add_argument(
        "--out", default="demo_out", help="folder to write; an earlier demo there is replaced"
    )
    parser.add_argument("--model", default=default.model, help="name of a model or path of its card")
    parser.add_argument("--backend", default=default.backend, help="auto, torch, onnxruntime or openvino")
    parser.add_argument("--interval", type=int, default=default.interval, help="frames between keyframes")
    parser.add_argument("--max-frames", type=int, default=0, help="stop after so many frames; 0: all")
    parser.add_argument("--rate", type=float, default=1.0, help="speed of the camera; 1 is real time")


def main(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("rclpy") is None:
        raise VssError(
            "rclpy is not installed: pip install 'vss_ros[ros]', or source /opt/ros/DISTRO/setup.bash"
        )
    if args.max_frames < 0 or not args.rate > 0:
        raise VssError(f"expected --max-frames >= 0 and --rate > 0, got {args.max_frames} and {args.rate}")
    out = Path(args.out).absolute()
    check_out(out)
    source = open_source(args.input, args.topic or None)
    out.parent.mkdir(parents=True, exist_ok=True)
    # A closed terminal or a `kill` cleans up like Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with scratch(out) as folder:
        made = folder / "demo"
        sys.stdout.write(f"{source.name}: {source.size[1]}x{source.size[0]}, model {args.model}\n")
        clip = render_street(args, folder) if is_street(args) else {"source": args.input, "topic": args.topic}
        run_nodes(args, clip, source, folder, made)
        stamps = [int(line) for line in (folder / "stamps").read_text().split()]
        summary = summarize(made, args, source, len(stamps))
        if is_street(args):
            summary["miou"] = street_miou(made, folder / "truth", stamps, summary["classes"])
        (made / "contact_sheet.png").write_bytes(sheet(made / "overlay.mp4"))
        (made / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        shutil.copytree(folder / "logs", made / "logs")
        if out.exists():
            out.rename(folder / "old")
        made.rename(out)
    sys.stdout.write(table(summary) + f"\nwritten: {out}\n")
    return 0


def check_out(out: Path) -> None:
    """Only what a demo wrote is ever replaced."""
    if not out.exists():
        return
    with contextlib.suppress(OSError, ValueError):
        if json.loads((out / "summary.json").read_text())["written_by"] == "vss demo":
            return
    if not out.is_dir() or any(out.iterdir()):
        raise VssError(f"--out {out}: exists and is not an earlier demo; choose another folder or remove it")


@contextlib.contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`, so that a rename completes it; gone afterwards, whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    (folder / "logs").mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_street(args: argparse.Namespace) -> bool:
    return args.input.partition(":")[0] == "street"


def render_street(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Frames and exact labels as images: a camera must not take the time of the processor that it feeds."""
    from vss_ros.scenes import Street
    from vss_ros.sources import STREET_FPS, STREET_FRAMES, STREET_SIZE

    street = Street(seed=int(args.input.partition(":")[2] or 0), size=STREET_SIZE, fps=STREET_FPS)
    for name in ("clip", "truth"):
        (folder / name).mkdir()
    for index in tqdm(range(min(args.max_frames or STREET_FRAMES, STREET_FRAMES)), "rendering", unit="frame"):
        rgb, labels = street.frame(index)
        fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
        cv2.imwrite(str(folder / "clip" / f"{index:05}.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), fast)
        cv2.imwrite(str(folder / "truth" / f"{index:05}.png"), labels, fast)
    return {"source": str(folder / "clip"), "fps": STREET_FPS}


def run_nodes(
    args: argparse.Namespace, clip: dict[str, Any], source: Source, folder: Path, made: Path
) -> None:
    """Camera, segmentation and recorder until the clip is over."""
    outputs = ("mask", "overlay", "consistency", "label_info_json")
    remaps = {f"~/{name}": f"/segmentation/{name}" for name in outputs}
    running: dict[str, subprocess.Popen] = {}
    environment = ros_environment()

    def start(node: str, parameters: dict[str, Any], remaps: dict[str, str]) -> None:
        command = [sys.executable, "-m", "vss_ros.nodes.run", node, "--ros-args"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={json.dumps(value) if isinstance(value, str) else value}"]
        for old, new in remaps.items():
            command += ["-r", f"{old}:={new}"]
        with (folder / "logs" / f"{node}.log").open("w") as log:
            # A session of its own: Ctrl-C reaches us alone, and we end the nodes in order.
            running[node] = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=follow_parent,
            )

    try:
        fps = source.fps * args.rate
        start("recorder", {"out": str(made), "fps": fps}, {n: f"/segmentation/{n}" for n in outputs})
        wait_until(lambda: "recording to" in log_text(folder, "recorder"), running, folder, 60.0)
        model = {"model": args.model, "backend": args.backend, "interval": args.interval}
        start("segment", {**model, "autostart": True}, remaps)
        sys.stdout.write("preparing the network (the first time it is exported and compiled)\n")
        wait_until(lambda: "node is found" in log_text(folder, "recorder"), running, folder, START)
        camera = {**clip, "rate": args.rate, "max_frames": args.max_frames, "wait_for_subscriber": 60.0}
        start("replay", {**camera, "stamp_file": str(folder / "stamps")}, {})
        watch(args, source, running, folder, made)
        for node in ("recorder", "segment"):
            running[node].send_signal(signal.SIGINT)
            wait_exit(node, running, folder)
    finally:
        end(running)


def follow_parent() -> None:
    """A node gets SIGINT when we die, even by `kill -9` (Linux)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


def ros_environment() -> dict[str, str]:
    """A network of our own: other robots on it hear nothing, and large images pass."""
    profile = str(share_dir() / "config" / "fastdds.xml")
    ours = {
        "ROS_DOMAIN_ID": str(free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
        "RCUTILS_COLORIZED_OUTPUT": "0",
    }
    if os.environ.get("ROS_DISTRO") == "humble":
        ours["ROS_LOCALHOST_ONLY"] = "1"
    return {**os.environ, **ours}


def free_domain() -> int:
    """A ROS domain whose first discovery port no process here uses."""
    for domain in np.random.default_rng().permutation(np.arange(1, 100)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7410 + 250 * int(domain)))
                return int(domain)
            except OSError:
                continue
    raise VssError("no free ROS domain between 1 and 99: end other ROS processes of this machine")


def watch(
    args: argparse.Namespace, source: Source, running: dict[str, subprocess.Popen], folder: Path, made: Path
) -> None:
    """Show the masks that were recorded until the camera has ended and no more come."""
    rows = made.parent / f".{made.name}.partial" / "frames.csv"
    expected = min(source.length or args.max_frames or 0, args.max_frames or source.length or 0) or None
    with tqdm(total=expected, unit="frame", desc="segmenting") as bar:
        last_mask, started = time.monotonic(), False
        while True:
            check_nodes(running, folder, started)
            done = max(rows.read_bytes().count(b"\n") - 1, 0) if rows.exists() else 0
            if done > bar.n:
                last_mask = time.monotonic()
                if not started:
                    started = True
                    bar.start_t = bar._time()
                bar.update(done - bar.n)
            ended = running["replay"].poll() is not None
            if ended and (done == expected or time.monotonic() - last_mask > QUIET):
                break
            time.sleep(0.1)


def check_nodes(running: dict[str, subprocess.Popen], folder: Path, started: bool) -> None:
    """VssError with what a node said, if one has failed."""
    for node, process in running.items():
        code = process.poll()
        if code or (code == 0 and node != "replay"):
            raise VssError(f"{node} ended with code {code}:\n{tail(folder, node)}")
    if not started:
        errors = [line for line in log_text(folder, "segment").splitlines() if line.startswith("[ERROR]")]
        if errors:  # the node waits for a better model; we do not
            raise VssError(errors[0].split("]: ", 1)[-1])


def wait_until(condition: Any, running: dict[str, subprocess.Popen], folder: Path, timeout: float) -> None:
    limit = time.monotonic() + timeout
    while not condition():
        check_nodes(running, folder, started=False)
        if time.monotonic() > limit:
            raise VssError(f"nothing happened in {timeout:.0f} s:\n{tail(folder, *running)}")
        time.sleep(0.05)


def wait_exit(node: str, running: dict[str, subprocess.Popen], folder: Path) -> None:
    try:
        code = running[node].wait(120.0)
    except subprocess.TimeoutExpired:
        raise VssError(f"{node} did not end in 120 s:\n{tail(folder, node)}") from None
    if code:
        raise VssError(f"{node} ended with code {code}:\n{tail(folder, node)}")


def end(running: dict[str, subprocess.Popen]) -> None:
    """Every node is gone afterwards; a second Ctrl-C does not interrupt that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    alive = [process for process in running.values() if process.poll() is None]
    for process in alive:
        process.send_signal(signal.SIGINT)
    limit = time.monotonic() + 8.0
    for process in alive:
        try:
            process.wait(max(limit - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    signal.signal(signal.SIGINT, before)


def log_text(folder: Path, node: str) -> str:
    path = folder / "logs" / f"{node}.log"
    return path.read_text(errors="replace") if path.exists() else ""


def tail(folder: Path, *nodes: str) -> str:
    """The last lines that nodes wrote."""
    texts = [f"{node}: {line}" for node in nodes for line in log_text(folder, node).splitlines()[-12:]]
    return "\n".join(texts) or "(it wrote nothing)"


def summarize(made: Path, args: argparse.Namespace, source: Source, frames_in: int) -> dict[str, Any]:
    """The figures of a run from the recorder's frames.csv and bag, and the number of published frames."""
    from vss_ros.bags import BagReader

    with (made / "frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise VssError("no mask was recorded: see whether the input has frames, and try a lower --rate")
    with BagReader(made / "bag") as bag:
        labels = list(bag.messages(["/segmentation/label_info_json"]))[-1][2]
    latency = [float(row["latency_ms"]) for row in rows]
    arrivals = [int(row["stamp"]) / 1e9 + ms / 1e3 for row, ms in zip(rows, latency, strict=True)]
    keys = [float(row["total_ms"]) for row in rows if row["keyframe"] == "True"]
    others = [float(row["total_ms"]) for row in rows if row["keyframe"] == "False"]
    changes = [float(row["label_change"]) for row in rows if row["label_change"]]
    p50, p95, p99 = (round(float(value), 2) for value in np.percentile(latency, (50, 95, 99)))
    seconds = max(arrivals) - min(arrivals)
    return {
        "written_by": "vss demo",
        "input": args.input,
        "model": args.model,
        "backend": args.backend,
        "interval": args.interval,
        "size": [source.size[1], source.size[0]],
        "frames_in": frames_in,
        "frames_out": len(rows),
        "dropped": frames_in - len(rows),
        "fps": round((len(rows) - 1) / seconds, 2) if seconds > 0 else None,
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
        "key_ms": median(keys),
        "nonkey_ms": median(others),
        "label_change": round(float(np.mean(changes)), 5) if changes else None,
        "classes": [entry["name"] for entry in json.loads(labels.data)["classes"]],
    }


def street_miou(made: Path, truth: Path, stamps: list[int], classes: list[str]) -> float | None:
    """mIoU of the recorded masks against the renderer's labels; None for a model of other classes."""
    from vss_ros.bags import BagReader
    from vss_ros.metrics import confusion, mean_iou
    from vss_ros.scenes import CLASSES

    if tuple(classes) != tuple(CLASSES):
        return None
    counts: Any = 0
    with BagReader(made / "bag") as bag:
        for _, _, mask in bag.messages(["/segmentation/mask"]):
            index = stamps.index(mask.header.stamp.sec * 10**9 + mask.header.stamp.nanosec)
            exact: Any = cv2.imread(str(truth / f"{index:05}.png"), cv2.IMREAD_UNCHANGED)
            labels = np.asarray(mask.data, np.uint8).reshape(mask.height, mask.width)
            counts = counts + confusion(exact, labels, len(CLASSES))
    return round(mean_iou(counts), 4)


def median(values: list[float]) -> float | None:
    return round(float(np.median(values)), 2) if values else None


def sheet(video: Path, count: int = 9) -> bytes:
    """A PNG of frames spread over the overlay video."""
    capture = cv2.VideoCapture(str(video))
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = set(np.linspace(0, max(total - 1, 0), count).round().astype(int).tolist())
    images, index = [], 0
    while True:
        found, bgr = capture.read()
        if not found:
            break
        if index in wanted:
            images.append(bgr)
        index += 1
    capture.release()
    if not images:
        raise VssError(f"{video.name}: no frame was recorded; run again with a lower --rate")
    return cv2.imencode(".png", contact_sheet(images))[1].tobytes()


def table(summary: dict[str, Any]) -> str:
    """The figures, one a line."""
    lines = []
    for name, value in summary.items():
        if isinstance(value, dict):
            value = "  ".join(f"{key} {item}" for key, item in value.items())
        if name not in ("written_by", "classes"):
            lines.append(f"  {name:13} {'-' if value is None else value}")
    return "\n".join(lines)
