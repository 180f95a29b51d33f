"""The recorder where the disk cannot keep up; its recordings as such are in tests/faults/test_recordings.py."""

from __future__ import annotations

import queue
from types import SimpleNamespace

import pytest


@pytest.mark.ros
def test_what_waits_for_a_slow_disk_is_bounded_and_what_is_lost_is_said(monkeypatch):
    from vss_ros.nodes import recorder

    monkeypatch.setattr(recorder, "MOST_WAITING", 1000)
    said = []
    log = SimpleNamespace(error=lambda text, **_: said.append(text))
    clock = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=0))
    node = SimpleNamespace(
        waiting=queue.SimpleQueue(), out="drive", heard=False, masks=0, skipped=0, lost=0, arrived=0, written=0,
        get_logger=lambda: log, get_clock=lambda: clock,
    )  # fmt: skip
    for _ in range(30):
        recorder.Recorder.on_message(node, "mask", "/segmentation/mask", bytes(100))
    assert node.waiting.qsize() == 11 and node.lost == 19 and node.masks == 30
    assert len(said) == 19 and "drive: the disk is too slow, 1 messages are lost" in said[0]
    node.written = node.arrived  # it has caught up
    recorder.Recorder.on_message(node, "mask", "/segmentation/mask", bytes(100))
    assert node.waiting.qsize() == 12 and node.lost == 19
