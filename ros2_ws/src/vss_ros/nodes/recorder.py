"""`recorder`: writes what the segment node answers as a bag, an overlay video and a table of frames.

ros2 run vss_ros recorder --ros-args -p out:=drive -r mask:=/segmentation/mask -r overlay:=/segmentation/overlay
"""

from __future__ import annotations

import csv
import os
import queue
import shutil
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import String

from vss_ros.config import VssError, check, option
from vss_ros.media.bags import BagWriter
from vss_ros.media.decode import decode
from vss_ros.media.video import VideoWriter
from vss_ros.nodes import run
from vss_ros.nodes.parameters import declare

TOPICS = {
    "mask": Image,
    "overlay": Image,
    "consistency": DiagnosticArray,
    "diagnostics": DiagnosticArray,
    "label_info_json": String,
}
STAGES = (
    "prepare_ms",
    "encode_ms",
    "remember_ms",
    "decode_ms",
    "propagate_ms",
    "drift_ms",
    "label_ms",
    "total_ms",
)
FIGURES = (
    "label_change",
    "flicker",
    "window_consistency_8",
    "window_consistency_16",
    "refresh_jump",
    "label_drift",
    "input_drift",
    "feature_drift",
)
COLUMNS = ("stamp", "latency_ms", "keyframe", "keyframe_age", *FIGURES, *STAGES)
BACKLOG = 100
"""Messages that may wait for the disk before overlay pictures are left out; masks never are."""


@dataclass(frozen=True)
class RecorderConfig:
    """Options of the `recorder` node."""

    out: str = option("", "folder to write: bag/, overlay.mp4 and frames.csv; it must not exist yet")
    fps: float = option(30.0, "frame rate of the video where PyAV is absent", low=0.1, high=1e3)
    video: bool = option(True, "also record ~/overlay as a video; false spares the node from drawing it")
    idle_timeout: float = option(
        0.0,
        "seconds without a mask, after the first one, that end it; 0 waits for Ctrl-C",
        low=0.0,
        high=3600.0,
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.out:
            raise VssError("out: expected the name of a new folder; add -p out:=...")


class Recorder(Node):
    """Callbacks note the time of arrival; a thread writes. The folder gets its name once all is complete."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.exit_code = 0
        config = declare(self, RecorderConfig)
        self.out = Path(config.out)
        if self.out.exists():
            raise VssError(f"out: {self.out} exists already; choose another name or remove it")
        self.partial = partial_folder(self.out)
        try:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
            self.file = (self.partial / "frames.csv").open("w", newline="")
        except OSError as error:
            raise VssError(f"out: {self.out} cannot be written: {error}") from error
        self.table = csv.DictWriter(self.file, COLUMNS, restval="", extrasaction="ignore")
        self.table.writeheader()
        self.bag = BagWriter(self.partial / "bag")
        self.video = VideoWriter(self.partial / "overlay.mp4", config.fps)
        self.idle_timeout = config.idle_timeout
        self.rows: dict[int, dict[str, Any]] = {}
        self.masks = self.skipped = 0
        self.heard = self.found = False
        self.last_mask = time.monotonic()
        self.waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.writer = threading.Thread(target=self.write_all, name="writer", daemon=True)
        self.writer.start()
        for topic, kind in TOPICS.items():
            if topic == "overlay" and not config.video:
                continue
            self.record("/diagnostics" if topic == "diagnostics" else topic, topic, kind)
        self.create_timer(0.2, self.watch, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info(f"recording to {self.out}")

    def record(self, name: str, topic: str, kind: Any) -> None:
        qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
        if topic == "label_info_json":
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        resolved = self.resolve_topic_name(name)
        # Serialised messages go to the bag as they are, and a callback costs next to nothing.
        self.create_subscription(kind, name, lambda raw: self.on_message(topic, resolved, raw), qos, raw=True)

    def on_message(self, topic: str, resolved: str, raw: bytes) -> None:
        arrival = self.get_clock().now().nanoseconds
        self.heard |= topic == "diagnostics"
        if topic == "mask":
            self.masks += 1
            self.last_mask = time.monotonic()
        if topic == "overlay" and self.waiting.qsize() > BACKLOG:
            self.skipped += 1
            return
        self.waiting.put((topic, resolved, raw, arrival))

    def watch(self) -> None:
        # Discovery takes up to seconds and has two directions: we know the writer of the masks, and something
        # of its node has reached us. From here on no mask is lost.
        if not self.found and self.heard and self.count_publishers(self.resolve_topic_name("mask")):
            self.found = True
            self.get_logger().info("the segment node is found")
        if self.idle_timeout and self.masks and time.monotonic() - self.last_mask > self.idle_timeout:
            run.finish()

    def write_all(self) -> None:
        """Write what waits, at low priority: the machine is here for the network."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        try:
            while (item := self.waiting.get()) is not None:
                self.write(*item)
        except (VssError, OSError) as error:
            self.fail(str(error))
        except Exception:  # a mistake of ours must not leave a recorder that records nothing
            self.fail(traceback.format_exc())

    def fail(self, reason: str) -> None:
        self.get_logger().error(reason)
        self.exit_code = 1
        run.finish()

    def write(self, topic: str, resolved: str, raw: bytes, arrival: int) -> None:
        kind = TOPICS[topic]
        message = deserialize_message(raw, kind)
        stamp = stamp_ns(message) if topic != "label_info_json" else arrival
        if topic == "overlay":
            self.video.write(decode(message), stamp)
            return
        name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        self.bag.write(resolved, name, raw, arrival, latched=topic == "label_info_json")
        if topic in ("mask", "consistency"):
            self.tabulate(topic, message, stamp, arrival)

    def tabulate(self, topic: str, message: Any, stamp: int, arrival: int) -> None:
        """A row of frames.csv once both the mask and its figures are there."""
        row = self.rows.setdefault(stamp, {})
        if topic == "mask":
            # Not the node's own latency_ms: this one counts the mask's way to its reader as well.
            row["arrival"] = (arrival - stamp) / 1e6
        else:
            row.update({item.key: item.value for item in message.status[0].values})
        if "arrival" in row and "total_ms" in row:
            del self.rows[stamp]
            self.table.writerow({**row, "latency_ms": f"{row['arrival']:.3f}", "stamp": stamp})
            self.file.flush()

    def close(self, timeout: float) -> bool:
        """Write what still waits, however long it takes, and give the folder its name."""
        self.waiting.put(None)
        self.writer.join()
        self.file.close()
        if self.exit_code:
            self.bag.abort()
            self.video.abort()
            shutil.rmtree(self.partial, ignore_errors=True)
            return True
        try:
            self.bag.close()
            self.video.close()
            self.partial.rename(self.out)
        except (OSError, VssError) as error:
            self.get_logger().error(f"{self.out}: not written: {error}")
            self.exit_code = 1
            return True
        missing = f", {self.skipped} overlay pictures skipped" if self.skipped else ""
        self.get_logger().info(f"{self.masks} masks written to {self.out}{missing}")
        return True


def partial_folder(out: Path) -> Path:
    """Where the files are until they are complete; `frames.csv` in it shows the progress."""
    return out.parent / f".{out.name}.partial"


def stamp_ns(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def make_node() -> Recorder:
    return Recorder()


def main(args: list[str] | None = None) -> int:
    return run.recorder(args)
