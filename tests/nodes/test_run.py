"""A node's process ends in an orderly way, whenever and however it is asked to."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
from fixtures.ros import client, image, start, wait
from fixtures.segment import SLOW, constant, messages

pytestmark = pytest.mark.ros


@pytest.mark.parametrize(
    ("number", "after"),
    [
        *((signal.SIGINT, after) for after in (0.0, 0.3, 0.6, 2.0)),
        (signal.SIGTERM, 0.5),
        (signal.SIGHUP, 0.5),
    ],
)
def test_a_signal_at_any_moment_ends_it_cleanly(start, number, after):
    node = constant(start)
    assert wait(node.awaits_signals)
    time.sleep(after)
    assert node.stop(number) == 0
    assert "Traceback" not in node.text() and "Error" not in node.text(), node.text()


def test_a_node_started_with_nohup_outlives_its_terminal(start):
    node = start(patch="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)", constant_network=True)
    assert wait(node.awaits_signals)
    node.child.send_signal(signal.SIGHUP)
    time.sleep(1.0)
    assert node.child.poll() is None
    assert node.stop() == 0


NOBODY = """
import os, pwd
def getpwuid(uid):
    raise KeyError(uid)
pwd.getpwuid = getpwuid
for name in ("HOME", "VSS_CACHE", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
from vss_ros.config import cache_dir
print("cache", cache_dir(), flush=True)
"""


def test_a_user_without_a_home_runs_it(start):
    """As in a container that is given some uid: no HOME and no entry in /etc/passwd."""
    node = start(patch=NOBODY, constant_network=True, autostart=True)
    assert node.logged("active: "), node.text()
    assert f"/vss_ros-{os.geteuid()}" in node.text()
    assert node.stop() == 0


def test_what_the_library_says_stands_in_the_nodes_log(start, client):
    node = start(model="no_such_model", autostart=True)
    assert node.logged("[INFO]") and node.logged("loading model no_such_model")


BUSY = """
import threading
import torch
layers = torch.nn.Sequential(*[torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(20)])
def work():
    with torch.inference_mode():
        while True:
            layers(torch.ones(1, 16, 64, 64))
threading.Thread(target=work, daemon=True).start()
"""


def test_a_thread_inside_torch_does_not_abort_the_end(start):
    node = start(patch=BUSY, constant_network=True, autostart=True)
    assert node.logged("active: "), node.text()
    assert node.stop() == 0, node.text()


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
