"""A camera's rhythm, and the images that never came, by the stamps of those that did."""

from __future__ import annotations

import numpy as np
import pytest
from vss_ros.nodes.segment.health import Rhythm


def feed(stamps, step=15):
    rhythm = Rhythm()
    for first in range(0, len(stamps), step):
        rhythm.take(list(stamps[first : first + step]))
    return rhythm


@pytest.mark.parametrize(
    ("rate", "share"), [(5, 0.1), (5, 0.6), (30, 0.0), (30, 0.1), (30, 0.6), (30, 0.9), (120, 0.9)]
)
def test_lost_images_are_counted_at_any_rate(rate, share, rng):
    kept = np.flatnonzero(rng.random(1500) >= share)
    rhythm = feed(100 + kept / rate + rng.normal(0, 0.02 / rate, len(kept)))
    assert 1 / rhythm.period == pytest.approx(rate, rel=0.06)
    assert rhythm.lost == pytest.approx(1500 - len(kept), rel=0.05, abs=5)


def test_a_pause_is_no_loss_and_neither_is_a_clock_that_jumps_back():
    stamps = [*np.arange(100) / 30, *(60 + np.arange(100) / 30), *np.arange(100) / 30]
    assert feed(stamps).lost == 0


def test_a_camera_that_changes_its_rate_is_believed_after_a_while():
    stamps = np.concatenate([np.arange(200) / 30, 200 / 30 + np.arange(300) / 15])
    rhythm = feed(stamps)
    assert 1 / rhythm.period == pytest.approx(15, rel=0.05)


def test_without_regular_stamps_nothing_is_claimed(rng):
    assert feed(np.cumsum(rng.exponential(0.1, 300))).period is None
    assert feed([]).period is None and feed([1.0, 1.0, 1.0]).lost == 0
