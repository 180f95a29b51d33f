"""`vss demo` from the command line: real processes, files, figures; wrong input; Ctrl-C."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures.ros import client, image, start, wait
from vss_ros.media.bags import BagReader
from vss_ros.media.decode import decode
from vss_ros.media.video import VideoWriter

COMMAND = [sys.executable, "-m", "vss_ros.cli", "demo"]


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, env=os.environ
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """20 small images, a bright square moving over grey."""
    folder = tmp_path_factory.mktemp("clip")
    for number in range(20):
        picture = np.full((72, 96, 3), 90, np.uint8)
        picture[20:50, number * 3 : number * 3 + 30] = 220
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    return folder


@pytest.mark.ros
def test_demo_writes_everything_it_promises(tmp_path, clip, tiny_card):
    ran = demo(
        tmp_path,
        *("--input", str(clip), "--model", str(tiny_card), "--backend", "torch"),
        *("--interval", "4", "--rate", "0.3", "--out", "out", "--schedule", "at_once"),
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    out = tmp_path / "out"
    files = {path.name for path in out.iterdir()}
    assert files == {
        "overlay.mp4",
        "contact_sheet.png",
        "frames.csv",
        "bag",
        "logs",
        "summary.json",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"out"}, "nothing may be left beside it"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames_in"] == 20
    assert summary["frames_out"] + summary["dropped"] == 20
    assert summary["frames_out"] >= 15
    latency = summary["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    assert summary["schedule"] == "at_once"
    assert summary["key_ms"] > 0 and summary["nonkey_ms"] > 0
    assert 0 <= summary["label_change"] <= 1
    for name in ("frames_in", "dropped", "latency_ms", "label_change"):
        assert name in ran.stdout
    with (out / "frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == summary["frames_out"]
    stamps = [int(row["stamp"]) for row in rows]
    assert stamps == sorted(set(stamps))
    with BagReader(out / "bag") as bag:
        counts = {topic: count for topic, (_, count) in bag.topics.items()}
        masks = [message for _, _, message in bag.messages(["/segmentation/mask"])]
    assert counts["/segmentation/mask"] == counts["/segmentation/consistency"] == len(rows)
    assert counts["/diagnostics"] > 0 and counts["/segmentation/overlay/compressed"] > 0
    assert all((mask.height, mask.width, mask.step) == (72, 96, 96) for mask in masks)
    assert max(np.asarray(mask.data).max() for mask in masks) <= 2, "three classes"
    video = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert len(rows) - 2 <= video.get(cv2.CAP_PROP_FRAME_COUNT) <= len(rows)
    assert cv2.imread(str(out / "contact_sheet.png")).shape[1] > 3 * 96

    again = demo(
        tmp_path, "--input", str(clip), "--model", str(tiny_card), "--max-frames", "3", "--out", "out"
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads((out / "summary.json").read_text())["frames_in"] == 3, "an earlier demo is replaced"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "no_such_file.mp4"], "no such file"),
        (["--input", "street:x"], "whole number"),
        (["--rate", "0"], "--rate: expected a number in"),
        (["--out", "precious"], "is not an earlier demo"),
    ],
)
def test_wrong_arguments_start_nothing(tmp_path, arguments, words):
    pytest.importorskip("rclpy", reason="needs rclpy: install the extra [ros] or source a ROS 2 setup")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    ran = demo(tmp_path, *arguments)
    assert ran.returncode == (2 if "--rate" in arguments else 1)
    assert words in ran.stderr and "Traceback" not in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert (tmp_path / "precious" / "file").read_text() == "kept"


@pytest.mark.ros
def test_a_node_that_cannot_run_is_quoted(tmp_path, clip):
    ran = demo(tmp_path, "--input", str(clip), "--model", "no_such_model")
    assert ran.returncode == 1
    assert "model 'no_such_model': expected" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not list(tmp_path.iterdir())
    ran = demo(tmp_path, "--input", str(clip), "--backend", "torch", "--precision", "int8")
    assert ran.returncode == 1 and "precision int8" in ran.stderr


@pytest.mark.ros
@pytest.mark.parametrize("after", [0.5, 2.5, 6.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_neither_files_nor_processes(tmp_path, clip, tiny_card, after, number):
    psutil = pytest.importorskip("psutil")
    command = [*COMMAND, "--input", str(clip), "--model", str(tiny_card), "--rate", "0.05"]
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    assert wait(lambda: list(tmp_path.glob(".demo_out.*")))
    time.sleep(after)
    nodes = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(number)
    assert child.wait(30) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert not psutil.wait_procs(nodes, timeout=10)[1], "what ended as an orphan is reaped by the system"
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.ros
def test_recorder_writes_on_a_signal_and_refuses_an_existing_folder(tmp_path, start, client):
    from sensor_msgs.msg import Image

    out = tmp_path / "drive"
    node = start("recorder", out=str(out))
    client.publish(image(np.zeros((8, 8), np.uint8), "mono8"), "/mask")
    client.publish(image(np.zeros((8, 8, 3), np.uint8)), "/overlay")
    client.spin(0.5)
    assert not out.exists(), "until it is complete it has another name"
    assert node.stop() == 0
    with BagReader(out / "bag") as bag:
        assert bag.topics["/mask"] == ("sensor_msgs/msg/Image", 1)
        assert bag.topics["/overlay/compressed"] == ("sensor_msgs/msg/CompressedImage", 1)
        [(_, _, picture)] = bag.messages(["/overlay/compressed"])
        assert decode(picture).shape == (8, 8, 3)
    assert (out / "overlay.mp4").stat().st_size > 0
    assert Image  # the type that was recorded
    second = start("recorder", out=str(out))
    assert second.child.wait(20) == 1
    assert "exists already" in second.text() and "Traceback" not in second.text()


@pytest.mark.ros
def test_recorder_ends_when_the_masks_do(tmp_path, start, client):
    node = start("recorder", out=str(tmp_path / "drive"), idle_timeout=0.5)
    client.publish(image(np.zeros((8, 8), np.uint8), "mono8"), "/mask")
    assert node.child.wait(20) == 0
    assert (tmp_path / "drive" / "frames.csv").is_file()


@pytest.mark.parametrize("library", ["av", "opencv"])
def test_video_of_odd_size_and_jumping_stamps(tmp_path, library, monkeypatch):
    if library == "opencv":
        monkeypatch.setitem(sys.modules, "av", None)
    else:
        pytest.importorskip("av", reason="needs PyAV: install the extra [demo]")
    video = VideoWriter(tmp_path / "clip.mp4", 25.0)
    for number, stamp in enumerate([0.0, 0.1, 0.1, 0.05, 0.4]):
        video.write(np.full((33, 47, 3), 50 * number, np.uint8), int(stamp * 1e9))
    assert not (tmp_path / "clip.mp4").exists()
    video.close()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    capture = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == 5 and frames[0].shape == (34, 48, 3)
    assert abs(int(frames[4].mean()) - 200) < 6


@pytest.mark.parametrize("room", [0, 20_000, 60_000])
@pytest.mark.parametrize("count", [60, 120])
def test_a_disk_that_fills_up_is_an_error_and_leaves_what_plays(tmp_path, monkeypatch, room, count):
    """FFmpeg alone says nothing of the last 32 kB."""
    pytest.importorskip("av", reason="needs PyAV: install the extra [demo]")
    left = {}

    def write(self, data):
        space = left.setdefault(self.name, room)
        left[self.name] -= len(data)
        if space < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return io.FileIO.write(self, data)

    monkeypatch.setattr("vss_ros.media.video.Whole.write", write)
    video, rng = VideoWriter(tmp_path / "clip.mp4", 30.0), np.random.default_rng(0)
    with pytest.raises(OSError, match="No space left"):
        for number in range(count):
            video.write(rng.integers(0, 256, (48, 64, 3), np.uint8), number * 33_000_000)
        video.close()
    with contextlib.suppress(OSError):
        video.close()  # as the recorder does, once more or for the first time
    if room == 60_000:
        assert cv2.VideoCapture(str(tmp_path / "clip.mp4")).read()[0]


def test_a_video_given_up_leaves_nothing(tmp_path):
    video = VideoWriter(tmp_path / "clip.mp4")
    video.write(np.zeros((32, 32, 3), np.uint8), 0)
    video.abort()
    VideoWriter(tmp_path / "never.mp4").close()
    assert not list(tmp_path.iterdir())


@pytest.mark.ros
def test_a_killed_demo_takes_its_nodes_with_it(tmp_path, clip):
    psutil = pytest.importorskip("psutil")
    child = subprocess.Popen([*COMMAND, "--input", str(clip)], cwd=tmp_path, stderr=subprocess.DEVNULL)
    assert wait(lambda: psutil.Process(child.pid).children())
    nodes = psutil.Process(child.pid).children()
    child.kill()
    child.wait()
    assert wait(lambda: not [node for node in nodes if node.is_running() and node.status() != "zombie"])
