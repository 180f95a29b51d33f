"""Whatever the network does, no mask is published that is none, and the lifecycle still answers."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from fixtures.ros import client, image, latest, start
from fixtures.segment import messages

pytestmark = [pytest.mark.ros, pytest.mark.slow]

ERROR = b"\x02"

LEAVES = """
from vss_ros.nodes.segment import constant
answer = constant.ConstantStream.feed
def leaving(stream, rgb, stamp, *others):
    if int(stamp) % 2:
        raise {error}
    return answer(stream, rgb, stamp, *others)
constant.ConstantStream.feed = leaving
"""
HANGS = """
import time
from vss_ros.nodes.segment import constant
answer = constant.ConstantStream.feed
def hanging(stream, rgb, stamp, *others):
    if stamp >= 100:
        time.sleep(10000)
    return answer(stream, rgb, stamp, *others)
constant.ConstantStream.feed = hanging
"""
POISONED = """
from vss_ros.backends.torch_cpu import TorchBackend
remember = TorchBackend.remember
calls = []
def poisoned(backend, features):
    calls.append(1)
    memory = remember(backend, features)
    return tuple(x * float("nan") for x in memory) if 3 <= len(calls) <= 5 else memory
TorchBackend.remember = poisoned
"""


def send(client, stamp, size=(8, 8)):
    client.publish(image(np.zeros((*size, 3), np.uint8), stamp=stamp))


def said(reports, line, words):
    return [
        s.level for report in reports for s in report.status if s.name.endswith(line) and words in s.message
    ]


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()", "MemoryError('4 GB')"])
def test_an_exit_out_of_the_network_costs_one_frame(start, client, messages, error):
    node = start(patch=LEAVES.format(error=error), constant_network=True, autostart=True)
    masks = client.collect(messages.Image, "/segment/mask")
    reports = client.collect(messages.DiagnosticArray, "/diagnostics")
    for stamp in (2.0, 3.0, 4.0):
        send(client, stamp)
        client.spin(0.2)
    assert client.until(lambda: [m.header.stamp.sec for m in masks] == [2, 4]), node.text()
    assert client.until(lambda: ERROR in said(reports, "network", error.split("(")[0]))
    assert node.stop() == 0


def test_a_network_that_hangs_is_reported_and_the_lifecycle_still_answers(start, client, messages):
    node = start(patch=HANGS, constant_network=True, autostart=True, mask_age_error=3.0)
    masks = client.collect(messages.Image, "/segment/mask")
    reports = client.collect(messages.DiagnosticArray, "/diagnostics")
    send(client, 1.0)
    assert client.until(lambda: len(masks) == 1)
    for number in range(60):
        send(client, 100.0 + number / 10)
        client.spin(0.1)
    assert ERROR in said(reports, "network", "the network has been computing one"), node.text()
    begun = time.monotonic()
    assert client.change("deactivate") and client.state() == "inactive"
    assert time.monotonic() - begun < 10
    assert client.until(lambda: ERROR in said(reports, "lifecycle", "hangs"))
    assert not client.change("activate"), "its stream is in use for ever"
    assert client.change("cleanup") and client.change("configure") and client.change("activate")
    send(client, 2.0)
    assert client.until(lambda: len(masks) == 2), node.text()
    assert node.stop() == 0


def test_no_mask_is_made_of_nan(start, client, messages, tiny_card):
    """The third to the fifth memory are NaN; so no mask comes of them, and the sixth is whole again."""
    node = start(
        patch=POISONED, model=str(tiny_card), backend="torch", schedule="at_once", interval=2, autostart=True
    )
    masks = client.collect(messages.Image, "/segment/mask")
    reports = client.collect(messages.DiagnosticArray, "/diagnostics")
    for number in range(12):
        send(client, 10 + number / 10, (64, 96))
        client.spin(0.15)
    assert client.until(lambda: ERROR in said(reports, "network", "not finite"))
    assert client.until(lambda: len(masks) >= 8), node.text()
    assert "set precision to f32" in node.text()
    lost = {round(m.header.stamp.nanosec / 1e8) + 10 * (m.header.stamp.sec - 10) for m in masks}
    assert len(set(range(12)) - lost) == 3, "each bad memory cost its own frame"
    assert client.until(lambda: latest(reports, "network").level != ERROR)


def test_a_damaged_cache_is_made_anew(start, client, messages, tiny_card, tmp_path, monkeypatch):
    """One stage with a flipped byte, one cut short, one a folder."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("VSS_CACHE", str(cache))
    options = {"model": str(tiny_card), "backend": "onnxruntime", "schedule": "at_once", "autostart": True}
    first = start(**options)
    assert first.logged("active: ", 240), first.text()
    first.stop()
    flipped, cut, folder = sorted((cache / "onnx").glob("*.onnx"))[:3]
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    cut.write_bytes(cut.read_bytes()[:1000])
    folder.unlink()
    folder.mkdir()
    masks = client.collect(messages.Image, "/segment/mask")
    node = start(**options)
    assert node.logged("active: ", 240), node.text()
    send(client, 1.0, (64, 96))
    assert client.until(lambda: masks), node.text()
    assert "set VSS_CACHE to another one" in node.text(), "what stands in the way of a file is left alone"


def test_a_node_never_loads_torch_where_the_cpu_runs_exported_stages(
    start, client, messages, tiny_card, tmp_path, monkeypatch
):
    monkeypatch.setenv("VSS_CACHE", str(tmp_path / "cache"))
    loaded = []
    for _ in range(2):
        node = start(model=str(tiny_card), backend="openvino", schedule="parts", autostart=True)
        masks = client.collect(messages.Image, "/segment/mask")
        assert node.logged("active: ", 240), node.text()
        assert client.until(lambda m=masks: send(client, 1.0, (64, 96)) or m), node.text()
        loaded.append("libtorch" in Path(f"/proc/{node.child.pid}/maps").read_text())
        assert node.stop() == 0
    assert loaded == [False, False], "another process exports"
