"""A rosbag2 of one mcap file, as rosbag2, Foxglove and PlotJuggler read it."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from mcap.records import Channel
from mcap.writer import Writer

from vss_ros.config import VssError
from vss_ros.media.bags.messages import typestore
from vss_ros.media.files import write_atomic

FLUSH_SECONDS = 1.0
"""What is older than this is on the disk, and survives a kill, a full disk or a lost supply."""
LATCHED = yaml.safe_dump(
    [
        {
            "history": 1,
            "depth": 1,
            "reliability": 1,
            "durability": 1,
            "deadline": {"sec": 0, "nsec": 0},
            "lifespan": {"sec": 0, "nsec": 0},
            "liveliness": 1,
            "liveliness_lease_duration": {"sec": 0, "nsec": 0},
            "avoid_ros_namespace_conventions": False,
        }
    ],
    default_flow_style=None,
    width=1000,
)
"""Reliable and transient local, in the numbers of rmw, as metadata of version 8 and before has it."""


class BagWriter:
    """Writes the folder `path`; it is complete once `close` has written its metadata.yaml.

    mcap with zstd chunks, their CRC and all indexes; metadata version 8, which Humble and later play. Each second
    what was written goes to the disk, so that `recover` saves it from whatever happens. `abort`, or an exception
    inside `with`, removes the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file_path = self.path / f"{self.path.name}.mcap"
        self.channels: dict[str, tuple[Channel, str]] = {}
        self.counts: dict[str, int] = {}
        self.first, self.last = 2**63 - 1, 0
        self.flushed = time.monotonic()
        if self.path.exists():
            raise VssError(f"{self.path}: exists already; choose another path")
        try:
            self.path.mkdir(parents=True)
            self.file = self.file_path.open("wb")
            self.writer = Writer(self.file)
            self.writer.start("ros2", "vss_ros")
        except OSError as error:
            raise VssError(f"{self.path}: cannot be written: {error}") from error

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, exc_type: Any, *_: Any) -> None:
        if exc_type is None:
            self.close()
        else:
            self.abort()

    def write(self, topic: str, msgtype: str, message: Any, stamp_ns: int, latched: bool = False) -> None:
        """Append one message.

        message: CDR bytes (such as rclpy's serialize_message makes) or an object of `typestore()`.
        msgtype: "package/msg/Name", known to `typestore()`. latched: players keep the last for late joiners.
        Raises OSError when the disk is full.
        """
        if topic not in self.channels:
            self.channels[topic] = (self.add_channel(topic, msgtype, latched), msgtype)
        channel, known = self.channels[topic]
        if msgtype != known:
            raise VssError(f"{topic}: expected {known} as before, got {msgtype}; use another topic")
        if not isinstance(message, (bytes, memoryview)):
            message = bytes(typestore().serialize_cdr(message, msgtype))
        stamp_ns = max(stamp_ns, 0)  # a clock before 1970 has no place in the format
        count = self.counts[topic] = self.counts.get(topic, 0) + 1
        self.writer.add_message(channel.id, stamp_ns, message, stamp_ns, count)
        self.first, self.last = min(self.first, stamp_ns), max(self.last, stamp_ns)
        self.flush()

    def add_channel(self, topic: str, msgtype: str, latched: bool) -> Channel:
        store = typestore()
        if msgtype not in store.types:
            raise VssError(f"{topic}: unknown message type {msgtype!r}; expected a common type of ROS 2")
        definition = store.generate_msgdef(msgtype, ros_version=2)[0].encode()
        schema = self.writer.register_schema(msgtype, "ros2msg", definition)
        about = {
            "offered_qos_profiles": LATCHED if latched else "",
            "topic_type_hash": store.hash_rihs01(msgtype),
        }
        number = self.writer.register_channel(topic, "cdr", schema, about)
        return Channel(number, topic, "cdr", about, schema)

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Bring to the disk what was written, if that was not done within `seconds`."""
        now = time.monotonic()
        if now - self.flushed >= seconds:
            self.flushed = now
            self.writer.flush()
            os.fsync(self.file.fileno())

    def close(self) -> None:
        """Complete the bag. Raises VssError where the disk is full: then `recover` completes what is there."""
        try:
            self.writer.finish()
            self.file.close()
            total = [(channel, kind, self.counts[topic]) for topic, (channel, kind) in self.channels.items()]
            write_metadata(self.file_path, total, (self.first if total else 0, self.last))
        except OSError as error:
            with suppress(OSError):
                self.file.close()
            raise VssError(f"{self.path}: cannot be written: {error}") from error

    def abort(self) -> None:
        """Give up; nothing is left of the bag."""
        with suppress(OSError):
            self.file.close()
        shutil.rmtree(self.path, ignore_errors=True)


def write_metadata(file: Path, topics: list[tuple[Channel, str, int]], span: tuple[int, int]) -> None:
    """The metadata.yaml beside an mcap file.

    topics: (channel, message type, number of messages); span: first and last time of recording, ns.
    """
    total = sum(count for _, _, count in topics)
    about = {
        "starting_time": {"nanoseconds_since_epoch": span[0]},
        "duration": {"nanoseconds": span[1] - span[0]},
        "message_count": total,
    }
    content = {
        "version": 8,
        "storage_identifier": "mcap",
        "relative_file_paths": [file.name],
        **about,
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": channel.topic,
                    "type": kind,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": channel.metadata.get("offered_qos_profiles", ""),
                    "type_description_hash": channel.metadata.get("topic_type_hash", ""),
                },
                "message_count": count,
            }
            for channel, kind, count in topics
        ],
        "compression_format": "",
        "compression_mode": "",
        "files": [{"path": file.name, **about}],
        "custom_data": None,
        "ros_distro": "vss_ros",
    }
    text = yaml.safe_dump({"rosbag2_bagfile_information": content}, sort_keys=False)
    write_atomic(file.with_name("metadata.yaml"), text.encode())
