"""Messages made from arrays and cards, without a running node."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types

import numpy as np
import pytest
from vss_ros.config import IGNORE

pytest.importorskip("rclpy", reason="needs rclpy: install the extra [ros] or source a ROS 2 setup")

from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from vss_ros.media.decode import decode
from vss_ros.node_config import COUNT_TOPICS, SEGMENT_TOPICS
from vss_ros.nodes.count.publish import CountAnswers
from vss_ros.nodes.segment import publish as messages


@pytest.mark.parametrize(
    ("answers", "topics"), [(messages.Answers, SEGMENT_TOPICS), (CountAnswers, COUNT_TOPICS)]
)
def test_launch_files_remap_all_that_is_published(answers, topics):
    names = []
    node = types.SimpleNamespace(
        get_fully_qualified_name=lambda: "/node",
        create_lifecycle_publisher=lambda kind, name, *_, **__: names.append(name),
    )
    answers(node)
    seldom = {"~/label_info"}  # where vision_msgs is installed
    assert {*names} | seldom == {f"~/{topic}" for topic in topics} | seldom


def test_an_image_has_no_padding_and_its_header(rng):
    header = Header(frame_id="front")
    labels = rng.integers(0, 255, (6, 8), dtype=np.uint8)
    mask = messages.to_image(header, labels[:, ::2])
    assert (mask.header, mask.encoding, mask.height, mask.width, mask.step) == (header, "mono8", 6, 4, 4)
    assert bytes(mask.data) == labels[:, ::2].tobytes(), "a strided view is made contiguous"
    colours = rng.integers(0, 255, (3, 5, 3), dtype=np.uint8)
    picture = messages.to_image(header, colours)
    assert (picture.encoding, picture.step) == ("rgb8", 15)
    assert np.array_equal(decode(picture), colours)


def camera_info(width: int = 640, height: int = 480) -> CameraInfo:
    info = CameraInfo(width=width, height=height)
    info.k = np.array([500.0, 0, 320, 0, 400, 240, 0, 0, 1])
    info.p = np.array([500.0, 0, 320, 10, 0, 400, 240, 20, 0, 0, 1, 0])
    return info


def test_camera_info_of_the_images_own_size_is_left_alone():
    header = Header(frame_id="front")
    info = camera_info()
    same = messages.scaled_camera_info(info, header, 480, 640)
    assert same.header == header and same.k.tolist() == info.k.tolist() and same.width == 640
    # Full-resolution calibration of a camera that bins or crops: it already fits the smaller image.
    info.binning_x = info.binning_y = 2
    binned = messages.scaled_camera_info(info, header, 240, 320)
    assert (binned.width, binned.k.tolist()) == (640, info.k.tolist())
    cropped = camera_info()
    cropped.roi.width, cropped.roi.height, cropped.roi.x_offset = 320, 240, 100
    assert messages.scaled_camera_info(cropped, header, 240, 320).roi.x_offset == 100
    unknown = messages.scaled_camera_info(CameraInfo(), header, 240, 320)
    assert (unknown.width, unknown.height) == (0, 0), "an uncalibrated camera stays uncalibrated"


def test_camera_info_scales_with_the_image():
    info = camera_info()
    info.roi.width, info.roi.height, info.roi.x_offset, info.roi.y_offset = 320, 240, 100, 60
    half = messages.scaled_camera_info(info, Header(), 120, 160)
    assert half.k.tolist() == [250, 0, 160, 0, 200, 120, 0, 0, 1]
    assert half.p.tolist() == [250, 0, 160, 5, 0, 200, 120, 10, 0, 0, 1, 0]
    assert (half.width, half.height) == (320, 240)
    assert (half.roi.x_offset, half.roi.y_offset, half.roi.width, half.roi.height) == (50, 30, 160, 120)
    assert info.k[0] == 500 and info.roi.x_offset == 100, "the camera's own message must not change"


def test_label_info_numbers_the_classes_as_the_mask_does(monkeypatch):
    """With a stand-in for vision_msgs, whose fields are those of its LabelInfo and VisionClass."""

    def fields(**values):
        return types.SimpleNamespace(**values)

    package, module = types.ModuleType("vision_msgs"), types.ModuleType("vision_msgs.msg")
    package.__spec__ = importlib.machinery.ModuleSpec("vision_msgs", None)
    module.LabelInfo = module.VisionClass = fields
    monkeypatch.setitem(sys.modules, "vision_msgs", package)
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", module)
    assert messages.label_info_type() is fields
    info = messages.label_info(Header(frame_id="x"), ["road", "car"])
    pairs = [(item.class_id, item.class_name) for item in info.class_map]
    assert pairs == [(0, "road"), (1, "car"), (IGNORE, "unlabelled")]


def test_label_json_holds_names_and_colours():
    text = messages.classes_json("street", ["road", "car"], [[1, 2, 3], np.array([4, 5, 6], np.uint8)])
    assert json.loads(text) == {
        "model": "street",
        "classes": [
            {"id": 0, "name": "road", "color": [1, 2, 3]},
            {"id": 1, "name": "car", "color": [4, 5, 6]},
        ],
        "unlabelled": 255,
    }


def test_status_formats_values_and_leaves_out_none():
    status = messages.status(
        "a: b", "cam", DiagnosticStatus.WARN, "text", {"x": 1.23456, "y": None, "z": True}
    )
    assert [(item.key, item.value) for item in status.values] == [("x", "1.23456"), ("z", "1")]
    assert (status.name, status.hardware_id, status.level) == ("a: b", "cam", b"\x01")
