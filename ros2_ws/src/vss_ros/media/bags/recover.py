"""An mcap file without an end, as a killed recorder or a full disk leaves it, completed where it lies."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from pathlib import Path

from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import Channel, ChunkIndex, DataEnd, Footer, MessageIndex, Statistics

from vss_ros.media.bags.mcap import MAGIC, Chunk, McapFile
from vss_ros.media.bags.writer import write_metadata


def recover(path: Path) -> int:
    """Give the file of `BagWriter` an end, so that every reader takes it; the number of its messages.

    What was written last and is cut is removed; nothing is rewritten, so that gigabytes take seconds. The folder
    gets its metadata.yaml. Raises VssError for what is no mcap file, OSError where it cannot be written.
    """
    file = McapFile(path)
    try:
        end, complete = file.whole, file.complete
        last, builder = file.chunks[-1] if file.chunks else None, RecordBuilder()
        if not complete and last and end == last.tail and last.counts:
            end = last.data + last.packed  # the indexes behind it may be some of several
            index_chunk(file, last, builder)
        total = sum((chunk.counts for chunk in file.chunks), Counter[int]())
        if not complete:
            append_end(path, file, end, builder, total)
        write_metadata(path, messages_by_channel(file, total), span(file.chunks))
        return total.total()
    finally:
        file.close()


def index_chunk(file: McapFile, chunk: Chunk, builder: RecordBuilder) -> None:
    """Write the message indexes of a chunk anew."""
    found: dict[int, list[tuple[int, int]]] = {}
    for number, time, _, offset in file.records(chunk):
        found.setdefault(number, []).append((time, offset))
    start = chunk.data + chunk.packed
    chunk.indexes.clear()
    for number, records in found.items():
        chunk.indexes[number] = start + builder.count
        MessageIndex(number, records).write(builder)
    chunk.tail = start + builder.count


def append_end(path: Path, file: McapFile, end: int, builder: RecordBuilder, total: Counter[int]) -> None:
    DataEnd(0).write(builder)
    head = builder.end()
    summary = RecordBuilder()
    for schema in file.schemas.values():
        schema.write(summary)
    for channel in file.channels.values():
        channel.write(summary)
    first, last = span(file.chunks)
    Statistics(
        0, len(file.channels), dict(total), len(file.chunks), total.total(), last, first, 0, len(file.schemas)
    ).write(summary)
    for chunk in file.chunks:
        data_end = chunk.data + chunk.packed
        ChunkIndex(
            chunk_length=data_end - chunk.offset,
            chunk_start_offset=chunk.offset,
            compression=chunk.compression,
            compressed_size=chunk.packed,
            message_end_time=chunk.end,
            message_index_length=chunk.tail - data_end,
            message_index_offsets=chunk.indexes,
            message_start_time=chunk.start,
            uncompressed_size=chunk.size,
        ).write(summary)
    content, start = summary.end(), end + len(head)
    crc = zlib.crc32(struct.pack("<BQQQ", Opcode.FOOTER, 20, start, 0), zlib.crc32(content))
    footer = RecordBuilder()
    Footer(start, 0, crc).write(footer)
    with path.open("r+b") as target:
        target.seek(end)
        target.truncate()
        target.write(head + content + footer.end() + MAGIC)


def span(chunks: list[Chunk]) -> tuple[int, int]:
    """First and last log time."""
    return min((c.start for c in chunks), default=0), max((c.end for c in chunks), default=0)


def messages_by_channel(file: McapFile, total: Counter[int]) -> list[tuple[Channel, str, int]]:
    return [(c, file.kind(c)[0], total[number]) for number, c in file.channels.items()]
