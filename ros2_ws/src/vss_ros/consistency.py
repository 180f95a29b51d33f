"""Temporal-consistency figures that need no ground truth: how much the answer flickers on the road."""

from __future__ import annotations

import numpy as np

from vss_ros.config import VssError


def label_change(previous: np.ndarray, current: np.ndarray) -> float:
    """Share of pixels whose label differs between two frames, in [0, 1]; 0 is a still answer.

    previous, current: (H, W) uint8 class ids of the same size. Unlabelled pixels (255) are compared like any
    class. Motion of the scene counts as well: it is a figure to compare runs over one clip, and an alarm when
    it jumps, not an accuracy.
    """
    if previous.shape != current.shape:
        raise VssError(
            f"label_change: expected two maps of one size, got {previous.shape} and {current.shape}"
        )
    if current.size == 0:
        raise VssError(f"label_change: expected at least one pixel, got {current.shape}")
    return np.count_nonzero(previous != current) / current.size


def flicker(before: np.ndarray, previous: np.ndarray, current: np.ndarray) -> float:
    """Share of pixels that left a label for one frame and came back (A B A), in [0, 1].

    before, previous, current: (H, W) uint8 class ids of three frames in a row. An object that moves by
    changes a pixel once; a label that comes back after one frame is nearly always an error, so this figure
    depends less on motion than `label_change`.
    """
    if not before.shape == previous.shape == current.shape or current.size == 0:
        raise VssError(
            f"flicker: expected three maps of one size with at least a pixel, got {before.shape}, "
            f"{previous.shape}, {current.shape}"
        )
    return np.count_nonzero((before == current) & (previous != current)) / current.size
