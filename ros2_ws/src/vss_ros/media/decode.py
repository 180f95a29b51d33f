"""Camera messages to RGB arrays. NumPy and OpenCV only, no ROS.

Every failure is an `ImageError` that says what was expected, what came and the fix: a camera with a broken
driver must not end the node.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import simplejpeg

from vss_ros.config import MAX_PIXELS, brief
from vss_ros.media.image_size import ImageError, image_size
from vss_ros.media.quiet import quiet_opencv

# Channels in a row of one image; the names are sensor_msgs/image_encodings plus cv_bridge's 8UC*.
_PACKED = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1, "8UC3": 3, "8UC4": 4}
# Of 16 bit the upper byte is kept: the encoding of what remains, and its channels.
_WIDE = {name.replace("8", "16"): (name, channels) for name, channels in _PACKED.items() if name[0] != "8"}
_WIDE |= {f"16UC{channels}": (f"8UC{channels}", channels) for channels in (1, 3, 4)}
# OpenCV's short names (BayerBG for RGGB) count from the second row and column, ROS counts from the first;
# these longer aliases mean what ROS means.
_BAYER = {
    "bayer_rggb8": cv2.COLOR_BayerRGGB2RGB,
    "bayer_bggr8": cv2.COLOR_BayerBGGR2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGBRG2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGRBG2RGB,
}
_WIDE |= {name.replace("8", "16"): (name, 1) for name in _BAYER}
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
ENCODINGS = (*_PACKED, *_WIDE, *_YUV422, *_YUV420, *_BAYER)
"""Encodings that `to_rgb` converts by itself; any other needs cv_bridge."""
# What simulators call them, in small letters: Gazebo's PixelFormat, its Ogre names, plain names.
_ALIASES = {
    "r8g8b8": "rgb8",
    "b8g8r8": "bgr8",
    "l8": "mono8",
    "l16": "mono16",
    "gray8": "mono8",
    "gray16": "mono16",
}
_ALIASES |= {f"{name}_int8": f"{name}8" for name in ("rgb", "bgr", "rgba", "bgra")}
_ALIASES |= {"rgb_int16": "rgb16", "bgr_int16": "bgr16", "l_int8": "mono8", "l_int16": "mono16"}
_ALIASES |= {"rgb": "rgb8", "bgr": "bgr8", "rgba": "rgba8", "bgra": "bgra8", "mono": "mono8", "gray": "mono8"}
_ALIASES |= {name.lower(): name for name in ENCODINGS}

PADDING = 16
"""Bytes behind the data of a JPEG that are taken for a camera's padding."""


class UnknownEncoding(ImageError):
    """An encoding that neither this module nor cv_bridge converts."""


def check_size(height: int, width: int, max_pixels: int) -> None:
    """ImageError for an image that takes more memory than it should."""
    if height * width > max_pixels:
        raise ImageError(
            f"image of {width}x{height} pixels: expected at most {max_pixels}; raise max_pixels if it is sound"
        )


def stamp_ns(message: Any) -> int:
    """Nanoseconds of a message's header; message: of rclpy, or a `rosbags` object."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def decode(message: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A sensor_msgs/Image or CompressedImage as (H, W, 3) uint8 RGB.

    message: of rclpy, or a `rosbags` object. See `to_rgb` and `decode_compressed`, which it calls. Raises ImageError.
    """
    if hasattr(message, "format"):
        return decode_compressed(message.data, message.format, max_pixels)
    check_size(message.height, message.width, max_pixels)
    big = bool(message.is_bigendian)
    return to_rgb(message.data, message.height, message.width, message.encoding, message.step, big)


def to_rgb(
    data: Any, height: int, width: int, encoding: str, step: int, is_bigendian: bool = False
) -> np.ndarray:
    """The fields of a sensor_msgs/Image as (height, width, 3) uint8 RGB.

    data: bytes, array('B') or a contiguous uint8 array of at least height * step bytes (nv12, nv21: half X
    Raises ImageError for sizes that disagree, UnknownEncoding for encodings without a conversion.
    """
    if height <= 0 or width <= 0:
        raise ImageError(f"image of {width}x{height} pixels: expected at least 1x1; check the camera driver")
    buffer = np.frombuffer(data, np.uint8)
    encoding = _ALIASES.get(encoding.lower(), encoding)
    if encoding in _WIDE:
        narrow, channels = _WIDE[encoding]
        high = _rows(buffer, height, width * channels * 2, encoding, step)[:, 0 if is_bigendian else 1 :: 2]
        return to_rgb(np.ascontiguousarray(high).ravel(), height, width, narrow, width * channels)
    if encoding in _PACKED:
        channels = _PACKED[encoding]
        view = _rows(buffer, height, width * channels, encoding, step).reshape(height, width, channels)
        return view if encoding == "rgb8" else cv2.cvtColor(view, _TO_RGB[encoding])
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
    name = brief(encoding, 60)  # of another's message, and to stand on /diagnostics
    if not cv_bridge_is_sound():
        raise UnknownEncoding(
            f"encoding {name!r}: expected one of {', '.join(ENCODINGS)}; "
            "set another encoding in the camera driver, or install a cv_bridge that works with this NumPy"
        )
    _rows(buffer, height, 1, name, step)  # cv_bridge itself reads past the end
    from cv_bridge import CvBridge

    image = SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=is_bigendian, data=buffer
    )
    try:
        return CvBridge().imgmsg_to_cv2(image, "rgb8")
    except Exception as error:  # CvBridgeError, cv2.error, KeyError: releases differ
        raise UnknownEncoding(f"encoding {name!r}: cv_bridge cannot make it rgb8: {brief(error)}") from error


def decode_compressed(data: Any, format: str = "", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A JPEG, PNG, TIFF, WebP, BMP or PNM file in memory as (H, W, 3) uint8 RGB, pixels as stored (no EXIF
    rotation, but a TIFF's own).

    Grey becomes three equal channels, 16 bit keeps the upper byte, alpha is dropped. format: of a CompressedImage,
    as image_transport writes it: "bayer_rggb8; png compressed" holds the sensor's pattern in one channel, and
    "compressed rgb8" has red and blue exchanged; the file itself tells the rest. Raises ImageError, before anything
    is decoded where the file states more than `max_pixels`.
    """
    data = bytes(data)
    about = f"compressed image of format {brief(format, 60)!r} ({len(data)} bytes)"
    try:
        check_size(*image_size(data), max_pixels)
    except ImageError as error:
        raise ImageError(f"format {brief(format, 60)!r}: {error}") from None
    pattern = _ALIASES.get(format.partition(";")[0].strip().lower(), "")
    jpeg, bayer = data.startswith(b"\xff\xd8"), "bayer" in pattern
    if jpeg:
        rgb = _decode_jpeg(data, about)
        grey = bayer and simplejpeg.decode_jpeg_header(data, strict=False)[2] == "Gray"
        raw = np.ascontiguousarray(rgb[..., 0]) if grey else None
    else:
        flags = cv2.IMREAD_UNCHANGED if bayer else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        raw = _decode_file(data, flags, about)
    if raw is not None:
        depth = 8 * raw.itemsize
        encoding = f"{depth}UC{raw.shape[2]}" if raw.ndim == 3 else pattern.rstrip("0123456789") + f"{depth}"
        rgb = to_rgb(raw.view(np.uint8).ravel(), raw.shape[0], raw.shape[1], encoding, raw.strides[0])
    return np.ascontiguousarray(rgb[..., ::-1]) if "compressed rgb" in format else rgb


def _decode_file(data: bytes, flags: int, about: str) -> np.ndarray:
    try:
        with quiet_opencv():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # such as more pixels than OpenCV allows
        raise ImageError(f"{about}: {error}") from error
    if image is None:
        raise ImageError(f"{about}: does not decode; it is damaged or cut short")
    return image


def _decode_jpeg(data: bytes, about: str) -> np.ndarray:
    """The JPEG as RGB.

    Not by OpenCV, which answers bit errors and missing rows with a picture, and a line on stderr a frame: here the
    warnings of libjpeg, the same decoder with the same pixels, come as exceptions.
    """
    try:
        return simplejpeg.decode_jpeg(data)
    except (ValueError, KeyError) as error:
        warning = str(error)
    damaged = re.search("Corrupt|Premature|progression|marker type", warning)
    # Webcams pad the end of the picture's data with a few bytes; a bit error leaves a hundred.
    stray = re.match(r"Corrupt JPEG data: (\d+) extraneous bytes", warning)
    if damaged and not (stray and int(stray[1]) <= PADDING):
        raise ImageError(f"{about}: damaged or cut short ({warning})")
    try:
        return simplejpeg.decode_jpeg(data, strict=False)
    except (ValueError, KeyError) as error:  # KeyError: a subsampling without a name
        raise ImageError(f"{about}: does not decode; it is damaged or cut short ({error})") from error
