"""A node without engines: it says how to build them, or runs on another backend until they are built beside it."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures.ros import client, image, latest, start
from vss_ros.config import VssError
from vss_ros.node_config import SegmentConfig
from vss_ros.nodes.segment import network

pytestmark = pytest.mark.ros

# Stands in for TensorRT: its "engines" are one file, and torch answers in its place.
STAND_IN = """
import sys
from pathlib import Path
from vss_ros.backends import choose
from vss_ros.backends.gpu import tensorrt
from vss_ros.backends.gpu.engines import NoEngine
from vss_ros.backends.torch_cpu import TorchBackend
from vss_ros.nodes.segment import network as start
built = Path({path!r})
def backend(model, precision):
    if not built.exists():
        raise NoEngine("no engine has been built")
    found = TorchBackend(model, "f32", 1)
    found.name = "tensorrt"
    return found
tensorrt.TensorRTBackend = backend
choose.fastest = lambda cpu=False: "torch"
start.build_command = lambda config: [sys.executable, "-c", {builder!r}]
"""
BUILDER = """
import pathlib, sys, time
print("1/1 propagate: 76 operators", flush=True)
while not pathlib.Path({go!r}).exists():
    time.sleep(0.05)
{end}
"""


@pytest.fixture
def messages():
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import Image

    return Image, DiagnosticArray


def stand_in(folder, end):
    builder = BUILDER.format(go=str(folder / "go"), end=end.format(path=str(folder / "built")))
    return STAND_IN.format(path=str(folder / "built"), builder=builder)


def level(diagnostics, words):
    """The level of the newest report on the network, once it says `words`."""
    status = latest(diagnostics, "network")
    return status.level if status and words in status.message else None


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_building_at_the_start_needs_a_fallback_and_tensorrt(backend):
    with pytest.raises(VssError, match="build_on_start: needs allow_fallback"):
        SegmentConfig(build_on_start=True, backend="tensorrt")
    with pytest.raises(VssError, match="build_on_start: needs"):
        SegmentConfig(build_on_start=True, allow_fallback=True, backend=backend)


@pytest.mark.parametrize(
    "error",
    [VssError("the GPU has no memory left"), RuntimeError("CUDA error: no kernel image is available")],
)
def test_a_gpu_that_fails_at_the_start_gets_the_fallback(monkeypatch, error):
    opened = []

    def make_streams(config):
        opened.append(config.backend)
        if config.backend in ("torch", "tensorrt", "auto"):
            raise error
        return [SimpleNamespace(backend=SimpleNamespace(name=config.backend))]

    monkeypatch.setattr(network, "make_streams", make_streams)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(type(error)):
        network.Start(SegmentConfig(backend="tensorrt"))
    found = network.Start(SegmentConfig(backend="tensorrt", allow_fallback=True))
    assert opened == ["tensorrt", "tensorrt", "torch", "openvino"]
    assert found.streams[0].backend.name == "openvino" and str(error) in found.problem
    assert (
        network.Start(SegmentConfig(backend="auto", allow_fallback=True)).streams[0].backend.name
        == "openvino"
    )


def test_without_engines_configuring_fails_and_says_what_builds_them(start, client, tiny_card, tmp_path):
    node = start(
        "segment", patch=stand_in(tmp_path, ""), model=str(tiny_card), backend="tensorrt", precision="f16"
    )
    assert not client.change("configure") and client.state() == "unconfigured"
    assert f"vss build --model {tiny_card} --precision f16 --size 64x96" in node.text()
    assert "Traceback" not in node.text()


def test_engines_built_beside_the_fallback_take_over_without_a_lost_frame(
    start,
    client,
    messages,
    tiny_card,
    tmp_path,
):
    options = {"model": str(tiny_card), "backend": "tensorrt", "precision": "f16", "autostart": True}
    patch = stand_in(tmp_path, "pathlib.Path({path!r}).write_text('')")
    node = start("segment", patch=patch, allow_fallback=True, build_on_start=True, interval=3, **options)
    masks = client.collect(messages[0], "/segment/mask")
    diagnostics = client.collect(messages[1], "/diagnostics")
    publisher = client.publisher(messages[0])
    client.settle(publisher)
    sent = 0

    def send():
        nonlocal sent
        frame = np.full((64, 96, 3), sent % 255, np.uint8)
        publisher.publish(image(frame, stamp=time.time(), frame=str(sent)))
        sent += 1
        assert client.until(lambda: len(masks) == sent), "a frame was lost"

    def send_until(condition):
        for _ in range(2000):
            send()
            if condition():
                return True
        return False

    assert send_until(lambda: level(diagnostics, "building engines: 1/1 propagate") == b"\x01")
    assert level(diagnostics, "runs on torch instead of tensorrt: no engine has been built") == b"\x01"
    (tmp_path / "go").write_text("")
    assert send_until(lambda: "tensorrt takes over" in node.text())
    for _ in range(5):
        send()
    assert send_until(lambda: "instead of" not in latest(diagnostics, "network").message)
    assert [int(m.header.frame_id) for m in masks] == list(range(sent))
    assert node.stop() == 0 and "Traceback" not in node.text()


def test_a_build_that_fails_leaves_the_fallback_running(start, client, messages, tiny_card, tmp_path):
    options = {"model": str(tiny_card), "backend": "tensorrt", "autostart": True}
    patch = stand_in(tmp_path, "sys.exit('vss build: no memory')")
    (tmp_path / "go").write_text("")
    start("segment", patch=patch, allow_fallback=True, build_on_start=True, **options)
    masks = client.collect(messages[0], "/segment/mask")
    diagnostics = client.collect(messages[1], "/diagnostics")
    client.publish(image(np.zeros((64, 96, 3), np.uint8)))
    assert client.until(lambda: len(masks) == 1)
    assert client.until(
        lambda: level(diagnostics, "building engines failed: vss build: no memory") == b"\x01"
    )
