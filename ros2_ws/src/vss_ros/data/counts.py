"""Figures of counts against true counts: MAE, MSE and NAE as the papers on counting have them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vss_ros.config import VssError


def count_figures(
    truth: Sequence[float] | np.ndarray, found: Sequence[float] | np.ndarray
) -> dict[str, float]:
    """MAE, mean |error|; MSE, square root of the mean squared error, objects both; NAE, mean |error| / truth over
    images that hold any object (0 if none does). Raises VssError for no image or lists of different length."""
    truth, found = np.asarray(truth, float), np.asarray(found, float)
    if not len(truth) or truth.shape != found.shape:
        raise VssError(f"expected a count for each of the images, got {found.shape} for {truth.shape}")
    error, some = np.abs(found - truth), truth > 0
    relative = error[some] / truth[some]
    return {
        "MAE": float(error.mean()),
        "MSE": float(np.sqrt((error**2).mean())),
        "NAE": float(relative.mean()) if some.any() else 0.0,
    }
