"""What a backend is: the contract between a stream and the runtime that computes for it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from vss_ros.networks.cards.model import Model


class Backend(ABC):
    """A model on one runtime. Streams in several threads may share it.

    Features, memories and logits are whatever the runtime likes and owned by the caller: later calls leave them as
    they are. They are passed back, never looked into, and never changed.

    name: as the user knows the runtime; precision: f32, bf16, f16 or int8; size: (height, width) of the network's
    input; std: of RGB in 0–1; keeps, lookahead, interval, reads, moves: the network's (see `networks`); resizes:
    whether frames may have any size; queues: whether `encode` returns before it is computed, so that its caller may
    compute beside it; parts: how many calls of `remember_part` are one `remember`.
    """

    name = ""
    resizes = queues = False
    parts = 1
    stage_times: Callable[[], dict[str, float]] | None = None
    """Milliseconds of the stages since its last call, where the runtime knows better than the clock of its caller."""
    after: Callable[[], None] | None = None
    """Does what may wait until an answer is out."""

    def __init__(self, model: Model, precision: str):
        reading = model.reading
        self.precision, self.size, self.std = precision, model.size, model.std
        self.keeps, self.lookahead, self.interval = reading.keeps, reading.lookahead, reading.interval
        self.reads, self.moves = reading.reads, getattr(reading, "moves", False)

    def held(self, frame: Any) -> Any:
        """The frame where the network reads it, at `size`: `encode`, `propagate` and `input_change` take it, too."""
        return frame

    def input_change(self, frame: Any, keyframe: Any) -> float:
        """AKS score: mean absolute difference of two network inputs after normalisation, ≥ 0 (0: equal).

        Both (H, W, 3) uint8 RGB at `size`, or `held`. The mean of the normalisation cancels in the difference.
        """
        difference = cv2.mean(cv2.absdiff(frame, keyframe))[:3]
        return float(np.mean([d / (255 * s) for d, s in zip(difference, self.std, strict=True)]))

    @abstractmethod
    def encode(self, frame: np.ndarray) -> Any:
        """Frame (H, W, 3) uint8 RGB at `size` → features."""

    @abstractmethod
    def remember_part(self, part: int, state: Any) -> Any:
        """Part 0 takes features, each part what the one before gave; the last one, `parts` − 1, gives the memory."""

    def remember(self, features: Any) -> Any:
        """Features → memory."""
        state = features
        for part in range(self.parts):
            state = self.remember_part(part, state)
        return state

    @abstractmethod
    def decode(self, features: Any, memories: Sequence[Any]) -> Any:
        """Features and the memories of a pass of `reads` → logits of that pass."""

    @abstractmethod
    def propagate(self, frame: np.ndarray, memories: Sequence[Any]) -> Any:
        """decode(encode(frame), memories), in one graph."""

    @abstractmethod
    def move(self, memory: Any, flow: np.ndarray) -> Any:
        """A memory of maps resampled bilinearly at x + flow(x), its border replicated; flow: (h, w, 2) float32, x and
        y in cells of its own grid, resized to the memory's."""

    @abstractmethod
    def drift(self, features: Any, keyframe: Any) -> float:
        """Sum of |difference| / sum of |keyframe's features|, ≥ 0."""

    def finite(self, logits: Sequence[Any]) -> bool:
        """Whether logits hold neither NaN nor infinity: by their extremes, which are NaN where any value is."""
        return all(math.isfinite(float(x.min())) and math.isfinite(float(x.max())) for x in logits)

    @abstractmethod
    def labels(self, logits: Sequence[Any], size: tuple[int, int]) -> np.ndarray:
        """Passes of logits → class ids, (H, W) uint8 at `size`: of the greatest upsampled sum, the first of equals."""

    @abstractmethod
    def confidence(self, logits: Sequence[Any], size: tuple[int, int]) -> np.ndarray:
        """Passes of logits → greatest probability × 255, (H, W) uint8, upsampled from the logits' own size."""

    def arrays(self, answer: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """What `propagate` gives of a network that answers with several tensors, as float32 arrays of the caller."""
        return tuple(
            np.array(x.float().cpu().numpy() if hasattr(x, "cpu") else x, np.float32) for x in answer
        )

    @abstractmethod
    def probabilities(self, logits: Sequence[Any]) -> np.ndarray:
        """Softmax of the mean of the passes, (h, w, C) float32 at the logits' own size."""


def parts_of(stages: Sequence[str]) -> list[str]:
    """The names of the stages that are `remember` one after the other."""
    return [name for name in stages if name.startswith("remember")]
