"""Camera calibrations: the YAML of `camera_calibration`, its checks, and the maps that undistort an image.

Conventions: sensor_msgs/CameraInfo and REP 104; URLs as in camera_info_manager.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import VssError, brief, share_dir
from vss_ros.media.files import read_yaml

COEFFICIENTS = {
    "plumb_bob": (4, 5),  # k1 k2 t1 t2 k3
    "rational_polynomial": (8, 12, 14),  # k1 k2 t1 t2 k3…k6, then OpenCV's thin prism and tilt
    "equidistant": (4,),  # k1…k4 of a fisheye lens
}
"""How many values d has, by distortion model."""
MATRICES = {"camera_matrix": (3, 3), "rectification_matrix": (3, 3), "projection_matrix": (3, 4)}


def read_camera_info(url: str | Path) -> dict[str, Any]:
    """A calibration as the fields of sensor_msgs/CameraInfo: width, height, distortion_model, d, k, r, p.

    url: path, file:///path or package://NAME/path of a YAML file that `camera_calibration` wrote.
    Raises VssError that names the field when the file is missing, damaged, or no calibration of a camera.
    """
    path = resolve(str(url))
    try:
        data = read_yaml(path)
        info = {
            "width": whole(data, "image_width"),
            "height": whole(data, "image_height"),
            "distortion_model": str(data["distortion_model"]),
            "d": numbers(data["distortion_coefficients"], "distortion_coefficients"),
        }
        for key, name in zip("krp", MATRICES, strict=True):
            info[key] = numbers(data[name], name, MATRICES[name])
    except VssError as error:
        raise VssError(f"{error}; expected the YAML of camera_calibration") from error
    except KeyError as error:
        raise VssError(f"{path}: expected the YAML of camera_calibration, {error} is missing") from error
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise VssError(f"{path}: expected the YAML of camera_calibration: {brief(error, 400)}") from error
    try:
        check_camera_info(info)
    except VssError as error:
        raise VssError(f"{path}: {error}") from error
    return info


def resolve(url: str) -> Path:
    """Path of a camera_info_manager URL."""
    if url.startswith("package://"):
        package, _, rest = url.removeprefix("package://").partition("/")
        return share_of(package) / rest
    path = url.removeprefix("file://")
    if "://" in path:
        raise VssError(f"{url}: expected a path, file:///PATH or package://NAME/PATH of a calibration")
    return Path(path).expanduser()


def share_of(package: str) -> Path:
    if package == "vss_ros":  # also where pip installed it, which ament does not know
        return share_dir()
    try:
        from ament_index_python.packages import get_package_share_directory

        return Path(get_package_share_directory(package))
    except (ImportError, OSError, LookupError, ValueError) as error:
        raise VssError(
            f"package://{package}: this package is not found; source its workspace, or give file:///PATH"
        ) from error


def whole(data: Mapping[str, Any], name: str) -> int:
    value = data[name]
    if type(value) is not int or value < 1:
        raise ValueError(f"{name}: expected a positive whole number, got {value!r}")
    return value


def numbers(item: Mapping[str, Any], name: str, shape: tuple[int, int] | None = None) -> list[float]:
    """The values of an OpenCV matrix, {rows, cols, data}, row by row."""
    values = [float(value) for value in item["data"]]
    stated = (item.get("rows"), item.get("cols"))
    if shape is not None and (len(values) != math.prod(shape) or stated not in (shape, (None, None))):
        raise ValueError(
            f"{name}: expected {shape[0]} rows, {shape[1]} cols and {math.prod(shape)} values, got "
            f"{stated[0]} rows, {stated[1]} cols and {len(values)} values"
        )
    return values


def check_camera_info(info: Any) -> None:
    """Raise VssError unless the fields describe a calibrated camera.

    info: a mapping as `read_camera_info` returns it.
    """
    model, d = info["distortion_model"], info["d"]
    if model not in COEFFICIENTS:
        raise VssError(
            f"distortion_model: expected one of {', '.join(COEFFICIENTS)}, got {brief(repr(model), 80)}"
        )
    if len(d) not in COEFFICIENTS[model]:
        counts = " or ".join(map(str, COEFFICIENTS[model]))
        raise VssError(f"D (distortion_coefficients): {model} has {counts} values, got {len(d)}")
    k, r, p = (np.reshape(info[name], (3, -1)).astype(float) for name in "krp")
    if not all(np.isfinite(values).all() for values in (d, k, r, p)):
        raise VssError("D, K, R, P: expected finite numbers")
    for name, matrix in (("K (camera_matrix)", k), ("P (projection_matrix)", p)):
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or not np.array_equal(matrix[2, :3], (0, 0, 1)):
            raise VssError(
                f"{name}: expected [fx 0 cx; 0 fy cy; 0 0 1] with fx, fy > 0, got {matrix.tolist()}"
                + ("; the camera is not calibrated" if not matrix.any() else "")
            )
    if np.abs(r @ r.T - np.eye(3)).max() > 1e-3 or np.linalg.det(r) < 0:
        raise VssError(f"R (rectification_matrix): expected a rotation, got {r.tolist()}")


def scale_intrinsics(k: Any, p: Any, sx: float, sy: float) -> tuple[np.ndarray, np.ndarray]:
    """CameraInfo's K (9) and P (12), float64, for an image resized by sx (width) and sy (height).

    The first row of each is multiplied by sx, the second by sy, as image_proc's resize node does; zeros, the
    mark of an uncalibrated camera, stay zeros.
    """
    rows = np.array([[sx], [sy], [1.0]])
    k = np.asarray(k, np.float64).reshape(3, 3) * rows
    p = np.asarray(p, np.float64).reshape(3, 4) * rows
    return k.ravel(), p.ravel()


class Rectifier:
    """Undistorts images of one calibration; its maps are computed once.

    info: as `read_camera_info` returns it, for images of its width and height. K' = P[:, :3] is the camera
    matrix of the result, whose distortion is zero: P decides what part of the view stays.
    """

    def __init__(self, info: Mapping[str, Any]):
        check_camera_info(info)
        k, r, p = (np.reshape(info[name], (3, -1)).astype(float) for name in "krp")
        d, size = np.asarray(info["d"], float), (info["width"], info["height"])
        fisheye = info["distortion_model"] == "equidistant"
        make = cv2.fisheye.initUndistortRectifyMap if fisheye else cv2.initUndistortRectifyMap
        # Fixed-point maps: twice as fast as floats, exact to 1/32 pixel.
        self.maps = make(k, d, r, p[:, :3], size, cv2.CV_16SC2)
        self.outside = 255 - self(np.full(size[::-1], 255, np.uint8))
        """(H, W) uint8: 255 where the camera saw nothing, 0 elsewhere."""
        self.outside[self.outside > 0] = 255

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W) or (H, W, 3) uint8 without distortion; black where the camera saw nothing."""
        return cv2.remap(image, *self.maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
