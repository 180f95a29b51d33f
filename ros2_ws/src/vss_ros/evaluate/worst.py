"""The frames of a run that are worth a picture: the worst by each figure, and some spread over the whole input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.data.figures import figure
from vss_ros.media.draw import colorize, jpeg

WORST = ("motion_label_change", "label_drift", "mIoU", "differs_in_force")
"""Figures whose worst frames are drawn."""
PER_FIGURE, SPREAD, APART = 6, 12, 15
"""Pictures of each figure, least number of those spread over the input, frames between two of one figure."""
PICTURE_WIDTH = 224
DRAWN = 4
"""Worst frames of a data set that are drawn."""


class Pictures:
    """JPEG pictures of the frames worth looking at, chosen while they pass."""

    def __init__(self) -> None:
        self.worst: dict[str, dict[int, tuple[float, bytes]]] = {name: {} for name in WORST}
        self.spread: dict[int, bytes] = {}
        self.step = 1

    def offer(self, index: int, figures: dict[str, float], draw: Callable[[], bytes]) -> None:
        if index % self.step == 0:
            self.spread[index] = draw()
            if len(self.spread) == 2 * SPREAD:
                self.step *= 2
                self.spread = {i: jpeg for i, jpeg in self.spread.items() if i % self.step == 0}
        for name in WORST:
            sign = figure(name).worse
            bad = sign * figures.get(name, 0.0)
            if name not in figures or (sign > 0 and bad == 0):
                continue  # of a stream that keeps every label, no moment is a bad one
            kept = self.worst[name]
            near = [i for i in kept if index - i < APART]
            rivals = near or (list(kept) if len(kept) == PER_FIGURE else [])
            mildest = min(rivals, key=lambda i: kept[i][0], default=-1)
            if mildest < 0 or bad > kept[mildest][0]:
                kept.pop(mildest, None)
                kept[index] = (bad, draw())

    def listing(self) -> list[dict[str, Any]]:
        """[{index, worst: names of the figures it is among the worst of}] in order of index."""
        indices = set(self.spread).union(*self.worst.values())
        return [
            {"index": i, "worst": [name for name, kept in self.worst.items() if i in kept]}
            for i in sorted(indices)
        ]

    def write(self, folder: Path) -> None:
        folder.mkdir()
        for kept in self.worst.values():
            for index, (_, picture) in kept.items():
                (folder / f"{index:06}.jpg").write_bytes(picture)
        for index, picture in self.spread.items():
            (folder / f"{index:06}.jpg").write_bytes(picture)


def strip(
    rgb: np.ndarray,
    shown: np.ndarray,
    labels: np.ndarray,
    before: np.ndarray | None,
    truth: np.ndarray | None = None,
) -> bytes:
    """JPEG of camera, overlay, the truth where it is given, and, in white, the pixels that `before` has otherwise.

    shown, truth: (H, W, 3) uint8, drawn by `overlay`.
    """
    changed = np.zeros(labels.shape, np.uint8)
    if before is not None:
        changed = np.where(before != labels, 255, 0).astype(np.uint8)
    size = (PICTURE_WIDTH, max(1, round(PICTURE_WIDTH * rgb.shape[0] / rgb.shape[1])))
    parts = [rgb, shown, *([] if truth is None else [truth]), cv2.cvtColor(changed, cv2.COLOR_GRAY2RGB)]
    row = np.hstack([cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in parts])
    return jpeg(row, 70)


@dataclass
class Answer:
    score: float
    title: str
    frame: Any
    labels: np.ndarray


def keep_worst(worst: list[Answer] | None, answer: Answer) -> None:
    if worst is not None and answer.score == answer.score:
        worst.append(answer)
        worst.sort(key=lambda a: a.score)
        del worst[DRAWN:]


def draw(answers: list[Answer], palette: Any) -> np.ndarray:
    """A picture with a row an answer: image, truth, labels; black where there is no truth."""
    rows = []
    for answer in answers:
        image, truth, _ = answer.frame
        masked = np.where(truth < len(palette), answer.labels, 255).astype(np.uint8)
        row = np.hstack([image, colorize(truth, palette), colorize(masked, palette)])
        text = f"{answer.title}: mIoU {100 * answer.score:.1f} %"
        cv2.putText(row, text, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 2, cv2.LINE_AA)
        rows.append(row)
    width = min(row.shape[1] for row in rows)
    return np.vstack([cv2.resize(row, (width, row.shape[0] * width // row.shape[1])) for row in rows])
