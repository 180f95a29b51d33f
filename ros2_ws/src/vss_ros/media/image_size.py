"""The size that an image file states, read before anything is decoded: 300 kB may state 32000x32000 pixels."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from vss_ros.config import VssError

PNG = b"\x89PNG\r\n\x1a\n"
KINDS = "JPEG, PNG, TIFF, WebP, BMP or PNM"
_TIFF_SIZE = (256, 257, 322, 323)  # width, height, and those of a tile


class ImageError(VssError):
    """An image that cannot be used as it came."""


def image_size(data: bytes) -> tuple[int, int]:
    """(height, width) by the head of a JPEG, PNG, TIFF, WebP, BMP or PNM file in memory; ImageError for any other.

    A PNG is checked whole, lengths and checksums of its chunks: its decoder allocates what one flipped bit states.
    """
    for start, size_of in _READERS.items():
        if data.startswith(start):
            try:
                height, width = size_of(data)
            except (struct.error, IndexError, TypeError, ValueError):
                raise ImageError(f"compressed image ({len(data)} bytes): its head is damaged") from None
            if height <= 0 or width <= 0:
                raise ImageError(f"compressed image of {width}x{height} pixels: expected at least 1x1")
            return height, width
    raise ImageError(f"compressed image ({len(data)} bytes): expected {KINDS}")


def _jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        at = data.index(b"\xff", at)
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            return height, width
        if not 0xD0 <= marker <= 0xD9 and marker not in (0x00, 0x01):
            at += struct.unpack_from(">H", data, at)[0]


def _png(data: bytes) -> tuple[int, int]:
    for kind, _ in png_chunks(data):
        if kind == b"IEND":
            width, height = struct.unpack_from(">II", data, 16)
            return height, width
    raise ImageError(f"PNG ({len(data)} bytes): cut short")


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of each chunk; ImageError at the first that is cut or whose checksum is wrong."""
    at = len(PNG)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            raise ImageError(f"PNG ({len(data)} bytes): cut short, or the length of a chunk is damaged")
        if zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ImageError(f"PNG ({len(data)} bytes): the checksum of its chunk {kind!r} is wrong")
        yield kind, data[at + 8 : end]
        at = end + 4


def _tiff(data: bytes) -> tuple[int, int]:
    order = "<" if data.startswith(b"II") else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    at = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)[0]
    count = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, at)[0]
    at, step = at + (8 if big else 2), 20 if big else 12
    found = dict.fromkeys(_TIFF_SIZE, 0)
    for entry in range(at, at + min(count, 4096) * step, step):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag in found:
            value = entry + (12 if big else 8)
            found[tag] = struct.unpack_from(order + {3: "H", 16: "Q"}.get(kind, "I"), data, value)[0]
    if not found[256] or not found[257]:
        return 0, 0
    return max(found[257], found[323]), max(found[256], found[322])


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if data[8:12] != b"WEBP":
        raise ValueError
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    return height, width


def _bmp(data: bytes) -> tuple[int, int]:
    old = struct.unpack_from("<I", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
    return abs(height), width


def _pnm(data: bytes) -> tuple[int, int]:
    plain = re.sub(rb"#[^\n]*", b" ", data[:4096])
    sizes = re.match(rb"P\d\s+(\d{1,9})\s+(\d{1,9})", plain)
    return (int(sizes[2]), int(sizes[1])) if sizes else (0, 0)


_READERS = {
    b"\xff\xd8": _jpeg,
    PNG: _png,
    b"II": _tiff,
    b"MM": _tiff,
    b"RIFF": _webp,
    b"BM": _bmp,
    **{b"P%d" % number: _pnm for number in range(1, 7)},
}
