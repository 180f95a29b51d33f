"""Takes the lens's distortion out of an image before it is segmented, by the camera's CameraInfo."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo

from vss_ros.config import VssError
from vss_ros.media.camera_info import Rectifier
from vss_ros.media.decode import ImageError


class Undistort:
    """`rgb, info = undistort(rgb, info)`; then `hide(result)`. The maps are computed once a calibration."""

    def __init__(self) -> None:
        self.key: Any = None
        self.changed = False
        """Whether the last call was the first one with another calibration than before."""

    def __call__(self, rgb: np.ndarray, info: CameraInfo | None) -> tuple[np.ndarray, CameraInfo]:
        """(H, W, 3) uint8 and its CameraInfo → both rectified. Raises ImageError if they do not fit."""
        if info is None:
            raise ImageError(
                "undistort: no camera_info came yet; remap camera_info:= or set undistort:=false"
            )
        self.changed = False
        key = (rgb.shape, *(bytes(memoryview(getattr(info, name))) for name in "dkrp"), str(info.roi))
        key += (info.width, info.height, info.binning_x, info.binning_y, info.distortion_model)
        if key != self.key:
            values = of_image(info, *rgb.shape[:2])
            try:
                self.rectifier = Rectifier(values)
            except VssError as error:
                raise ImageError(f"undistort: camera_info: {error}") from error
            self.rectified, self.changed, self.key = rectified_info(values), self.key is not None, key
        return self.rectifier(rgb), self.rectified

    def hide(self, result: Any) -> None:
        """Where the camera saw nothing, pixels of a stream's result are unlabelled (255), with confidence 0."""
        outside, confidence = self.rectifier.outside, result.confidence
        result.labels = cv2.bitwise_or(result.labels, outside)
        result.confidence = lambda: cv2.bitwise_and(confidence(), cv2.bitwise_not(outside))


def of_image(info: CameraInfo, height: int, width: int) -> dict[str, Any]:
    """Fields of `read_camera_info` for the image itself: CameraInfo counts the sensor's pixels before its region
    of interest and its binning (as image_geometry's PinholeCameraModel)."""
    bx, by, roi = info.binning_x or 1, info.binning_y or 1, info.roi
    columns, rows = (roi.width or info.width) // bx, (roi.height or info.height) // by
    if (columns, rows) != (width, height):
        raise ImageError(
            f"undistort: expected an image of camera_info's size {columns}x{rows}, got {width}x{height}"
        )
    k, p = np.reshape(info.k, (3, 3)).copy(), np.reshape(info.p, (3, 4)).copy()
    if not p.any():  # a driver that knows only its lens
        p[:, :3] = k
    for matrix in (k, p) if k.any() else ():
        matrix[:2, 2] -= roi.x_offset, roi.y_offset
        matrix[0] /= bx
        matrix[1] /= by
    r = np.asarray(info.r)
    return {
        "width": width,
        "height": height,
        "distortion_model": info.distortion_model,
        "d": list(info.d),
        "k": k.ravel(),
        "r": r if r.any() else np.eye(3).ravel(),
        "p": p.ravel(),
    }


def rectified_info(values: dict[str, Any]) -> CameraInfo:
    """CameraInfo of the rectified image: K = P[:, :3], R = 1, D = 0."""
    p = np.reshape(values["p"], (3, 4))
    return CameraInfo(
        width=values["width"],
        height=values["height"],
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=p[:, :3].ravel(),
        r=np.eye(3).ravel(),
        p=p.ravel(),
    )
