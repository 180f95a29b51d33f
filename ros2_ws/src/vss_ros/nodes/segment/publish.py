"""Everything that turns a stream's answer into messages: the topics of one camera, and arrays as messages."""

from __future__ import annotations

import copy
import importlib.util
import time
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header, String

from vss_ros.config import IGNORE
from vss_ros.media.camera_info import scale_intrinsics
from vss_ros.media.draw import colorize, heat, jpeg, overlay
from vss_ros.node_config import SegmentConfig
from vss_ros.nodes.segment.health import Answer, Health
from vss_ros.stream.consistency import RING, Consistency
from vss_ros.stream.result import classes_json

OUTPUT: dict[str, Any] = {"depth": 2, "reliability": ReliabilityPolicy.RELIABLE}  # REP-2003
LATCHED: dict[str, Any] = {
    "depth": 1,
    "reliability": ReliabilityPolicy.RELIABLE,
    "durability": DurabilityPolicy.TRANSIENT_LOCAL,
}
LOG_PERIOD = 5.0
"""Seconds between two lines of the log that say the same."""


class Topics:
    """The topics on which one camera is answered; an answer's `source` is its `Frame` (see `camera`).

    camera: name below which the topics stand, "" for the only one; without: what the log says once about topics that
    are not there.
    """

    without = ""
    health: Health
    consistency: Any
    """A frame's figures, stamped."""

    def __init__(self, node: LifecycleNode, camera: str = "") -> None:
        self.node = node
        self.below = f"~/{camera}/" if camera else "~/"
        self.prefix = f"{camera}: " if camera else ""
        self.name = f"{node.get_fully_qualified_name()}/{camera}".strip("/")
        self.hardware = ""
        self.publishers: list[Any] = []

    def topic(self, kind: Any, name: str, qos: dict[str, Any] = OUTPUT) -> Any:
        publisher = self.node.create_lifecycle_publisher(
            kind,
            self.below + name,
            QoSProfile(**qos),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self.publishers.append(publisher)
        return publisher

    def close(self) -> None:
        for publisher in self.publishers:
            self.node.destroy_lifecycle_publisher(publisher)
        self.publishers = []

    def latency(self, header: Header) -> float | None:
        """Milliseconds from the image's stamp to now; None while either clock stands at zero."""
        stamp = header.stamp.sec * 1e3 + header.stamp.nanosec * 1e-6
        now = self.node.get_clock().now().nanoseconds
        return now * 1e-6 - stamp if stamp > 0 and now > 0 else None

    def send(self, publisher: Any, message: Any) -> None:
        try:
            publisher.publish(message)
        except RuntimeError as error:  # RCLError: a reliable writer whose reader does not keep up
            self.health.unpublished += 1
            self.node.get_logger().warning(
                f"{publisher.topic_name}: not published: {error}", throttle_duration_sec=LOG_PERIOD
            )

    def answered(self, frame: Any, size: tuple[int, int], answer: Answer) -> None:
        """Count a frame whose answer is out."""
        health = self.health
        health.processed += 1
        health.waiting = None
        health.encoding = getattr(frame.message, "encoding", "") or frame.message.format
        health.size = size
        health.window.answers.append(answer)


class Answers(Topics):
    """What `segment` publishes."""

    def __init__(self, node: LifecycleNode, camera: str = "") -> None:
        super().__init__(node, camera)
        self.mask = self.topic(Image, "mask")
        self.confidence = self.topic(Image, "confidence")
        self.color_mask = self.topic(Image, "color_mask")
        self.image = self.topic(Image, "image")
        self.overlay = self.topic(Image, "overlay")
        self.flicker = self.topic(Image, "flicker")
        self.overlay_jpeg = self.topic(CompressedImage, "overlay/compressed")
        self.mask_png = self.topic(CompressedImage, "mask/compressed")
        self.camera_info = self.topic(CameraInfo, "camera_info")
        self.consistency = self.topic(DiagnosticArray, "consistency")
        self.label_json = self.topic(String, "label_info_json", LATCHED)
        kind = label_info_type()
        self.label_info = self.topic(kind, "label_info", LATCHED) if kind else None
        if not kind:
            self.without = "vision_msgs is not installed: the classes are on ~/label_info_json only"

    def begin(self, config: SegmentConfig, card: Any, health: Health) -> None:
        """What holds for one activation: the labels go out, figures and counters start anew."""
        self.card, self.health = card, health
        self.meter = Consistency(card.classes)
        self.last_stamp: float | None = None
        self.send(self.label_json, String(data=classes_json(config.model, card.classes, card.palette)))
        if self.label_info:
            header = Header(stamp=self.node.get_clock().now().to_msg())
            self.send(self.label_info, label_info(header, card.classes))

    def hide(self, result: Any, undistort: Any) -> None:
        """Leave out what the camera did not see."""
        undistort.hide(result)

    def __call__(self, result: Any, alpha: float) -> None:
        """The answer for one frame to all topics, with that frame's header. alpha: opacity of the overlay."""
        frame = result.source
        header = frame.message.header
        self.send(self.mask, to_image(header, result.labels))
        latency = self.latency(header)
        result.times["node"] = (time.perf_counter() - frame.arrival) * 1e3
        if frame.info:
            self.send(self.camera_info, scaled_camera_info(frame.info, header, *result.labels.shape))
        self.pictures(header, frame.rgb, result, alpha)
        figures = self.figures(result, latency)
        status_of = status(f"{self.name}: consistency", self.hardware, DiagnosticStatus.OK, "", figures)
        self.send(self.consistency, DiagnosticArray(header=header, status=[status_of]))
        if self.flicker.get_subscription_count():
            self.send(self.flicker, to_image(header, heat(self.meter.flicker_map, RING)))
        size = result.labels.shape
        self.answered(frame, size, Answer(result.is_keyframe, result.times["total"], latency, figures))

    def figures(self, result: Any, latency: float | None) -> dict[str, Any]:
        """What ~/consistency says of a frame, and /diagnostics each second.

        Beside `figures.FRAME`: latency_ms, the mask's age when it is published, and staleness_ms, the age
        that the mask before it had reached by then (both None without stamps); dropped, images dropped since
        activation; schedule, when the deep layers run; reset, why the stream started anew.
        """
        last, self.last_stamp = self.last_stamp, result.stamp
        if result.reset and last is not None:
            self.health.resets += 1
            self.node.get_logger().info(
                f"{self.prefix}the stream starts anew: {result.reset}", throttle_duration_sec=LOG_PERIOD
            )
        figures = self.meter(result)
        if latency is not None:
            figures["latency_ms"] = latency
            if last is not None and not result.reset:
                figures["staleness_ms"] = latency + (result.stamp - last) * 1e3
        figures |= {"dropped": self.health.dropped, "schedule": self.health.schedule}
        if result.reset:
            figures["reset"] = result.reset
        return figures

    def pictures(self, header: Header, rgb: np.ndarray, result: Any, alpha: float) -> None:
        """What costs time and few read: only with a subscriber."""
        palette = self.card.palette
        if self.confidence.get_subscription_count():
            self.send(self.confidence, to_image(header, result.confidence()))
        if self.color_mask.get_subscription_count():
            self.send(self.color_mask, to_image(header, colorize(result.labels, palette)))
        if self.mask_png.get_subscription_count():
            self.send(self.mask_png, to_png(header, result.labels))
        if self.image.get_subscription_count():  # what the mask is of: decoded, rectified
            self.send(self.image, to_image(header, rgb))
        raw, small = (each.get_subscription_count() for each in (self.overlay, self.overlay_jpeg))
        if raw or small:
            shown = overlay(rgb, result.labels, palette, alpha)
            if raw:
                self.send(self.overlay, to_image(header, shown))
            if small:
                picture = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
                picture.data = array("B", jpeg(shown))
                self.send(self.overlay_jpeg, picture)


def to_image(header: Header, pixels: np.ndarray) -> Image:
    """(H, W) uint8 as mono8, (H, W, 3) uint8 as rgb8, (H, W) float32 as 32FC1; no padding, the header as it came."""
    height, width = pixels.shape[:2]
    encoding, size = ("mono8", 1) if pixels.ndim == 2 else ("rgb8", 3)
    if pixels.dtype == np.float32:
        encoding, size = "32FC1", 4
    message = Image(header=header, height=height, width=width, encoding=encoding, step=width * size)
    # rclpy copies bytes, lists and ndarrays element by element; only array('B') is taken as it is.
    message.data = array("B")
    message.data.frombytes(np.ascontiguousarray(pixels).view(np.uint8).data)
    return message


def to_png(header: Header, labels: np.ndarray) -> CompressedImage:
    """(H, W) uint8 class ids as a PNG, as image_transport's compressed plugin publishes mono8. Never JPEG: it
    would invent classes at every edge."""
    # the fastest setting that still uses the runs of equal labels
    setting = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    message = CompressedImage(header=header, format="mono8; png compressed ")
    message.data = array("B")
    message.data.frombytes(cv2.imencode(".png", labels, setting)[1].data)
    return message


def scaled_camera_info(info: CameraInfo, header: Header, height: int, width: int) -> CameraInfo:
    """`info` for an image of height x width, under the mask's header.

    CameraInfo counts full-resolution pixels, the image its region of interest divided by the binning.
    """
    out = copy.copy(info)
    out.header = header
    roi = info.roi
    columns = (roi.width or info.width) / (info.binning_x or 1)
    rows = (roi.height or info.height) / (info.binning_y or 1)
    if columns < 1 or rows < 1 or (columns, rows) == (width, height):
        return out
    sx, sy = width / columns, height / rows
    out.width, out.height = round(info.width * sx), round(info.height * sy)
    out.k, out.p = scale_intrinsics(info.k, info.p, sx, sy)
    out.roi = RegionOfInterest(
        x_offset=round(roi.x_offset * sx),
        y_offset=round(roi.y_offset * sy),
        width=round(roi.width * sx),
        height=round(roi.height * sy),
        do_rectify=roi.do_rectify,
    )
    return out


def label_info_type() -> Any:
    """vision_msgs/LabelInfo, or None where vision_msgs is not installed (it is not among PyPI's wheels)."""
    if importlib.util.find_spec("vision_msgs") is None:
        return None
    from vision_msgs.msg import LabelInfo

    return LabelInfo


def label_info(header: Header, classes: Sequence[str]) -> Any:
    """The classes as vision_msgs/LabelInfo, ids as in the mask, and 255 for pixels without a label."""
    from vision_msgs.msg import LabelInfo, VisionClass

    names = [*enumerate(classes), (IGNORE, "unlabelled")]
    return LabelInfo(
        header=header,
        class_map=[VisionClass(class_id=number, class_name=name) for number, name in names],
        threshold=0.0,
    )


def status(
    name: str, hardware: str, level: bytes, message: str, values: Mapping[str, Any]
) -> DiagnosticStatus:
    """A DiagnosticStatus whose values are plain numbers where they are numbers, None left out."""
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=text(value)) for key, value in values.items() if value is not None],
    )


def text(value: Any) -> str:
    """A number as PlotJuggler and rqt_plot read it: six digits, True as 1."""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
