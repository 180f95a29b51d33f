"""Temporal consistency of a stream's answers, measured without ground truth while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from vss_ros.config import IGNORE
from vss_ros.media.motion import TOLERANCE, Step

WINDOWS = (8, 16)
RING = 16
"""Frames that the flicker map looks back."""
AREA_FLOOR = 0.002
"""Classes below this share of both frames have no area jump: a few pixels would make any."""
EXPLAINED = float(np.exp(-24 / TOLERANCE))
"""Likeness of a cell that came from where its motion says: 24 grey levels; less is an occlusion or a wrong flow."""


class Consistency:
    """Measures a stream frame by frame, in about 0.5 ms a frame of 640×480.

    classes: names in the order of their ids.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.reset((0, 0))

    def reset(self, size: tuple[int, int]) -> None:
        """Forget the frames before. size: (H, W) of the next ones."""
        self.count = 0
        self.earlier: list[np.ndarray] = []  # labels of the last two frames, the newest last
        self.areas: np.ndarray | None = None
        self.unchanged = np.zeros(size, np.uint8)  # frames since a pixel's last change, at most 255
        self.flicker_map = np.zeros(size, np.uint8)
        # 255 where a label changed, the last RING frames in turn
        self.ring = np.zeros((RING, *size), np.uint8)
        self.scratch = np.zeros(size, np.uint8)
        self.changes: list[tuple[bool, float]] = []  # (is a keyframe, label_change) of the last three frames

    def __call__(self, result: Any) -> dict[str, Any]:
        """Figures of the next frame by name, see `figures.FRAME`.

        result: the stream's; its labels are kept and must not be written to. `flicker_map` is then (H, W) uint8: how
        often each pixel's label changed in the last 16 frames, 0…16.
        """
        labels = result.labels
        if result.reset or labels.shape != self.scratch.shape:
            self.reset(labels.shape)
        values = {**self.between(labels, result.is_keyframe), **self.area(labels)}
        step = result.step
        if step is not None:
            values["motion_residual"], values["motion_trusted"] = step.residual, int(step.trusted)
            if self.earlier:
                values["motion_label_change"] = change_along(step, labels, self.earlier[-1])
        self.earlier = [*self.earlier[-1:], labels]
        self.count += 1
        values |= {
            "keyframe": int(result.is_keyframe),
            "keyframe_age": result.keyframe_age,
            "keyframe_age_ms": result.keyframe_age_ms,
            "network_age_ms": result.network_age_ms,
            "label_drift": result.label_drift,
            "input_drift": result.input_drift,
            "feature_drift": result.feature_drift,
            **{f"{stage}_ms": spent for stage, spent in result.times.items()},
        }
        return {name: value for name, value in values.items() if value is not None}

    def between(self, labels: np.ndarray, is_keyframe: bool) -> dict[str, Any]:
        """Figures of the labels against those of the frames before."""
        if not self.earlier:
            return {}
        changed = self.ring[self.count % RING]
        self.flicker_map += changed  # 255 is -1 in uint8: the change that leaves the ring
        cv2.compare(labels, self.earlier[-1], cv2.CMP_NE, dst=changed)
        self.flicker_map -= changed
        cv2.add(self.unchanged, 1, dst=self.unchanged)
        cv2.subtract(self.unchanged, changed, dst=self.unchanged)  # 0 where changed
        values = {"label_change": cv2.countNonZero(changed) / labels.size}
        if len(self.earlier) == 2:
            cv2.compare(labels, self.earlier[0], cv2.CMP_EQ, dst=self.scratch)
            back = cv2.bitwise_and(self.scratch, changed, dst=self.scratch)
            values["flicker"] = cv2.countNonZero(back) / labels.size
        for n in WINDOWS:
            if self.count >= n - 1:
                cv2.compare(self.unchanged, n - 2, cv2.CMP_GT, dst=self.scratch)
                values[f"window_consistency_{n}"] = cv2.countNonZero(self.scratch) / labels.size
        self.changes = [*self.changes[-2:], (is_keyframe, values["label_change"])]
        if [key for key, _ in self.changes] == [False, True, False]:
            before, jump, after = (change for _, change in self.changes)
            values["refresh_jump"] = jump - (before + after) / 2
        return values

    def area(self, labels: np.ndarray) -> dict[str, Any]:
        """Each class's area and the greatest jump of one."""
        histogram = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel()[: len(self.classes)]
        before, self.areas = self.areas, histogram / labels.size
        values: dict[str, Any] = {
            f"area/{name}": float(share) for name, share in zip(self.classes, self.areas, strict=True)
        }
        if before is not None:
            larger = np.maximum(self.areas, before)
            jumps = np.where(larger >= AREA_FLOOR, np.abs(self.areas - before) / np.maximum(larger, 1e-9), 0)
            values["area_jump"] = float(jumps.max())
            values["area_jump_class"] = self.classes[int(jumps.argmax())]
        return values


def change_along(step: Step, labels: np.ndarray, before: np.ndarray) -> float | None:
    """Share of the cells whose label is another than where the motion came from; None if it explains no cell."""
    height, width = step.flow.shape[:2]
    now, then = (cv2.resize(x, (width, height), interpolation=cv2.INTER_NEAREST) for x in (labels, before))
    came = cv2.remap(then, step.place, None, cv2.INTER_NEAREST, borderValue=IGNORE)
    explained = (step.likeness >= EXPLAINED) & (came != IGNORE) & (now != IGNORE)
    count = np.count_nonzero(explained)
    return float(np.count_nonzero((came != now) & explained) / count) if count else None
