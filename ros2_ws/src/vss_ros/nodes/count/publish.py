"""What `count` publishes of a camera's frames, and its line of /diagnostics."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, Pose, PoseArray
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, UInt32

from vss_ros.media.draw import draw_points
from vss_ros.node_config import CountConfig
from vss_ros.nodes.segment.health import Answer, Health, Window
from vss_ros.nodes.segment.publish import LOG_PERIOD, Topics, scaled_camera_info, status, to_image
from vss_ros.nodes.segment.report import OK, alarm, worst


class CountAnswers(Topics):
    """points: vision_msgs/Detection2DArray, boxes without size, where vision_msgs is installed, else
    geometry_msgs/PoseArray with column and row in x and y and the score in z."""

    def __init__(self, node: LifecycleNode, camera: str = "") -> None:
        super().__init__(node, camera)
        kind = detections_type()
        self.as_detections = kind is not None
        self.points = self.topic(kind or PoseArray, "points")
        self.count = self.topic(UInt32, "count")
        self.consistency = self.topic(DiagnosticArray, "counts")
        self.density = self.topic(Image, "density")
        self.overlay = self.topic(Image, "overlay")
        self.camera_info = self.topic(CameraInfo, "camera_info")
        if not kind:
            self.without = "vision_msgs is not installed: ~/points is a geometry_msgs/PoseArray"

    def begin(self, config: CountConfig, card: Any, health: Health) -> None:
        self.card, self.health = card, health

    def hide(self, result: Any, undistort: Any) -> None:
        """Leave out what the camera did not see."""
        columns, rows = result.points[:, 0].astype(int), result.points[:, 1].astype(int)
        result.points = result.points[undistort.rectifier.outside[rows, columns] == 0]

    def __call__(self, result: Any, alpha: float) -> None:
        """The answer for one frame to all topics, with that frame's header. alpha: opacity of the overlay."""
        frame = result.source
        header = frame.message.header
        thing = self.card.classes[0]
        make = detections if self.as_detections else poses
        self.send(self.points, make(header, result.points, thing))
        self.send(self.count, UInt32(data=result.count))
        latency = self.latency(header)
        result.times["node"] = (time.perf_counter() - frame.arrival) * 1e3
        figures = self.figures(result, latency)
        line = status(f"{self.name}: counts", self.hardware, DiagnosticStatus.OK, "", figures)
        self.send(self.consistency, DiagnosticArray(header=header, status=[line]))
        if frame.info:
            self.send(self.camera_info, scaled_camera_info(frame.info, header, *frame.rgb.shape[:2]))
        if self.density.get_subscription_count():
            self.send(self.density, to_image(header, result.density))
        if self.overlay.get_subscription_count():
            picture = draw_points(frame.rgb, result.points, self.card.palette[0])
            self.send(
                self.overlay, to_image(header, cv2.addWeighted(frame.rgb, 1 - alpha, picture, alpha, 0))
            )
        answer = Answer(result.is_keyframe, result.times["total"], latency, figures)
        height, width = frame.rgb.shape[:2]
        self.answered(frame, (height, width), answer)

    def figures(self, result: Any, latency: float | None) -> dict[str, Any]:
        """What ~/counts says of a frame, and /diagnostics each second.

        count: points; count_density: by the density; count_smoothed: median over frames; disagreement: of the first
        two, as a share of the greater; coverage: share of the image seen since the start; answer_age: frames since
        the oldest patch was answered; reset, why the stream started anew.
        """
        figures: dict[str, Any] = {
            "count": result.count,
            "count_density": result.by_density,
            "count_smoothed": result.smoothed,
            "disagreement": disagreement(result.count, result.by_density),
            "coverage": result.coverage,
            "patches": result.answered,
            "answer_age": result.age,
            **{f"{name}_ms": value for name, value in result.times.items()},
            "dropped": self.health.dropped,
        }
        if latency is not None:
            figures["latency_ms"] = latency
        if result.reset:
            figures["reset"] = result.reset
            if result.reset != "first frame":
                self.health.resets += 1
                self.node.get_logger().info(
                    f"the count starts anew: {result.reset}", throttle_duration_sec=LOG_PERIOD
                )
        return figures


def disagreement(points: float, density: float) -> float:
    """Difference of two counts as a share of the greater, 0–1; below one object there is nothing to disagree on."""
    return abs(points - density) / max(points, density, 1.0)


def count_status(name: str, hardware: str, config: CountConfig, window: Window) -> DiagnosticStatus:
    """The second's counts, and whether points and density tell the same."""
    names = ("count", "count_density", "count_smoothed", "disagreement", "coverage", "answer_age")
    means = {
        key: float(np.mean([answer.figures[key] for answer in window.answers]))
        for key in names
        if window.answers
    }
    said = f"{means['count_smoothed']:.1f} objects" if means else "no frames"
    off = means.get("disagreement", 0.0)
    points, density = means.get("count", 0.0), means.get("count_density", 0.0)
    message = (
        f"points ({points:.1f}) and density ({density:.1f}) disagree by {off:.0%}: "
        "the scene is unlike the model's training, or score does not suit it"
    )
    level, text = worst([(OK, said), alarm(config, "disagreement", off, message)])
    return status(f"{name}: count", hardware, level, text, means)


def detections_type() -> Any:
    """vision_msgs/Detection2DArray, or None where vision_msgs is not installed."""
    if importlib.util.find_spec("vision_msgs") is None:
        return None
    from vision_msgs.msg import Detection2DArray

    return Detection2DArray


def detections(header: Header, points: np.ndarray, thing: str) -> Any:
    from vision_msgs.msg import BoundingBox2D, Detection2D, Detection2DArray, ObjectHypothesisWithPose

    found = []
    for x, y, score in points.tolist():
        box = BoundingBox2D()
        box.center.position.x, box.center.position.y = x, y
        guess = ObjectHypothesisWithPose()
        guess.hypothesis.class_id, guess.hypothesis.score = thing, score
        found.append(Detection2D(header=header, bbox=box, results=[guess]))
    return Detection2DArray(header=header, detections=found)


def poses(header: Header, points: np.ndarray, thing: str) -> PoseArray:
    placed = [Pose(position=Point(x=x, y=y, z=score)) for x, y, score in points.tolist()]
    return PoseArray(header=header, poses=placed)
