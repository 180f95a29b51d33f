"""Localisation maps → pixel labels: class ids with the background as 0, and 255 where the maps do not say."""

from __future__ import annotations

import cv2
import numpy as np

from vss_ros.config import IGNORE

SURE, WEAK, SALIENT = 0.99, 0.3, 32
LEAST = 0.01
"""Share of an image that must be foreground for its labels to be used at all."""


def by_threshold(maps: np.ndarray, labels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Labels (H, W) uint8 of maps (K, H, W) in 0–1 of an image's K classes, whose ids in the mask are `labels`.

    The greatest map decides: background below `low`, its class from `high` on, in between nothing.
    """
    if not len(maps):
        return np.zeros(maps.shape[1:], np.uint8)
    most = maps.max(0)
    found = np.asarray(labels, np.uint8)[maps.argmax(0)]
    return np.where(most >= high, found, np.where(most < low, 0, IGNORE)).astype(np.uint8)


def by_saliency(maps: np.ndarray, labels: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """The same with the background from a saliency map (H, W) uint8, by the published rules.

    Background is as likely as its pixel is not salient; maps are stretched to 0–1; what is below 0.3 is nothing.
    Unlabelled is where two are sure, where a background is salient or nearly a class, and an image of less than 1 %
    foreground.
    """
    stretched = np.array([stretch(one) for one in maps]).reshape(-1, *saliency.shape)
    likely = np.concatenate([(1 - saliency / 255.0)[None], stretched])
    nearly = (stretched > 0.95).any(0)
    likely[likely < WEAK] = 0
    found = np.array([0, *labels], np.uint8)[likely.argmax(0)]
    doubted = (found == 0) & (np.maximum(saliency, 255 * nearly) >= SALIENT)
    result = np.where(((likely > SURE).sum(0) > 1) | doubted, IGNORE, found).astype(np.uint8)
    foreground = (result != 0) & (result != IGNORE)
    return result if foreground.mean() >= LEAST else np.full_like(result, IGNORE)


def stretch(one: np.ndarray) -> np.ndarray:
    return (one - one.min()) / max(float(one.max() - one.min()), 1e-6)


def along_motion(own: np.ndarray, others: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Mean of a map (H, W) float32 and of those of frames near it, each fetched along the flow (H, W, 2) to it."""
    height, width = own.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    total = own.astype(np.float32).copy()
    for one, flow in others:
        total += cv2.remap(
            one.astype(np.float32), grid + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    return total / (1 + len(others))
