"""What happened to one camera's frames: counters since activation, and of the last second."""

from __future__ import annotations

import time
from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PAUSE = 2.0
"""Seconds between two stamps above which the camera paused, rather than that frames were lost."""
ALIKE = 0.06
"""By how much two times differ, relatively, that are one rhythm."""
STRAGGLE = 0.5
"""Seconds between a stamp and an earlier one of a later image above which the clock was set back."""
OVERTAKEN = 4
"""Images by which another may be overtaken on its way."""
HELD = 40
"""Newest images that are not counted yet: a camera that gets slower is told by these from images that are lost."""
EVEN = 0.1
"""Share of the variance that losses by chance bring, below which the camera itself left the frames out."""


@dataclass
class Answer:
    """What an answered frame leaves for the report. latency: milliseconds from its stamp, None without stamps."""

    is_keyframe: bool
    spent: float
    """Milliseconds of the network."""
    latency: float | None
    figures: dict[str, Any]


@dataclass
class Window:
    """What happened since the last report."""

    since: float = field(default_factory=time.monotonic)
    stamps: list[float] = field(default_factory=list)
    """Of the images received, in seconds."""
    answers: list[Answer] = field(default_factory=list)
    dropped: int = 0
    problems: list[str] = field(default_factory=list)
    """Why images were unusable, each reason once."""
    failure: str = ""
    """The last exception of the network."""


class Rhythm:
    """A camera's period, and how many of its frames never came, by the stamps of those that did.

    Stamps may be late, and images may overtake each other: they are looked at in the order of their stamps, the
    newest few once others have come. A loop follows the camera's phase, slot by slot; slots less images are lost.
    """

    def __init__(self) -> None:
        self.deltas: deque[float] = deque(maxlen=400)
        """Seconds from one stamp to the next."""
        self.spans: deque[float] = deque(maxlen=3 * 400)
        """Seconds from a stamp to each of the three before it."""
        self.newest: list[float] = []
        """Stamps in their order that others may still fall between."""
        self.settled: deque[float] = deque(maxlen=400)
        """Stamps in their order that are not counted yet."""
        self.before: deque[float] = deque(maxlen=3)
        self.finest: float | None = None
        """The longest time that the times between images are multiples of, as estimated last."""
        self.slot: float | None = None
        """When the camera's newest frame was due, of those counted."""
        self.period: float | None = None
        """Seconds; None while too few images came, or if they keep no time."""
        self.balance = self.highest = 0
        """Slots less images since the period is known; its highest so far, of which all is in `lost`."""
        self.lost = 0

    @property
    def seconds(self) -> float:
        """Of the stamps that the period is estimated from."""
        return sum(self.deltas)

    def take(self, stamps: list[float]) -> int:
        """The frames found lost since the last call."""
        for stamp in stamps:
            self.settle(stamp)
        before, self.period = self.period, self.own(self.estimate())
        if self.period is None:
            self.slot = None
            return 0
        if before is None or abs(self.period / before - 1) > ALIKE:
            self.slot, self.highest = None, self.balance  # what was counted by another rhythm stays
        while len(self.settled) > HELD:
            self.count(self.settled.popleft(), self.period)
        lost = max(self.balance - self.highest, 0)
        self.highest += lost
        self.lost += lost
        return lost

    def settle(self, stamp: float) -> None:
        """Take a stamp in; those that no other is expected before any more are settled."""
        last = self.before[-1] if self.before else stamp
        # a pause, or a clock that was set
        if not last - STRAGGLE < stamp < (self.newest or [last])[-1] + PAUSE:
            self.settled.extend(self.newest)
            self.newest = []
            self.before.clear()
        elif stamp < last:  # a straggler: its frame is not lost after all
            self.balance -= 1
            return
        if stamp in self.newest or stamp in self.before:
            return
        insort(self.newest, stamp)
        if len(self.newest) <= OVERTAKEN:
            return
        first = self.newest.pop(0)
        self.settled.append(first)
        if self.before:
            self.deltas.append(first - self.before[-1])
            self.spans.extend(first - other for other in self.before)
        self.before.append(first)

    def count(self, stamp: float, period: float) -> None:
        """Follow the camera's phase to the slot next to a stamp."""
        if self.slot is None or not -PAUSE < stamp - self.slot < PAUSE:
            self.slot = stamp
            return
        slots = round((stamp - self.slot) / period)
        late = (stamp - self.slot) / period - slots
        self.balance += slots - 1
        self.slot += (slots + 0.5 * late) * period

    def estimate(self) -> float | None:
        """The longest usual time between two frames whose multiples the spans are, about as well as of any.

        Usual: alike 40 % as many others as the most usual one. A share of late stamps takes its square from the fit,
        a fifth leaves two thirds; what has no rhythm fits by chance, the worse the more there is of it.
        """
        if len(self.deltas) < 10:
            return None
        deltas, spans = np.sort(self.deltas), np.array(self.spans)
        above, below = deltas * (1 + ALIKE), deltas * (1 - ALIKE)
        alike = np.searchsorted(deltas, above) - np.searchsorted(deltas, below, side="right")
        found: list[tuple[float, float]] = []
        tried = np.inf
        for usual in deltas[alike >= 0.4 * alike.max()][::-1]:
            if usual < tried / (1 + ALIKE):
                tried = usual
                found.append(fit(float(usual), spans))
        best, _ = max(found)
        chance = 1 / np.sqrt(len(deltas))
        if best >= 0.25 + chance:
            self.finest = max(period for score, period in found if score >= 0.65 * best)
        elif self.finest:  # what was found stays while it fits a little, so that it does not come and go
            score, period = fit(self.finest, spans)
            usual = np.sum(np.abs(deltas / self.finest - 1) < ALIKE) >= 0.4 * alike.max()
            self.finest = period if usual and score >= 0.05 + chance else None
        return self.finest

    def own(self, period: float | None) -> float | None:
        """The period, or the mean time between two images where they come more evenly than losses by chance leave them.

        If a share p is lost, the time from an image to the m-th after it varies by m p / (1 - p)^2 squared periods.
        Of a camera that got slower, that sends several at once, or of two in turn, it does not, for some m.
        """
        recent = np.array(self.deltas)[-HELD:]
        if period is None or (share := 1 - period / float(recent.mean())) < 0.02:
            return period
        ends = np.concatenate([[0.0], np.cumsum(recent)])
        by_chance = share / (1 - share) ** 2 * period**2
        even = any(np.var(ends[m:] - ends[:-m]) < EVEN * m * by_chance for m in range(1, 9))
        return float(recent.mean()) if even else period


def fit(period: float, spans: np.ndarray) -> tuple[float, float]:
    """How well times are multiples of a period, at most 1, and that period refined, at first by the shortest."""
    for reach in (4.5, 12.0, 30.0):
        ratios = spans[(spans > 0.5 * period) & (spans < reach * period)] / period
        multiples = np.round(ratios)
        near = np.abs(ratios - multiples) < 0.2
        if near.any():
            period *= float(ratios[near].sum() / multiples[near].sum())
    ratios = spans[(spans > 0.4 * period) & (spans < 30 * period)] / period
    return float(np.cos(2 * np.pi * ratios).sum() / len(spans)), period


@dataclass
class Health:
    """Counters since activation, and the window; the callback and the worker write, the timer reads."""

    received: int = 0
    processed: int = 0
    dropped: int = 0
    unusable: int = 0
    failed: int = 0
    unpublished: int = 0
    resets: int = 0
    encoding: str = ""
    size: tuple[int, int] = (0, 0)
    last_image: float = field(default_factory=time.monotonic)
    waiting: float | None = None
    """When the first image came that is not answered yet."""
    silence: str = ""
    """Why no image comes."""
    backend: str = ""
    """The runtime and the arithmetic that answer, which need not be those of the options."""
    fallback: str = ""
    """Why another backend answers than the one that is configured."""
    hang: float = 0.0
    """Seconds that the worker has been inside this camera's present frame."""
    schedule: str = ""
    schedule_reason: str = ""
    """Why schedule auto chose it."""
    rhythm: Rhythm = field(default_factory=Rhythm)
    window: Window = field(default_factory=Window)

    def refused(self, reason: str) -> None:
        self.unusable += 1
        self.waiting = None
        if reason not in self.window.problems:
            self.window.problems.append(reason)

    def next_window(self) -> Window:
        """The window that ends now."""
        ended, self.window = self.window, Window()
        return ended
