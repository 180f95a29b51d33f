"""A .bag file of ROS 1, read through `rosbags`."""

from __future__ import annotations

import bz2
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import lz4.frame
from rosbags.rosbag1 import Reader

from vss_ros.config import VssError
from vss_ros.media.bags.unpack import largest

MAGIC = b"#ROSBAG V"


class Ros1File:
    """Topics and messages of one file; `problems` says what of it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.problems: list[str] = []
        self.reader = Reader(path)
        try:
            self.reader.open()
            self.topics = self.find_topics()
        except Exception as error:  # damage ends in any exception of its parser
            raise VssError(
                f"{path}: a ROS 1 bag that is damaged or has no index ({type(error).__name__}: {error}); mend it "
                "with `rosbag reindex`, or convert it with `rosbags-convert --src X.bag --dst X`"
            ) from error
        self.reader.chunks = {
            at: chunk._replace(decompressor=bounded(chunk.decompressor))
            for at, chunk in self.reader.chunks.items()
        }

    def close(self) -> None:
        self.reader.close()

    def find_topics(self) -> dict[str, tuple[str, int, str]]:
        """{topic: (message type under its name of ROS 2, number of messages, serialization)}."""
        found: dict[str, tuple[str, int, str]] = {}
        for connection in self.reader.connections:
            count = found.get(connection.topic, ("", 0, ""))[1] + connection.msgcount
            found[connection.topic] = (connection.msgtype, count, "ros1")
        return found

    @property
    def start(self) -> int | None:
        """Time of the first message."""
        return self.reader.start_time if self.reader.message_count else None

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        """(topic, time of recording, data) in the order of recording, up to the first damage."""
        try:
            for connection, time, data in self.reader.messages(
                [c for c in self.reader.connections if c.topic in topics]
            ):
                yield connection.topic, time, data
        except Exception as error:
            self.problems.append(f"damaged ({type(error).__name__}: {error}): what comes before is read")


def bounded(decompressor: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """The decompressor of a chunk, which must not take more memory than a chunk may."""

    def unpack(data: bytes) -> bytes:
        allowed = largest(len(data))
        if data.startswith(b"BZh"):
            unpacked = bz2.BZ2Decompressor().decompress(data, allowed + 1)
        elif data.startswith(b"\x04\x22\x4d\x18"):
            unpacked = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=allowed + 1)
        else:
            unpacked = decompressor(data)
        if len(unpacked) > allowed:
            raise VssError(f"a chunk of {len(data)} bytes unpacks to more than {allowed}")
        return unpacked

    return unpack
