"""A camera's rhythm, and the images that never came, by the stamps of those that did."""

from __future__ import annotations

import numpy as np
import pytest
from vss_ros.nodes.segment.health import HELD, OVERTAKEN, Rhythm

NEWEST = HELD + OVERTAKEN
"""Images that are not counted yet when a stream ends."""


def feed(stamps, step=15):
    """rhythm.worst: the greatest share said to be lost among the images of one report."""
    rhythm = Rhythm()
    rhythm.worst = 0.0
    for first in range(0, len(stamps), step):
        stamped = list(stamps[first : first + step])
        lost = rhythm.take(stamped)
        rhythm.worst = max(rhythm.worst, lost / (lost + len(stamped)))
    return rhythm


def missing(kept):
    """Of the frames numbered in `kept`, those that lack before its newest ones."""
    return kept[-NEWEST] + 1 - (len(kept) - NEWEST)


@pytest.mark.parametrize(
    ("rate", "share"), [(5, 0.1), (5, 0.6), (30, 0.0), (30, 0.1), (30, 0.6), (30, 0.9), (120, 0.9)]
)
def test_lost_images_are_counted_at_any_rate(rate, share, rng):
    kept = np.flatnonzero(rng.random(1500) >= share)
    rhythm = feed(100 + kept / rate + rng.normal(0, 0.02 / rate, len(kept)))
    assert 1 / rhythm.period == pytest.approx(rate, rel=0.06)
    assert rhythm.lost == pytest.approx(missing(kept), rel=0.05, abs=5)


def test_a_pause_is_no_loss_and_neither_is_a_clock_that_jumps_back():
    stamps = [*np.arange(100) / 30, *(60 + np.arange(100) / 30), *np.arange(100) / 30]
    assert feed(stamps).lost == 0


@pytest.mark.parametrize(("before", "after"), [(30, 15), (15, 30), (30, 20), (20, 30), (30, 25), (10, 60)])
@pytest.mark.parametrize("late", [0, 0.2])
def test_a_camera_that_changes_its_rate_loses_nothing(before, after, late, rng):
    """As at night, for longer exposures."""
    due = np.concatenate([np.arange(300) / before, 300 / before + np.arange(450) / after])
    slip = np.where(rng.random(len(due)) < late, rng.uniform(0.3, 1, len(due)) / max(before, after), 0)
    rhythm = feed(np.sort(due + slip))
    assert 1 / rhythm.period == pytest.approx(after, rel=0.02)
    assert rhythm.lost <= 20 and rhythm.worst < 0.45


def blocked(frames, rng):
    """A driver that is stopped now and then for `frames` frames, and then stamps all that waited."""
    stamps, now = [], 0.0
    for due in np.arange(1500) / 30:
        now = max(now + 0.002, due + (frames / 30 if rng.random() < 0.02 else 0))
        stamps.append(now)
    return stamps


REGULAR = np.arange(1500) / 30
HEALTHY = {
    "five images at once": lambda rng: np.repeat(REGULAR[::5], 5) + np.tile(np.arange(5) * 0.001, 300),
    "24 Hz out of 60": lambda rng: np.cumsum(np.tile([2, 3], 750)) / 60,
    "every second frame, as told to": lambda rng: REGULAR[::2],
    "two of 30 Hz on one topic": lambda rng: np.sort(np.concatenate([REGULAR, REGULAR + 0.011])),
    "30 and 10.3 Hz on one topic": lambda rng: np.sort(np.concatenate([REGULAR, np.arange(500) / 10.3])),
    "stamps of 10 ms": lambda rng: np.floor(REGULAR * 100) / 100,
    "stamps of 1 ms": lambda rng: np.floor(REGULAR * 1000) / 1000,
    "exposures that grow": lambda rng: np.cumsum(1 / np.linspace(30, 22, 1500)),
    "stopped for five frames at times": lambda rng: blocked(5, rng),
    "stopped for nine frames at times": lambda rng: blocked(9, rng),
    "a tenth sent twice": lambda rng: np.sort(np.concatenate([REGULAR, REGULAR[rng.random(1500) < 0.1]])),
    "periods that vary by 30 %": lambda rng: np.cumsum(np.maximum(1 + rng.normal(0, 0.3, 1500), 0.1)) / 30,
    "stamps off by 30 %": lambda rng: np.sort(REGULAR + rng.normal(0, 0.01, 1500)),
}


@pytest.mark.parametrize("camera", HEALTHY)
def test_no_healthy_camera_loses_images(camera, rng):
    rhythm = feed(100 + np.asarray(HEALTHY[camera](rng)))
    assert rhythm.lost <= 0.01 * 1500 and rhythm.worst < 0.3


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


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("loss", [0, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("late", [0.05, 0.2, 0.33])
@pytest.mark.parametrize("arrival", ARRIVALS)
def test_what_is_late_is_not_lost_and_what_is_lost_is_counted(arrival, late, loss, seed):
    rng, rate = np.random.default_rng(seed), (15, 30, 60)[seed]
    longest, arrive = ARRIVALS[arrival]
    kept = np.flatnonzero(rng.random(1500) >= loss)
    slip = np.where(rng.random(len(kept)) < late, rng.uniform(0.3, longest, len(kept)), 0) / rate
    rhythm = feed(arrive(100 + kept / rate + rng.normal(0, 0.02 / rate, len(kept)), slip, rng))
    assert rhythm.lost <= 1.15 * missing(kept) + 0.02 * 1500 and (loss or rhythm.worst < 0.3)
    if late * longest < 0.7:  # else most are late, since what waits is late, too
        assert rhythm.lost == pytest.approx(missing(kept), rel=0.15, abs=0.02 * 1500)


@pytest.mark.parametrize("jitter", [0.05, 0.1])
def test_periods_that_vary_lose_nothing(jitter, rng):
    """As of exposures, or of a driver that waits for a time after each image."""
    rhythm = feed(10 + np.cumsum(1 + rng.normal(0, jitter, 1500)) / 30)
    assert 1 / rhythm.period == pytest.approx(30, rel=0.05) and rhythm.lost <= 15


def test_bursts_of_losses_are_counted(rng):
    kept = np.arange(1500) % 50 >= 7
    rhythm = feed(10 + np.flatnonzero(kept) / 30 + rng.normal(0, 0.001, kept.sum()))
    assert rhythm.lost == pytest.approx(missing(np.flatnonzero(kept)), rel=0.1)


def test_an_image_that_comes_twice_or_late_by_many_is_no_loss():
    stamps = np.arange(600) / 30
    assert feed(np.repeat(stamps, 2)).lost == 0
    late = np.concatenate([np.delete(stamps[:300], 150), [stamps[150]], stamps[300:]])
    rhythm = feed(late)
    assert rhythm.lost <= 1 and 1 / rhythm.period == pytest.approx(30)
