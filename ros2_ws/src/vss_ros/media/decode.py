"""Camera messages to RGB arrays. NumPy and OpenCV only, no ROS.

Every failure is an `ImageError` that says what was expected, what came and the fix: a camera with a broken
driver must not end the node.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from vss_ros.config import VssError

# Channels in a row of one image; the names are sensor_msgs/image_encodings plus cv_bridge's 8UC*.
_PACKED = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1, "8UC3": 3, "8UC4": 4}
# OpenCV's short names (BayerBG for RGGB) count from the second row and column, ROS counts from the first;
# these longer aliases mean what ROS means.
_BAYER = {
    "bayer_rggb8": cv2.COLOR_BayerRGGB2RGB,
    "bayer_bggr8": cv2.COLOR_BayerBGGR2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGBRG2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGRBG2RGB,
}
_YUV422 = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}
_YUV420 = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
_TO_RGB = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "8UC3": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "8UC4": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
    "8UC1": cv2.COLOR_GRAY2RGB,
}
ENCODINGS = (*_PACKED, "mono16", *_YUV422, *_YUV420, *_BAYER)
"""Encodings that `to_rgb` converts by itself; any other needs cv_bridge."""


class ImageError(VssError):
    """An image that cannot be used as it came."""


class UnknownEncoding(ImageError):
    """An encoding that neither this module nor cv_bridge converts."""


def decode(message: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a sensor_msgs Image or CompressedImage; of rgb8 a view. Raises ImageError."""
    m = message
    if hasattr(m, "format"):
        return decode_compressed(m.data, m.format)
    return to_rgb(m.data, m.height, m.width, m.encoding, m.step, bool(m.is_bigendian))


def to_rgb(
    data: Any, height: int, width: int, encoding: str, step: int, is_bigendian: bool = False
) -> np.ndarray:
    """The fields of a sensor_msgs/Image as (height, width, 3) uint8 RGB.

    data: bytes, array('B') or a contiguous uint8 array of at least height * step bytes (nv12, nv21: half as
    much again). step: bytes a row, padding included. For rgb8 the answer is a view of `data` (read-only for
    bytes, strided for padded rows), for all others a new array. mono16 keeps its upper byte (65535 -> 255).
    Raises ImageError for sizes that disagree, UnknownEncoding for encodings without a conversion.
    """
    if height <= 0 or width <= 0:
        raise ImageError(f"image of {width}x{height} pixels: expected at least 1x1; check the camera driver")
    buffer = np.frombuffer(data, np.uint8)
    if encoding in _PACKED:
        channels = _PACKED[encoding]
        view = _rows(buffer, height, width * channels, encoding, step).reshape(height, width, channels)
        return view if encoding == "rgb8" else cv2.cvtColor(view, _TO_RGB[encoding])
    if encoding == "mono16":
        high = _rows(buffer, height, width * 2, encoding, step)[:, 0 if is_bigendian else 1 :: 2]
        return cv2.cvtColor(np.ascontiguousarray(high), cv2.COLOR_GRAY2RGB)
    if encoding in _YUV422:
        if width % 2:
            raise ImageError(f"{encoding} of {width}x{height}: expected an even width (pixels share colours)")
        view = _rows(buffer, height, width * 2, encoding, step).reshape(height, width, 2)
        return cv2.cvtColor(view, _YUV422[encoding])
    if encoding in _YUV420:
        if width % 2 or height % 2:
            raise ImageError(
                f"{encoding} of {width}x{height}: expected even sizes (2x2 pixels share colours)"
            )
        planes = _rows(buffer, height * 3 // 2, width, encoding, step)
        colours = planes[height:].reshape(height // 2, width // 2, 2)
        return cv2.cvtColorTwoPlane(planes[:height], colours, _YUV420[encoding])
    if encoding in _BAYER:
        if height < 3 or width < 3:  # OpenCV answers black
            raise ImageError(f"{encoding} of {width}x{height}: expected at least 3x3 pixels to interpolate")
        return cv2.cvtColor(_rows(buffer, height, width, encoding, step), _BAYER[encoding])
    return _through_cv_bridge(buffer, height, width, encoding, step, is_bigendian)


def _rows(buffer: np.ndarray, rows: int, row_bytes: int, encoding: str, step: int) -> np.ndarray:
    """(rows, row_bytes) view without the padding of each row."""
    if step < row_bytes:
        raise ImageError(
            f"{encoding}: expected a step of at least {row_bytes} bytes a row, got {step}; "
            "the publisher must set step to the bytes of one row"
        )
    if buffer.size < rows * step:
        raise ImageError(
            f"{encoding}: expected {rows * step} bytes ({rows} rows of {step}), got {buffer.size}; "
            "the image was cut short or its height or step is wrong"
        )
    return buffer[: rows * step].reshape(rows, step)[:, :row_bytes]


# It converts: a cv_bridge built against NumPy 1 imports well under NumPy 2, and segfaults only then.
_PROBE = """
import sys
if sys.path[:1] == [""]:  # the current folder, whose files are not ours to run
    del sys.path[0]
from types import SimpleNamespace
from cv_bridge import CvBridge
image = SimpleNamespace(encoding="rgb16", height=2, width=2, step=12, is_bigendian=0, data=bytes(24))
assert CvBridge().imgmsg_to_cv2(image, "rgb8").shape == (2, 2, 3)
"""


@functools.cache
def cv_bridge_is_sound(timeout: float = 20.0) -> bool:
    """Whether cv_bridge is installed and converts without crashing; tried once, in a child process."""
    if importlib.util.find_spec("cv_bridge") is None:
        return False
    try:
        child = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return child.returncode == 0


def _through_cv_bridge(
    buffer: np.ndarray, height: int, width: int, encoding: str, step: int, is_bigendian: bool
) -> np.ndarray:
    """Rare encodings as cv_bridge converts them; UnknownEncoding without a sound cv_bridge."""
    if not cv_bridge_is_sound():
        raise UnknownEncoding(
            f"encoding {encoding!r}: expected one of {', '.join(ENCODINGS)}; "
            "set another encoding in the camera driver, or install a cv_bridge that works with this NumPy"
        )
    _rows(buffer, height, 1, encoding, step)  # cv_bridge itself reads past the end
    from cv_bridge import CvBridge

    image = SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=is_bigendian, data=buffer
    )
    try:
        return CvBridge().imgmsg_to_cv2(image, "rgb8")
    except Exception as error:  # CvBridgeError, cv2.error, KeyError: releases differ
        raise UnknownEncoding(f"encoding {encoding!r}: cv_bridge cannot make it rgb8: {error}") from error


def decode_compressed(data: Any, format: str = "") -> np.ndarray:
    """A JPEG or PNG file in memory as (H, W, 3) uint8 RGB, pixels as stored (EXIF rotation is not applied).

    Grey becomes three equal channels, 16 bit keeps the upper byte, alpha is dropped. `format` (of a
    CompressedImage) only serves the message: the content tells. Raises ImageError when it is cut short.
    """
    data = bytes(data)
    if data.startswith(b"\xff\xd8"):
        # OpenCV fills the missing rows of a cut JPEG with grey and says nothing. Inside a scan FF is never
        # followed by D9, so an end marker after the last start of scan is the end of the picture.
        whole = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") > 0
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        whole = data.rfind(b"IEND\xaeB`\x82") > 0
    else:
        raise ImageError(
            f"compressed image of format {format!r} ({len(data)} bytes): expected JPEG or PNG; "
            "subscribe to the raw topic or republish with jpeg or png"
        )
    if not whole:
        raise ImageError(f"compressed image of format {format!r}: cut short after {len(data)} bytes")
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # such as more pixels than OpenCV allows
        raise ImageError(f"compressed image of format {format!r} ({len(data)} bytes): {error}") from error
    if bgr is None:
        raise ImageError(f"compressed image of format {format!r} ({len(data)} bytes): does not decode")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
