"""Labelled points of a depth image, against the pinhole camera worked out by hand."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
from vss_ros.config import VssError
from vss_ros.media.cloud import POINT, CloudConfig, CloudMaker, depth_of
from vss_ros.media.image_size import ImageError

CLASSES = ("road", "car")
PALETTE = ((128, 64, 32), (0, 0, 255))
K = (100.0, 0, 1.0, 0, 200.0, 0.5, 0, 0, 1)


def message(pixels: np.ndarray, encoding: str, padding: int = 0, bigendian: bool = False) -> SimpleNamespace:
    pixels = pixels.astype(pixels.dtype.newbyteorder(">" if bigendian else "<"))
    rows = np.pad(np.ascontiguousarray(pixels).view(np.uint8), ((0, 0), (0, padding)))
    height, width = pixels.shape
    step = rows.shape[1]
    return SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=bigendian, data=rows.tobytes()
    )


@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize("padding", [0, 6])
def test_depth_in_millimetres_and_in_metres(padding, bigendian):
    millimetres = np.array([[0, 1500], [65535, 1]], np.uint16)
    found = depth_of(message(millimetres, "16UC1", padding, bigendian))
    np.testing.assert_allclose(found, [[0, 1.5], [65.535, 0.001]], rtol=1e-6)
    metres = np.array([[np.nan, 1.5], [np.inf, -1.0]], np.float32)
    found = depth_of(message(metres, "32FC1", padding, bigendian))
    np.testing.assert_array_equal(found, metres)
    assert found.dtype == np.float32


def test_depth_that_cannot_be_read():
    with pytest.raises(ImageError, match="'rgb8': expected 16UC1"):
        depth_of(message(np.zeros((2, 2), np.uint8), "rgb8"))
    cut = message(np.zeros((2, 2), np.uint16), "16UC1")
    cut.data = cut.data[:-1]
    with pytest.raises(ImageError, match="expected 2 rows of at least 4 bytes, got 7 bytes"):
        depth_of(cut)


def test_points_by_hand():
    depth = np.array([[2.0, np.nan], [4.0, 1.0]], np.float32)
    labels = np.array([[0, 1], [255, 1]], np.uint8)
    confidence = np.array([[255, 0], [51, 102]], np.uint8)
    cloud = CloudMaker(CLASSES, PALETTE)(depth, labels, K, confidence)
    assert cloud.shape == (2, 2) and cloud.dtype == POINT and POINT.itemsize == 24
    # x = (u - cx) z / fx, y = (v - cy) z / fy
    np.testing.assert_allclose(cloud["x"], [[-0.02, np.nan], [-0.04, 0.0]], atol=1e-7)
    np.testing.assert_allclose(cloud["y"], [[-0.005, np.nan], [0.01, 0.0025]], atol=1e-7)
    np.testing.assert_array_equal(cloud["z"], depth)
    assert cloud["rgb"].tolist() == [[0x804020, 0x0000FF], [0, 0x0000FF]]
    assert cloud["label"].tolist() == labels.tolist()
    np.testing.assert_allclose(cloud["confidence"], [[1, 0], [0.2, 0.4]], rtol=1e-6)
    assert (CloudMaker(CLASSES, PALETTE)(depth, labels, K)["confidence"] == 1).all()


def test_classes_range_and_stride(rng):
    depth = rng.uniform(0.5, 12, (6, 9)).astype(np.float32)
    labels = rng.choice(np.array([0, 1, 255], np.uint8), (6, 9))
    cloud = CloudMaker(CLASSES, PALETTE, CloudConfig(classes=("car", "unlabelled"), near=2, far=8))(
        depth, labels, K
    )
    stays = (labels != 0) & (depth >= 2) & (depth <= 8)
    np.testing.assert_array_equal(np.isfinite(cloud["z"]), stays)
    np.testing.assert_array_equal(np.isnan(cloud["x"]), np.isnan(cloud["z"]))
    whole = CloudMaker(CLASSES, PALETTE)(depth, labels, K)
    thin = CloudMaker(CLASSES, PALETTE, CloudConfig(stride=4))(depth, labels, K)
    assert thin.shape == (2, 3)
    np.testing.assert_array_equal(thin, whole[::4, ::4])


def test_where_nothing_was_measured_there_is_no_point():
    depth = np.array([[0, np.nan, np.inf, -1, 3]], np.float32)
    cloud = CloudMaker(CLASSES, PALETTE, CloudConfig(near=0.0, far=1e6))(depth, np.zeros((1, 5), np.uint8), K)
    assert np.isfinite(cloud["z"]).tolist() == [[False, False, False, False, True]]


def test_depth_of_another_size_is_looked_up(rng):
    small = rng.uniform(1, 5, (3, 4)).astype(np.float32)
    labels = np.zeros((6, 8), np.uint8)
    cloud = CloudMaker(CLASSES, PALETTE)(small, labels, K)
    np.testing.assert_array_equal(cloud["z"], np.repeat(np.repeat(small, 2, 0), 2, 1))


def test_what_cannot_be():
    with pytest.raises(VssError, match="classes: tram: expected some of road, car, unlabelled"):
        CloudMaker(CLASSES, PALETTE, CloudConfig(classes=("tram",)))
    with pytest.raises(VssError, match="near: expected less than far"):
        CloudConfig(near=5, far=5)
    with pytest.raises(ImageError, match="K is zero"):
        CloudMaker(CLASSES, PALETTE)(np.ones((2, 2), np.float32), np.zeros((2, 2), np.uint8), [0] * 9)


def test_a_cloud_of_640x480_takes_few_milliseconds(rng):
    """2.5 ms on one idle core of the machine that it was written on; the limit allows for a busy one."""
    depth = message(rng.integers(0, 9000, (480, 640), np.uint16), "16UC1")
    labels = rng.integers(0, 2, (480, 640), np.uint8)
    maker, out = CloudMaker(CLASSES, PALETTE, CloudConfig(classes=("road",))), np.empty((480, 640), POINT)
    spent = []
    for _ in range(20):
        start = time.thread_time()
        maker(depth_of(depth), labels, K, labels, out)
        spent.append(time.thread_time() - start)
    assert min(spent) < 0.02, f"{min(spent) * 1e3:.1f} ms"
