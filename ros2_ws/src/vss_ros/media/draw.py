"""Labels and figures as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import VssError
from vss_ros.media.files import write_atomic


def colorize(labels: np.ndarray, palette: Any) -> np.ndarray:
    """(H, W) uint8 class ids as (H, W, 3) uint8 colours of `palette` (C, 3); ids outside of it are black."""
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(palette), 0] = palette
    return cv2.applyColorMap(np.ascontiguousarray(labels), table)


def overlay(rgb: np.ndarray, labels: np.ndarray, palette: Any, alpha: float = 0.5) -> np.ndarray:
    """(H, W, 3) uint8: (1 - alpha) * rgb + alpha * class colour.

    Unlabelled pixels, that is ids outside `palette` (255 among them), keep the camera's colour.
    """
    if rgb.shape[:2] != labels.shape:
        raise VssError(f"overlay: expected labels of the image's size {rgb.shape[:2]}, got {labels.shape}")
    if rgb.dtype != np.uint8 or rgb.shape[2:] != (3,) or not 0 <= alpha <= 1:
        raise VssError(
            f"overlay: expected (H, W, 3) uint8, alpha in 0–1, got {rgb.shape} {rgb.dtype}, {alpha}"
        )
    mixed = cv2.addWeighted(rgb, 1.0 - alpha, colorize(labels, palette), alpha, 0.0)
    unlabelled = (labels >= len(palette)).view(np.uint8)
    return cv2.copyTo(rgb, unlabelled, mixed)


def draw_points(rgb: np.ndarray, points: np.ndarray, colour: Any = (255, 70, 40)) -> np.ndarray:
    """A copy of the image (H, W, 3) uint8 with a ring around each of points (N, 2…), column and row."""
    picture, radius = np.array(rgb), max(3, round(max(rgb.shape[:2]) / 120))
    for x, y in points[:, :2]:
        cv2.circle(picture, (int(x), int(y)), radius, [int(v) for v in colour], 2, cv2.LINE_AA)
    return picture


def jpeg(rgb: np.ndarray, quality: int = 85) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG file, quality 1–100."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def write_image(path: Path, bgr: np.ndarray, options: Sequence[int] = ()) -> None:
    """An image (H, W) or (H, W, 3) BGR in its suffix's format. OSError where OpenCV's own writer only answers False."""
    write_atomic(path, cv2.imencode(path.suffix, bgr, options)[1].tobytes())


def heat(values: np.ndarray, most: int) -> np.ndarray:
    """(H, W) uint8 in 0…most as (H, W, 3) uint8 RGB, from black through red and yellow to white."""
    scaled = cv2.convertScaleAbs(values, alpha=255 / most)
    return cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_HOT), cv2.COLOR_BGR2RGB)


def contact_sheet(images: Sequence[np.ndarray], columns: int = 3, gap: int = 4) -> np.ndarray:
    """Images (h, w, 3) uint8 row by row on a white sheet; those of another size are fitted to the first's."""
    if not images or columns < 1:
        raise VssError(f"contact sheet: expected images and a column, got {len(images)} and {columns}")
    height, width = images[0].shape[:2]
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        if image.shape[:2] != (height, width):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet
