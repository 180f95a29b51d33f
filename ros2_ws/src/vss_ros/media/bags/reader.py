"""Messages of one recording, whatever it was stored as."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vss_ros.config import VssError, brief
from vss_ros.media.bags import mcap, ros1, sqlite
from vss_ros.media.bags.folder import files_of, listing, promised
from vss_ros.media.bags.messages import SERIALIZATIONS, deserialize, typestore
from vss_ros.media.bags.unpack import ZSTD, decompress, unpack_file

_log = logging.getLogger(__name__)
_KINDS: dict[bytes, Any] = {
    mcap.MAGIC: mcap.McapFile,
    sqlite.MAGIC: sqlite.SqliteFile,
    ros1.MAGIC: ros1.Ros1File,
}


class BagReader:
    """Messages of one recording: a rosbag2 folder, with or without metadata.yaml, or one file (.mcap, .db3, either
    with .zstd, or ROS 1's .bag).

    with BagReader(path) as bag:
        bag.topics                          # {topic: (message type, number of messages)}
        for topic, stamp_ns, message in bag.messages(["/image"]): ...

    What is damaged or cut off is left out, with one warning a recording that says what and how much. Raises
    VssError where nothing can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stack = ExitStack()
        self._files: list[Any] = []
        self.problems: list[str] = []
        failures: list[VssError] = []
        with self._stack:  # closes what was opened when a later file is damaged
            for file in files_of(self.path):
                try:
                    self._files.append(self._open(file))
                except VssError as error:  # one part of a split recording may be missing
                    failures.append(error)
            if failures and not self._files:
                raise failures[0]
            self._stack = self._stack.pop_all()
        self.problems += map(str, failures)
        self._warned: set[str] = set()
        self._files.sort(key=lambda file: file.start or 0)
        self.topics: dict[str, tuple[str, int]] = {}
        for file in self._files:
            for topic, (kind, count, form) in file.topics.items():
                kind = kind if form in SERIALIZATIONS else f"{kind} as {form}"
                self.topics[topic] = (kind, self.topics.get(topic, ("", 0))[1] + count)
        self._promised = promised(self.path) if self.path.is_dir() else {}

    def _open(self, path: Path) -> Any:
        try:
            with path.open("rb") as file:
                head = file.read(16)
            if head.startswith(ZSTD):
                folder = self._stack.enter_context(TemporaryDirectory(prefix="vss_ros_"))
                unpacked = Path(folder) / path.with_suffix("").name
                if problem := unpack_file(path, unpacked):
                    self.problems.append(f"{path.name}: {problem}")
                try:
                    return self._open(unpacked)
                except VssError as error:
                    raise VssError(str(error).replace(str(unpacked), str(path))) from error
            for magic, kind in _KINDS.items():
                if head.startswith(magic):
                    opened = kind(path)
                    self._stack.callback(opened.close)
                    return opened
        except VssError:
            raise
        except Exception as error:  # OSError, or what a parser makes of damage
            raise VssError(
                f"{path}: expected a complete rosbag2, got {type(error).__name__}: {error}"
            ) from error
        if not head:
            why = "the file is empty: the recorder wrote nothing, or its disk was full"
        elif head.startswith(b"version https://"):
            why = "the file is a Git LFS pointer: run `git lfs pull`"
        else:
            why = "the file begins like none of these; copy it again, or see `ros2 bag info` where it was recorded"
        raise VssError(f"{path}: expected a complete rosbag2 (mcap, sqlite3) or a ROS 1 bag; {why}")

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def messages(self, topics: list[str]) -> Iterator[tuple[str, int, Any]]:
        """(topic, record time in ns, message as a `rosbags` object) in the order of recording.

        A message that does not deserialise is left out and counted. Raises VssError for a topic or type that is not
        known, and when metadata.yaml promises messages and none comes.
        """
        missing = sorted(set(topics) - set(self.topics))
        if missing:
            raise VssError(
                f"{self.path}: no topic {listing(missing)}; expected one of {listing(self.topics)}"
            )
        unknown = {self.topics[topic][0] or "a message without a type" for topic in topics}
        unknown -= set(typestore().types)
        if unknown:
            raise VssError(f"{self.path}: cannot decode {listing(unknown)}; choose topics of common types")
        seen, damaged, first = 0, 0, ""
        for file in self._files:
            kinds = file.topics
            for topic, stamp, data in file.messages(topics):
                try:
                    if data[:4] == ZSTD:  # rosbag2's compression of each message
                        data = decompress(data, "zstd")
                    message = deserialize(data, kinds[topic][0], kinds[topic][2])
                except Exception as error:
                    damaged += 1
                    first = first or f"{type(error).__name__}: {error}"
                    continue
                seen += 1
                yield topic, stamp, message
        problems = [problem for file in self._files for problem in file.problems] + self.problems
        if damaged:
            problems.append(
                f"{damaged} messages on {listing(topics)} are damaged and left out ({brief(first)})"
            )
        if problems and not seen and any(self.topics[topic][1] for topic in topics):
            raise VssError(
                f"{self.path}: no message on {listing(topics)} can be read: {brief('; '.join(problems[:3]), 1000)}"
            )
        self._warn(problems)
        self._compare(topics, seen)

    def _warn(self, problems: list[str]) -> None:
        for problem in problems:
            if problem not in self._warned:
                self._warned.add(problem)
                _log.warning("%s: %s", self.path, problem)

    def _compare(self, topics: list[str], seen: int) -> None:
        promised = sum(self._promised.get(topic, 0) for topic in topics)
        if promised and not seen:
            raise VssError(
                f"{self.path}: expected {promised} messages on {listing(topics)}, the files hold none"
            )
        if seen < promised:
            self._warn([f"expected {promised} messages by metadata.yaml, the files hold {seen}"])
