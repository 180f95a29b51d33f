"""rosbag2 recordings (mcap, sqlite3) read and written without ROS, through `rosbags`."""

from __future__ import annotations

import functools
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from vss_ros.config import VssError

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
SUFFIXES = (".mcap", ".db3")

_log = logging.getLogger(__name__)
_STORAGE = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_NO_TIME = QosTime(0, 0)
_LATCHED = Qos(
    history=QosHistory.KEEP_LAST,
    depth=1,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.TRANSIENT_LOCAL,
    deadline=_NO_TIME,
    lifespan=_NO_TIME,
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=_NO_TIME,
    avoid_ros_namespace_conventions=False,
)


@functools.cache
def typestore() -> Any:
    """The message types of ROS 2 Humble, the same on the wire up to Kilted, and vision_msgs/LabelInfo."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, definition in {
        "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
        "vision_msgs/msg/LabelInfo": (
            "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"
        ),
    }.items():
        store.register(get_types_from_msg(definition, name))
    return store


def natural_key(path: Path) -> list[Any]:
    """Sort key under which frame_10 follows frame_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def is_bag(path: Path) -> bool:
    """Whether `path` looks like a rosbag2: a storage file, or a folder that holds one or a metadata.yaml."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(path.glob("*.mcap")) or any(path.glob("*.db3"))
    return path.suffix in SUFFIXES


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what rosbags raises into a VssError: a damaged file ends in any exception of its parser."""
    try:
        yield
    except VssError:
        raise
    except Exception as error:
        raise VssError(
            f"{path}: expected a complete rosbag2 (mcap or sqlite3), got {type(error).__name__}: {error}; "
            "a recording that was cut off can be mended with `mcap recover` or `ros2 bag reindex`"
        ) from error


class BagReader:
    """Messages of one rosbag2: a folder, with or without metadata.yaml, or one .mcap or .db3 file.

    with BagReader(path) as bag:
        bag.topics                          # {topic: (message type, number of messages)}
        for topic, stamp_ns, message in bag.messages(["/image"]): ...
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise VssError(f"{self.path}: no such file or folder; expected a rosbag2")
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            # Recorders that were killed leave no metadata.yaml, yet the files may be whole.
            files = sorted((p for p in self.path.iterdir() if p.suffix in SUFFIXES), key=natural_key)
        else:
            files = [self.path]
        if not files:
            raise VssError(f"{self.path}: expected a rosbag2, got a folder without .mcap or .db3 files")
        self._stack = ExitStack()
        self._readers: list[Reader] = []
        with self._stack:  # closes what was opened when a later file is damaged
            with _reading(self.path):
                self._readers = [self._stack.enter_context(Reader(file)) for file in files]
            self._stack = self._stack.pop_all()
        self.topics: dict[str, tuple[str, int]] = {}
        for reader in self._readers:
            for connection in reader.connections:
                count = self.topics.get(connection.topic, ("", 0))[1] + connection.msgcount
                self.topics[connection.topic] = (connection.msgtype, count)

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def messages(self, topics: list[str]) -> Iterator[tuple[str, int, Any]]:
        """(topic, record time in ns, message as a `rosbags` object) in the order of recording.

        Raises VssError when a message is damaged, or when metadata.yaml promises messages and none comes.
        """
        missing = sorted(set(topics) - set(self.topics))
        if missing:
            raise VssError(f"{self.path}: no topic {', '.join(missing)}; expected one of {list(self.topics)}")
        store, seen = typestore(), 0
        unknown = {self.topics[topic][0] for topic in topics} - set(store.types)
        if unknown:
            raise VssError(f"{self.path}: cannot decode {', '.join(unknown)}; choose topics of common types")
        with _reading(self.path):
            for reader in self._readers:
                # The files' own connections, not the folder's: rosbags pairs the two by QoS profile, and so
                # drops every message of old bags, whose metadata.yaml has another value for "infinite".
                parts = getattr(reader.storage, "storages", [reader.storage])
                wanted = [c for part in parts for c in part.connections if c.topic in topics]
                if not wanted:
                    continue
                for connection, stamp, data in reader.messages(wanted):
                    seen += 1
                    yield connection.topic, stamp, store.deserialize_cdr(data, connection.msgtype)
        promised = sum(self.topics[topic][1] for topic in topics)
        if promised and not seen:
            raise VssError(f"{self.path}: expected {promised} messages on {topics}, the files hold none")
        if seen < promised:
            _log.warning("%s: expected %d messages, the files hold %d", self.path, promised, seen)


class BagWriter:
    """Writes a rosbag2 folder that exists only once it is complete.

    Messages go to a hidden folder beside `path`, renamed by `close`; `abort`, or an exception inside `with`,
    leaves nothing behind. storage: "mcap" (zstd chunks) or "sqlite3" (to be used from one thread). The format
    is version 8, which Humble and later play. `overwrite` replaces an older bag, never another folder.
    """

    def __init__(self, path: str | Path, storage: str = "mcap", overwrite: bool = False) -> None:
        self.path = Path(path)
        if storage not in _STORAGE:
            raise VssError(f"storage: expected one of {', '.join(_STORAGE)}; got {storage!r}")
        if self.path.exists() and not overwrite:
            raise VssError(f"{self.path}: exists already; choose another path or allow overwriting")
        if self.path.exists() and not (self.path / "metadata.yaml").is_file():
            raise VssError(f"{self.path}: only a rosbag2 is overwritten, this is none; move it away")
        self._connections: dict[str, Any] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The bag keeps its own name inside, since rosbag2 names the data file after the folder.
            self._hidden = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
            self._writer = Writer(self._hidden / self.path.name, version=8, storage_plugin=_STORAGE[storage])
            if storage == "mcap":
                self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            self._writer.open()
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
        """
        if topic not in self._connections:
            if msgtype not in typestore().types:
                raise VssError(f"{topic}: unknown message type {msgtype!r}; expected a common type of ROS 2")
            self._connections[topic] = self._writer.add_connection(
                topic, msgtype, typestore=typestore(), offered_qos_profiles=[_LATCHED] if latched else []
            )
        known = self._connections[topic].msgtype
        if msgtype != known:
            raise VssError(f"{topic}: expected {known} as before, got {msgtype}; use another topic")
        if not isinstance(message, (bytes, memoryview)):
            message = typestore().serialize_cdr(message, msgtype)
        self._writer.write(self._connections[topic], stamp_ns, message)

    def close(self) -> None:
        """Complete the bag and give it its name."""
        try:
            self._writer.close()
        except OSError as error:
            self.abort()
            raise VssError(f"{self.path}: cannot be written: {error}") from error
        old = self._hidden / "old"
        if self.path.exists():
            self.path.rename(old)
        (self._hidden / self.path.name).rename(self.path)
        shutil.rmtree(self._hidden)

    def abort(self) -> None:
        """Give up; nothing is left of the bag."""
        with suppress(Exception):  # what is thrown away need not close well
            self._writer.abort()
        shutil.rmtree(self._hidden, ignore_errors=True)
