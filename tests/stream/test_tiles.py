"""Every place of an image belongs to one patch, whatever its size; points and density come back where they were."""

from __future__ import annotations

import numpy as np
import pytest
from vss_ros.stream.tiles import CELL, FILL, Tiles

SIZES = [(256, 256), (360, 480), (100, 70), (1080, 1920), (257, 511), (31, 900)]


def dots(height: int, width: int, rng: np.random.Generator, count: int = 60) -> tuple[np.ndarray, set]:
    """Black but for white pixels apart from each other, and their (column, row)."""
    image = np.zeros((height, width, 3), np.uint8)
    places = {(int(x), int(y)) for x, y in rng.integers(0, (width, height), (count, 2))}
    for x, y in places:
        image[y, x] = 255
    return image, places


def look(patch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a network without fault answers for a patch: scores, points, density."""
    rows, columns = np.nonzero(patch[..., 0] == 255)
    points = (np.stack([rows, columns], 1) + 0.5) / len(patch)
    density = np.zeros((len(patch) // CELL,) * 2, np.float32)
    np.add.at(density, (rows // CELL, columns // CELL), 1)
    return np.ones(len(points)), points, density


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0, 32])
def test_every_dot_is_counted_once_at_its_place(size, overlap, rng):
    image, places = dots(*size, rng)
    tiles = Tiles(*size, 256, overlap)
    whole, found = np.zeros(tiles.cells, np.float32), []
    for i in range(len(tiles)):
        scores, points, density = look(tiles.cut(image, i))
        found += tiles.locate(i, scores, points, 0.35)[:, :2].tolist()
        tiles.place_density(whole, i, density)
    assert len(found) == len(places)
    assert {(x - 0.5, y - 0.5) for x, y in found} == places
    assert tiles.of_image(whole).sum() == len(places) == whole.sum()
    assert tiles.of_image(whole).shape == tuple(-(-side // CELL) for side in size)


@pytest.mark.parametrize("size", SIZES)
def test_cores_cover_the_image_once(size):
    tiles = Tiles(*size)
    covered = np.zeros(size, int)
    for i in range(len(tiles)):
        top, bottom, left, right = tiles.core(i)
        covered[max(top, 0) : bottom, max(left, 0) : right] += 1
    assert (covered == 1).all()


def test_padding_lies_left_and_above_in_the_mean_colour():
    image = np.full((100, 70, 3), 9, np.uint8)
    patch = Tiles(100, 70).cut(image, 0)
    assert (patch[156:, 186:] == 9).all()
    assert (patch[:156] == FILL).all() and (patch[:, :186] == FILL).all()


def test_scores_below_the_threshold_and_points_in_the_padding_are_no_objects():
    tiles = Tiles(100, 70)
    points = np.array([[0.9, 0.9], [0.9, 0.9], [0.1, 0.1]])
    found = tiles.locate(0, np.array([0.35, 0.34, 0.9]), points, 0.35)
    assert found.shape == (1, 3) and found[0, 2] == np.float32(0.35)
