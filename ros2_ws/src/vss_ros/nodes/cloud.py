"""`cloud`: masks and an aligned depth camera as a labelled point cloud, one for each mask.

ros2 launch vss_ros segment.launch.py depth_topic:=/camera/aligned_depth_to_color/image_raw
"""

from __future__ import annotations

import json
from array import array
from collections import deque
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import String

from vss_ros.config import VssError, brief
from vss_ros.media.cloud import POINT, CloudConfig, CloudMaker, depth_of
from vss_ros.media.decode import stamp_ns
from vss_ros.media.labels import decode_labels
from vss_ros.nodes.parameters import declare

TICK = 0.5
KEPT = 30
"""Depth images that wait for their mask, which comes a network later."""
LOG_PERIOD = 5.0
# PCL declares rgb a float, whose bits are the colour.
FIELDS = [
    PointField(
        name=name,
        offset=POINT.fields[name][1],  # type: ignore[index]
        datatype=PointField.UINT32 if name == "label" else PointField.FLOAT32,
        count=1,
    )
    for name in POINT.names or ()
]


class Cloud(Node):
    """Reads masks and depth only while somebody reads `points`."""

    exit_code = 0

    def __init__(self) -> None:
        super().__init__("cloud")
        self.config: CloudConfig = declare(self, CloudConfig)
        self.maker: CloudMaker | None = None
        self.depths: deque[tuple[int, Image]] = deque(maxlen=KEPT)
        self.mask: Image | None = None
        self.confidence: Image | None = None
        self.info: CameraInfo | None = None
        self.inputs: list[Any] = []
        self.buffer = array("B")
        qos = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
        self.points = self.create_publisher(PointCloud2, "points", qos)
        qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(String, "label_info_json", self.on_labels, qos)
        self.create_timer(TICK, self.on_tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def on_tick(self) -> None:
        wanted = bool(self.points.get_subscription_count())
        if wanted and not self.inputs:
            answer = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
            sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
            self.inputs = [
                self.create_subscription(Image, "mask", self.on_mask, answer),
                self.create_subscription(CameraInfo, "camera_info", self.on_info, sensor),
                self.create_subscription(Image, "depth", self.on_depth, sensor),
            ]
            if self.config.confidence:
                self.inputs.append(self.create_subscription(Image, "confidence", self.on_confidence, answer))
        elif not wanted:
            for subscription in self.inputs:
                self.destroy_subscription(subscription)
            self.inputs, self.mask, self.confidence = [], None, None
            self.depths.clear()

    def on_labels(self, message: String) -> None:
        try:
            entries = json.loads(message.data)["classes"]
            names, palette = [entry["name"] for entry in entries], [entry["color"] for entry in entries]
            self.maker = CloudMaker(names, palette, self.config)
        except (VssError, ValueError, TypeError, LookupError, RecursionError) as error:
            self.maker = None
            self.get_logger().error(f"label_info_json: {brief(error)}")

    def on_info(self, message: CameraInfo) -> None:
        self.info = message

    def on_depth(self, message: Image) -> None:
        self.depths.append((stamp_ns(message), message))
        self.match()

    def on_mask(self, message: Image) -> None:
        self.mask = message
        self.match()

    def on_confidence(self, message: Image) -> None:
        self.confidence = message
        self.match()

    def match(self) -> None:
        """Publish the waiting mask once its confidence and the nearest depth are there."""
        if self.mask is None or self.maker is None:
            return
        confidence = self.confidence
        if self.config.confidence and (confidence is None or stamp_ns(confidence) != stamp_ns(self.mask)):
            return
        depth = self.nearest(stamp_ns(self.mask))
        if depth is None:
            return
        mask, self.mask = self.mask, None
        try:
            self.publish(self.maker, mask, depth, confidence)
        except (VssError, ValueError, RuntimeError) as error:  # RCLError: a reader that does not keep up
            self.get_logger().warning(f"no cloud: {brief(error, 400)}", throttle_duration_sec=LOG_PERIOD)

    def nearest(self, when: int) -> Image | None:
        """The depth image nearest in time, once no nearer one can come."""
        if not self.depths:
            return None
        found, depth = min(self.depths, key=lambda item: abs(item[0] - when))
        apart = abs(found - when) / 1e9
        newest = max(found for found, _ in self.depths)
        if found != when and newest < when:
            return None  # the next one may be nearer
        if apart > self.config.tolerance:
            self.get_logger().warning(
                f"no cloud: the nearest depth image is {apart:.3f} s from its mask, tolerance is "
                f"{self.config.tolerance:g}; do both cameras stamp by the same clock?",
                throttle_duration_sec=LOG_PERIOD,
            )
            return None
        return depth

    def publish(self, maker: CloudMaker, mask: Image, depth: Image, confidence: Image | None) -> None:
        if self.info is None or not (self.info.width and self.info.height):
            raise VssError("no camera_info with a size came yet, which the mask's geometry needs")
        labels = decode_labels(mask)
        height, width = labels.shape
        # K as for the mask: one camera_info serves any size of it
        k = np.reshape(self.info.k, (3, 3)) * [[width / self.info.width], [height / self.info.height], [1.0]]
        rows, columns = maker.shape(labels)
        size = rows * columns * POINT.itemsize
        if len(self.buffer) != size:
            self.buffer = array("B", bytes(size))
        maker(
            depth_of(depth),
            labels,
            k,
            np.frombuffer(confidence.data, np.uint8).reshape(labels.shape) if confidence else None,
            np.frombuffer(self.buffer, POINT).reshape(rows, columns),
        )
        self.points.publish(
            PointCloud2(
                header=mask.header,
                height=rows,
                width=columns,
                fields=FIELDS,
                point_step=POINT.itemsize,
                row_step=columns * POINT.itemsize,
                data=self.buffer,
                is_dense=False,
            )
        )

    def close(self, timeout: float) -> bool:
        """Before the process ends."""
        return True
