"""An .mcap file of any layout, whole or cut off, read by the records that it really holds.

Format: https://mcap.dev/spec. Its index is not trusted, since it may lack messages, be missing, or never have been
written: one walk over the heads of all records finds what there is.
"""

from __future__ import annotations

import heapq
import io
import struct
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Schema

from vss_ros.config import VssError
from vss_ros.media.bags.messages import ros2_name
from vss_ros.media.bags.unpack import PER_MESSAGE, RATIO, SMALL, decompress, largest

MAGIC = b"\x89MCAP0\r\n"
HEAD = struct.Struct("<BQ")
MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
CHUNK = struct.Struct("<QQQII")  # first and last log time, size unpacked, its CRC, length of the codec's name
HELD = 128 << 20
"""Bytes of messages that wait in memory until those before them have come."""


@dataclass
class Chunk:
    """Where a chunk lies and what stands at its head."""

    offset: int
    """Of its record in the file."""
    data: int
    """Offset of its packed data."""
    packed: int
    start: int
    end: int
    size: int
    crc: int
    compression: str
    counts: Counter[int] = field(default_factory=Counter)
    """Messages of each channel, from the index behind it or from itself."""
    indexes: dict[int, int] = field(default_factory=dict)
    """Offset of each channel's message index."""
    tail: int = 0
    """Offset behind the last of them."""


class McapFile:
    """Topics and messages of one file; `problems` says what of it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self.schemas: dict[int, Schema] = {}
        self.channels: dict[int, Channel] = {}
        self.chunks: list[Chunk] = []
        self.loose: list[tuple[int, int, int, int]] = []
        """(log time, offset of the data, its length, channel) of the messages outside of chunks."""
        self.complete = False
        """Whether a footer ends the file."""
        self.file = path.open("rb")
        try:
            self.whole = self.walk(path.stat().st_size)
            self.look_into_chunks()
        except BaseException:
            self.file.close()
            raise

    def close(self) -> None:
        self.file.close()

    # What there is

    def walk(self, size: int) -> int:
        """Note every record; the offset behind the last whole one of the data."""
        self.file.seek(0)
        if self.file.read(len(MAGIC)) != MAGIC:
            raise VssError(f"{self.path}: expected an mcap file, it does not begin like one")
        offset = len(MAGIC)
        while offset + HEAD.size <= size:
            opcode, length = HEAD.unpack(self.file.read(HEAD.size))
            end = offset + HEAD.size + length
            if end > size or opcode == 0:
                break
            if opcode == Opcode.FOOTER:
                self.complete = True
                return offset
            try:
                self.note(opcode, offset, length)
            except (struct.error, UnicodeDecodeError, McapError) as error:
                self.problems.append(f"record at byte {offset}: {error}")
            self.file.seek(end)
            offset = end
        self.problems.append(f"cut off or damaged at byte {offset} of {size}: what comes before is read")
        return offset

    def note(self, opcode: int, offset: int, length: int) -> None:
        start = offset + HEAD.size
        if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
            self.define(opcode, self.file.read(length))
        elif opcode == Opcode.MESSAGE:
            channel, _, log_time, _ = MESSAGE.unpack(self.file.read(MESSAGE.size))
            self.loose.append((log_time, start + MESSAGE.size, length - MESSAGE.size, channel))
        elif opcode == Opcode.CHUNK:
            first, last, size, crc, name = CHUNK.unpack(self.file.read(CHUNK.size))
            rest = self.file.read(min(name, 64) + 8)
            data = start + CHUNK.size + name + 8
            if name > 64 or data > start + length:
                raise struct.error("its head is damaged")
            packed = min(struct.unpack_from("<Q", rest, name)[0], start + length - data)
            compression = rest[:name].decode()
            chunk = Chunk(offset, data, packed, first, last, size, crc, compression, tail=start + length)
            self.chunks.append(chunk)
        elif opcode == Opcode.MESSAGE_INDEX and self.chunks:
            channel, entries = struct.unpack("<HI", self.file.read(6))
            self.chunks[-1].counts[channel] += min(entries, length - 6) // 16
            self.chunks[-1].indexes[channel] = offset
            self.chunks[-1].tail = start + length

    def define(self, opcode: int, content: bytes) -> None:
        stream = ReadDataStream(io.BytesIO(content))
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(stream)
            self.schemas[schema.id] = schema
        else:
            channel = Channel.read(stream)
            self.channels[channel.id] = channel

    def look_into_chunks(self) -> None:
        """Count what no index counts, and find channels and schemas that stand only inside of chunks."""
        total, size = sum(chunk.size for chunk in self.chunks), self.path.stat().st_size
        bomb = next((chunk for chunk in self.chunks if chunk.size > largest(chunk.packed)), None)
        messages = sum(sum(chunk.counts.values()) for chunk in self.chunks)
        if bomb or total > max(SMALL, RATIO * size) + PER_MESSAGE * messages:
            what = (
                f"a chunk of {bomb.packed} bytes states {bomb.size}"
                if bomb
                else f"{size} bytes state {total}"
            )
            raise VssError(
                f"{self.path}: {what} bytes unpacked, which is implausible: `mcap decompress` it if you trust it"
            )
        if self.chunks and not self.complete:
            self.chunks[-1].counts.clear()  # one of its indexes may be missing
        for chunk in self.chunks:
            known = all(
                (channel := self.channels.get(number)) and channel.schema_id in (0, *self.schemas)
                for number in chunk.counts
            )
            if not chunk.counts or not known:
                chunk.counts = Counter(number for number, *_ in self.records(chunk))

    @property
    def topics(self) -> dict[str, tuple[str, int, str]]:
        """{topic: (message type, number of messages, serialization)}; of two types on a topic, the more frequent."""
        totals = Counter(number for _, _, _, number in self.loose)
        for chunk in self.chunks:
            totals.update(chunk.counts)
        found: dict[str, dict[tuple[str, str], int]] = {}
        for number, channel in self.channels.items():
            kinds = found.setdefault(channel.topic, {})
            kinds[self.kind(channel)] = kinds.get(self.kind(channel), 0) + totals[number]
        best = {topic: max(kinds.items(), key=lambda item: item[1]) for topic, kinds in found.items()}
        return {topic: (kind, count, serialization) for topic, ((kind, serialization), count) in best.items()}

    def kind(self, channel: Channel) -> tuple[str, str]:
        schema = self.schemas.get(channel.schema_id)
        return ros2_name(schema.name) if schema else "", channel.message_encoding

    @property
    def start(self) -> int | None:
        """Log time of the first message."""
        times = [chunk.start for chunk in self.chunks if chunk.counts] + [item[0] for item in self.loose]
        return min(times, default=None)

    # Messages

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        """(topic, log time, data) in the order of log times."""
        chosen = self.topics
        wanted = {
            number: channel.topic
            for number, channel in self.channels.items()
            if channel.topic in topics and self.kind(channel) == chosen[channel.topic][::2]
        }
        chunks = [(c.start, n) for n, c in enumerate(self.chunks) if not wanted.keys().isdisjoint(c.counts)]
        waiting: list[Any] = [(t, at, 0, n, size, None) for t, at, size, n in self.loose if n in wanted]
        heapq.heapify(chunks)
        heapq.heapify(waiting)
        held = 0
        while chunks or waiting:
            # Chunks that overlap in time are held together, as long as memory allows.
            if chunks and (not waiting or chunks[0][0] <= waiting[0][0]) and held < HELD:
                chunk = self.chunks[heapq.heappop(chunks)[1]]
                for index, (number, time, data, _) in enumerate(self.records(chunk)):
                    if number in wanted:
                        heapq.heappush(waiting, (time, chunk.offset, index, number, len(data), data))
                        held += len(data)
                continue
            if not waiting:
                continue
            time, at, _, number, size, data = heapq.heappop(waiting)
            if data is None:
                self.file.seek(at)
                data = self.file.read(size)
            else:
                held -= size
            yield wanted[number], time, data

    def records(self, chunk: Chunk) -> Iterator[tuple[int, int, bytes, int]]:
        """(channel, log time, data, offset) of a chunk's messages; damage is noted, what comes before it is given."""
        try:
            self.file.seek(chunk.data)
            content = decompress(self.file.read(chunk.packed), chunk.compression, chunk.size)
            if chunk.crc and zlib.crc32(content) != chunk.crc:
                raise VssError("its checksum (CRC) is wrong")
            offset = 0
            while offset < len(content):
                begin = offset
                opcode, length = HEAD.unpack_from(content, offset)
                offset += HEAD.size
                if offset + length > len(content):
                    raise VssError("its last record is cut")
                if opcode == Opcode.MESSAGE:
                    number, _, time, _ = MESSAGE.unpack_from(content, offset)
                    yield number, time, content[offset + MESSAGE.size : offset + length], begin
                elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                    self.define(opcode, content[offset : offset + length])
                offset += length
        except GeneratorExit:
            raise
        except Exception as error:
            problem = f"chunk at byte {chunk.offset} is damaged ({error}): its messages are left out"
            if problem not in self.problems:
                self.problems.append(problem)
