"""Whatever is asked of the node, and however it dies, it keeps its states and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import random
import signal
import time

import numpy as np
import pytest
from fixtures.ros import client, image, start
from fixtures.segment import constant, messages
from vss_ros.node_config import SegmentConfig
from vss_ros.nodes import shared_memory

pytestmark = [pytest.mark.ros, pytest.mark.slow]

NEXT = {
    ("unconfigured", "configure"): "inactive",
    ("inactive", "activate"): "active",
    ("active", "deactivate"): "inactive",
    ("inactive", "cleanup"): "unconfigured",
}


def test_200_random_transitions_while_images_come(start, client, messages):
    node = start(constant_network=True)
    masks = client.collect(messages.Image, "/segment/mask", depth=5)
    publisher = client.publisher(messages.Image)
    choose, state = random.Random(0), "unconfigured"
    for number in range(200):
        wanted = choose.choice(["configure", "activate", "deactivate", "cleanup", "activate"])
        expected = NEXT.get((state, wanted))
        assert client.change(wanted) == (expected is not None), (number, state, wanted, node.text())
        state = expected or state
        publisher.publish(image(np.zeros((8, 8, 3), np.uint8), stamp=1 + number / 10))
    assert client.state() == state
    while state != "active":
        wanted = "configure" if state == "unconfigured" else "activate"
        assert client.change(wanted)
        state = NEXT[state, wanted]
    masks.clear()
    client.publish(image(np.zeros((8, 8, 3), np.uint8), stamp=100.0))
    assert client.until(lambda: masks)
    assert node.stop() == 0 and "Traceback" not in node.text()


def test_500_random_parameters(start, client, messages):
    """Values in and out of range and of every type: each is taken or refused with a reason, and frames go on."""
    node = constant(start)
    masks = client.collect(messages.Image, "/segment/mask")
    choose = random.Random(0)
    pool = [0, 1, -1, 7, 10**6, 2**62, 0.0, 0.5, -3.5, 1e300, float("nan"), float("inf"), True, False]
    pool += ["", "x", "every", "adaptive", "a" * 5000, "ä\u2028", ["a"], ["front", "front"], [1.0], []]
    names = [item.name for item in dataclasses.fields(SegmentConfig)] + ["use_sim_time_", "nothing"]
    refused = 0
    for _ in range(500):
        name = choose.choice(names)
        reason = client.set(**{name: choose.choice([v for v in pool if v != []])})
        refused += bool(reason)
    assert 300 < refused < 500, refused
    client.publish(image(np.zeros((8, 8, 3), np.uint8)))
    assert client.until(lambda: masks), node.text()
    assert node.stop() == 0 and "Traceback" not in node.text()


def test_kill_9_and_a_new_start_leave_no_shared_memory_behind(start, client, messages):
    node = constant(start)
    assert node.logged("active: ")
    files = [shared_memory.FOLDER / name for name in shared_memory.segments_of(str(node.child.pid))]
    node.child.send_signal(signal.SIGKILL)
    node.child.wait()
    assert files and all(file.exists() for file in files)
    time.sleep(shared_memory.YOUNG + 1)  # a younger file may be of a process that starts
    node = constant(start)
    assert node.logged("active: ")
    assert not any(file.exists() for file in files)
    masks = client.collect(messages.Image, "/segment/mask")
    client.publish(image(np.zeros((8, 8, 3), np.uint8)))
    assert client.until(lambda: masks), "topics of the dead one do not stand in the way"
    assert node.stop() == 0
