"""A node's process ends in an orderly way, whenever and however it is asked to."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest
from fixtures.ros import client, image, start, wait
from fixtures.segment import SLOW, constant, messages

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.0, 0.3, 0.6, 2.0])
def test_a_signal_at_any_moment_ends_it_cleanly(start, number, after):
    node = constant(start)
    assert wait(node.awaits_signals)
    time.sleep(after)
    assert node.stop(number) == 0
    assert "Traceback" not in node.text() and "Error" not in node.text(), node.text()


def test_a_signal_while_a_model_is_prepared(start):
    hanging = """
import time
from vss_ros.nodes.segment import network as start
def make_streams(config):
    print("preparing", flush=True)
    time.sleep(120)
start.make_streams = make_streams
"""
    node = start("segment", patch=hanging, autostart=True)
    assert node.logged("preparing")
    assert node.stop() == 0
    assert "Traceback" not in node.text()


def test_a_signal_while_a_frame_is_computed(start, client, messages):
    node = start("segment", patch=SLOW, constant_network=True, autostart=True)
    publisher = client.publisher(messages.Image)
    client.settle(publisher)
    for _ in range(10):
        publisher.publish(image(np.zeros((8, 8, 3), np.uint8)))
        client.spin(0.03)
    assert node.stop() == 0
    assert "Traceback" not in node.text()
