"""`watcher`: what the segment node publishes, on a web page; `vss watch` starts it.

ros2 run vss_ros watcher --ros-args -p port:=8088
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import String

from vss_ros.media.decode import ImageError, decode
from vss_ros.nodes import run
from vss_ros.nodes.parameters import declare
from vss_ros.nodes.watch.command import WatchConfig
from vss_ros.nodes.watch.server import Board, WatchServer

TICK = 0.25
QUIET = 3.0
"""Seconds without a picture, or without a report of the node, that are worth a word."""
LEVELS = {
    DiagnosticStatus.OK: "OK",
    DiagnosticStatus.WARN: "WARN",
    DiagnosticStatus.ERROR: "ERROR",
    DiagnosticStatus.STALE: "STALE",
}


class Watcher(Node):
    """Callbacks put the newest on the board; the threads of the server read it there and never wait for ROS."""

    exit_code = 0

    def __init__(self) -> None:
        super().__init__("watcher")
        self.config: WatchConfig = declare(self, WatchConfig)
        self.path = f"{self.get_namespace()}/{self.config.node}".lstrip("/")
        self.board = Board()
        self.server = WatchServer(self.board, self.config.host, self.config.port, self.config.token)
        self.overlay: Any = None
        self.shown = self.wanted = self.reported = -math.inf
        self.lines: dict[str, DiagnosticStatus] = {}
        latched = QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )
        self.create_subscription(String, "segmentation/label_info_json", self.on_labels, latched)
        self.create_subscription(DiagnosticArray, "segmentation/consistency", self.on_consistency, 100)
        self.create_subscription(DiagnosticArray, "/diagnostics", self.on_diagnostics, 100)
        self.create_timer(TICK, self.on_tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(f"open {self.server.url}")

    def on_tick(self) -> None:
        """Have the overlay drawn only while somebody looks, and say what is wrong."""
        watched = self.board.watched()
        if watched and self.overlay is None:
            # Reliable: without our Fast DDS profile best effort loses nearly all pictures, and a reader that has
            # stopped costs the node the same either way. Raw, since many pictures are left out.
            qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
            topic = "segmentation/overlay"
            self.overlay = self.create_subscription(Image, topic, self.on_overlay, qos, raw=True)
            self.wanted = time.monotonic()
        elif not watched and self.overlay is not None:
            self.destroy_subscription(self.overlay)
            self.overlay = None
        now = time.monotonic()
        quiet = watched and now - max(self.shown, self.wanted) > QUIET
        lines = [
            {"name": name.rpartition(": ")[2], "level": LEVELS.get(line.level, "?"), "message": line.message}
            for name, line in self.lines.items()
        ]
        self.board.tell(node=f"/{self.path}", lines=lines, problem=self.problem(now) if quiet else "")

    def problem(self, now: float) -> str:
        """Why no picture comes, and what to do."""
        overlay = self.resolve_topic_name("segmentation/overlay")
        if now - self.reported > QUIET + 1.0:
            if self.reported > 0:
                return f"/{self.path} has ended, or reports no more: see its log and start it again"
            return f"nothing is heard of the node /{self.path}: {self.elsewhere()}"
        if errors := self.messages(DiagnosticStatus.ERROR):
            return errors
        state = next(
            (line.message for name, line in self.lines.items() if name.endswith("lifecycle")), "active"
        )
        if state != "active":
            return f"the node is {state}: ros2 lifecycle set /{self.path} configure, then activate"
        if not self.count_publishers(overlay):
            return f"/{self.path} runs, but nobody publishes {overlay}: remap the watcher's segmentation/... topics"
        if warnings := self.messages(DiagnosticStatus.WARN):
            return warnings
        return (
            f"/{self.path} runs, but nothing arrives on {overlay}: its camera has paused, or Fast DDS loses large "
            "images; set FASTDDS_DEFAULT_PROFILES_FILE for the node as its launch file does"
        )

    def messages(self, level: bytes) -> str:
        """What the node reports on this level."""
        return "; ".join(line.message for line in self.lines.values() if line.level == level)

    def elsewhere(self) -> str:
        """What to do about a node that is not found."""
        others = sorted(
            name.removesuffix("/segmentation/overlay") or "none"
            for name, _ in self.get_topic_names_and_types()
            if name.endswith("/segmentation/overlay") and self.count_publishers(name)
        )
        if others:
            return f"one publishes in another namespace ({', '.join(others)}): --namespace"
        return "start it (ros2 launch vss_ros segment.launch.py), with this machine's ROS_DOMAIN_ID"

    def on_overlay(self, raw: bytes) -> None:
        now = time.monotonic()
        if now - self.shown < 0.9 / self.config.fps:  # 0.9: a camera at the very rate keeps every frame
            return
        try:
            rgb = decode(deserialize_message(raw, Image))
        except ImageError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        self.shown = now
        scale = self.config.width / rgb.shape[1]
        if scale < 1:
            size = (self.config.width, max(round(rgb.shape[0] * scale), 1))
            rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        self.board.show(
            cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self.config.quality])[1].tobytes()
        )

    def on_labels(self, message: String) -> None:
        labels = json.loads(message.data)
        self.board.tell(model=labels["model"], classes=labels["classes"])

    def on_consistency(self, message: DiagnosticArray) -> None:
        pairs = [(item.key, number(item.value)) for line in message.status for item in line.values]
        self.board.add({name: value for name, value in pairs if value is not None})

    def on_diagnostics(self, message: DiagnosticArray) -> None:
        ours = {line.name: line for line in message.status if line.name.startswith(f"{self.path}: ")}
        if ours:
            self.lines, self.reported = ours, time.monotonic()

    def close(self, timeout: float) -> bool:
        """Before the process ends."""
        self.server.close()
        return True


def number(text: str) -> float | None:
    """A figure of ~/consistency; None for words."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def make_node() -> Watcher:
    return Watcher()


def main(args: list[str] | None = None) -> int:
    return run.watcher(args)
