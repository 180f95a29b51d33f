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


@pytest.mark.parametrize(("before", "after"), [(30, 15), (15, 30), (30, 20), (20, 30), (30, 25), (10, 60)])
@pytest.mark.parametrize("late", [0, 0.2])
def test_a_camera_that_changes_its_rate_is_believed_after_a_while(before, after, late, rng):
    due = np.concatenate([np.arange(300) / before, 300 / before + np.arange(450) / after])
    slip = np.where(rng.random(len(due)) < late, rng.uniform(0.3, 1, len(due)) / max(before, after), 0)
    rhythm = feed(np.sort(due + slip))
    assert 1 / rhythm.period == pytest.approx(after, rel=0.02)
    # images that come more slowly than they did are lost, until that is believed
    assert rhythm.lost <= (10 if after > before else 160)


def test_without_regular_stamps_nothing_is_claimed(rng):
    assert feed(np.cumsum(rng.exponential(0.1, 300))).period is None
    assert feed([]).period is None and feed([1.0, 1.0, 1.0]).lost == 0


def queued(due, slip, rng):
    """A busy driver: what was waiting follows a late image closely."""
    stamps, last = [], 0.0
    for stamp in due + slip:
        last = max(last + rng.uniform(0.0015, 0.0025), stamp)
        stamps.append(last)
    return np.array(stamps)


ARRIVALS = {
    "catches up within a period": (1.0, queued),
    "catches up after two and a half": (2.5, queued),
    "is stamped late, one by one": (1.0, lambda due, slip, rng: due + slip),
    "is stamped in time and overtaken": (2.5, lambda due, slip, rng: due[np.argsort(due + slip)]),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss", [0, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("late", [0.05, 0.2])
@pytest.mark.parametrize("arrival", ARRIVALS)
def test_what_is_late_is_not_lost_and_what_is_lost_is_counted(arrival, late, loss, seed):
    rng, rate = np.random.default_rng(seed), (15, 30, 60)[seed]
    longest, arrive = ARRIVALS[arrival]
    kept = np.flatnonzero(rng.random(1500) >= loss)
    slip = np.where(rng.random(len(kept)) < late, rng.uniform(0.3, longest, len(kept)), 0) / rate
    rhythm = feed(arrive(100 + kept / rate + rng.normal(0, 0.02 / rate, len(kept)), slip, rng))
    assert rhythm.lost == pytest.approx(1500 - len(kept), rel=0.15, abs=0.02 * 1500)


@pytest.mark.parametrize("jitter", [0.05, 0.1])
def test_periods_that_vary_lose_nothing(jitter, rng):
    """As of exposures, or of a driver that waits for a time after each image."""
    rhythm = feed(10 + np.cumsum(1 + rng.normal(0, jitter, 1500)) / 30)
    assert 1 / rhythm.period == pytest.approx(30, rel=0.05) and rhythm.lost <= 15


def test_bursts_of_losses_are_counted(rng):
    kept = np.arange(1500) % 50 >= 7
    rhythm = feed(10 + np.flatnonzero(kept) / 30 + rng.normal(0, 0.001, kept.sum()))
    assert rhythm.lost == pytest.approx(1500 - kept.sum(), rel=0.1)


def test_an_image_that_comes_twice_or_late_by_many_is_no_loss():
    stamps = np.arange(600) / 30
    assert feed(np.repeat(stamps, 2)).lost == 0
    late = np.concatenate([np.delete(stamps[:300], 150), [stamps[150]], stamps[300:]])
    rhythm = feed(late)
    assert rhythm.lost <= 1 and 1 / rhythm.period == pytest.approx(30)
