"""What one camera of a segment node publishes, onto the board: labels, figures, and pictures while somebody looks."""

from __future__ import annotations

import json
import math
import struct
import time
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import String

from vss_ros.config import brief

LABELS = "label_info_json"
QUIET = 3.0
"""Seconds without a picture, or without a report of the node, that are worth a word."""
CAMERAS = 16
"""At most; topics are anybody's to publish."""
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
# Reliable: without our Fast DDS profile best effort loses nearly all pictures, and a reader that has stopped costs the
# node the same either way.
PICTURES = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)


class Feed:
    """One camera, by the name that its node gives it, and the place of its topics, such as /segmentation/front."""

    def __init__(self, node: Any, name: str, place: str) -> None:
        self.node, self.name, self.place = node, name, place
        self.board, self.config = node.board, node.config
        self.fixed = [
            node.create_subscription(String, f"{place}/{LABELS}", self.on_labels, LATCHED),
            node.create_subscription(DiagnosticArray, f"{place}/consistency", self.on_consistency, 100),
        ]
        self.pictures: list[Any] = []
        self.waiting: dict[str, tuple[int, bytes]] = {}
        self.shown = self.wanted = -math.inf

    def close(self) -> None:
        self.look(False)
        for subscription in self.fixed:
            self.node.destroy_subscription(subscription)

    def look(self, wanted: bool) -> None:
        """Subscribe to image and mask, or leave them: the node sends its image only to who asks."""
        if wanted and not self.pictures:
            self.wanted = time.monotonic()
            self.pictures = [  # raw, since many are left out
                self.node.create_subscription(
                    Image,
                    f"{self.place}/{part}",
                    lambda raw, part=part: self.on_picture(part, raw),
                    PICTURES,
                    raw=True,
                )
                for part in ("image", "mask")
            ]
        elif not wanted and self.pictures:
            for subscription in self.pictures:
                self.node.destroy_subscription(subscription)
            self.pictures, self.waiting = [], {}

    def quiet(self, now: float) -> bool:
        return bool(self.pictures) and now - max(self.shown, self.wanted) > QUIET

    def on_picture(self, part: str, raw: bytes) -> None:
        """Show image and mask of the same stamp, if it is time for another picture."""
        try:
            self.take(part, raw)
        except (ValueError, IndexError, struct.error, RuntimeError, cv2.error) as error:
            self.waiting = {}
            self.node.get_logger().warning(f"{self.place}/{part}: {brief(error)}", throttle_duration_sec=5.0)

    def take(self, part: str, raw: bytes) -> None:
        """Raises what a message raises that is none of a node's own."""
        now = time.monotonic()
        if now - self.shown < 0.9 / self.config.fps:  # 0.9: a camera at the very rate keeps every frame
            return
        self.waiting[part] = (stamp_of(raw), raw)
        image, mask = self.waiting.get("image"), self.waiting.get("mask")
        if image is None or mask is None or image[0] != mask[0]:
            return
        self.waiting = {}
        rgb, labels = (pixels(deserialize_message(raw, Image)) for _, raw in (image, mask))
        if rgb is None or labels is None or rgb.ndim != 3 or labels.ndim != 2:
            raise ValueError("expected an image in rgb8 and a mask in mono8")
        self.shown = now
        width = min(self.config.width, rgb.shape[1])
        size = (width, max(round(rgb.shape[0] * width / rgb.shape[1]), 1))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if size[0] < rgb.shape[1] else rgb
        if labels.shape[1] > width:
            labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self.config.quality])[1].tobytes()
        self.board.show(
            self.name, jpeg, cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
        )

    def on_labels(self, message: String) -> None:
        try:
            labels = json.loads(message.data)
            self.board.tell(model=str(labels["model"]), classes=list(map(entry_of, labels["classes"])))
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
            self.node.get_logger().warning(
                f"{self.place}/{LABELS}: {brief(error)}", throttle_duration_sec=5.0
            )

    def on_consistency(self, message: DiagnosticArray) -> None:
        pairs = [(item.key, number(item.value)) for line in message.status for item in line.values]
        self.board.add(self.name, {name: value for name, value in pairs[:200] if value is not None})


def stamp_of(raw: bytes) -> int:
    """Nanoseconds of the header that a serialised message begins with, after CDR's four bytes."""
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return seconds * 10**9 + nanoseconds


def pixels(message: Image) -> np.ndarray | None:
    """(H, W, 3) or (H, W) uint8 of a node's own answer; None for what it never sends."""
    channels = {"rgb8": 3, "mono8": 1}.get(message.encoding, 0)
    row, size = message.width * channels, message.step * message.height
    if not row or message.step < row or len(message.data) < size:
        return None
    rows = np.frombuffer(message.data, np.uint8, size).reshape(message.height, message.step)[:, :row]
    return (
        rows.reshape(message.height, message.width, channels).squeeze(-1)
        if channels == 1
        else rows.reshape(message.height, message.width, 3)
    )


def entry_of(entry: dict[str, Any]) -> dict[str, Any]:
    """A class as the page takes it. Raises ValueError, TypeError, LookupError."""
    red, green, blue = (int(value) for value in entry["color"])
    return {"id": int(entry["id"]), "name": str(entry["name"]), "color": [red, green, blue]}


def number(text: str) -> float | None:
    """A figure of ~/consistency; None for words."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def publishers_of_labels(node: Node) -> list[tuple[str, str]]:
    """(place of the topics, full name of the node) of all that publish classes."""
    found = []
    for topic, kinds in node.get_topic_names_and_types():
        if topic.endswith(f"/{LABELS}") and "std_msgs/msg/String" in kinds:
            for item in node.get_publishers_info_by_topic(topic):
                name = f"{item.node_namespace.rstrip('/')}/{item.node_name}"
                found.append((topic.removesuffix(f"/{LABELS}"), name))
    return found


def places_of(node: Node, wanted: str) -> dict[str, str]:
    """The places of the topics of the node `wanted`, its full name, by camera name, "" if there is only one."""
    places = sorted({place for place, name in publishers_of_labels(node) if name == wanted})[:CAMERAS]
    return {PurePosixPath(place).name if len(places) > 1 else "": place for place in places}
