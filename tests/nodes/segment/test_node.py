"""The segment node as a user meets it: a process with states and parameters."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from fixtures.ros import client, image, latest, start, values, wait
from fixtures.segment import messages

pytestmark = pytest.mark.ros


def test_lifecycle_goes_up_and_down_and_up_again(start, client, messages):
    node = start("segment", constant_network=True)
    masks = client.collect(messages.Image, "/segment/mask")
    assert client.state() == "unconfigured"
    assert not client.change("activate"), "an invalid transition must be refused"
    assert client.state() == "unconfigured", "and must not end the node"
    for _ in range(2):
        assert client.change("configure") and client.state() == "inactive"
        assert client.change("activate") and client.state() == "active"
        before = len(masks)
        client.publish(image(np.zeros((48, 64, 3), np.uint8)))
        assert client.until(lambda n=before: len(masks) > n)
        assert client.change("deactivate") and client.state() == "inactive"
        assert client.change("cleanup") and client.state() == "unconfigured"
    assert client.change("unconfigured_shutdown") and client.state() == "finalized"
    assert node.stop() == 0
    assert "Traceback" not in node.text()


def test_parameters_change_or_are_refused_with_the_fix(start, client, messages, tiny_card):
    node = start("segment", model=str(tiny_card), backend="torch", schedule="at_once", interval=2)
    consistency = client.collect(messages.DiagnosticArray, "/segment/consistency")
    assert client.set(interval=3) == ""
    assert client.set(model="other") == "", "structural options may change while unconfigured"
    assert client.set(model=str(tiny_card)) == ""
    assert client.change("configure") and client.change("activate"), node.text()
    assert "clean up first" in client.set(model="other")
    assert "clean up first" in client.set(backend="openvino")
    assert "one of every, fixed, adaptive" in client.set(policy="often")
    assert "max_interval" in client.set(min_interval=7)
    assert client.set(min_interval=7, max_interval=9) == ""
    assert client.set(interval=-1) != "", "below its range"
    assert "restart" in client.set(autostart=True)

    def keyframes(count: int) -> list[str]:
        first = len(consistency)
        for number in range(count):
            client.publish(image(np.zeros((64, 96, 3), np.uint8), stamp=10 + (first + number) * 0.1))
            assert client.until(lambda n=number: len(consistency) == first + n + 1), node.text()
        return [values(m.status[0])["keyframe"] for m in consistency[first:]]

    assert keyframes(6) == ["1", "0", "0", "1", "0", "0"]
    assert client.set(policy="every") == ""
    assert keyframes(3) == ["1"] * 3
    assert client.set(policy="fixed", interval=2) == ""
    assert keyframes(4).count("1") == 2


def test_descriptors_name_ranges_and_choices(start, client):
    from rcl_interfaces.srv import DescribeParameters

    start("segment", constant_network=True)
    request = DescribeParameters.Request(names=["interval", "threshold", "policy", "model"])
    interval, threshold, policy, model = client.call(
        DescribeParameters, "/segment/describe_parameters", request
    ).descriptors
    assert (interval.integer_range[0].from_value, interval.integer_range[0].to_value) == (0, 1000)
    assert threshold.floating_point_range[0].to_value == 10.0
    assert policy.additional_constraints == "one of: every, fixed, adaptive, consistency"
    assert "only while unconfigured" in model.description and "at any time" in interval.description


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"interval": -1}, "interval: expected int in [0, 1000], got -1"),
        ({"interval": "many"}, "interval: expected int in [0, 1000], got 'many'"),
        ({"policy": "often"}, "policy: expected one of every, fixed, adaptive, consistency; got 'often'"),
        ({"min_interval": 9}, "min_interval: expected at most max_interval"),
        ({"qos_overrides./image.subscription.depth": 0, "threshold": -1.0}, "threshold: expected float in"),
    ],
)
def test_a_wrong_start_value_ends_with_one_line(start, parameters, expected):
    node = start("segment", **parameters)
    assert node.child.wait(30) == 1
    assert expected in node.text()
    assert len(node.text().strip().splitlines()) == 1, node.text()


def test_an_unknown_parameter_name_is_pointed_out(start):
    node = start("segment", constant_network=True, intervall=3)
    assert node.logged("unknown parameter 'intervall' is ignored")


def test_a_failed_configure_can_be_repaired(start, client, messages, tiny_card, tmp_path):
    card, weights = tmp_path / "tiny.yaml", tmp_path / "tiny.safetensors"
    card.write_bytes(tiny_card.read_bytes())
    good = (tiny_card.parent / "tiny.safetensors").read_bytes()
    weights.write_bytes(good[:-4] + b"oops")
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    node = start("segment", model="no_such_model", backend="torch")
    assert not client.change("configure")
    assert client.state() == "unconfigured"
    assert "model 'no_such_model': expected" in node.text()
    assert client.set(model=str(card)) == ""
    assert not client.change("configure")
    assert "expected sha256" in node.text()
    assert client.until(lambda: "sha256" in latest(diagnostics, "lifecycle").message)
    assert latest(diagnostics, "lifecycle").level == b"\x02"
    weights.write_bytes(good)
    assert client.change("configure") and client.change("activate"), node.text()
    masks = client.collect(messages.Image, "/segment/mask")
    client.publish(image(np.zeros((64, 96, 3), np.uint8)))
    assert client.until(lambda: len(masks) == 1)
    assert "Traceback" not in node.text()


def test_autostart_with_a_wrong_model_stays_and_says_why(start, client):
    node = start("segment", model="no_such_model", autostart=True)
    assert node.logged("model 'no_such_model'")
    assert client.state() == "unconfigured"
    assert node.stop(signal.SIGTERM) == 0


BOND = """
import importlib.machinery, sys, types
class Bond:
    def __init__(self, node, topic, name):
        print("bond", topic, name, flush=True)
    def start(self):
        print("bond started", flush=True)
    def shutdown(self):
        print("bond broken", flush=True)
package = types.ModuleType("bondpy")
package.__spec__ = importlib.machinery.ModuleSpec("bondpy", None)
package.bondpy = sys.modules["bondpy.bondpy"] = types.SimpleNamespace(Bond=Bond)
sys.modules["bondpy"] = package
"""


def test_an_active_node_is_bonded_to_navs_lifecycle_manager(start, client):
    """With a stand-in for bondpy, which is not on PyPI."""
    node = start(patch=BOND, constant_network=True)
    assert client.change("configure")
    assert "bond" not in node.text()
    assert client.change("activate") and node.logged("bond bond segment\nbond started")
    assert client.change("deactivate") and node.logged("bond broken")
    assert node.stop() == 0


def test_without_bondpy_the_log_says_what_nav_needs(start):
    assert start(constant_network=True, autostart=True).logged("set its bond_timeout to 0.0")
