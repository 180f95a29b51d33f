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


@pytest.mark.parametrize("late", [0.05, 0.1])
@pytest.mark.parametrize("rate", [15, 30, 60])
def test_a_camera_that_is_late_and_catches_up_lost_nothing(rate, late, rng):
    """A busy machine: stamps slip by up to a period, the next ones follow closely."""
    stamps, last = [], 0.0
    for due in 10 + np.arange(1500) / rate:
        slip = rng.uniform(0.3, 1) / rate if rng.random() < late else 0.0
        last = max(last + 0.002, due + slip)
        stamps.append(last)
    rhythm = feed(np.array(stamps))
    assert rhythm.lost <= 0.01 * len(stamps), rhythm.period


@pytest.mark.parametrize("late", [0.05, 0.1])
def test_what_a_late_camera_lost_is_still_counted(late, rng):
    due = 10 + np.flatnonzero(rng.random(1500) > 0.4) / 30
    slip = np.where(rng.random(len(due)) < late, rng.uniform(0, 0.03, len(due)), 0)
    rhythm = feed(np.maximum.accumulate(due + slip) + np.arange(len(due)) * 1e-6)
    assert rhythm.lost == pytest.approx(1500 - len(due), rel=0.15)
