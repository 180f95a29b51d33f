"""Temporal consistency of a stream's answers, measured without ground truth while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from vss_ros.config import IGNORE

WINDOWS = (8, 16)
RING = 16
"""Frames that the flicker map looks back."""
AREA_FLOOR = 0.002
"""Classes below this share of both frames have no area jump: a few pixels would make any."""
FLOW_SIDE = 320
"""Pixels of the longer side at which motion is estimated."""
UNEXPLAINED = 24
"""Grey levels by which a pixel may differ from where its motion came from; more is an occlusion or a wrong flow."""

FIGURES = {
    "label_change": "share of pixels whose label differs from the frame before, 0…1; motion counts as well",
    "motion_label_change": "the same against the frame before moved along the optical flow (DIS), 0…1; pixels "
    "that the flow does not explain, such as occlusions, are left out",
    "flicker": "share of pixels that left a label for one frame and came back (A B A), 0…1; hardly motion",
    "window_consistency_8": "share of pixels that kept one label over the last 8 frames, 0…1 (VC_8 without truth)",
    "window_consistency_16": "share of pixels that kept one label over the last 16 frames, 0…1",
    "area_jump": "greatest relative change of a class's area from the frame before, |now - before| / the larger, "
    f"0…1; classes below {AREA_FLOOR:.1%} of both frames are left out",
    "area_jump_class": "name of that class",
    "area/<class>": "share of the frame that has this label, 0…1",
    "refresh_jump": "label_change of the last frame, a keyframe, less the mean of its two neighbours' that are "
    "not, -1…1: how much of it the refresh caused; comes with the frame after the keyframe",
    "keyframe": "1 if the frame is a keyframe, else 0",
    "keyframe_age": "frames since the keyframe that the answer reuses, 0…",
    "keyframe_age_ms": "milliseconds since that keyframe by the stamps, 0…",
    "label_drift": "share of pixels labelled otherwise than in that keyframe, 0…1; policy consistency watches it",
    "input_drift": "mean absolute difference of the normalised input to the keyframe's, 0…; policy adaptive "
    "(AKS) watches it",
    "feature_drift": "sum of absolute differences of the cheap features to the keyframe's over the sum of the "
    "keyframe's, 0…",
    "<stage>_ms": "milliseconds that a stage of the network took, 0…; total_ms is their sum",
}
"""What a frame's figures mean, with range and unit; a figure that is not known yet is left out of the frame."""


class Consistency:
    """Measures a stream frame by frame, in about 0.5 ms a frame of 640×480, 2 ms with flow.

    classes: names in the order of their ids. `flow` may be replaced between two frames.
    """

    def __init__(self, classes: Sequence[str], flow: bool = False) -> None:
        self.classes = list(classes)
        self.flow = flow
        self.dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self.reset((0, 0))

    def reset(self, size: tuple[int, int]) -> None:
        """Forget the frames before. size: (H, W) of the next ones."""
        self.count = 0
        self.earlier: list[np.ndarray] = []  # labels of the last two frames, the newest last
        self.areas: np.ndarray | None = None
        self.unchanged = np.zeros(size, np.uint8)  # frames since a pixel's last change, at most 255
        self.flicker_map = np.zeros(size, np.uint8)
        self.ring = np.zeros(
            (RING, *size), np.uint8
        )  # 255 where a label changed, the last RING frames in turn
        self.scratch = np.zeros(size, np.uint8)
        self.changes: list[tuple[bool, float]] = []  # (is a keyframe, label_change) of the last three frames
        self.picture: tuple[np.ndarray, np.ndarray] | None = None  # gray and labels, small, of the last frame

    def __call__(self, result: Any, rgb: np.ndarray | None = None) -> dict[str, Any]:
        """Figures of the next frame by name, see FIGURES.

        result: the stream's; its labels are kept and must not be written to. rgb: (H, W, 3) uint8, needed for
        the flow only. `flicker_map` is then (H, W) uint8: how often each pixel's label changed in the last
        16 frames, 0…16.
        """
        labels = result.labels
        if result.reset or labels.shape != self.scratch.shape:
            self.reset(labels.shape)
        values = {**self.between(labels, result.is_keyframe), **self.area(labels)}
        if self.flow and rgb is not None:
            values["motion_label_change"] = self.along_motion(labels, rgb)
        else:
            self.picture = None
        self.earlier = [*self.earlier[-1:], labels]
        self.count += 1
        values |= {
            "keyframe": int(result.is_keyframe),
            "keyframe_age": result.keyframe_age,
            "keyframe_age_ms": result.keyframe_age_ms,
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
        histogram = cv2.calcHist([labels], [0], None, [256], [0, 256])[: len(self.classes), 0]
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

    def along_motion(self, labels: np.ndarray, rgb: np.ndarray) -> float | None:
        """Label change after motion compensation, at reduced size; None for the first frame or a failed flow."""
        height, width = labels.shape
        scale = min(1.0, FLOW_SIDE / max(height, width))
        size = (max(round(width * scale), 32), max(round(height * scale), 32))  # DIS crashes on narrower ones
        gray = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        small = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        earlier, self.picture = self.picture, (gray, small)
        if earlier is None:
            return None
        place = self.dis.calc(gray, earlier[0], None)  # from each pixel to where it was
        place += grid(size)
        came = cv2.remap(earlier[0], place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        label = cv2.remap(earlier[1], place, None, cv2.INTER_NEAREST, borderValue=IGNORE)
        explained = (cv2.absdiff(came, gray) <= UNEXPLAINED) & (label != IGNORE) & (small != IGNORE)
        if not explained.any():
            return None
        return float(np.count_nonzero((label != small) & explained) / np.count_nonzero(explained))


@lru_cache(maxsize=4)
def grid(size: tuple[int, int]) -> np.ndarray:
    """(height, width, 2) float32: each pixel's own (x, y). size: (width, height)."""
    return np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), -1).astype(np.float32)
