"""The synthetic street: deterministic, complete, steady in time, the same at every size."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from vss_ros.data.street.street import CLASSES, PALETTE, Street


@pytest.fixture(scope="module")
def street():
    return Street(seed=3)


def test_frame_has_the_documented_shapes(street):
    rgb, labels = street.frame(0)
    assert rgb.shape == (360, 480, 3) and rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    assert labels.shape == (360, 480) and labels.dtype == np.uint8 and labels.flags.c_contiguous
    assert len(CLASSES) == len(set(CLASSES)) == len(PALETTE) == 11


def test_frames_do_not_depend_on_what_was_asked_before(street):
    # 3000 is far enough to drop the chunks around 40 from the cache.
    first = street.frame(40)
    street.frame(3000)
    again, fresh = street.frame(40), Street(seed=3).frame(40)
    for other in (again, fresh):
        np.testing.assert_array_equal(first[0], other[0])
        np.testing.assert_array_equal(first[1], other[1])


def test_seeds_and_times_give_different_scenes(street):
    labels = street.frame(10)[1]
    assert (labels != Street(seed=4).frame(10)[1]).mean() > 0.1
    assert (labels != street.frame(900)[1]).mean() > 0.1


def test_every_class_appears_at_about_its_rate():
    counts = np.zeros(11)
    for seed in range(14):
        street = Street(seed, (120, 160))
        for t in (0, 40, 900):
            counts += np.bincount(street.frame(t)[1].ravel(), minlength=11)
    share = dict(zip(CLASSES, counts / counts.sum(), strict=True))  # fails on an id above 10
    bounds = {
        "road": (0.22, 0.42),
        "building": (0.12, 0.35),
        "sky": (0.1, 0.3),
        "tree": (0.05, 0.2),
        "car": (0.02, 0.12),
        "pavement": (0.02, 0.12),
    }
    for name, value in share.items():
        low, high = bounds.get(name, (0.001, 0.04))
        assert low < value < high, (name, value)


def test_road_is_below_and_sky_above_the_horizon():
    for seed in range(6):
        street = Street(seed, (120, 160))
        _, labels = street.frame(100)
        horizon = round(street.horizon * 120)
        assert not (labels[horizon + 3 :] == CLASSES.index("sky")).any()
        assert not (labels[: horizon - 3] == CLASSES.index("road")).any()
        assert not (labels[: horizon - 3] == CLASSES.index("pavement")).any()


def test_labels_change_little_between_frames():
    for seed in range(4):
        street = Street(seed, (180, 240))
        labels = [street.frame(t)[1] for t in range(200, 216)]
        changes = [(a != b).mean() for a, b in pairwise(labels)]
        assert 0 < np.median(changes) < 0.08, (seed, changes)
        # Nothing appears or vanishes at once: the worst step is like its neighbours.
        assert max(changes) < 2.5 * np.median(changes), (seed, changes)


def test_ground_texture_moves_with_the_ground():
    """The next frame's road, brought back by the plane's homography, is this frame's road."""
    street = Street(seed=7, size=(360, 480))
    street.noise[:] = 0
    street.wobble[:] = 0
    street.bend_size[:] = 0
    (rgb0, labels0), (rgb1, labels1) = street.frame(300), street.frame(301)
    step = street.travelled(301 / 30) - street.travelled(300 / 30)
    horizon, reach = street.horizon * 360, street.focal * street.camera_height
    v, u = np.mgrid[:360, :480].astype(np.float32)
    z = reach / np.maximum(v - horizon, 1e-3)
    scale = z / np.maximum(z - step, 1e-3)
    x1, y1 = 239.5 + (u - 239.5) * scale, horizon + (v - horizon) * scale
    x1, y1 = x1.astype(np.float32), y1.astype(np.float32)
    back = cv2.remap(rgb1, x1, y1, cv2.INTER_LINEAR).astype(int)
    label_back = cv2.remap(labels1, x1, y1, cv2.INTER_NEAREST)
    road = CLASSES.index("road")
    here = (labels0 == road) & (label_back == road) & (v > horizon + 40) & (x1 > 1) & (x1 < 478) & (y1 < 358)
    assert here.sum() > 10000
    moved = np.abs(back - rgb0).mean(-1)[here].mean()
    still = np.abs(rgb1.astype(int) - rgb0).mean(-1)[here].mean()
    assert moved < 0.6 * still, (moved, still)


def test_sizes_show_the_same_scene():
    for seed in range(3):
        _, small = Street(seed, (180, 240)).frame(150)
        _, large = Street(seed, (720, 960)).frame(150)
        # Pixel centres: every fourth pixel, from the second.
        assert (large[2::4, 2::4] == small).mean() > 0.95, seed


def test_wide_pictures_and_late_frames():
    rgb, labels = Street(1, (256, 512)).frame(20000)
    assert rgb.shape == (256, 512, 3) and labels.max() <= 10
    assert (labels == CLASSES.index("road")).mean() > 0.1


def test_colours_follow_the_labels():
    """A label border is a colour border: the gradient is stronger there than elsewhere."""
    rgb, labels = Street(5).frame(60)
    edges = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    steep = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(float)
    assert steep[edges].mean() > 3 * steep[~edges].mean()


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"size": (0, 480)}, {"fps": 0}])
def test_arguments_are_checked(wrong):
    with pytest.raises(ValueError, match="expected"):
        Street(**wrong)


def test_frame_number_is_checked(street):
    with pytest.raises(ValueError, match=">= 0"):
        street.frame(-1)
