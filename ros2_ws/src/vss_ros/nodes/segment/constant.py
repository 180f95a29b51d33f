"""A stand-in for `Stream` whose answer never changes: it measures everything around the network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from vss_ros.stream.result import Result

CLASSES = tuple(f"stripe_{number}" for number in range(8))
PALETTE = tuple((number * 32, 255 - number * 32, 128) for number in range(8))


class ConstantStream:
    """Labels each image with eight horizontal stripes, from one array per image size."""

    def __init__(self) -> None:
        self.card = SimpleNamespace(name="constant", classes=CLASSES, palette=PALETTE)
        self.backend = SimpleNamespace(name="constant", precision="f32")
        self.measure_drift, self.schedule, self.owed = False, "at_once", None
        self.reset()

    def prepare(self, config: Any) -> None:
        """Its stripes are no classes of a model: nothing joins them."""

    def reset(self) -> None:
        self.index = 0
        self.labels = np.zeros((0, 0), np.uint8)

    def __call__(self, rgb: np.ndarray, stamp: float) -> Result:
        height, width = rgb.shape[:2]
        reset = ""
        if self.labels.shape != (height, width):
            reset = (
                f"size changed from {self.labels.shape} to {(height, width)}" if self.index else "first frame"
            )
            stripe = (np.arange(height) * len(CLASSES) // height).astype(np.uint8)
            self.labels = np.repeat(stripe[:, None], width, axis=1)
        self.index += 1
        return Result(
            self.labels,
            stamp,
            index=self.index - 1,
            is_keyframe=True,
            keyframe_age=0,
            keyframe_age_ms=0.0,
            network_age_ms=0.0,
            times={"total": 0.0},
            reset=reset,
            step=None,
            label_drift=0.0,
            input_drift=None,
            feature_drift=None,
            confidence=lambda: np.full(self.labels.shape, 255, np.uint8),
        )

    def configure(self, config: Any) -> None:
        """No option changes the answer."""

    def close(self) -> None:
        """It has no thread."""

    def flush(self) -> list[Result]:
        return []

    def feed(
        self, rgb: np.ndarray, stamp: float, source: Any = None, gap: float | None = None
    ) -> list[Result]:
        result = self(rgb, stamp)
        result.source = source
        return [result]
