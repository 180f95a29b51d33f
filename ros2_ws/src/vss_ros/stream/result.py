"""What a stream answers for one frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vss_ros.stream.frame import Frame
from vss_ros.stream.motion import Step


@dataclass
class Result:
    """Answer for one frame.

    labels: (H, W) uint8 class ids at the frame's size; stamp: seconds, as given; index: frames since the reset;
    is_keyframe: whether it is the first answer from a new memory (or, without memories, from the network);
    keyframe_age: frames since the keyframe it reuses, keyframe_age_ms: the same in milliseconds;
    network_age_ms: how old the newest frame is that the network saw, 0 unless the answer was moved there;
    times: milliseconds a stage, of which `total` passed before the answer; reset: why the stream started anew with
    this frame, else ""; step: the motion since the frame before, None where it was not measured;
    source: what `feed` was given with the frame.
    label_drift: share of pixels labelled otherwise than in the keyframe moved along the motion, in [0, 1];
    input_drift (AKS's score, see `keyframes.input_change`) and feature_drift (of `encode`'s features, relative to
    their size), both ≥ 0: all are 0 on a keyframe, and None unless the stream measures them.
    """

    labels: np.ndarray
    stamp: float
    index: int
    is_keyframe: bool
    keyframe_age: int
    keyframe_age_ms: float
    network_age_ms: float
    times: dict[str, float]
    reset: str
    step: Step | None
    label_drift: float | None
    input_drift: float | None
    feature_drift: float | None
    confidence: Callable[[], np.ndarray]
    """Computes (H, W) uint8, 0…255: probability of each pixel's label, less where the motion shows what no network
    has seen."""
    source: Any = None


def answered(
    frame: Frame,
    labels: np.ndarray,
    key: int,
    key_stamp: float,
    is_key: bool,
    drift: float | None,
    confidence: Callable[[], np.ndarray],
    network_age_ms: float,
) -> Result:
    """The answer for a frame. key, key_stamp: index and stamp of the keyframe that it reuses."""
    return Result(
        labels,
        frame.stamp,
        frame.index,
        is_key,
        frame.index - key,
        (frame.stamp - key_stamp) * 1e3,
        network_age_ms,
        frame.times,
        frame.reset,
        frame.step,
        drift,
        frame.input_drift,
        frame.feature_drift,
        confidence,
        frame.source,
    )
