"""Augmentation of a clip: one affine map for all its frames and labels, simulated motion, colour jitter.

By OpenCV, with one `warpAffine` a frame: 1.7 ms for a clip of two 480×360 frames, where kornia takes 32 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from vss_ros.config import IGNORE, VssError, brief
from vss_ros.train.photometric import change

RANGES = {
    "scale": (0.01, 100),
    "rotation": (0, 180),
    **dict.fromkeys(("brightness", "contrast", "saturation", "keep", "photometric"), (0, 1)),
    "hue": (0, 0.5),
    "motion": (0, 0.9),
}
FILL = (124, 116, 104)  # ImageNet's mean colour: zero after normalisation


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for each clip. Colours: half-widths of the factors' ranges; hue as a share of the circle."""

    crop: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the zoom; of the window's side where `window` says so."""
    window: bool = False
    """Draw the side of the window that is cut out, as a share of the crop's, and resize it to the crop: the zoom is
    its inverse. DCFM's authors do so on Cityscapes and CamVid."""
    rotation: float = 0.0
    flip: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    keep: tuple[float, ...] = ()
    """Share of each class's labels that is kept, drawn a pixel; the loss sees weights of these ratios. Empty: all."""
    motion: float = 0.0
    """Half-width of the zoom and, as a share of the crop, of the shift that each frame after the first gets beside:
    stands in for camera motion where the data's own neighbours lie too far apart."""
    photometric: float = 0.0
    """Strength, 0 to 1, of what light, weather, surfaces and cameras do to a picture (`photometric.change`)."""
    colour: str = "clip"
    """One draw of colours for the whole clip, one for each frame, or one for the first frame alone."""

    def __post_init__(self) -> None:
        if self.colour not in ("clip", "frame", "first"):
            raise VssError(f"colour: expected clip, frame or first, got {self.colour!r}")
        check_ranges(self, RANGES)
        if len(self.scale) != 2 or self.scale[0] > self.scale[1]:
            raise VssError(f"scale: expected [low, high], got {self.scale!r}")

    def __call__(
        self, frames: Sequence[np.ndarray], labels: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """T images (H, W, 3) uint8 and T label maps (H, W) uint8 → (T, h, w, 3) and (T, h, w) uint8, h, w = crop."""
        matrix = self.draw_matrix(frames[0].shape[:2], rng)
        matrices = [matrix, *(self.draw_motion(rng) @ np.vstack([matrix, [0, 0, 1]]) for _ in frames[1:])]
        size = (self.crop[1], self.crop[0])
        tables: tuple = ()
        images = []
        for i, frame in enumerate(frames):
            image = cv2.warpAffine(np.ascontiguousarray(frame), matrices[i], size, borderValue=FILL)
            if i == 0 or self.colour == "frame":
                tables = self.draw_colour(rng)
            images.append(image if i and self.colour == "first" else recolour(image, *tables))
        maps = [
            cv2.warpAffine(label, matrix, size, flags=cv2.INTER_NEAREST, borderValue=IGNORE)
            for label, matrix in zip(labels, matrices, strict=True)
        ]
        if self.photometric:
            seed = int(rng.integers(2**32))  # the same draws for all frames of the clip
            images = [
                change(image, label, self.photometric, np.random.default_rng(seed))
                for image, label in zip(images, maps, strict=True)
            ]
        if self.keep:
            share = np.ones(256, np.float32)
            share[: len(self.keep)] = self.keep
            maps = [
                np.where(rng.random(m.shape, np.float32) < share[m], m, IGNORE).astype(np.uint8) for m in maps
            ]
        return np.stack(images), np.stack(maps)

    def with_points(
        self, image: np.ndarray, points: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 and its points (N, 2), column and row → crop (h, w, 3), and where they lie in it, or
        beside it. A pixel's centre is half a pixel from its corner."""
        matrix = self.draw_matrix(image.shape[:2], rng)
        crop = cv2.warpAffine(image, matrix, (self.crop[1], self.crop[0]), borderValue=FILL)
        placed = (points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
        return recolour(crop, *self.draw_colour(rng)), placed

    def draw_matrix(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """2×3 map from a frame's pixels to the crop's: scale, rotation about the centre, flip, crop (or pad)."""
        (height, width), (h, w) = size, self.crop
        scale = rng.uniform(*self.scale)
        scale = 1 / scale if self.window else scale
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation))
        mirror = -1.0 if self.flip and rng.random() < 0.5 else 1.0
        linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = linear @ np.diag([mirror, 1.0])
        # Where the frame's centre lands: anywhere that keeps the crop inside the frame, or the frame in the crop.
        slack = (np.array([width, height]) * scale - (w, h)) / 2
        centre = np.array([w, h]) / 2 + rng.uniform(-1, 1, 2) * np.abs(slack)
        # Pixel (0, 0) has its centre at (0.5, 0.5).
        shift = centre - linear @ (np.array([width, height]) / 2) + linear @ (0.5, 0.5) - 0.5
        return np.column_stack([linear, shift])

    def draw_motion(self, rng: np.random.Generator) -> np.ndarray:
        """2×3 map of the crop's pixels: zoom about its centre, then shift; the identity without `motion`."""
        if not self.motion:
            return np.eye(2, 3)
        zoom, *shift = rng.uniform(-self.motion, self.motion, 3)
        h, w = self.crop
        centre = np.array([w - 1, h - 1]) / 2
        return np.column_stack([np.eye(2) * (1 + zoom), np.array(shift) * (w, h) - zoom * centre])

    def draw_colour(self, rng: np.random.Generator) -> tuple[np.ndarray, float, int]:
        gain = 1 + rng.uniform(-1, 1) * self.brightness
        contrast = 1 + rng.uniform(-1, 1) * self.contrast
        table = (np.arange(256) - 128.0) * contrast * gain + 128 * gain
        saturation = 1 + rng.uniform(-1, 1) * self.saturation
        hue = round(rng.uniform(-1, 1) * self.hue * 180)
        return np.clip(table, 0, 255).astype(np.uint8), saturation, hue


def recolour(image: np.ndarray, table: np.ndarray, saturation: float, hue: int) -> np.ndarray:
    image = cv2.LUT(image, table)
    if saturation == 1 and hue == 0:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + hue) % 180
    hsv[..., 1] = cv2.convertScaleAbs(hsv[..., 1], alpha=saturation)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def check_ranges(settings: Any, ranges: dict[str, tuple[float, float]]) -> None:
    """Raise VssError for the first field with a value, or a part of one, outside of its range."""
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if not all(low <= part <= high for part in (value if isinstance(value, (list, tuple)) else [value])):
            raise VssError(f"{name}: expected {low} to {high}, got {brief(value)}")
