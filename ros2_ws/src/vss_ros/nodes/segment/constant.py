"""A stand-in for `Stream` whose answer never changes: it measures everything around the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

CLASSES = tuple(f"stripe_{number}" for number in range(8))
PALETTE = tuple((number * 32, 255 - number * 32, 128) for number in range(8))


@dataclass
class ConstantResult:
    """The fields of a `Stream` result that the nodes read."""

    labels: np.ndarray
    stamp: float
    index: int
    is_keyframe: bool = True
    keyframe_age: int = 0
    keyframe_age_ms: float = 0.0
    network_age_ms: float = 0.0
    step: Any = None
    label_drift: float = 0.0
    input_drift: float | None = None
    feature_drift: float | None = None
    reset: str = ""
    times: dict[str, float] = field(default_factory=lambda: {"total": 0.0})
    source: Any = None

    def confidence(self) -> np.ndarray:
        """(H, W) uint8, certain everywhere."""
        return np.full(self.labels.shape, 255, np.uint8)


class ConstantStream:
    """Labels each image with eight horizontal stripes, from one array per image size."""

    def __init__(self) -> None:
        self.card = SimpleNamespace(name="constant", classes=CLASSES, palette=PALETTE)
        self.backend = SimpleNamespace(name="constant", precision="f32")
        self.measure_drift, self.schedule = False, "at_once"
        self.reset()

    def prepare(self, config: Any) -> None:
        """Its stripes are no classes of a model: nothing joins them."""

    def reset(self) -> None:
        self.index = 0
        self.labels = np.zeros((0, 0), np.uint8)

    def __call__(self, rgb: np.ndarray, stamp: float) -> ConstantResult:
        height, width = rgb.shape[:2]
        reset = ""
        if self.labels.shape != (height, width):
            reset = (
                f"size changed from {self.labels.shape} to {(height, width)}" if self.index else "first frame"
            )
            stripe = (np.arange(height) * len(CLASSES) // height).astype(np.uint8)
            self.labels = np.repeat(stripe[:, None], width, axis=1)
        self.index += 1
        return ConstantResult(self.labels, stamp, self.index - 1, reset=reset)

    def configure(self, config: Any) -> None:
        """No option changes the answer."""

    def after(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """It has no thread."""

    def flush(self) -> list[ConstantResult]:
        return []

    def feed(
        self, rgb: np.ndarray, stamp: float, source: Any = None, gap: float | None = None
    ) -> list[ConstantResult]:
        result = self(rgb, stamp)
        result.source = source
        return [result]
