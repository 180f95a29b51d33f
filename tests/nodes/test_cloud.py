"""The cloud node in a process of its own: mask, confidence, depth and camera_info in, one PointCloud2 a mask out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fixtures.ros import client, image, stamped, start
from vss_ros.media.cloud import POINT

pytestmark = pytest.mark.ros
SIZE = (480, 640)  # a depth image above the 512 kB that Fast DDS lets through without our profile
LABELS = {
    "classes": [
        {"id": 0, "name": "road", "color": [128, 64, 32]},
        {"id": 1, "name": "car", "color": [0, 0, 255]},
    ]
}


@pytest.fixture
def camera(client):
    """camera(mask stamp, depth stamp, depth) publishes one frame of everything that the node reads."""
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import CameraInfo
    from std_msgs.msg import String

    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    labels = client.node.create_publisher(String, "label_info_json", latched)
    labels.publish(String(data=json.dumps(LABELS)))
    info = CameraInfo(
        width=SIZE[1] * 2, height=SIZE[0] * 2, k=[1000.0, 0.0, 640.0, 0.0, 1000.0, 480.0, 0.0, 0.0, 1.0]
    )

    def publish(when: float, depth_when: float, depth: np.ndarray, confidence: bool = True) -> None:
        client.publish(stamped(info, when), "/camera_info")
        client.publish(image(depth, "16UC1", stamp=depth_when), "/depth")
        client.publish(image(np.ones(SIZE, np.uint8), "mono8", stamp=when), "/mask")
        if confidence:
            client.publish(image(np.full(SIZE, 51, np.uint8), "mono8", stamp=when), "/confidence")

    return publish


def points_of(message) -> np.ndarray:
    names = {field.name: (field.offset, field.datatype) for field in message.fields}
    assert {name: offset for name, (offset, _) in names.items()} == {
        name: offset for name, (_, offset) in POINT.fields.items()
    }
    assert names["label"][1] == 6 and names["rgb"][1] == names["x"][1] == 7  # UINT32, FLOAT32
    assert (message.point_step, message.row_step) == (POINT.itemsize, POINT.itemsize * message.width)
    return np.frombuffer(message.data, POINT).reshape(message.height, message.width)


def test_a_cloud_for_each_mask(start, client, camera):
    from sensor_msgs.msg import PointCloud2

    process = start("cloud", tolerance=0.05)
    clouds = client.collect(PointCloud2, "/points")
    depth = np.full(SIZE, 2000, np.uint16)
    depth[0] = 0
    camera(5.0, 5.02, depth)
    assert client.until(lambda: clouds), process.text()
    message = clouds[0]
    assert (message.header.stamp.sec, message.header.frame_id) == (5, "camera") and not message.is_dense
    points = points_of(message)
    assert points.shape == SIZE, "organised as the mask"
    assert np.isnan(points["x"][0]).all() and (points["z"][1:] == 2.0).all()
    # K is halved: camera_info is of an image twice the mask's size.
    np.testing.assert_allclose(points["x"][240, 420], (420 - 320) * 2 / 500, rtol=1e-6)
    assert (points["label"] == 1).all() and (points["rgb"] == 0x0000FF).all()
    np.testing.assert_allclose(points["confidence"], 0.2, rtol=1e-6)

    # A depth image that is too far away in time gives none, and says so.
    camera(6.0, 6.2, depth)
    assert process.logged("0.200 s from its mask, tolerance is 0.05")
    assert len(clouds) == 1
    assert process.stop() == 0


def test_options_thin_the_cloud_out(start, client, camera):
    from sensor_msgs.msg import PointCloud2

    start("cloud", classes="[road]", stride=2, confidence=False)
    clouds = client.collect(PointCloud2, "/points")
    camera(5.0, 5.0, np.full(SIZE, 2000, np.uint16), confidence=False)
    assert client.until(lambda: clouds)
    points = points_of(clouds[0])
    assert points.shape == (240, 320) and np.isnan(points["z"]).all(), "all of it is car"
    assert (points["confidence"] == 1).all()


def test_a_class_that_the_model_has_not_is_said(start, client, camera):
    process = start("cloud", classes="[tram]")
    assert process.logged("classes: tram: expected some of road, car, unlabelled")


def test_what_a_cloud_cannot_be_made_of_costs_a_line(start, client, camera):
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import CameraInfo, PointCloud2
    from std_msgs.msg import String

    process = start("cloud")
    clouds = client.collect(PointCloud2, "/points")
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    labels = client.node.create_publisher(String, "label_info_json", latched)
    client.settle(labels)
    labels.publish(String(data='{"classes": [{"name": "road"}]}'))
    assert process.logged("label_info_json: 'color'")
    labels.publish(String(data="[" * 100000))
    assert process.logged("label_info_json: maximum recursion")
    labels.publish(String(data=json.dumps(LABELS)))
    depth = np.full(SIZE, 2000, np.uint16)
    client.publish(
        stamped(CameraInfo(k=[500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]), 4.0), "/camera_info"
    )
    for topic, array, encoding in (("/depth", depth, "16UC1"), ("/mask", np.ones(SIZE, np.uint8), "mono8")):
        client.publish(image(array, encoding, stamp=4.0), topic)
    client.publish(image(np.ones(SIZE, np.uint8), "mono8", stamp=4.0), "/confidence")
    assert process.logged("no camera_info with a size came yet")
    camera(4.5, 4.5, depth, confidence=False)
    client.publish(image(np.ones((2, 2), np.uint8), "mono8", stamp=4.5), "/confidence")
    camera(5.0, 5.0, depth)
    assert client.until(lambda: clouds), process.text()
