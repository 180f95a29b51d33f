"""Points and maps moved along a flow agree on where things go."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from vss_ros.backends.move import grid, move, move_points


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_points_go_where_the_map_goes(scale, rng):
    smooth = cv2.GaussianBlur(rng.normal(size=(40, 60, 2)).astype(np.float32), (0, 0), 8)
    flow = smooth / np.abs(smooth).max() * scale + np.float32([2.0, -1.0])
    points = np.stack([rng.uniform(10, 50, 30), rng.uniform(10, 30, 30)], 1)
    moved = move_points(points, flow)
    back = cv2.remap(grid((40, 60)) + flow, moved.astype(np.float32)[None], None, cv2.INTER_LINEAR)[0]
    assert np.abs(back - points).max() < 0.05


def test_a_bump_and_its_point():
    bump = np.zeros((20, 30), np.float32)
    bump[8, 10] = 1
    flow = np.full((20, 30, 2), (-3, 2), np.float32)  # the map's (10, 8) is now at (13, 6)
    y, x = np.unravel_index(move(bump, flow).argmax(), bump.shape)
    assert move_points(np.array([[10.0, 8.0]]), flow).tolist() == [[x, y]] == [[13, 6]]
    assert move_points(np.zeros((0, 2)), flow).shape == (0, 2)
