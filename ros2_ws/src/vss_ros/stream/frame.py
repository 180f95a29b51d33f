"""A frame on its way through a stream, what is kept of earlier ones to compare it with, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from vss_ros.config import VssError
from vss_ros.media.motion import Step, Track

LATEST = 1e11
"""Seconds since 1970, of the year 5138: what lies beyond is of another unit."""


@dataclass
class Frame:
    """A frame on its way to its answer."""

    index: int
    stamp: float
    size: tuple[int, int]
    pixels: np.ndarray
    """At the network's size, unless the backend resizes: then as they came."""
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
    held: Any = None
    """The same where a backend that resizes reads it, once it was sent there."""

    def encode(self, backend: Any) -> None:
        if self.features is None:
            self.features = backend.encode(self.input(backend))

    def input(self, backend: Any) -> Any:
        """What the network takes: a backend that resizes does so once."""
        if backend.resizes and self.held is None:
            self.held = backend.held(self.pixels)
        return self.pixels if self.held is None else self.held


@dataclass
class Keyframe:
    """The input that the frames after it are compared with."""

    index: int
    input: Any
    """The network's, which nobody overwrites."""
    features: Any = None

    @classmethod
    def of(cls, frame: Frame) -> Keyframe:
        return cls(frame.index, frame.pixels.copy() if frame.held is None else frame.held, frame.features)

    def compare(self, frame: Frame, backend: Any) -> None:
        """Measure how far a frame's input and features are from this one's."""
        frame.encode(backend)
        frame.input_drift = self.input_change(frame, backend)
        frame.feature_drift = backend.drift(frame.features, self.features)

    def input_change(self, frame: Frame, backend: Any) -> float:
        if backend.resizes:
            self.input = backend.held(self.input)  # once: a schedule that computes beside has not sent it
        return backend.input_change(frame.input(backend), self.input)


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


def receive(
    backend: Any,
    rgb: np.ndarray,
    stamp: float,
    source: Any,
    last: tuple[float, tuple[int, int]] | None,
    gap: float | None,
    longest: float,
    waits: bool,
) -> Frame:
    """The frame at the network's size, and why the stream starts anew with it. Raises VssError for what is no frame.

    last: stamp and size of the one before; gap: as for `Stream.feed`; longest: gap that is none, in seconds, 0 for
    any; waits: whether other frames come before its answer.
    """
    check_frame(rgb, stamp)
    shape = rgb.shape
    rgb = np.ascontiguousarray(rgb)  # torch takes no negative strides, as of bgr[:, :, ::-1]
    pixels = rgb if backend.resizes else fit(rgb, backend.size)
    if waits and pixels is rgb:
        pixels = rgb.copy()  # the caller may reuse its array
    return Frame(0, stamp, shape[:2], pixels, break_reason(last, (stamp, shape[:2]), gap, longest), source)


def check_frame(rgb: Any, stamp: Any) -> None:
    """Raise VssError for what is no (H, W, 3) uint8 image, or no time in seconds."""
    shape, dtype = getattr(rgb, "shape", None), getattr(rgb, "dtype", None)
    if not isinstance(rgb, np.ndarray) or len(rgb.shape) != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise VssError(
            f"frame: expected an (H, W, 3) uint8 RGB array, got {type(rgb).__name__} of shape {shape}, dtype {dtype}"
        )
    if rgb.dtype != np.uint8:
        of = (
            "values in 0…1 it is (rgb * 255).round()" if rgb.dtype.kind == "f" else "16 bits it is (rgb >> 8)"
        )
        raise VssError(
            f"frame: expected an (H, W, 3) uint8 RGB array, got shape {shape}, dtype {dtype}; of {of}.astype(np.uint8)"
        )
    check_stamp(stamp)


def check_stamp(stamp: Any) -> None:
    if not isinstance(stamp, (int, float, np.integer, np.floating)) or not math.isfinite(stamp):
        raise VssError(f"stamp: expected seconds as a finite number, got {stamp!r}")
    if stamp > LATEST:
        raise VssError(f"stamp: expected seconds, got {stamp!r}: of nanoseconds they are stamp * 1e-9")


def check_pair(item: Any) -> Any:
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        raise VssError(f"expected a pair (rgb, stamp) for each frame, got {type(item).__name__}")
    return item


def check_call(lookahead: int, last: tuple[float, tuple[int, int]] | None, stamp: float) -> None:
    """Raise VssError where a frame cannot be answered at once, or comes before `last` in time."""
    if lookahead:
        raise VssError("this stream waits for later frames: use stream.feed() and flush(), or stream.run()")
    check_stamp(stamp)
    if last is not None and stamp < last[0]:
        raise VssError(
            f"stamp: expected at least {last[0]} s, that of the frame before, got {stamp}; call reset() before "
            "another clip"
        )


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


class NotFinite(VssError):
    """The network answers NaN or infinity: its weights, its memory or its arithmetic are broken."""


def check_finite(backend: Any, logits: Sequence[Any], forget: Callable[[], None] = lambda: None) -> None:
    """Raise NotFinite if passes of a backend's logits hold NaN or infinity: 0.02 ms for 12×90×120. forget: throws the
    memory away that they were read from, so that a caller who goes on does not read it again."""
    if not backend.finite(logits):
        forget()
        raise NotFinite(
            "the network's answer is not finite (NaN or infinity), its memory is thrown away: set precision to f32; "
            "if it comes back, the weights are damaged, install the model again"
        )
