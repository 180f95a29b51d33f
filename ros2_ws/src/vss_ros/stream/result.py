"""What a stream answers for one frame, and its labels as a picture or a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import IGNORE, VssError
from vss_ros.data.published.cityscapes import CITYSCAPES_IDS
from vss_ros.media import draw
from vss_ros.media.motion import Step


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
    input_drift (AKS's score, see `Backend.input_change`) and feature_drift (of `encode`'s features, relative to
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
    palette: Sequence[Sequence[int]] = ()
    """[r, g, b] of each class, 0–255."""

    def __getstate__(self) -> dict[str, Any]:
        """For another process; its confidence is computed here."""
        return {**self.__dict__, "confidence": partial(np.asarray, self.confidence())}

    def overlay(self, rgb: np.ndarray, alpha: float = 0.5) -> np.ndarray:
        """(H, W, 3) uint8: the frame under its classes' colours, of opacity `alpha` in 0–1; unlabelled pixels as they
        are. rgb: (H, W, 3) uint8 of the labels' size. Else VssError."""
        return draw.overlay(rgb, self.labels, self.palette, alpha)

    def save(self, path: str | Path, kind: str = "ids") -> Path:
        """Write the labels as a PNG: class ids (8 bit grey, 255 unlabelled), `color`, or `cityscapes` (its label ids).

        Makes the folder; another file of that name is replaced. Raises VssError for another suffix or kind, or
        classes that are not Cityscapes' 19, and where the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise VssError(
                f"{path}: expected a name that ends in .png: other formats would change the labels"
            )
        mask = encode_mask(self.labels, kind, self.palette)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw.write_image(path, mask)
        except OSError as error:
            raise VssError(f"{path}: cannot be written: {error}") from error
        return path


def classes_json(model: str, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> str:
    """What label_info_json holds: what LabelInfo says, plus the model's name and the colours."""
    entries = [
        {"id": number, "name": name, "color": [int(value) for value in color]}
        for number, (name, color) in enumerate(zip(classes, palette, strict=True))
    ]
    return json.dumps({"model": model, "classes": entries, "unlabelled": IGNORE})


MASKS = ("ids", "color", "cityscapes")
"""Kinds of mask files."""


def check_mask_kind(kind: str, palette: Sequence[Sequence[int]]) -> None:
    """Raise VssError where a model of these classes has no such masks."""
    if kind not in MASKS:
        raise VssError(f"png: expected one of {', '.join(MASKS)}; got {kind!r}")
    if kind == "cityscapes" and len(palette) != len(CITYSCAPES_IDS):
        raise VssError(
            f"png cityscapes: expected a model of its {len(CITYSCAPES_IDS)} classes, this one has {len(palette)}"
        )


def encode_mask(labels: np.ndarray, kind: str, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Labels (H, W) uint8 as OpenCV writes them: ids, BGR colours, or Cityscapes' label ids (0: unlabelled)."""
    check_mask_kind(kind, palette)
    if kind == "color":
        return draw.colorize(labels, palette)[:, :, ::-1]
    if kind == "cityscapes":
        table = np.zeros(256, np.uint8)
        table[: len(CITYSCAPES_IDS)] = CITYSCAPES_IDS
        return table[labels]
    return labels


def decode_mask(mask: np.ndarray, kind: str, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """The labels (H, W) uint8 that `encode_mask` made an image of; 255 what it does not know."""
    if kind == "ids":
        return mask
    if kind == "cityscapes":
        table = np.full(256, IGNORE, np.uint8)
        table[list(CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES_IDS))
        return table[mask]
    labels = np.full(mask.shape[:2], IGNORE, np.uint8)
    for number, colour in enumerate(palette):
        labels[(mask == colour[::-1]).all(axis=2)] = number
    return labels
