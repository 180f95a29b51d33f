"""`recorder`: writes what the segment node answers as a bag, an overlay video and a table of frames.

ros2 run vss_ros recorder --ros-args -p out:=drive -r __ns:=/segment      # the name of the segment node

While it records, the folder is called drive.partial. Whatever ends it, what was recorded until a second before stays:
the next recorder of that name moves a folder that was left behind to drive_recovered and completes it.
"""

from __future__ import annotations

import csv
import errno
import os
import queue
import threading
import time
import traceback
from array import array
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from vss_ros.config import VssError, check, option
from vss_ros.data.figures import FRAME, STAGES
from vss_ros.media.bags import BagWriter
from vss_ros.media.bags.recover import recover
from vss_ros.media.decode import decode, stamp_ns
from vss_ros.media.draw import jpeg
from vss_ros.media.unfinished import Claim
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
COLUMNS = (
    "stamp",
    "latency_ms",
    *(name for name in FRAME if "<" not in name),
    *(f"{stage}_ms" for stage in STAGES),
)
BACKLOG = 100
"""Messages that may wait for the disk before overlay pictures are left out."""
MOST_WAITING = 512e6
"""Bytes that may wait for it before anything else is: a minute of masks. A robot out of memory loses more."""
UNMATCHED = 300
"""Frames that may wait for the other of mask and figures; then a row is written without figures."""


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
        if os.path.lexists(self.out):
            raise VssError(f"out: {self.out} exists already; choose another name or remove it")
        self.claim = Claim(self.out)
        for line in self.claim.recovered:
            self.get_logger().warning(f"an earlier recording was not ended; it lies in {line}")
        partial = self.claim.folder
        try:
            self.file = (partial / "frames.csv").open("w", newline="")
        except OSError as error:
            raise VssError(f"out: {self.out} cannot be written: {error}") from error
        self.table = csv.DictWriter(self.file, COLUMNS, restval="", extrasaction="ignore")
        self.table.writeheader()
        self.bag = BagWriter(partial / "bag")
        self.video = VideoWriter(partial / "overlay.mp4", config.fps)
        self.idle_timeout = config.idle_timeout
        self.rows: dict[int, dict[str, Any]] = {}
        self.masks = self.skipped = self.lost = self.bad = self.without_figures = 0
        self.failure = ""
        self.heard = self.found = False
        self.last_mask = time.monotonic()
        self.waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.arrived = self.written = 0  # bytes; each is counted by one thread
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
        if self.arrived - self.written > MOST_WAITING:
            self.lost += 1
            self.get_logger().error(
                f"{self.out}: the disk is too slow, {self.lost} messages are lost so far: record to a faster one, or "
                "with video:=false",
                throttle_duration_sec=5.0,
            )
            return
        self.arrived += len(raw)
        self.waiting.put((topic, resolved, raw, arrival))

    def watch(self) -> None:
        # Discovery takes up to seconds and has two directions: we know the writer of the masks, and something
        # of its node has reached us. From here on no mask is lost.
        if not self.found and self.heard and self.count_publishers(self.resolve_topic_name("mask")):
            self.found = True
            self.get_logger().info("the segment node is found")
        if not (self.failure or self.claim.folder.is_dir()):
            self.fail(f"{self.claim.folder} was removed or renamed during the recording")
        if self.idle_timeout and self.masks and time.monotonic() - self.last_mask > self.idle_timeout:
            run.finish()

    def write_all(self) -> None:
        """Write what waits, at low priority: the machine is here for the network."""
        with suppress(OSError):  # who has started it with an even lower one may not raise it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while (item := self.waiting.get()) is not None:
            try:
                self.write(*item)
            except Exception as error:
                number = getattr(error, "errno", None)  # PyAV's errors have it, too
                if number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG):
                    return self.fail(f"{self.out}: {os.strerror(number)}")
                self.skip(item[1], error)
            self.written += len(item[2])

    def skip(self, topic: str, error: Exception) -> None:
        """One bad message costs itself, and neither what is recorded nor what comes."""
        self.bad += 1
        self.get_logger().warning(
            f"{topic}: a message is skipped: {type(error).__name__}: {error}", throttle_duration_sec=5.0
        )
        self.get_logger().debug(traceback.format_exc())

    def fail(self, reason: str) -> None:
        self.failure = reason
        self.exit_code = 1
        run.finish()

    def write(self, topic: str, resolved: str, raw: bytes, arrival: int) -> None:
        kind = TOPICS[topic]
        if topic != "overlay":
            name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
            self.bag.write(resolved, name, raw, arrival, latched=topic == "label_info_json")
        if topic in ("label_info_json", "diagnostics"):
            return
        message = deserialize_message(raw, kind)
        if topic == "overlay":
            rgb = decode(message)
            self.video.write(rgb, stamp_ns(message))
            # as offline bags have it: players of bags show no video beside them
            picture = CompressedImage(header=message.header, format="jpeg", data=array("B", jpeg(rgb)))
            name = "sensor_msgs/msg/CompressedImage"
            self.bag.write(f"{resolved}/compressed", name, serialize_message(picture), arrival)
        else:
            self.tabulate(topic, message, stamp_ns(message), arrival)

    def tabulate(self, topic: str, message: Any, stamp: int, arrival: int) -> None:
        """A row of frames.csv once both the mask and its figures are there."""
        row = self.rows.setdefault(stamp, {})
        if topic == "mask":
            # Not the node's own latency_ms: this one counts the mask's way to its reader as well.
            row["arrival"] = (arrival - stamp) / 1e6
        elif message.status:
            row.update({item.key: item.value for item in message.status[0].values})
        if "arrival" in row and "total_ms" in row:
            self.write_row(stamp)
        elif len(self.rows) > UNMATCHED:
            self.write_row(next(iter(self.rows)))
            if self.without_figures == 1:
                self.get_logger().warning(
                    f"no figures for the masks on {self.resolve_topic_name('consistency')}: frames.csv has only "
                    "their latency; start with -r __ns:=/NAME of the segment node, or remap `consistency`"
                )

    def write_row(self, stamp: int) -> None:
        row = self.rows.pop(stamp)
        if "arrival" in row:
            self.without_figures += "total_ms" not in row
            self.table.writerow({**row, "latency_ms": f"{row['arrival']:.3f}", "stamp": stamp})
            self.file.flush()

    def close(self, timeout: float) -> bool:
        """Write what still waits, however long it takes, and give the folder its name."""
        self.waiting.put(None)
        self.writer.join()
        self.claim.release_reserve()
        problems, gone = [self.failure] if self.failure else [], not self.claim.folder.is_dir()
        where = self.claim.folder
        for step in (self.end_bag, self.end_table, self.video.close):
            try:
                step()
            except Exception as error:  # each ends for itself: what is recorded stays
                problems.append(" ".join(str(error).split()))
        try:
            where = self.claim.publish()
        except OSError as error:
            problems.append(f"{self.out}: {error}")
        skipped = f", {self.skipped} overlay pictures left out" if self.skipped else ""
        skipped += f", {self.lost} messages lost to a slow disk" if self.lost else ""
        skipped += f", {self.bad} bad messages skipped" if self.bad else ""
        summary = f"{self.masks} masks written to {where}{skipped}"
        if problems:
            self.exit_code = 1
            rest = f"What was recorded until then stays: {summary}"
            if gone:  # what follows from that says nothing
                problems, rest = problems[:1], f"{self.masks} masks were in it"
            self.get_logger().error(f"{'; '.join(problems)}. {rest}")
        else:
            self.get_logger().info(summary)
        return True

    def end_bag(self) -> None:
        if not self.failure:
            with suppress(VssError):
                return self.bag.close()
        with suppress(OSError):
            self.bag.file.close()
        recover(self.bag.file_path)
        return None

    def end_table(self) -> None:
        for stamp in list(self.rows):
            self.write_row(stamp)
        self.file.close()
