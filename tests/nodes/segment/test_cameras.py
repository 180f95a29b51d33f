"""Several cameras in one process: topics of their own, turns taken, keyframes spread, reports apart."""

from __future__ import annotations

import time

import numpy as np
import pytest
from fixtures.ros import client, image, latest, start, values
from fixtures.segment import messages
from vss_ros.config import VssError
from vss_ros.node_config import SegmentConfig

pytestmark = pytest.mark.ros

# Each frame takes a while, so that cameras have to wait for each other.
BUSY = """
import time
from vss_ros.nodes.segment import constant
answer = constant.ConstantStream.feed
def slow(stream, *arguments):
    time.sleep(0.02)
    return answer(stream, *arguments)
constant.ConstantStream.feed = slow
"""


@pytest.mark.parametrize("names", [("1st",), ("front", "front"), ("a b",), ("",), ("/front",), (3,)])
def test_names_of_cameras_are_parts_of_topics_and_differ(names):
    with pytest.raises(VssError, match="cameras: expected names"):
        SegmentConfig(cameras=names)
    assert SegmentConfig(cameras=["front", "left/near"]).cameras == ("front", "left/near")


def test_two_cameras_are_answered_under_their_names(start, client, messages, tiny_card):
    node = start(
        model=str(tiny_card),
        backend="torch",
        schedule="at_once",
        autostart=True,
        interval=4,
        cameras="[front, left]",
    )
    masks = {name: client.collect(messages.Image, f"/segment/{name}/mask") for name in ("front", "left")}
    figures = {
        name: client.collect(messages.DiagnosticArray, f"/segment/{name}/consistency") for name in masks
    }
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    assert client.active(), node.text()
    for number in range(9):
        for name, value in (("front", 10), ("left", 200)):
            pixels = np.full((64, 96, 3), value + number, np.uint8)
            client.publish(image(pixels, stamp=10 + number * 0.1, frame=name), f"/{name}/image")
            assert client.until(lambda n=name, i=number: len(masks[n]) > i and len(figures[n]) > i), (
                node.text()
            )
    assert {m.header.frame_id for m in masks["front"]} == {"front"}
    assert {m.header.frame_id for m in masks["left"]} == {"left"}
    keys = {name: [values(m.status[0])["keyframe"] for m in of] for name, of in figures.items()}
    assert "".join(keys["front"]) == "100010001"
    assert "".join(keys["left"]) == "101000100", "two frames after the other camera's"
    assert figures["left"][0].status[0].name == "segment/left: consistency"
    assert client.until(lambda: values(latest(diagnostics, "segment/left: network")).get("processed") == "9")
    lines = {s.name: s.hardware_id for s in diagnostics[-1].status}
    assert lines == {"segment: lifecycle": "/image"} | {
        f"segment/{name}: {part}": f"/{name}/image"
        for name in ("front", "left")
        for part in ("input", "network", "consistency")
    }
    assert values(latest(diagnostics, "segment/left: network"))["backend"] == "torch f32"
    assert node.stop() == 0


def test_four_cameras_share_a_network_that_is_too_slow_for_one_and_none_starves(start, client, messages):
    names = ("front", "left", "right", "rear")
    node = start(
        "segment", patch=BUSY, constant_network=True, autostart=True, cameras="[front, left, right, rear]"
    )
    masks = {name: client.collect(messages.Image, f"/segment/{name}/mask") for name in names}
    publishers = {name: client.publisher(messages.Image, f"/{name}/image") for name in names}
    for publisher in publishers.values():
        client.settle(publisher)
    end, number = time.monotonic() + 3.0, 0
    while time.monotonic() < end:
        # one camera sends four images where the others send one
        for name in (*names, *["front"] * 3):
            publishers[name].publish(image(np.zeros((8, 8, 3), np.uint8), stamp=10 + number / 100))
        number += 1
        client.spin(0.02)
    counts = {name: len(found) for name, found in masks.items()}
    assert min(counts.values()) >= 10, (counts, node.text())
    assert max(counts.values()) <= 1.5 * min(counts.values()), "round robin: the busy camera has no privilege"


def test_one_camera_that_fails_leaves_the_other_alone(start, client, messages):
    start("segment", constant_network=True, autostart=True, cameras="[front, left]")
    masks = client.collect(messages.Image, "/segment/left/mask")
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    for number in range(3):
        client.publish(image(np.zeros((8, 8), np.uint8), "16UC7"), "/front/image")
        client.publish(image(np.zeros((8, 8, 3), np.uint8), stamp=1 + number / 10), "/left/image")
        assert client.until(lambda n=number: len(masks) == n + 1)
    assert client.until(lambda: values(latest(diagnostics, "front: input")).get("unusable") == "3")
    assert values(latest(diagnostics, "left: input"))["unusable"] == "0"


def test_cameras_may_change_while_unconfigured_only(start, client):
    start("segment", constant_network=True)
    assert client.set(cameras=["front", "left"]) == ""
    assert "letters" in client.set(cameras=["front", "front"])
    assert client.change("configure") and client.change("activate")
    assert "clean up first" in client.set(cameras=["front"])
    assert client.change("deactivate") and client.change("cleanup")
    assert client.set(cameras=["rear"]) == ""
