"""A frame on its way through a stream, and what is kept of earlier ones to compare it with."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from vss_ros.config import VssError
from vss_ros.stream.keyframes import input_change
from vss_ros.stream.motion import Step, Track


@dataclass
class Frame:
    """A frame on its way to its answer."""

    index: int
    stamp: float
    size: tuple[int, int]
    pixels: np.ndarray
    """At the network's size."""
    reset: str
    source: Any
    step: Step | None = None
    due: bool = False
    """Whether it is to be a keyframe."""
    features: Any = None
    """None while nobody needed them apart from the logits."""
    times: dict[str, float] = field(default_factory=dict)
    input_drift: float | None = None
    feature_drift: float | None = None

    def prepare(self, backend: Any, waits: bool) -> None:
        """Bring the pixels to the network's size; a frame that waits has its own: the caller may reuse its array."""
        rgb = self.pixels
        with timed(self.times, "prepare"):
            if not getattr(backend, "resizes", False):
                self.pixels = fit(rgb, backend.size)
            if waits and self.pixels is rgb:
                self.pixels = rgb.copy()


@dataclass
class Keyframe:
    """The input that the frames after it are compared with."""

    index: int
    pixels: np.ndarray
    """At the network's size."""
    features: Any = None

    def input_change(self, frame: Frame, backend: Any) -> float:
        """AKS score at the network's size, whether or not the backend resizes the frames itself."""
        return input_change(fit(frame.pixels, backend.size), fit(self.pixels, backend.size), backend.std)


@dataclass
class Answer:
    """The network's newest answer, where it does not answer every frame.

    values: probabilities (h, w, C) on the frame that `track` leads to; sight: the way to the frame that it saw.
    """

    index: int
    stamp: float
    values: np.ndarray
    track: Track
    sight: Track


def check_frame(rgb: np.ndarray) -> None:
    shape, dtype = getattr(rgb, "shape", None), getattr(rgb, "dtype", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or dtype != np.uint8 or 0 in shape:
        raise VssError(f"frame: expected an (H, W, 3) uint8 RGB array, got shape {shape}, dtype {dtype}")


def fit(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frame at the network's size (height, width); averages areas when it shrinks, so that nothing flickers."""
    height, width = size
    if rgb.shape[:2] == (height, width):
        return rgb
    shrinks = rgb.shape[0] > height and rgb.shape[1] > width
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def break_reason(
    last: tuple[float, tuple[int, int]] | None,
    now: tuple[float, tuple[int, int]],
    gap: float | None,
    longest: float,
) -> str:
    """Why what is remembered must not be reused, or "". last, now: stamp in seconds and size of two frames; gap: as
    for `Stream.feed`; longest: gap that is none, in seconds, 0 for any."""
    if last is None:
        return "first frame"
    if now[1] != last[1]:
        return f"size changed from {last[1]} to {now[1]}"
    if now[0] < last[0]:
        return f"stamp ran backwards by {last[0] - now[0]:.3f} s"
    gap = now[0] - last[0] if gap is None else gap
    return f"gap of {gap:.3f} s" if longest and gap > longest else ""


class timed:
    """Adds the milliseconds of a `with` block to `times[name]`."""

    def __init__(self, times: dict[str, float], name: str):
        self.times, self.name = times, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.times[self.name] = self.times.get(self.name, 0.0) + (time.perf_counter() - self.start) * 1e3
