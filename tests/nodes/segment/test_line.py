"""A frame's way through our files is a straight line: few files, few moves between them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs rclpy: install the extra [ros] or source a ROS 2 setup")

import rclpy
import vss_ros
from fixtures.motion import texture, window
from std_msgs.msg import Header
from vss_ros.node_config import SegmentConfig
from vss_ros.nodes.segment.camera import Camera, Worker
from vss_ros.nodes.segment.network import Start
from vss_ros.nodes.segment.publish import Answers, to_image

PACKAGE = str(Path(vss_ros.__file__).parent)
LINE = ["nodes/segment/camera.py", "media/decode.py", "stream/stream.py", "nodes/segment/publish.py"]


class Moves:
    """Records each change from one of our files to another, by call or by return."""

    def __init__(self):
        self.files: list[str] = []

    def __enter__(self):
        sys.setprofile(self.on_event)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def on_event(self, frame, event, _):
        if event not in ("call", "return"):
            return
        frame = frame if event == "call" else frame.f_back
        while frame and not frame.f_code.co_filename.startswith(PACKAGE):
            frame = frame.f_back
        if not frame:
            return
        file = frame.f_code.co_filename[len(PACKAGE) + 1 :]
        if self.files[-1:] != [file]:
            self.files.append(file)


@pytest.fixture
def node():
    from rclpy.lifecycle import LifecycleNode

    context = rclpy.Context()
    rclpy.init(context=context)
    # not "segment": what a load freezes outlives its test, and its services would answer for a later test's node
    node = LifecycleNode("line", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.parametrize(("motion", "most"), [(False, 16), (True, 20)])
def test_a_nonkey_frame_moves_little_between_files(node, tiny_card, monkeypatch, motion, most):
    """One frame without subscribers, from the callback to the published mask, the worker driven by hand."""
    options = {"backend": "onnxruntime", "interval": 5, "schedule": "at_once", "motion": motion}
    config = SegmentConfig(model=str(tiny_card), **options)
    start = Start(config)
    camera = Camera("", start.streams[0], Answers(node))
    camera.publish.begin(config, camera.stream.card, camera.health)
    monkeypatch.setattr(Worker, "work", lambda worker: None)
    worker = Worker(node, [camera], config, start)
    picture = texture()
    for number in range(3):
        header = Header()
        header.stamp.sec, header.stamp.nanosec = 100, number * 33_000_000
        message = to_image(header, window(picture, 2 * number, size=(64, 96)))
        with Moves() as moves:
            worker.put(camera, message)
            worker.segment(*worker.take())
    answers = camera.health.window.answers
    assert [answer.is_keyframe for answer in answers] == [True, False, False]
    tracks = [memory.track for memory in camera.stream.memories.kept.values()]
    assert all((track is not None and track.flow is not None) == motion for track in tracks) and tracks
    assert len(moves.files) - 1 <= most, "\n".join(moves.files)
    backend = "backends/onnx.py"
    order = [moves.files.index(file) for file in (*LINE[:3], backend, LINE[3])]
    assert order == sorted(order), "camera, decode, stream, backend, publish"
    leaves = set(moves.files) - {*LINE, backend}
    assert all(leaf.startswith(("stream/", "backends/", "networks/", "media/")) for leaf in leaves), leaves
