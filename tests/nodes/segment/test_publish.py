"""The topics of an answer, in a running node."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.ros import client, image, latest, stamped, start
from fixtures.segment import constant, messages, unusable
from vss_ros.config import IGNORE

pytestmark = pytest.mark.ros


def test_pictures_cost_nothing_without_a_subscriber(start, client, messages):
    broken = """
from vss_ros.nodes.segment import constant
from vss_ros.nodes.segment import publish
def unwanted(*_):
    raise RuntimeError("computed without a subscriber")
publish.overlay = publish.colorize = publish.heat = publish.to_png = unwanted
result = constant.Result
constant.Result = lambda *answer, confidence, **rest: result(*answer, confidence=unwanted, **rest)
"""
    node = start("segment", patch=broken, constant_network=True, autostart=True)
    consistency = client.collect(messages.DiagnosticArray, "/segment/consistency")
    client.publish(image(np.zeros((8, 8, 3), np.uint8)))
    assert client.until(lambda: len(consistency) == 1), node.text()
    assert "computed without" not in node.text()


def test_pictures_for_subscribers(start, client, messages):
    constant(start, overlay_alpha=1.0)
    confidence = client.collect(messages.Image, "/segment/confidence")
    colour = client.collect(messages.Image, "/segment/color_mask")
    overlay = client.collect(messages.Image, "/segment/overlay")
    pixels = np.full((16, 8, 3), 9, np.uint8)
    publisher = client.publisher(messages.Image)
    client.settle(publisher)
    for number in range(50):  # the node may not know its subscribers with the first frame
        publisher.publish(image(pixels, stamp=1 + number * 0.1))
        if client.until(lambda: confidence and colour and overlay, 0.2):
            break
    assert (confidence[0].encoding, confidence[0].step) == ("mono8", 8)
    assert (colour[0].encoding, colour[0].step) == ("rgb8", 24)
    assert np.frombuffer(colour[0].data, np.uint8)[:3].tolist() == [0, 255, 128], "colour of class 0"
    assert overlay[-1].data == colour[-1].data, "an opaque overlay is the colour mask"


def test_camera_info_accompanies_each_mask(start, client, messages):
    constant(start)
    out = client.collect(messages.CameraInfo, "/segment/camera_info")
    info = messages.CameraInfo(
        width=128, height=96, distortion_model="plumb_bob", d=[0.1, 0.0, 0.0, 0.0, 0.0]
    )
    info.k = np.array([100.0, 0, 64, 0, 110, 48, 0, 0, 1])
    client.publish(stamped(info, 3.0, "other"), "/camera_info")
    client.spin(0.3)
    message = image(np.zeros((48, 64, 3), np.uint8), stamp=7.5)
    client.publish(message)
    assert client.until(lambda: len(out) == 1)
    assert out[0].header == message.header
    assert (out[0].width, out[0].height) == (64, 48)
    assert out[0].k.tolist() == [50, 0, 32, 0, 55, 24, 0, 0, 1]
    assert list(out[0].d) == list(info.d)


def test_undistort_publishes_rectified_masks_and_their_camera_info(start, client, messages):
    node = constant(start, undistort=True)
    masks = client.collect(messages.Image, "/segment/mask")
    infos = client.collect(messages.CameraInfo, "/segment/camera_info")
    diagnostics = client.collect(messages.DiagnosticArray, "/diagnostics")
    client.publish(image(np.zeros((48, 64, 3), np.uint8), stamp=1.0))
    assert client.until(lambda: unusable(diagnostics) == 1), "without a calibration there is nothing to go by"
    info = messages.CameraInfo(
        width=64, height=48, distortion_model="plumb_bob", d=[-0.05, 0.0, 0.0, 0.0, 0.0]
    )
    info.k = np.array([40.0, 0, 31.5, 0, 40, 23.5, 0, 0, 1])
    info.r = np.eye(3).ravel()
    info.p = np.array([20.0, 0, 31.5, 0, 0, 20, 23.5, 0, 0, 0, 1, 0])  # twice the view of the camera
    client.publish(info, "/camera_info")
    client.spin(0.3)
    client.publish(image(np.zeros((48, 64, 3), np.uint8), stamp=1.5))
    assert client.until(lambda: masks and infos)
    labels = np.frombuffer(masks[-1].data, np.uint8).reshape(48, 64)
    assert (labels[:6] == IGNORE).all() and (labels[16:32, 20:44] < 8).all()
    assert infos[-1].header == masks[-1].header
    assert infos[-1].k.tolist() == [20, 0, 31.5, 0, 20, 23.5, 0, 0, 1] and not any(infos[-1].d)
    assert infos[-1].p.tolist() == info.p.tolist()
    info.width = 128  # a calibration that does not fit the images
    client.publish(info, "/camera_info")
    client.spin(0.3)
    client.publish(image(np.zeros((48, 64, 3), np.uint8), stamp=2.0))
    assert client.until(lambda: "size 128x48, got 64x48" in latest(diagnostics, "input").message)
    assert "no camera_info came yet" in node.text() and "Traceback" not in node.text()


def test_labels_are_latched(start, client, messages):
    import json

    constant(start)
    assert client.active()
    late = client.collect(messages.String, "/segment/label_info_json", latched=True)
    assert client.until(lambda: late)
    content = json.loads(late[0].data)
    assert content["unlabelled"] == IGNORE
    assert content["classes"][1] == {"id": 1, "name": "stripe_1", "color": [32, 223, 128]}
