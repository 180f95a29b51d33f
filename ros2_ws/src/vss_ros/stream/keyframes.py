"""When a frame becomes a keyframe: its memory is computed and reused by the frames after it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vss_ros.config import IGNORE, StreamConfig
from vss_ros.media.motion import Motion, Track, grid


@dataclass(frozen=True)
class FixedInterval:
    """A keyframe every `longest` frames; 1 makes every frame one."""

    longest: int


@dataclass(frozen=True)
class Watching:
    """A keyframe once a score reaches the threshold, `shortest` to `longest` frames after the last one."""

    threshold: float
    shortest: int
    longest: int


class Adaptive(Watching):
    """AKS, adaptive keyframe scheduling (DCFM, section III-D): the score is `Backend.input_change`.

    The authors also make a clip's last frame a keyframe while they wait for a change; a stream has no last frame.
    """


class LabelDrift(Watching):
    """The score is the `label_drift` of the frame before: the loop is closed over the labels.

    A cut costs one frame; changes of light that leave the labels as they are cost none.
    """


Policy = FixedInterval | Watching
EVERY = FixedInterval(1)


def make_policy(config: StreamConfig, own: int) -> Policy:
    """The policy that the options `policy`, `interval`, … describe; own: the network's interval, for interval 0."""
    if config.policy == "adaptive":
        return Adaptive(config.threshold, config.min_interval, config.max_interval)
    if config.policy == "consistency":
        return LabelDrift(config.drift_threshold, config.min_interval, config.max_interval)
    return FixedInterval(1 if config.policy == "every" else config.interval or own)


class Drift:
    """How far the labels are from those of the newest keyframe answered, see `label_drift`; newest: of the last frame
    that was measured."""

    def __init__(self) -> None:
        self.newest = 0.0
        self.there: tuple[np.ndarray, Track | None] | None = None

    def measure(self, labels: np.ndarray, is_key: bool, motion: Motion | None) -> float:
        """Of a frame, 0 of a keyframe; motion: follows it from now on."""
        if is_key or self.there is None:
            self.there = labels.copy(), motion.track() if motion else None
        there, track = self.there
        self.newest = label_drift(labels, there, track.flow if track else None)
        return self.newest


def label_drift(labels: np.ndarray, keyframe: np.ndarray, flow: np.ndarray | None = None) -> float:
    """Share of pixels labelled otherwise than in the keyframe, in [0, 1]. Both (H, W) uint8.

    flow: (h, w, 2), cells from this frame to the keyframe; then the keyframe's labels are moved along it, at its
    size, and the share is what the motion does not explain.
    """
    if flow is None:
        return cv2.countNonZero(cv2.compare(labels, keyframe, cv2.CMP_NE)) / labels.size
    now, then = (
        cv2.resize(x, flow.shape[1::-1], interpolation=cv2.INTER_NEAREST) for x in (labels, keyframe)
    )
    there = cv2.remap(then, grid(flow.shape[:2]) + flow, None, cv2.INTER_NEAREST, borderValue=IGNORE)
    other = cv2.compare(now, there, cv2.CMP_NE) & cv2.compare(there, IGNORE, cv2.CMP_NE)
    return cv2.countNonZero(other) / now.size
