"""What is compressed, unpacked within bounds: a file of kilobytes may state gigabytes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO

import lz4.frame
import zstandard

from vss_ros.config import VssError

ZSTD = b"\x28\xb5\x2f\xfd"
"""How a zstd frame begins; a CDR message begins with 0."""
LARGEST, LIKELY = 256 << 20, 20
"""Bytes that one chunk or message may unpack to; more only for a large one, up to LIKELY times its packed size."""
RATIO, SMALL = 1000, 256 << 20
"""A file that would become larger than SMALL and RATIO times its size is taken for a bomb."""
PER_MESSAGE = 16 << 20
"""Bytes that each message which an mcap's index counts may take besides: masks of one class pack to 1/20,000."""
RESERVE = 1 << 30
"""Bytes of the disk that unpacking leaves free."""


def largest(packed: int) -> int:
    """Bytes that a chunk or message of so many packed bytes may unpack to."""
    return max(LARGEST, LIKELY * packed)


def decompress(data: bytes, compression: str, size: int | None = None) -> bytes:
    """One chunk or message. size: as stated beside it, else up to LARGEST.

    Raises VssError where it is larger than stated or allowed, any exception of its library for damage.
    """
    allowed = largest(len(data))
    limit = allowed if size is None else size
    if limit > allowed:
        raise VssError(f"states {limit} bytes unpacked, {allowed} are allowed")
    if compression == "zstd":
        with zstandard.ZstdDecompressor().stream_reader(data) as stream:
            unpacked = stream.read(limit + 1)
    elif compression == "lz4":
        unpacked = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=limit + 1)
    elif compression in ("", "none"):
        unpacked = data
    else:
        raise VssError(f"compression {compression!r}: expected zstd, lz4 or none")
    if len(unpacked) > limit or (size is not None and len(unpacked) != size):
        raise VssError(f"unpacks to other than the {limit} bytes that are stated or allowed")
    return unpacked


def unpack_file(packed: Path, target: Path) -> str:
    """A .db3.zstd or .mcap.zstd as rosbag2 writes it, unpacked up to its first damage; what that is, or "".

    Raises VssError before the disk fills.
    """
    size = packed.stat().st_size
    free = shutil.disk_usage(target.parent).free - RESERVE
    implausible = max(SMALL, RATIO * size)
    with packed.open("rb") as file:
        stated = zstandard.frame_content_size(file.read(18))  # of a whole frame header; -1: not stated
        for limit, why in (
            (implausible, f"{RATIO} times the file: unpack it with `unzstd` if you trust it"),
            (free, f"what is free in {target.parent}: make room, or set TMPDIR to a larger disk"),
        ):
            if stated > limit:
                raise VssError(f"{packed}: would unpack to {stated} bytes, more than {why}")
        file.seek(0)
        with target.open("wb") as out:
            try:
                written = copy_bounded(file, out, min(free, implausible), packed)
            except zstandard.ZstdError as error:
                return f"damaged ({error}): what comes before is read"
    return f"unpacks to {written} of {stated} bytes: it was cut off" if written < stated else ""


def copy_bounded(file: IO[bytes], out: IO[bytes], limit: int, packed: Path) -> int:
    written = 0
    with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file) as stream:
        while block := stream.read(1 << 20):
            written += len(block)
            if written > limit:
                raise VssError(
                    f"{packed}: unpacks to more than {limit} bytes, which is implausible or too much"
                )
            out.write(block)
    return written
