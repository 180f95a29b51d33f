"""Photometric change as cameras, weather and surfaces make it: what a network trained on rendered frames must ignore.

Everything acts on (h, w, 3) float32 RGB in 0..255 and leaves the labels as they are; a few ms for 240×320 pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from vss_ros.config import IGNORE


def change(image: np.ndarray, labels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """image (h, w, 3) uint8 RGB, labels (h, w) uint8 → (h, w, 3) uint8; each effect at a chance and size that grow with
    `strength` (0..1)."""
    picture = image.astype(np.float32)

    def chance(share: float) -> bool:
        return rng.random() < share * strength

    if chance(0.7):
        picture = surfaces(picture, labels, rng)
    if chance(0.4):
        picture = reflections(picture, labels, rng)
    if chance(0.6):
        picture *= illumination(picture.shape[:2], rng)[..., None]
    if chance(0.4):
        picture = veil(picture, rng)
    if chance(0.8):
        picture = tone(picture, rng)
    return sensor(picture, strength, rng)


def field(size: tuple[int, int], cells: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise (h, w) float32 with standard deviation near 1; `cells` of it across the longer side."""
    h, w = size
    rows, cols = (max(2, round(cells * side / max(h, w))) for side in (h, w))
    grid = rng.standard_normal((rows + 1, cols + 1), dtype=np.float32)
    return cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC)


def surfaces(picture: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every class gets a gain, a tint and a texture of its own: shapes are what stays."""
    size = labels.shape
    gains = np.exp(0.25 * rng.standard_normal((256, 1)) + 0.06 * rng.standard_normal((256, 3)))
    fine, coarse = field(size, rng.uniform(60, 160), rng), field(size, rng.uniform(8, 40), rng)
    depth = np.abs(rng.standard_normal((256, 2))).astype(np.float32) * (0.14, 0.16)
    depth[0] *= 0.3  # sky is smooth
    amount = depth.astype(np.float32)[labels]
    texture = np.exp(amount[..., 0] * fine + amount[..., 1] * coarse)
    return picture * gains.astype(np.float32)[labels] * texture[..., None]


def reflections(picture: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One or two classes mirror the picture, as wet roads, windows and car bodies do."""
    h, w = labels.shape
    mirrored = np.roll(picture[::-1], int(rng.integers(-h // 3, h // 3)), axis=0)
    mirrored = cv2.blur(mirrored, (int(rng.choice([1, 3, 9])), int(rng.choice([3, 9, 25]))))
    present = np.unique(labels)
    present = present[(present != IGNORE) & (present != 0)]
    if not len(present):
        return picture
    mask = np.isin(labels, rng.choice(present, min(2, len(present)), replace=False)).astype(np.float32)
    mask *= rng.uniform(0.1, 0.5) * np.clip(0.7 + 0.5 * field((h, w), rng.uniform(3, 20), rng), 0, 1)
    return picture + mask[..., None] * (mirrored - picture)


def illumination(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Factor (h, w) of uneven light: smooth change, cast shadows with straight or ragged borders, a vignette."""
    h, w = size
    light = np.exp(rng.uniform(0, 0.35) * field(size, rng.uniform(1, 4), rng))
    y, x = np.mgrid[:h, :w].astype(np.float32)
    for _ in range(rng.integers(0, 3)):
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4) * w
        border = (x - w / 2) * np.cos(angle) + (y - h / 2) * np.sin(angle) - offset
        border += rng.uniform(0, 25) * field(size, rng.uniform(4, 40), rng)
        light *= 1 - rng.uniform(0.2, 0.65) * np.clip(border / rng.uniform(1, 12) + 0.5, 0, 1)
    radius = ((x / w - 0.5) ** 2 + (y / h - 0.5) ** 2) * 2
    return light * (1 - rng.uniform(0, 0.5) * radius)


def veil(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Haze that is thickest about a row of the picture (the horizon's), or glare about a point."""
    h, w = picture.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    if rng.random() < 0.5:
        thick = np.exp(-(((y - rng.uniform(0.2, 0.7) * h) / (rng.uniform(0.1, 0.5) * h)) ** 2))
    else:
        distance = np.hypot(x - rng.uniform(0, w), y - rng.uniform(0, 0.7 * h))
        thick = np.exp(-distance / (rng.uniform(0.1, 0.5) * w))
    colour = rng.uniform(150, 255) + rng.normal(0, 8, 3)
    return picture + (rng.uniform(0.1, 0.6) * thick)[..., None] * (colour.astype(np.float32) - picture)


def tone(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposure, gamma, contrast and white balance."""
    white = np.exp(rng.normal(0, 0.06, 3))
    gain = np.exp(rng.normal(0, 0.35))
    power = np.exp(rng.normal(0, 0.3))
    ramp = np.linspace(0, 1, 1024, dtype=np.float32)[:, None] * 2  # up to twice white before it clips
    curve = 255 * np.clip(ramp * white * gain, 0, None) ** power
    if rng.random() < 0.5:  # film-like shoulder
        curve = 255 * (1 - np.exp(-1.6 * curve / 255)) / (1 - np.exp(-1.6))
    lift, top = rng.uniform(0, 25), rng.choice([255, 255, 225, 200])
    curve = (lift + np.clip(curve, 0, 255) * (top - lift) / 255).astype(np.float32)
    index = np.clip(picture * (1023 / 510), 0, 1023).astype(np.int32)
    return curve[index, np.arange(3)]


def sensor(picture: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Blur or sharpening, noise, JPEG: → uint8."""
    kind = rng.random() / max(strength, 1e-6)
    if kind < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.8))
    elif kind < 0.6:
        smooth = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.7, 1.6))
        picture = picture + rng.uniform(0.3, 1.5) * (picture - smooth)
    elif kind < 0.75:
        h, w = picture.shape[:2]
        shrink = rng.uniform(0.35, 0.8)
        small = cv2.resize(picture, (int(w * shrink), int(h * shrink)), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5 * strength:
        grain = rng.standard_normal(picture.shape[:2], dtype=np.float32)[..., None]
        if rng.random() < 0.5:
            grain = grain + 0.7 * rng.standard_normal(picture.shape, dtype=np.float32)
        picture = picture + rng.uniform(1, 12) * grain
    result = np.clip(picture, 0, 255).astype(np.uint8)
    if rng.random() < 0.4 * strength:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 90))]
        written = cv2.imencode(".jpg", result, quality)[1]
        result = cv2.imdecode(written, cv2.IMREAD_COLOR)
    return result
