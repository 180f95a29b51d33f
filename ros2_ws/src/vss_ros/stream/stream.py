"""Stream: frames of one camera in, labels out. It alone holds state between frames."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from vss_ros.config import StreamConfig, VssError
from vss_ros.networks.card import ModelCard
from vss_ros.networks.groups import Groups
from vss_ros.stream.finite import check_finite
from vss_ros.stream.keyframes import EVERY, LabelDrift, Policy, input_change, label_drift, make_policy


@dataclass
class Result:
    """Answer for one frame.

    labels: (H, W) uint8 class ids at the frame's size; stamp: seconds, as given; index: frames since the reset;
    keyframe_age: frames since the keyframe it reuses (0: it is one), keyframe_age_ms: the same in milliseconds;
    times: milliseconds a stage; reset: why the stream started anew with this frame, else "";
    source: what `feed` was given with the frame.
    label_drift: share of pixels labelled otherwise than in the keyframe, in [0, 1]. input_drift (AKS's score,
    see `keyframes.input_change`) and feature_drift (of `encode`'s features, relative to their size), both ≥ 0
    and 0 on a keyframe, are None unless the stream measures them.
    """

    labels: np.ndarray
    stamp: float
    index: int
    is_keyframe: bool
    keyframe_age: int
    keyframe_age_ms: float
    times: dict[str, float]
    reset: str
    label_drift: float
    input_drift: float | None
    feature_drift: float | None
    confidence: Callable[[], np.ndarray]
    """Computes (H, W) uint8, 0…255: probability of each pixel's label."""
    source: Any = None


@dataclass
class Pending:
    """A frame that waits for frames after it."""

    index: int
    stamp: float
    size: tuple[int, int]
    pixels: np.ndarray
    """At the network's size."""
    features: Any
    """None if the frame is not remembered."""
    times: dict[str, float]
    reset: str
    source: Any
    input_drift: float | None = None
    feature_drift: float | None = None


@dataclass
class Keyframe:
    """The input that the frames after it are compared with."""

    index: int
    pixels: np.ndarray
    """At the network's size."""
    features: Any


class Stream:
    """Runs a backend over the frames of one camera and keeps what later frames reuse.

    One backend may serve many streams. `policy` and `measure_drift` may be replaced between two frames.
    `measure_drift` gives each result its input_drift and feature_drift; features are then computed apart from
    the logits, which makes a non-key frame about 5 % slower.
    `lookahead`: how many frames an answer waits; 0 answers at once. With `both_sides` a network that reuses the
    last keyframe also adds the next one's logits (DCFM's B mode), so that answers wait for a whole interval.
    """

    def __init__(
        self,
        backend: Any,
        policy: Policy = EVERY,
        *,
        card: ModelCard | None = None,
        max_gap: float = 1.0,
        both_sides: bool = False,
        measure_drift: bool = False,
    ):
        self.backend = backend
        self.policy = policy
        self.model_card = card
        self.groups: Groups | None = None
        self.max_gap = max_gap
        self.both_sides = both_sides
        self.measure_drift = measure_drift
        self.phase = 0
        """Frames by which the second keyframe comes early: several cameras take turns."""
        self.reset()

    def configure(self, config: StreamConfig) -> None:
        """Take over the options that may change between two frames."""
        self.policy = make_policy(config, self.backend.interval)
        self.max_gap = config.max_gap

    @property
    def card(self) -> Any:
        """Names and colours of the labels: the model's, or those of the groups."""
        return self.groups.card if self.groups else self.model_card

    def group(self, path: str) -> None:
        """Answer with the groups of a file (see `Groups`), or with the model's classes again if it is "".
        Raises VssError if the file does not fit the model."""
        self.groups = Groups(self.model_card, path) if path and self.model_card else None

    def another(self) -> Stream:
        """A stream for another camera, with the same options on the same backend."""
        other = copy.copy(self)
        other.reset()
        return other

    @property
    def lookahead(self) -> int:
        network = self.backend.lookahead
        return max(network, self.policy.longest - 1) if self.both_sides else network

    def reset(self) -> None:
        """Forget every frame; the next one is a keyframe. Answers not yet given are dropped (see `flush`)."""
        self.memories: dict[int, Any] = {}
        self.pending: deque[Pending] = deque()
        self.keyframe: Keyframe | None = None
        self.key_labels: np.ndarray | None = None  # of the newest keyframe that is answered
        self.key_stamp = 0.0
        self.label_drift = 0.0
        self.next_index = 0
        self.last_stamp: float | None = None
        self.last_size: tuple[int, int] | None = None

    def __call__(self, rgb: np.ndarray, stamp: float = 0.0) -> Result:
        """Labels of a frame, at once. rgb: (H, W, 3) uint8; stamp: seconds. See `feed` where frames must wait."""
        if self.lookahead:
            raise VssError(
                "this stream waits for later frames: use stream.feed() and flush(), or stream.run()"
            )
        return self.feed(rgb, stamp)[0]

    def run(self, frames: Iterable[tuple[np.ndarray, float]]) -> Iterator[Result]:
        """Answers for a whole clip of (rgb, stamp), one a frame, in order."""
        for rgb, stamp in frames:
            yield from self.feed(rgb, stamp)
        yield from self.flush()

    def feed(
        self, rgb: np.ndarray, stamp: float, source: Any = None, gap: float | None = None
    ) -> list[Result]:
        """Take a frame; returns the answers that it completes (those of frames `lookahead` earlier).

        source: anything, such as the frame's message; its answer brings it back. gap: the longest time in seconds
        between two frames that the camera took since the last call, where frames between were left out on purpose.
        """
        check_frame(rgb)
        done: list[Result] = []
        reason = self.break_reason(rgb.shape[:2], stamp, gap)
        if reason:
            done += self.flush()
            self.reset()
        times: dict[str, float] = {}
        with timed(times, "prepare"):
            frame = rgb if getattr(self.backend, "resizes", False) else fit(rgb, self.backend.size)
        if self.lookahead and frame is rgb:
            frame = rgb.copy()  # it waits, and the caller may reuse its array
        t = self.next_index
        pending = Pending(t, stamp, rgb.shape[:2], frame, None, times, reason, source)
        if self.backend.keeps and self.is_due(t, frame):
            with timed(times, "encode"):
                pending.features = self.backend.encode(frame)
            with timed(times, "remember"):
                self.memories[t] = self.backend.remember(pending.features)
            self.keyframe = Keyframe(t, frame.copy(), pending.features)
        if self.measure_drift and self.keyframe:
            self.compare(pending, self.keyframe)
        self.pending.append(pending)
        self.next_index, self.last_stamp, self.last_size = t + 1, stamp, rgb.shape[:2]
        while self.pending and self.pending[0].index + self.lookahead <= t:
            done.append(self.answer(self.pending.popleft()))
        return done

    def flush(self) -> list[Result]:
        """Answers for the frames that still wait, with the later frames they lack left out."""
        done = []
        while self.pending:
            done.append(self.answer(self.pending.popleft()))
        return done

    def is_due(self, t: int, frame: np.ndarray) -> bool:
        if self.both_sides and isinstance(self.policy, LabelDrift):
            raise VssError(
                "policy consistency decides by the answers, which both_sides makes wait: use fixed or adaptive"
            )
        if self.keyframe is None:
            return True
        key = self.keyframe
        age = t - key.index + (self.phase if key.index == 0 else 0)
        return self.policy(age, lambda: self.input_drift(frame, key.pixels), self.label_drift)

    def compare(self, frame: Pending, key: Keyframe) -> None:
        """Measure how far input and features are from the keyframe's."""
        if frame.features is None:
            with timed(frame.times, "encode"):
                frame.features = self.backend.encode(frame.pixels)
        with timed(frame.times, "drift"):
            frame.input_drift = self.input_drift(frame.pixels, key.pixels)
            frame.feature_drift = self.backend.drift(frame.features, key.features)

    def input_drift(self, frame: np.ndarray, keyframe: np.ndarray) -> float:
        """AKS score at the network's size, whether or not the backend resizes the frames itself."""
        size = self.backend.size
        return input_change(fit(frame, size), fit(keyframe, size), self.backend.std)

    def answer(self, frame: Pending) -> Result:
        t, times = frame.index, frame.times
        keys = sorted(self.memories)
        passes = [[self.memories[i] for i in reads] for reads in self.backend.reads(t, keys)]
        logits = self.logits(frame, passes)
        if t in self.memories or not self.backend.keeps:
            check_finite(logits)
        with timed(times, "label"):
            labels = self.backend.labels(logits, frame.size)
            labels = self.groups(labels) if self.groups else labels
        times["total"] = sum(times.values())
        past = [k for k in keys if k <= t]
        for old in past[: max(0, len(past) - self.backend.keeps)]:
            del self.memories[old]
        age = t - past[-1] if past else 0
        if age == 0 or self.key_labels is None:
            self.key_labels, self.key_stamp = labels.copy(), frame.stamp
        self.label_drift = label_drift(labels, self.key_labels)
        return Result(
            labels,
            frame.stamp,
            t,
            age == 0,
            age,
            (frame.stamp - self.key_stamp) * 1e3,
            times,
            frame.reset,
            self.label_drift,
            frame.input_drift,
            frame.feature_drift,
            lambda: self.backend.confidence(logits, frame.size),
            frame.source,
        )

    def logits(self, frame: Pending, passes: list[list[Any]]) -> list[Any]:
        """Logits of each pass over the memories that it reads."""
        if frame.features is None and len(passes) == 1:
            with timed(frame.times, "propagate"):
                return [self.backend.propagate(frame.pixels, passes[0])]
        if frame.features is None:
            with timed(frame.times, "encode"):
                frame.features = self.backend.encode(frame.pixels)
        with timed(frame.times, "decode"):
            return [self.backend.decode(frame.features, memories) for memories in passes]

    def break_reason(self, size: tuple[int, int], stamp: float, gap: float | None) -> str:
        """Why the memory must not be reused for this frame, or ""."""
        if self.last_stamp is None:
            return "first frame"
        if size != self.last_size:
            return f"size changed from {self.last_size} to {size}"
        if stamp < self.last_stamp:
            return f"stamp ran backwards by {self.last_stamp - stamp:.3f} s"
        gap = stamp - self.last_stamp if gap is None else gap
        if self.max_gap and gap > self.max_gap:
            return f"gap of {gap:.3f} s"
        return ""


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


class timed:
    """Adds the milliseconds of a `with` block to `times[name]`."""

    def __init__(self, times: dict[str, float], name: str):
        self.times, self.name = times, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.times[self.name] = self.times.get(self.name, 0.0) + (time.perf_counter() - self.start) * 1e3
