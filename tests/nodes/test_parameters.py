"""A parameter that is set either acts or is refused, in every node, whatever its value."""

from __future__ import annotations

import importlib
import random

import pytest

pytest.importorskip("rclpy", reason="needs rclpy: install the extra [ros] or source a ROS 2 setup")

import rclpy
from rclpy.parameter import Parameter
from vss_ros.nodes.run import NODES as CLASSES

NODES = {
    "replay": {"source": "street", "wait_for_subscriber": 100.0},
    "recorder": {"out": "recording"},
    "cloud": {},
    "watcher": {"port": 0},
}
VALUES = [
    0,
    1,
    -1,
    2**62,
    0.0,
    0.5,
    -3.5,
    1e300,
    float("nan"),
    float("inf"),
    True,
    False,
    "",
    "x",
    "a" * 5000,
]
VALUES += [["a"], [1.0], None]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make(node): one that reads its options only at start."""
    monkeypatch.chdir(tmp_path)
    nodes = []

    def make_node(name):
        options = [item for key, value in NODES[name].items() for item in ("-p", f"{key}:={value}")]
        rclpy.init(args=["--ros-args", *options])
        module, kind = CLASSES[name]
        nodes.append(getattr(importlib.import_module(module), kind)())
        return nodes[0]

    yield make_node
    for node in nodes:
        node.close(5.0)
        node.destroy_node()
    rclpy.try_shutdown()


@pytest.mark.ros
@pytest.mark.parametrize("name", NODES)
def test_what_would_do_nothing_is_refused_with_a_reason(make, name):
    node = make(name)
    own = [name for name, about in node._descriptors.items() if about.description.endswith("(read at start)")]
    before = {name: node.get_parameter(name).value for name in own}
    choose = random.Random(0)
    for _ in range(200):
        parameter = choose.choice(own)
        (answer,) = node.set_parameters([Parameter(parameter, value=choose.choice(VALUES))])
        assert not answer.successful and answer.reason, parameter
    (answer,) = node.set_parameters([Parameter(own[-1], value=before[own[-1]])])
    assert f"{own[-1]}: {node.get_name()} reads its options only at start; start it again" in answer.reason
    assert {name: node.get_parameter(name).value for name in own} == before
    assert node.set_parameters([Parameter("use_sim_time", value=True)])[0].successful


def test_every_node_but_the_lifecycle_nodes_is_tried():
    assert set(NODES) == set(CLASSES) - {"segment", "count"}
