"""Counts as messages and as a line of /diagnostics."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy: install the extra [ros] or source a ROS 2 setup")

from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Header
from vss_ros.node_config import CountConfig
from vss_ros.nodes.count.publish import count_status, disagreement, poses
from vss_ros.nodes.segment.health import Answer, Window
from vss_ros.nodes.segment.publish import to_image


def window(count: float, density: float) -> Window:
    figures = {
        **{"count": count, "count_density": density, "count_smoothed": count, "coverage": 1.0},
        **{"disagreement": disagreement(count, density), "answer_age": 0},
    }
    return Window(answers=[Answer(True, 1.0, None, figures)])


@pytest.mark.parametrize(
    ("count", "density", "level"),
    [(10, 9.0, DiagnosticStatus.OK), (10, 4.0, DiagnosticStatus.WARN), (0, 0.4, DiagnosticStatus.OK)],
)
def test_points_and_density_that_disagree_are_warned_of(count, density, level):
    line = count_status("count", "/image", CountConfig(), window(count, density))
    assert line.level == level
    assert ("disagree by 60%" in line.message) == (level == DiagnosticStatus.WARN)
    assert {v.key: v.value for v in line.values}["count_density"] == f"{density:g}"


def test_no_frames():
    assert count_status("count", "/image", CountConfig(), Window()).message == "no frames"


def test_disagreement_by_hand():
    assert disagreement(4, 2) == 0.5 == disagreement(2, 4)
    assert disagreement(0, 0) == 0 and disagreement(0, 0.5) == 0.5 and disagreement(0, 2) == 1


def test_points_without_vision_msgs():
    message = poses(Header(), np.array([[3.0, 4.0, 0.5]], np.float32), "ball")
    place = message.poses[0].position
    assert (place.x, place.y, place.z) == (3.0, 4.0, 0.5)


def test_density_is_32fc1():
    density = np.array([[0.5, 2.0]], np.float32)
    message = to_image(Header(), density)
    assert (message.encoding, message.height, message.width, message.step) == ("32FC1", 1, 2, 8)
    assert np.frombuffer(message.data, np.float32).tolist() == [0.5, 2.0]
