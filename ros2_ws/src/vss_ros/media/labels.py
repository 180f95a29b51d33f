"""True labels as data sets, annotation tools and simulators store them: one class id a pixel."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import IGNORE, MAX_PIXELS
from vss_ros.media.decode import check_size
from vss_ros.media.image_size import PNG, ImageError, image_size, png_chunks

PALETTE = 3
"""Colour type in a PNG's header (PNG specification, 11.2.2)."""
_TYPES = {"8U": "u1", "8S": "i1", "16U": "u2", "16S": "i2", "32S": "i4", "32F": "f4"}
_NAMED = {"mono8": ("u1", 1), "mono16": ("u2", 1)}
_NAMED |= {name: ("u1", 4 if "a" in name else 3) for name in ("rgb8", "bgr8", "rgba8", "bgra8")}


def read_labels(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """(H, W) uint8 class ids of an image file. Raises ImageError, OSError."""
    return decode_label_file(path.read_bytes(), max_pixels)


def decode_labels(message: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """(H, W) uint8 class ids of an Image or CompressedImage message; ids below 0 or above 254 become 255.

    Image: any encoding of whole numbers (mono8, mono16, 8UC1, 16UC1, 32SC1, whole 32FC1 …), or of colour with the id
    in one channel. Raises ImageError.
    """
    if hasattr(message, "format"):
        return decode_label_file(bytes(message.data), max_pixels)
    name, height, width, step = message.encoding, message.height, message.width, message.step
    check_size(height, width, max_pixels)
    kind, channels = _NAMED.get(name, ("", 0))
    depth, _, count = name.partition("C")
    if depth in _TYPES and count in ("1", "3", "4"):
        kind, channels = _TYPES[depth], int(count)
    if not kind:
        raise ImageError(f"encoding {name!r}: expected class ids, such as mono8, 16UC1 or 32SC1")
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    data, row = np.frombuffer(message.data, np.uint8), width * channels * dtype.itemsize
    if height < 1 or width < 1 or step < row or data.size < height * step:
        raise ImageError(
            f"mask of {width}x{height} pixels, {name}: expected {height} rows of at least {row} bytes, got "
            f"{data.size} bytes in rows of {step}; it is empty or cut short"
        )
    rows = np.ascontiguousarray(data[: height * step].reshape(height, step)[:, :row])
    return _one_channel(rows.view(dtype).reshape(height, width, channels))


def decode_label_file(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """(H, W) uint8 class ids of an image file in memory: grey of 8 or 16 bit, palette (PNG), or in one channel."""
    check_size(*image_size(data), max_pixels)
    check_lossless(data)
    scale = 1
    if data.startswith(PNG):
        data, scale = _palette_as_grey(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f"mask ({len(data)} bytes): {error}") from error
    if image is None:
        raise ImageError(f"mask ({len(data)} bytes): does not decode; it is damaged or cut short")
    labels = _one_channel(image if image.ndim == 3 else image[..., None])
    return labels // scale if scale > 1 else labels


def check_lossless(data: bytes) -> None:
    if data.startswith(b"\xff\xd8") or data[12:16] == b"VP8 ":
        raise ImageError("expected a mask as PNG, got JPEG or lossy WebP, which changes ids along every edge")


def is_palette(data: bytes) -> bool:
    """Whether it is a PNG with a palette."""
    return data.startswith(PNG) and data[25] == PALETTE


def _palette_as_grey(data: bytes) -> tuple[bytes, int]:
    """A palette PNG with its ids as grey values; any other as it is; and what the decoder multiplies these with.

    Decoders answer a palette's colours, but the very same data under a header that says grey gives the ids.
    """
    depth, colour = data[24], data[25]
    if colour != PALETTE:
        return data, 255 // (2**depth - 1) if colour == 0 else 1
    out = [PNG]
    for kind, content in png_chunks(data):
        if kind == b"IHDR":
            content = content[:9] + b"\0" + content[10:]
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            out.append(struct.pack(">I", len(content)) + kind + content)
            out.append(struct.pack(">I", zlib.crc32(kind + content)))
    return b"".join(out), 255 // (2**depth - 1)


def _one_channel(image: np.ndarray) -> np.ndarray:
    """(H, W, C) of any number type as ids; of several channels the one that holds them (all equal, others zero)."""
    if image.shape[2] > 1:
        colours = image[..., :3]
        used = [c for c in range(3) if colours[..., c].any()]
        if len(used) > 1 and not (colours == colours[..., :1]).all():
            raise ImageError(
                "mask in several colours: expected class ids, in one channel; convert the colours to ids first"
            )
        image = colours[..., used[0] if used else 0][..., None]
    ids = image[..., 0]
    if ids.dtype == np.uint8:
        return ids
    if ids.dtype.kind == "f" and not (ids == np.floor(ids)).all():
        raise ImageError("mask of fractions: expected whole class ids")
    labels = np.full(ids.shape, IGNORE, np.uint8)  # int8 does not hold 255, which NumPy says from 2.5 on
    np.copyto(labels, ids, where=(ids >= 0) & (ids < IGNORE), casting="unsafe")
    return labels
