"""Consistency figures against synthetic sequences whose answers are known."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from vss_ros.config import IGNORE
from vss_ros.data import metrics
from vss_ros.data.figures import FRAME
from vss_ros.media.motion import Motion
from vss_ros.stream.consistency import RING, Consistency

CLASSES = ("road", "car", "sky")


def result(labels, age=0, reset="", **others):
    """A stream's answer with nothing but labels and keyframe."""
    known = {
        "network_age_ms": 0.0,
        "label_drift": 0.0,
        "input_drift": None,
        "feature_drift": None,
        "step": None,
    }
    return SimpleNamespace(
        labels=labels,
        is_keyframe=age == 0,
        keyframe_age=age,
        keyframe_age_ms=40.0 * age,
        reset=reset,
        times={},
        **{**known, **others},
    )


def measure(maps, interval=1, **options):
    meter = Consistency(CLASSES, **options)
    return [meter(result(labels, t % interval)) for t, labels in enumerate(maps)], meter


def plane(value=0, size=(10, 10)):
    return np.full(size, value, np.uint8)


def painted(*changes, size=(10, 10)):
    """A map of zeros with a value in the first `pixels` of some rows: (row, pixels, value)."""
    labels = plane(size=size)
    for row, pixels, value in changes:
        labels[row, :pixels] = value
    return labels


def test_label_change_counts_pixels_and_starts_with_the_second_frame():
    figures, _ = measure([plane(), painted((0, 7, 1)), painted((0, 7, 1), (1, 3, IGNORE)), plane(2)])
    assert "label_change" not in figures[0]
    assert [f["label_change"] for f in figures[1:]] == [0.07, 0.03, 1.0]


def test_flicker_counts_labels_that_come_back_after_one_frame():
    middle = painted((0, 10, 1))  # ten pixels leave ...
    last = painted((0, 4, 1), (5, 2, 2))  # ... six come back, four stay; two others change for the first time
    figures, _ = measure([plane(), middle, last, last])
    assert "flicker" not in figures[1]
    assert [f["flicker"] for f in figures[2:]] == [0.06, 0]


def test_window_consistency_equals_vc_when_the_truth_never_changes(rng):
    maps = [plane()]
    for _ in range(40):
        maps.append(
            np.where(rng.random((10, 10)) < 0.02, rng.integers(0, 3, (10, 10)), maps[-1]).astype(np.uint8)
        )
    figures, _ = measure(maps)
    for n in (8, 16):
        name = f"window_consistency_{n}"
        truth = [plane()] * len(maps)
        assert [f[name] for f in figures if name in f] == metrics.video_consistency(truth, maps, n, "paper")
        assert name not in figures[n - 2] and name in figures[n - 1]


def test_a_window_stays_broken_for_as_long_as_it_holds_the_change():
    figures, _ = measure([plane()] * 300 + [painted((0, 10, 1))] * 20)
    assert [f["window_consistency_8"] for f in figures[298:310]] == [1, 1, *[0.9] * 7, 1, 1, 1]
    assert [f["window_consistency_16"] for f in figures[300:318]] == [*[0.9] * 15, 1, 1, 1]


def test_areas_and_their_greatest_relative_jump():
    before = painted((0, 10, 1), (1, 10, 1), (2, 2, 2))
    after = painted((0, 10, 1), (1, 5, 1), (2, 8, 2))
    figures, _ = measure([before, after, plane()])
    assert figures[1]["area/car"] == pytest.approx(0.15) and figures[1]["area/road"] == pytest.approx(0.77)
    assert figures[1]["area_jump"] == pytest.approx(6 / 8) and figures[1]["area_jump_class"] == "sky"
    assert figures[2]["area_jump"] == 1, "a class that is gone"
    assert "area_jump" not in figures[0]


def test_a_class_of_a_few_pixels_has_no_area_jump():
    size = (40, 40)
    figures, _ = measure([painted((0, 3, 1), size=size), painted((0, 1, 1), size=size)])
    assert figures[1]["area_jump"] < 0.01 and figures[1]["area_jump_class"] == "road"


def test_refresh_jump_is_what_a_keyframe_changes_beyond_its_neighbours():
    rows = [0, 1, 2, 3, 9, 10, 11, 12]  # rows labelled so far: one more a frame, six more at frame 4
    figures, _ = measure([painted(*((r, 20, 1) for r in range(n)), size=(20, 20)) for n in rows], interval=4)
    assert [t for t, f in enumerate(figures) if "refresh_jump" in f] == [5]
    assert figures[5]["refresh_jump"] == pytest.approx(6 / 20 - 1 / 20)
    every, _ = measure([plane()] * 6, interval=1)
    assert not any("refresh_jump" in f for f in every), "no neighbour that is not a keyframe"


def test_flicker_map_counts_changes_of_the_last_16_frames():
    maps = [painted((0, 5, t % 2)) for t in range(12)] + [plane(0)] * 25
    meter = Consistency(CLASSES)
    counts = []
    for labels in maps:
        meter(result(labels))
        counts.append(int(meter.flicker_map[0, 0]))
        assert not meter.flicker_map[1:].any()
    changes = [0] + [int(a[0, 0] != b[0, 0]) for a, b in pairwise(maps)]
    assert counts == [sum(changes[max(0, t - RING + 1) : t + 1]) for t in range(len(maps))]
    assert max(counts) == 12 and counts[-1] == 0


def texture(rng, shift):
    """A picture that has moved `shift` pixels to the right, and its labels."""

    big = cv2.GaussianBlur(rng.integers(0, 256, (240, 400), dtype=np.uint8), (0, 0), 4)
    big = cv2.normalize(big, None, 0, 255, cv2.NORM_MINMAX)
    labels = (np.add.outer(np.arange(240) // 40, np.arange(400) // 40) % 3).astype(np.uint8)
    window = slice(40 - shift, 360 - shift)
    gray = np.ascontiguousarray(big[:, window])
    return cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB), np.ascontiguousarray(labels[:, window])


def test_motion_compensation_forgives_motion_and_nothing_else():
    meter, motion = Consistency(CLASSES), Motion((240, 320))
    for shift in (0, 4, 8):
        rgb, labels = texture(np.random.default_rng(1), shift)
        figures = meter(result(labels, step=motion.step(rgb)))
    assert figures["label_change"] == 0.1, "stripes of 40 pixels moved by 4"
    assert figures["motion_label_change"] < 0.03
    wrong = labels.copy()
    wrong[:60] = (wrong[:60] + 1) % 3  # a quarter of the picture changes where nothing moves
    figures = meter(result(wrong, step=motion.step(rgb)))
    assert figures["label_change"] == 0.25
    assert figures["motion_label_change"] == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (16, 300)])
def test_tiny_pictures_are_measured(size):
    meter, motion = Consistency(CLASSES), Motion(size)
    for shade in range(3):
        step = motion.step(np.full((*size, 3), shade, np.uint8))
        figures = meter(result(plane(size=size), step=step))
    assert figures["label_change"] == figures["flicker"] == figures["motion_label_change"] == 0


def test_it_forgets_when_the_stream_starts_anew_or_the_size_changes():
    meter = Consistency(CLASSES)
    for _ in range(10):
        meter(result(plane()))
    figures = meter(result(plane(1), reset="gap of 2 s"))
    assert "label_change" not in figures and not meter.flicker_map.any()
    meter(result(plane(1)))
    assert "label_change" not in meter(result(plane(size=(6, 8))))


def test_every_figure_is_described_and_numbers_are_numbers():
    meter, motion = Consistency(CLASSES), Motion((240, 320))
    rgb, labels = texture(np.random.default_rng(1), 0)
    seen = {}
    for t in range(20):
        seen |= meter(result(labels, t % 4, input_drift=0.1, feature_drift=0.2, step=motion.step(rgb)))
    expected = {name for name in FRAME if "<" not in name} | {f"area/{name}" for name in CLASSES}
    assert set(seen) == expected
    assert all(type(v) in (int, float) for name, v in seen.items() if name != "area_jump_class")
