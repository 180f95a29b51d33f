"""Rendered streets as a data set with splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from vss_ros.config import VssError
from vss_ros.data.clips import Clip, Video
from vss_ros.data.street.street import CLASSES, PALETTE, Street

# first seed, seeds, frames a seed; training takes one clip a seed, wherever on the street
STREET_SPLITS = {"train": (0, 4800, 1), "val": (200_000, 6, 30), "test": (300_000, 10, 30)}


class Streets:
    """Rendered street scenes (`street.Street`): each seed is a video with exact labels for every frame.

    Splits are ranges of seeds: train 4800 seeds of one clip each, val 6 and test 10 seeds of 30 frames.
    """

    horizon = 600  # frames of a street that training picks from

    def __init__(self, split: str, size: tuple[int, int]):
        if split not in STREET_SPLITS:
            raise VssError(f"street: expected a split of {', '.join(STREET_SPLITS)}, got {split!r}")
        self.name = f"street {split}"
        self.classes, self.palette, self.fps = list(CLASSES), PALETTE, 30.0
        self.size, self.source = size, f"{size}"
        self.first, self.seeds, self.length = STREET_SPLITS[split]

    def __len__(self) -> int:
        return self.seeds * self.length

    def clip(self, i: int, offsets: Sequence[int] = (0,)) -> Clip:
        """Frames at `offsets` from the i-th one, clamped to its video (in training: to the street's first frame)."""
        seed, t, last = self.first + i // self.length, i % self.length, self.length - 1
        if self.length == 1:
            t, last = seed * 7919 % self.horizon, 2 * self.horizon
        street = make_street(seed, self.size, self.fps)
        pairs = [street.frame(min(max(t + offset, 0), last)) for offset in offsets]
        labelled = list(offsets).index(0) if 0 in offsets else 0
        return Clip([p[0] for p in pairs], [p[1] for p in pairs], labelled, f"street:{seed}", t)

    def videos(self) -> Iterator[Video]:
        moves = self.length > 1
        for i in range(self.seeds):
            seed, targets = self.first + i, range(i * self.length, (i + 1) * self.length)
            yield Video(f"street:{seed}", self.video(seed), targets, moves, moves)

    def video(self, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
        street = Street(seed=seed, size=self.size, fps=self.fps)
        for t in range(self.length):
            image, labels = street.frame(t)
            yield image, labels, t / self.fps


@lru_cache(maxsize=2)
def make_street(seed: int, size: tuple[int, int], fps: float) -> Street:
    """Streets are asked for frame by frame, and the first frame costs most."""
    return Street(seed=seed, size=size, fps=fps)
