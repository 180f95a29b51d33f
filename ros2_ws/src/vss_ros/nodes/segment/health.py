"""What happened to one camera's frames: counters since activation, and of the last second."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PAUSE = 2.0
"""Seconds between two stamps above which the camera paused, rather than that frames were lost."""


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
    """A camera's period, and how many of its frames never came, by the stamps of those that did."""

    def __init__(self) -> None:
        self.deltas: deque[float] = deque(maxlen=300)
        self.last: float | None = None
        self.period: float | None = None
        """Seconds; None while too few images came, or if they keep no time."""
        self.lost = 0

    @property
    def seconds(self) -> float:
        """Of the stamps that the period is estimated from."""
        return sum(self.deltas)

    def take(self, stamps: list[float]) -> int:
        """The frames lost among those received since the last call."""
        ends = [*([] if self.last is None else [self.last]), *stamps]
        self.last = ends[-1] if ends else None
        deltas = [float(delta) for delta in np.diff(ends) if 0 < delta < PAUSE]
        self.deltas.extend(deltas)
        if self.period is None:
            deltas = list(self.deltas)  # none of them is counted yet
        self.period = self.estimate()
        if self.period is None:
            return 0
        # a late stamp is followed by a short time, which makes up for the long one before it
        lost = max(sum(round(delta / self.period) - 1 for delta in deltas), 0)
        self.lost += lost
        return lost

    def estimate(self) -> float | None:
        """The shortest of the usual times between two frames that most others are about a multiple of.

        Usual: alike 60 % as many others as the most usual one. The short times after a late frame are not.
        """
        if len(self.deltas) < 10:
            return None
        deltas = np.array(self.deltas)
        alike = np.sum(np.abs(deltas[:, None] / deltas - 1) < 0.06, axis=0)
        tried = 0.0
        for candidate in np.sort(deltas[alike >= 0.6 * alike.max()]):
            if candidate < 1.06 * tried:
                continue
            tried = float(candidate)
            short = deltas[deltas < 4.5 * tried]  # their multiples are certain, and refine it
            period = float(short.sum() / max(np.round(short / tried).sum(), 1))
            ratios = deltas / period
            regular = np.abs(ratios - np.round(ratios)) < 0.3
            # of frames lost at random this share has both neighbours at most 4 periods apart
            expected = 1 - (1 - 1 / max(ratios.mean(), 1)) ** 4
            if regular.mean() > 0.8 and np.mean(ratios < 4.5) > 0.6 * expected and np.median(ratios) < 30:
                return period
        return None


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
