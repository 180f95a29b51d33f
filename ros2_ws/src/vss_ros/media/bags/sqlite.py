"""A .db3 file of rosbag2, with or without its write-ahead log, read by SQLite itself."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vss_ros.config import VssError
from vss_ros.media.bags.messages import ros2_name

MAGIC = b"SQLite format 3\0"


def logs(path: Path) -> list[Path]:
    """What SQLite has not yet put into the file, or would take back: its write-ahead log and its journal."""
    beside = [path.with_name(path.name + end) for end in ("-wal", "-journal")]
    return [log for log in beside if log.is_file() and log.stat().st_size]


def tables_alone(
    action: int, first: str | None, second: str | None, database: str | None, view: str | None
) -> int:
    """For SQLite: nothing but tables is read, and nothing changed. A view can compute without end."""
    reads = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ)
    known = reads or (action == sqlite3.SQLITE_FUNCTION and second == "length")
    return sqlite3.SQLITE_OK if known and view is None else sqlite3.SQLITE_DENY


class SqliteFile:
    """Topics and messages of one file; `problems` says what of it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self.size = sum(file.stat().st_size for file in (path, *logs(path)))
        self.copy: tempfile.TemporaryDirectory | None = None
        try:
            self.database = self.open()
            # SQLite refuses a file that lost its end, except to this, which is meant for repairs.
            self.database.execute("PRAGMA writable_schema = ON")
            self.database.set_authorizer(tables_alone)
            rows = self.database.execute("SELECT id, name, type, serialization_format FROM topics").fetchall()
        except sqlite3.Error as error:
            self.close()
            raise VssError(f"{path}: expected the tables of a rosbag2: {error}") from error
        self.names = {number: str(name) for number, name, _, _ in rows}
        self.kinds = {str(name): (ros2_name(str(kind)), str(form)) for _, name, kind, form in rows}
        self.index = sorted(self.scan())
        self.counts = Counter(self.names.get(number, "") for _, _, number in self.index)

    def open(self) -> sqlite3.Connection:
        """Never written to: closing it would merge, and delete, the log of a recorder that was killed."""
        unmerged = logs(self.path)
        if not unmerged:
            return sqlite3.connect(f"file:{quote(str(self.path))}?immutable=1", uri=True)
        files = [self.path, *unmerged]
        size = sum(file.stat().st_size for file in files)
        self.copy = tempfile.TemporaryDirectory(prefix="vss_ros_")
        if shutil.disk_usage(self.copy.name).free < size:
            raise VssError(f"{self.path}: its log needs {size} bytes in {self.copy.name}; set TMPDIR")
        for file in files:
            shutil.copyfile(file, Path(self.copy.name) / file.name)
        copied = Path(self.copy.name) / self.path.name
        return sqlite3.connect(copied)

    def close(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
        if self.copy:
            self.copy.cleanup()

    def scan(self) -> Iterator[tuple[int, int, int]]:
        """(time, row, topic) of every message that can be found, in the order of the file."""
        try:
            for row in self.database.execute("SELECT timestamp, rowid, topic_id FROM messages"):
                if all(type(value) is int for value in row):
                    yield row
        except sqlite3.Error as error:
            self.problems.append(f"{error}: cut off or damaged, what comes before is read")

    @property
    def topics(self) -> dict[str, tuple[str, int, str]]:
        """{topic: (message type, number of messages, serialization)}."""
        return {name: (kind, self.counts[name], form) for name, (kind, form) in self.kinds.items()}

    @property
    def start(self) -> int | None:
        """Time of the first message."""
        return self.index[0][0] if self.index else None

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        """(topic, time of recording, data) in the order of recording."""
        lost = 0
        for time, row, number in self.index:
            topic = self.names.get(number, "")
            if topic not in topics:
                continue
            try:
                # what a table computes may be longer than the file that it lies in
                query = self.database.execute(
                    "SELECT data FROM messages WHERE rowid = ? AND length(data) <= ?", (row, self.size)
                )
                yield topic, time, bytes(query.fetchone()[0])
            except (sqlite3.Error, TypeError):
                lost += 1
        if lost:
            self.problems.append(f"{lost} messages lie in damaged pages and are left out")
