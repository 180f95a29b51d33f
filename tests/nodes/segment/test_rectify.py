"""Images and their CameraInfo rectified, without a running node."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy: install the extra [ros] or source a ROS 2 setup")

from sensor_msgs.msg import CameraInfo
from vss_ros.media.decode import ImageError
from vss_ros.nodes.segment.rectify import Undistort


def camera_info(width: int = 640, height: int = 480) -> CameraInfo:
    info = CameraInfo(width=width, height=height)
    info.k = np.array([500.0, 0, 320, 0, 400, 240, 0, 0, 1])
    info.p = np.array([500.0, 0, 320, 10, 0, 400, 240, 20, 0, 0, 1, 0])
    return info


def test_undistorting_a_binned_region_of_interest():
    info = camera_info()
    info.distortion_model, info.d, info.r = "plumb_bob", [0.0] * 5, np.eye(3).ravel()
    info.roi.width, info.roi.height, info.roi.x_offset, info.roi.y_offset = 320, 240, 100, 60
    info.binning_x = info.binning_y = 2
    undistort = Undistort()
    image = np.full((120, 160, 3), 7, np.uint8)
    rgb, rectified = undistort(image, info)
    assert rectified.k.tolist() == [250, 0, 110, 0, 200, 90, 0, 0, 1] and not undistort.changed
    assert rectified.p.tolist() == [250, 0, 110, 5, 0, 200, 90, 10, 0, 0, 1, 0]
    assert (rectified.width, rectified.height) == (160, 120) and np.array_equal(rgb, image)
    maps = undistort.rectifier
    undistort(image, info)
    assert undistort.rectifier is maps, "the maps are computed once"
    info.k[0] = 600
    undistort(image, info)
    assert undistort.changed and undistort.rectifier is not maps
    info.k[0] = 0
    with pytest.raises(ImageError, match=r"undistort: camera_info: K \(camera_matrix\): expected"):
        undistort(image, info)
