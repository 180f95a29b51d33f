"""Logits → labels at the frame's size on the CPU, by OpenCV: 2–15 times faster than interpolate and argmax in torch;
and probabilities, which the filter along the motion draws towards those of the frame before.

Bilinear resizing follows the convention of torch's `align_corners=False`, which OpenCV shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from vss_ros.config import IGNORE
from vss_ros.media.motion import Step

ROWS = 32
"""Rows that are blended at a time, so that they stay in a core's cache."""
SHARPER = 0.25
"""Share of its distance from those around it that a cell's log probability moves away from them before it is
upsampled: moving and filtering blur. Plain probabilities instead, CamVid and rendered val, K = 1: −0.3 and −0.4 mIoU,
+0.1 and −0.0 VC_8, +0.2 and −0.3 TC; 0.5 of it: +0.3 and +0.0, −0.1 and −0.2, −0.3 and −0.4."""
LOG = np.round(200 * (1 - np.log(np.maximum(np.arange(256), 1) / 255) / np.log(1 / 255))).astype(np.uint8)
"""Log of a probability in 8 bits, in 8 bits, with room above for what is sharper."""
EXPONENT = 80.0
"""Logits of at most this size need no shift before the exponential: float32 holds e^±87."""


def labels(logits: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Class of the greatest upsampled logit, the first one of equals.

    logits: passes to be added, each (1, C, h, w) float32 or uint8; size: (height, width).
    Returns (height, width) uint8.
    """
    planes = total(logits)
    height, width = size
    out = np.zeros(size, np.uint8)
    best = cv2.resize(planes[0], (width, height), interpolation=cv2.INTER_LINEAR)
    plane = np.empty_like(best)
    greater = np.empty_like(out)
    for index in range(1, len(planes)):
        cv2.resize(planes[index], (width, height), dst=plane, interpolation=cv2.INTER_LINEAR)
        choose(index, plane, best, out, greater)
    return out


def choose(index: int, plane: np.ndarray, best: np.ndarray, out: np.ndarray, greater: np.ndarray) -> None:
    """Class `index` wherever its plane is above the best of those before it; all written in place, `greater` is room
    for (h, w) uint8."""
    cv2.compare(plane, best, cv2.CMP_GT, dst=greater)
    cv2.max(plane, best, dst=best)
    # `greater` is 0 or 255 and ids only grow, so this is out[greater] = index without a branch
    cv2.max(out, cv2.min(greater, index, dst=greater), dst=out)


def labels_of(probabilities: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The same of the logarithms, sharpened, of probabilities (h, w, C). A class can only be the greatest where it
    reaches 1/C: it is upsampled in the box around those cells alone, which takes half the time.

    In 8 bits, twice as fast as float32: a border between two classes moves by a fraction of a pixel at most. 255 where
    no class has any probability.
    """
    planes = cv2.split(cv2.convertScaleAbs(probabilities, alpha=255))
    (height, width), cells = size, probabilities.shape
    out, best = np.zeros((2, *size), np.uint8)
    room = np.empty((2, height * width), np.uint8)
    found = False
    for index, cell in enumerate(planes):
        x, y, across, down = cv2.boundingRect(cv2.compare(cell, 255 // len(planes), cv2.CMP_GE))
        if not across:
            continue
        found = True
        rows, top, bottom = around(y, y + down, cells[0], height)
        columns, left, right = around(x, x + across, cells[1], width)
        plane, greater = room[:, : (bottom - top) * (right - left)].reshape(2, bottom - top, right - left)
        sharp = sharpened(cv2.LUT(cell[rows, columns], LOG))
        cv2.resize(sharp, (right - left, bottom - top), dst=plane, interpolation=cv2.INTER_LINEAR)
        box = np.s_[top:bottom, left:right]
        choose(index, plane, best[box], out[box], greater)
    return out if found else np.full(size, IGNORE, np.uint8)


def around(first: int, end: int, cells: int, pixels: int) -> tuple[slice, int, int]:
    """Cells first … end − 1 and two on either side, since the next ones take part in upsampling and sharpening; and
    their pixels' first and end. Wider as far as that needs whole pixels, so that each lies where it does in the map."""
    step = cells // math.gcd(cells, pixels)
    low, high = max(0, first - 2) // step * step, min(cells, -(-(end + 2) // step) * step)
    return slice(low, high), low * pixels // cells, high * pixels // cells


def sharpened(plane: np.ndarray) -> np.ndarray:
    """Unsharp mask of (h, w) uint8."""
    return cv2.addWeighted(plane, 1 + SHARPER, cv2.GaussianBlur(plane, (3, 3), 0), -SHARPER, 0)


def confidence_of(
    probabilities: np.ndarray, size: tuple[int, int], seen: np.ndarray | None = None
) -> np.ndarray:
    """Greatest probability × 255, (height, width) uint8; seen: (h, w) in [0, 1] lowers it where it is less."""
    greatest = probabilities.max(2)
    return upsampled(greatest if seen is None else greatest * seen, size)


def confidence(logits: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Greatest softmax probability, computed at the logits' resolution, then upsampled: (height, width) uint8."""
    planes = total(logits) / len(logits)
    greatest = planes.max(0)
    probability = 1 / np.exp(planes - greatest).sum(0)
    return upsampled(probability, size)


def upsampled(probability: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) in [0, 1] → (height, width) uint8."""
    resized = cv2.resize(probability, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.round(resized * 255).astype(np.uint8)


def total(logits: Sequence[np.ndarray]) -> np.ndarray:
    return sum(logits[1:], logits[0])[0]


def probabilities(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Softmax of the mean of the passes, each (1, C, h, w) → (h, w, C) float32."""
    planes = logits[0][0] if len(logits) == 1 else np.mean([x[0] for x in logits], 0)
    classes, *size = planes.shape
    x = planes.reshape(classes, -1).astype(np.float32, copy=False)
    if not cv2.norm(x, cv2.NORM_INF) < EXPONENT:
        x = x - x.max(0)
    x = cv2.exp(x)
    x *= 1 / x.sum(0)
    return cv2.transpose(x).reshape(*size, classes)


def on_cells(values: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """Maps (h', w', C) on the motion's grid of cells (h, w)."""
    if values.shape[:2] == cells:
        return values
    if values.shape[0] <= cells[0]:
        return cv2.resize(values, cells[::-1]).reshape(*cells, -1)
    whole = values.shape[0] % cells[0] == values.shape[1] % cells[1] == 0
    # More than four planes at once OpenCV averages over whole cells only.
    parts = [values] if whole else cv2.split(values)
    return np.dstack([cv2.resize(part, cells[::-1], interpolation=cv2.INTER_AREA) for part in parts])


def steadied(
    soft: Callable[[], np.ndarray],
    plain: Callable[[], np.ndarray],
    cells: tuple[int, int],
    step: Step | None,
    moved: np.ndarray | None,
    strength: float,
    older: int,
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (height, width) uint8 at `size`, and the probabilities (h, w, C) on the cells that they are of.

    soft: computes the network's, (h', w', C); plain: its labels from upsampled logits, worth 0.2 mIoU more than from
    probabilities on the cells, where none came before; moved: those of the frame before, moved to this one
    by `step`, towards which they are drawn, see `blend`; strength: 0 leaves them as they are; older: 1 if this frame
    read an older keyframe than that before, which then counts more, −1 if it read a newer one: twice or half the odds.
    """
    values = on_cells(soft(), cells)
    if step is None or moved is None:
        return plain(), values
    if strength:
        odds = 2.0**older
        values = blend(values, moved, step.likeness, strength * odds / (1 - strength + strength * odds))
    return labels_of(values, size), values


def blend(now: np.ndarray, moved: np.ndarray, alike: np.ndarray, strength: float) -> np.ndarray:
    """Probabilities filtered along the motion: (1 − g) · now + g · moved, g = strength · alike.

    now: (h, w, C) float32; moved: earlier ones moved to this frame, overwritten with the answer; alike: (h, w), see
    `Step.likeness`; strength in [0, 1).
    """
    weight = (strength * alike)[..., None]
    for top in range(0, len(now), ROWS):
        rows = slice(top, top + ROWS)
        moved[rows] -= now[rows]
        moved[rows] *= weight[rows]
        moved[rows] += now[rows]
    return moved
