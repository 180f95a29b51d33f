"""Maps moved along a flow, and what a frame's probabilities say, in NumPy and OpenCV.

A flow is (h, w, 2) float32: for each cell, how far in x and y from it, in cells, the same thing lies in the map that
is moved (backward flow). Maps are channels-last since `cv2.remap` then moves all channels of a cell at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

CHANNELS = 512  # of one call of OpenCV
INVERSION = 5  # steps
EXPONENT = 80.0
"""Logits of at most this size need no shift before the exponential: float32 holds e^±87."""


@lru_cache(maxsize=16)
def grid(size: tuple[int, int]) -> np.ndarray:
    """(h, w, 2) float32: each cell's own (x, y)."""
    return np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), -1).astype(np.float32)


def move(array: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The map resampled bilinearly at x + flow(x), its border replicated. array: (h, w) or (h, w, C)."""
    place = grid(flow.shape[:2]) + flow
    if array.ndim < 3 or array.shape[2] <= CHANNELS:
        moved = cv2.remap(array, place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return moved.reshape(array.shape)  # OpenCV drops a single channel
    slices = range(0, array.shape[2], CHANNELS)
    return np.concatenate([move(np.ascontiguousarray(array[..., i : i + CHANNELS]), flow) for i in slices], 2)


def move_points(points: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Where points (N, 2), x and y in cells of the map that a flow leads to, lie in the map that it starts from.

    The inverse of x + flow(x), by fixed points, which five steps find where the flow changes less than its place does.
    """
    places = points = points.astype(np.float32)
    for _ in range(INVERSION if len(points) else 0):
        there = cv2.remap(
            flow, places[None], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        ).reshape(-1, 2)
        places = points - there
    return places


def move_memory(memory: Sequence[np.ndarray], flow: np.ndarray) -> tuple[np.ndarray, ...]:
    """A memory of maps (1, h, w, D), each moved along the flow resized to it."""
    return tuple(move(tensor[0], resize_flow(flow, tensor.shape[1:3]))[None] for tensor in memory)


def resize_flow(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The flow on another grid (h, w), in cells of that grid."""
    before = flow.shape[:2]
    if before == tuple(size):
        return flow
    shrinks = before[0] > size[0]
    resized = cv2.resize(flow, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    x, y = size[1] / before[1], size[0] / before[0]
    resized *= np.float32(x) if x == y else np.array([x, y], np.float32)  # by one number it takes a third
    return resized


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
