"""Run the whole chain on a clip: a camera (replay) → segment → recorder, each a ROS 2 process, then a report.

Writes overlay.mp4, contact_sheet.png, frames.csv, bag/ (masks, diagnostics) and summary.json to one folder.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import VssError, option
from vss_ros.data.pictures import Source
from vss_ros.data.source import open_source
from vss_ros.media.decode import stamp_ns
from vss_ros.media.draw import contact_sheet, write_image
from vss_ros.media.unfinished import partial_folder
from vss_ros.networks.cards.card import read_card
from vss_ros.node_config import SegmentConfig
from vss_ros.nodes.processes import Chain, require_ros
from vss_ros.options import add_options, progress

QUIET = 2.0
"""Seconds without a new mask, after the camera has ended, that end the recording."""
START = 600.0
"""Seconds that a model may take to be prepared; the first time it is exported and compiled."""


NETWORK = (
    "model",
    "backend",
    "precision",
    "threads",
    "height",
    "width",
    "interval",
    "schedule",
    "steady",
)
"""Parameters of the segment node that are also options here."""


@dataclass(frozen=True)
class DemoConfig:
    """Options of `vss demo`, beside the network's."""

    input: str = option("street", "video, folder of images, rosbag2 or street[:SEED]")
    topic: str = option("", "image topic of a rosbag2 that has several")
    out: str = option("demo_out", "folder to write; an earlier demo there is replaced")
    max_frames: int = option(0, "stop after so many frames; 0: all", low=0)
    rate: float = option(1.0, "speed of the camera; 1 is real time", low=1e-3, high=1e3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, DemoConfig)
    add_options(parser, SegmentConfig, NETWORK)


def main(args: argparse.Namespace) -> int:
    require_ros()
    out = Path(args.out).absolute()
    check_out(out)
    read_card(args.model)  # a wrong name is refused before the clip is rendered
    source = open_source(args.input, args.topic or None)
    out.parent.mkdir(parents=True, exist_ok=True)
    # A closed terminal or a `kill` cleans up like Ctrl-C; a shell's background job starts with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with scratch(out) as folder:
        sys.stdout.write(f"{source.name}: {source.size[1]}x{source.size[0]}, model {args.model}\n")
        clip = render_street(args, folder) if is_street(args) else {"source": args.input, "topic": args.topic}
        segment = {name: getattr(args, name) for name in NETWORK}
        camera = {**clip, "rate": args.rate, "max_frames": args.max_frames}
        lengths = [count for count in (source.length, args.max_frames) if count]
        made = run_nodes(segment, camera, {"fps": source.fps * args.rate}, min(lengths, default=None), folder)
        stamps = [int(line) for line in (folder / "stamps").read_text().split()]
        summary = summarize(made, args, source, len(stamps))
        if is_street(args):
            summary |= street_miou(made, folder / "truth", stamps, summary["classes"])
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
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_street(args: argparse.Namespace) -> bool:
    return args.input.partition(":")[0] == "street"


def render_street(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Frames and exact labels as images: a camera must not take the time of the processor that it feeds."""
    from vss_ros.data.source import STREET_FPS, STREET_FRAMES, STREET_SIZE
    from vss_ros.data.street.street import Street

    street = Street(seed=int(args.input.partition(":")[2] or 0), size=STREET_SIZE, fps=STREET_FPS)
    for name in ("clip", "truth"):
        (folder / name).mkdir()
    count = min(args.max_frames or STREET_FRAMES, STREET_FRAMES)
    for index in progress(range(count), "rendering", unit="frame"):
        rgb, labels = street.frame(index)
        fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
        write_image(folder / "clip" / f"{index:05}.png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), fast)
        write_image(folder / "truth" / f"{index:05}.png", labels, fast)
    return {"source": str(folder / "clip"), "fps": STREET_FPS}


def run_nodes(
    segment: dict[str, Any],
    camera: dict[str, Any],
    recorder: dict[str, Any],
    expected: int | None,
    folder: Path,
) -> Path:
    """Camera, segmentation and recorder until the clip is over; → the recording, a folder in `folder`.

    segment, camera, recorder: parameters of those nodes; expected: frames of the clip, None if unknown.
    """
    made = folder / "demo"
    outputs = ("mask", "overlay", "consistency", "label_info_json")
    with Chain(folder / "logs") as chain:
        chain.start("recorder", {**recorder, "out": str(made)}, {n: f"/segmentation/{n}" for n in outputs})
        chain.wait("recorder", "recording to", 60.0)
        chain.start(
            "segment", {**segment, "autostart": True}, {f"~/{n}": f"/segmentation/{n}" for n in outputs}
        )
        sys.stdout.write("preparing the network (the first time it is exported and compiled)\n")
        chain.wait("recorder", "node is found", START)
        stamps = {"wait_for_subscriber": 60.0, "stamp_file": str(folder / "stamps")}
        chain.start("replay", {**camera, **stamps}, {})
        watch(chain, expected, made)
        chain.finish("recorder", "segment")
    return made


def watch(chain: Chain, expected: int | None, made: Path) -> None:
    """Show the masks that were recorded until the camera has ended and no more come."""
    rows = partial_folder(made) / "frames.csv"
    with progress(what="segmenting", total=expected, unit="frame") as bar:
        last_mask, started, shown = time.monotonic(), False, 0
        while True:
            chain.check(started)
            done = max(rows.read_bytes().count(b"\n") - 1, 0) if rows.exists() else 0
            if done > shown:
                last_mask = time.monotonic()
                if not started:
                    started = True
                    bar.reset(expected)
                bar.update(done - shown)
                shown = done
            if chain.ended("replay") and (done == expected or time.monotonic() - last_mask > QUIET):
                break
            time.sleep(0.1)


def summarize(made: Path, args: argparse.Namespace, source: Source, frames_in: int) -> dict[str, Any]:
    """The figures of a run from the recorder's frames.csv and bag, and the number of published frames."""
    from vss_ros.media.bags import BagReader

    with (made / "frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise VssError("no mask was recorded: see whether the input has frames, and try a lower --rate")
    with BagReader(made / "bag") as bag:
        labels = list(bag.messages(["/segmentation/label_info_json"]))[-1][2]
        figures = list(bag.messages(["/segmentation/consistency"]))[-1][2]
    latency = [float(row["latency_ms"]) for row in rows]
    arrivals = [int(row["stamp"]) / 1e9 + ms / 1e3 for row, ms in zip(rows, latency, strict=True)]
    keys = [float(row["total_ms"]) for row in rows if row["keyframe"] == "1"]
    others = [float(row["total_ms"]) for row in rows if row["keyframe"] == "0"]
    changes = [float(row["label_change"]) for row in rows if row["label_change"]]
    p50, p95, p99 = (round(float(value), 2) for value in np.percentile(latency, (50, 95, 99)))
    seconds = max(arrivals) - min(arrivals)
    return {
        "written_by": "vss demo",
        "input": args.input,
        "model": args.model,
        "backend": args.backend,
        "schedule": {item.key: item.value for item in figures.status[0].values}.get("schedule"),
        "interval": args.interval or None,  # the network's own
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


def street_miou(made: Path, truth: Path, stamps: list[int], classes: list[str]) -> dict[str, float]:
    """mIoU of the recorded masks against the renderer's labels, nothing for a model of other classes.

    miou: each mask against its own frame; streaming_miou: each frame against the newest mask that was out when it was
    taken, so that a mask that is late or left out counts (see `evaluate.dataset.streamed`).
    """
    from vss_ros.data.metrics import confusion, mean_iou
    from vss_ros.data.street.street import CLASSES
    from vss_ros.media.bags import BagReader

    if tuple(classes) != tuple(CLASSES):
        return {}
    own: Any = 0
    streaming: Any = 0
    waiting = 0  # the first frame whose newest mask is not known yet
    last: np.ndarray | None = None

    def exact(index: int) -> Any:
        return cv2.imread(str(truth / f"{index:05}.png"), cv2.IMREAD_UNCHANGED)

    with BagReader(made / "bag") as bag:
        for _, time, mask in [*bag.messages(["/segmentation/mask"]), (None, math.inf, None)]:
            while waiting < len(stamps) and stamps[waiting] < time:
                if last is not None:
                    streaming = streaming + confusion(exact(waiting), last, len(CLASSES))
                waiting += 1
            if mask is not None:
                index = stamps.index(stamp_ns(mask))
                last = np.asarray(mask.data, np.uint8).reshape(mask.height, mask.width)
                own = own + confusion(exact(index), last, len(CLASSES))
    return {"miou": round(mean_iou(own), 4), "streaming_miou": round(mean_iou(streaming), 4)}


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
