"""`replay`: a video, a folder of images, a rosbag2 or the synthetic street, published as a camera would.

ros2 run vss_ros replay --ros-args -p source:=clip.mp4 -r image:=/camera/image_raw
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vss_ros.config import InputConfig, VssError, check, option
from vss_ros.data.pictures import Source
from vss_ros.data.source import open_source
from vss_ros.media.camera_info import read_camera_info
from vss_ros.nodes import run
from vss_ros.nodes.parameters import declare

JPEG_QUALITY = 95
CATCH_UP = 1.0
"""Seconds behind schedule (a stopped process, a slow decoder) from which frames are no longer hurried."""
DISCOVERY = 3.5
"""Seconds in which Fast DDS makes up for a lost packet: it asks, and announces itself, every third second."""
SETTLE = 0.6
"""Seconds that a subscriber is given to discover us in turn, and the transport to deliver the last frame."""


@dataclass(frozen=True)
class ReplayConfig(InputConfig):
    """Options of the `replay` node."""

    source: str = option("", "video file, image, folder of images, rosbag2, or street[:SEED]")
    topic: str = option("", "image topic of a rosbag2 that has several")
    rate: float = option(
        1.0, "speed; 1 is real time, 0 never waits, not even for subscribers", low=0.0, high=1e3
    )
    loop: bool = option(False, "begin again at the end")
    fps: float = option(0.0, "frames per second instead of the source's own; 0 keeps it", low=0.0, high=1e3)
    stamps: str = option("now", "header stamps: the node's clock, or the source's", choices=("now", "source"))
    frame_id: str = option("camera", "frame of the headers")
    transport: str = option(
        "raw", "rgb8 on `image`, or JPEG on `image/compressed`", choices=("raw", "compressed")
    )
    camera_info_url: str = option(
        "",
        "calibration YAML of camera_calibration (path, file:// or package://) instead of the source's own",
    )
    wait_for_subscriber: float = option(
        0.0,
        "seconds to wait for a subscriber before starting anyway",
        low=0.0,
        high=3600.0,
    )
    reliable: bool = option(True, "reliable QoS, which best-effort subscribers match too; false: best effort")
    max_frames: int = option(0, "frames after which it ends; 0 for all", low=0, high=2**31 - 1)
    stamp_file: str = option("", "file that gets the stamp of each published frame, nanoseconds, one a line")

    def __post_init__(self) -> None:
        check(self)
        if not self.source:
            raise VssError(
                "source: expected a video, folder of images, rosbag2 or street; add -p source:=..."
            )


class Replay(Node):
    """Publishes `image` (or `image/compressed`) and `camera_info` from a thread of its own."""

    def __init__(self) -> None:
        super().__init__("replay")
        self.exit_code = 0
        self.config = declare(self, ReplayConfig)
        self.source = open_source(
            self.config.source, self.config.topic or None, self.config.fps or None, self.config.max_pixels
        )
        self.info = self._camera_info(self.source)
        qos = QoSProfile(
            depth=5,
            reliability=ReliabilityPolicy.RELIABLE if self.config.reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        # Discovery goes in the order of creation: who has found the images has found this before.
        self.infos = self.create_publisher(CameraInfo, "camera_info", qos)
        if self.config.transport == "compressed":
            # The suffix follows the remapped name, as image_transport's does.
            name = self.resolve_topic_name("image") + "/compressed"
            self.images = self.create_publisher(CompressedImage, name, qos)
        else:
            self.images = self.create_publisher(Image, "image", qos)
        self.buffer = array("B")
        self.published = 0
        try:
            self.stamps = Path(self.config.stamp_file or os.devnull).open("w", buffering=1)  # noqa: SIM115
        except OSError as error:
            raise VssError(f"stamp_file: {error}") from error
        self.stopped = threading.Event()
        self.player = threading.Thread(target=self.play, name="player", daemon=True)
        self.player.start()

    def play(self) -> None:
        """Publish all frames, then end the process."""
        try:
            self.wait_for_subscriber()
            start = time.monotonic()
            self.publish_all()
            seconds = time.monotonic() - start
            self.wait_for_acknowledgement()
            self.stopped.wait(SETTLE)
            self.get_logger().info(
                f"published {self.published} frames of {self.source.name} in {seconds:.1f} s"
            )
        except VssError as error:
            self.get_logger().error(str(error))
            self.exit_code = 1
        except Exception:  # a mistake of ours must not leave a process that does nothing
            self.get_logger().error(traceback.format_exc())
            self.exit_code = 1
        if not self.stopped.is_set():
            run.finish()

    def wait_for_subscriber(self) -> None:
        """Until someone listens to the images and, for a while longer, to camera_info too."""
        if not self.config.wait_for_subscriber:
            return
        if not self.matched(self.images, self.config.wait_for_subscriber) and not self.stopped.is_set():
            self.get_logger().warning(f"no subscriber on {self.images.topic_name}; starting anyway")
            return
        self.matched(self.infos, DISCOVERY)
        self.stopped.wait(SETTLE)

    def matched(self, publisher: Any, timeout: float) -> bool:
        """Whether a subscriber was discovered within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not publisher.get_subscription_count():
            if time.monotonic() > deadline or self.stopped.wait(0.02):
                return False
        return True

    def publish_all(self) -> None:
        """Each frame at its time on the wall clock, so that delays do not add up."""
        rate, start = self.config.rate, None
        for rgb, stamp_ns, seconds in self.timeline():
            message = self.to_message(rgb)
            if rate:
                now = time.monotonic()
                start = now if start is None else start
                late = now - (start + seconds / rate)
                if late > CATCH_UP:
                    start += late
                self.stopped.wait(max(-late, 0.0))
            if self.stopped.is_set():
                return
            if self.config.stamps == "now":
                message.header.stamp = self.get_clock().now().to_msg()
            else:
                message.header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
            self.info.header = message.header
            self.publish(self.infos, self.info)  # first, so that whoever gets the image has it
            self.publish(self.images, message)
            self.stamps.write(f"{message.header.stamp.sec * 10**9 + message.header.stamp.nanosec}\n")
            self.published += 1
            if self.published == self.config.max_frames:
                return

    def wait_for_acknowledgement(self) -> None:
        """Until reliable subscribers have all that was published; best-effort ones are not waited for."""
        if self.config.reliable and not self.stopped.is_set():
            self.infos.wait_for_all_acked(Duration(seconds=DISCOVERY))
            self.images.wait_for_all_acked(Duration(seconds=DISCOVERY))

    def timeline(self) -> Iterator[tuple[np.ndarray, int, float]]:
        """(rgb, stamp in ns, seconds after the first frame); endless when looping."""
        begin = end = 0.0
        while True:
            first = None
            for rgb, stamp_ns in self.source.frames():
                first = stamp_ns if first is None else first
                end = begin + (stamp_ns - first) / 1e9
                yield rgb, stamp_ns, end
            if not self.config.loop:
                return
            begin = end + 1 / self.source.fps

    def to_message(self, rgb: np.ndarray) -> Any:
        """A message with all but its stamp; the memory of a raw one is used again for the next frame."""
        if self.config.transport == "compressed":
            jpeg = cv2.imencode(
                ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            )[1]
            message = CompressedImage(format="jpeg", data=array("B", jpeg.tobytes()))
        else:
            # rclpy takes array('B') as it is and copies anything else byte by byte, 30 times slower.
            if len(self.buffer) != rgb.size:
                self.buffer = array("B", bytes(rgb.size))
            np.frombuffer(self.buffer, np.uint8).reshape(rgb.shape)[...] = rgb
            height, width = rgb.shape[:2]
            message = Image(height=height, width=width, encoding="rgb8", step=3 * width, data=self.buffer)
        message.header.frame_id = self.config.frame_id
        return message

    def publish(self, publisher: Any, message: Any) -> None:
        """rclpy raises when a reliable history is full; a moment later there is room."""
        for _ in range(40):
            try:
                return publisher.publish(message)
            except RuntimeError as error:  # RCLError, which rclpy does not export
                reason = error
                if self.stopped.wait(0.05):
                    return None
        raise VssError(f"{publisher.topic_name}: cannot be published for 2 s: {reason}")

    def _camera_info(self, source: Source) -> CameraInfo:
        """The calibration of a file or the source; else only the size: K = 0 marks an uncalibrated camera."""
        height, width = source.size
        values = source.camera_info or {"width": width, "height": height}
        if self.config.camera_info_url:
            values = read_camera_info(self.config.camera_info_url)
            if (values["width"], values["height"]) != (width, height):
                raise VssError(
                    f"camera_info_url: expected a calibration for {width}x{height}, got one for "
                    f"{values['width']}x{values['height']}; calibrate at the source's size"
                )
        return CameraInfo(**values)

    def close(self, timeout: float) -> bool:
        """Stop playing; False if the player did not end in time."""
        self.stopped.set()
        self.player.join(timeout)
        return not self.player.is_alive()
