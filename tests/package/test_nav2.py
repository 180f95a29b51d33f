"""The contract with Nav2's semantic_segmentation_layer: topics, message layouts, QoS, and a rule for every class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from fixtures.launch import launch, of_kind
from fixtures.paths import ROOT
from vss_ros.media.cloud import POINT, CloudConfig, CloudMaker
from vss_ros.networks.cards.card import read_card
from vss_ros.stream.groups import Groups

RULE = {
    "classes": list,
    "base_cost": int,
    "max_cost": int,
    "mark_confidence": int,
    "samples_to_max_cost": int,
    "dominant_priority": bool,
}
SOURCE = {
    "segmentation_topic": str,
    "confidence_topic": str,
    "labels_topic": str,
    "pointcloud_topic": str,
    "observation_persistence": float,
    "expected_update_rate": float,
    "max_obstacle_distance": float,
    "min_obstacle_distance": float,
    "tile_map_decay_time": float,
    "visualize_tile_map": bool,
    "use_cost_selection": bool,
    "class_types": list,
}
"""The layer's parameters; rclcpp refuses a value of another type than the default's."""


def layer() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "config" / "nav2_semantic.yaml").read_text())
    parameters = content["local_costmap"]["local_costmap"]["ros__parameters"]
    assert set(parameters["plugins"]) <= set(parameters)
    return parameters["semantic_segmentation_layer"]


def groups() -> Groups:
    return Groups(read_card("street")[0], ROOT / "config" / "groups.yaml")


def test_parameters_are_those_of_the_layer_and_of_its_types():
    assert layer()["observation_sources"] == "camera"
    source = layer()["camera"]
    types = source["class_types"]
    assert set(source) == set(SOURCE) | set(types)
    assert all(type(source[name]) is kind for name, kind in SOURCE.items())
    for name in types:
        assert {key: type(value) for key, value in source[name].items()} == RULE, name
        assert all(0 <= source[name][cost] <= 254 for cost in ("base_cost", "max_cost"))


def test_every_class_of_label_info_has_one_rule():
    source = layer()["camera"]
    ruled = [name for kind in source["class_types"] for name in source[kind]["classes"]]
    assert sorted(ruled) == sorted([*groups().card.classes, "unlabelled"])


def test_what_has_no_cost_has_no_points():
    text = (ROOT / "docs" / "NAV2.md").read_text()
    kept = text.split("cloud_classes:=")[1].split()[0].split(",")
    assert {*groups().card.classes} - {*kept} == {"sky"}
    maker = CloudMaker(groups().card.classes, groups().card.palette, CloudConfig(classes=tuple(kept)))
    labels = np.array([[groups().card.classes.index("sky"), 255, 0]], np.uint8)
    cloud = maker(np.ones((1, 3), np.float32), labels, [1, 0, 0, 0, 1, 0, 0, 0, 1])
    assert np.isfinite(cloud["z"]).tolist() == [[False, False, True]]


def test_topics_are_those_of_the_launch_file(launch):
    _, actions = launch("segment.launch.py", depth_topic="/depth")
    remapped = {f"/{new}" for node in of_kind(actions, "Node") for _, new in node.kwargs["remappings"]}
    assert {value for name, value in layer()["camera"].items() if name.endswith("_topic")} <= remapped


def test_messages_as_the_layer_reads_them():
    """It walks over x, y and z as float32, in the order of the mask's pixels."""
    pytest.importorskip("rclpy")
    from sensor_msgs.msg import PointField
    from std_msgs.msg import Header
    from vss_ros.nodes.cloud import FIELDS
    from vss_ros.nodes.segment.publish import to_image

    assert {field.name: field.datatype for field in FIELDS if field.name in "xyz"} == dict.fromkeys(
        "xyz", PointField.FLOAT32
    )
    assert all(field.offset + 4 <= POINT.itemsize and field.count == 1 for field in FIELDS)
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    mask = to_image(Header(frame_id="camera"), labels)
    assert (mask.encoding, mask.step, list(mask.data)) == ("mono8", 3, list(range(6)))
    cloud = CloudMaker((), (), CloudConfig())(
        np.ones((2, 3), np.float32), labels, [1, 0, 0, 0, 1, 0, 0, 0, 1]
    )
    assert cloud.ravel()["label"].tolist() == list(mask.data)


def test_quality_of_service_fits():
    """Its subscriptions: sensor data (best effort, volatile), and latched (reliable, transient local) for labels."""
    pytest.importorskip("rclpy")
    from rclpy.qos import (
        DurabilityPolicy,
        QoSCompatibility,
        QoSProfile,
        ReliabilityPolicy,
        qos_check_compatible,
        qos_profile_sensor_data,
    )
    from vss_ros.nodes.segment.publish import LATCHED, OUTPUT

    labels = QoSProfile(
        depth=5, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
    )
    for offered, asked in ((OUTPUT, qos_profile_sensor_data), (LATCHED, labels)):
        assert qos_check_compatible(QoSProfile(**offered), asked)[0] != QoSCompatibility.ERROR
