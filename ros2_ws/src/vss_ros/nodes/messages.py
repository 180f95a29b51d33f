"""Arrays and model cards to messages. Nothing here needs a running node."""

from __future__ import annotations

import copy
import importlib.util
import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header, String

from vss_ros.config import IGNORE
from vss_ros.media.camera_info import scale_intrinsics
from vss_ros.media.decode import decode_compressed, to_rgb


def to_array(message: Image | CompressedImage) -> np.ndarray:
    """(H, W, 3) uint8 RGB of either image message; rgb8 is a view of the message. Raises ImageError."""
    if isinstance(message, CompressedImage):
        return decode_compressed(message.data, message.format)
    m = message
    return to_rgb(m.data, m.height, m.width, m.encoding, m.step, bool(m.is_bigendian))


def to_image(header: Header, pixels: np.ndarray) -> Image:
    """(H, W) uint8 as mono8 or (H, W, 3) uint8 as rgb8, without padding, the header as it came."""
    height, width = pixels.shape[:2]
    encoding, channels = ("mono8", 1) if pixels.ndim == 2 else ("rgb8", 3)
    message = Image(header=header, height=height, width=width, encoding=encoding, step=width * channels)
    # rclpy copies bytes, lists and ndarrays element by element; only array('B') is taken as it is.
    message.data = array("B")
    message.data.frombytes(np.ascontiguousarray(pixels).data)
    return message


def to_png(header: Header, labels: np.ndarray) -> CompressedImage:
    """(H, W) uint8 class ids as a PNG, as image_transport's compressed plugin publishes mono8. Never JPEG: it
    would invent classes at every edge."""
    # the fastest setting that still uses the runs of equal labels
    setting = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    message = CompressedImage(header=header, format="mono8; png compressed ")
    message.data = array("B")
    message.data.frombytes(cv2.imencode(".png", labels, setting)[1].data)
    return message


def scaled_camera_info(info: CameraInfo, header: Header, height: int, width: int) -> CameraInfo:
    """`info` for an image of height x width, under the mask's header.

    CameraInfo counts full-resolution pixels, the image its region of interest divided by the binning.
    """
    out = copy.copy(info)
    out.header = header
    roi = info.roi
    columns = (roi.width or info.width) / (info.binning_x or 1)
    rows = (roi.height or info.height) / (info.binning_y or 1)
    if columns < 1 or rows < 1 or (columns, rows) == (width, height):
        return out
    sx, sy = width / columns, height / rows
    out.width, out.height = round(info.width * sx), round(info.height * sy)
    out.k, out.p = scale_intrinsics(info.k, info.p, sx, sy)
    out.roi = RegionOfInterest(
        x_offset=round(roi.x_offset * sx),
        y_offset=round(roi.y_offset * sy),
        width=round(roi.width * sx),
        height=round(roi.height * sy),
        do_rectify=roi.do_rectify,
    )
    return out


def label_info_type() -> Any:
    """vision_msgs/LabelInfo, or None where vision_msgs is not installed (it is not among PyPI's wheels)."""
    if importlib.util.find_spec("vision_msgs") is None:
        return None
    from vision_msgs.msg import LabelInfo

    return LabelInfo


def label_info(header: Header, classes: Sequence[str]) -> Any:
    """The classes as vision_msgs/LabelInfo, ids as in the mask, and 255 for pixels without a label."""
    from vision_msgs.msg import LabelInfo, VisionClass

    names = [*enumerate(classes), (IGNORE, "unlabelled")]
    return LabelInfo(
        header=header,
        class_map=[VisionClass(class_id=number, class_name=name) for number, name in names],
        threshold=0.0,
    )


def label_json(model: str, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> String:
    """What LabelInfo says, plus the model's name and the colours, for readers without vision_msgs."""
    entries = [
        {"id": number, "name": name, "color": [int(value) for value in color]}
        for number, (name, color) in enumerate(zip(classes, palette, strict=True))
    ]
    return String(data=json.dumps({"model": model, "classes": entries, "unlabelled": IGNORE}))


def status(
    name: str, hardware: str, level: bytes, message: str, values: Mapping[str, Any]
) -> DiagnosticStatus:
    """A DiagnosticStatus whose values are plain numbers where they are numbers, None left out."""
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=text(value)) for key, value in values.items() if value is not None],
    )


def text(value: Any) -> str:
    """A number as PlotJuggler and rqt_plot read it: six digits, True as 1."""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
