"""Cost of the consistency figures of a frame, on a rendered street with the renderer's own labels."""

from __future__ import annotations

import time
from statistics import median
from types import SimpleNamespace

from vss_ros.data.street.street import CLASSES, Street
from vss_ros.media.motion import Motion
from vss_ros.options import progress
from vss_ros.stream.consistency import Consistency

SIZES = ((480, 640), (1024, 2048))
FRAMES = 24
ROUNDS = 4


def cost() -> list[list[str]]:
    """Rows for each image size: size, median ms a frame, ms of the motion that it reads."""
    return [measure(height, width) for height, width in SIZES]


def measure(height: int, width: int) -> list[str]:
    street = Street(size=(height, width))
    frames = [street.frame(t) for t in range(FRAMES)]
    spent: list[float] = []
    moving: list[float] = []
    for _ in progress(range(ROUNDS), f"figures, {width}×{height}"):
        meter, motion = Consistency(CLASSES), Motion((height, width))
        for t, (rgb, labels) in enumerate(frames):
            start = time.perf_counter()
            step = motion.step(rgb)
            moving.append((time.perf_counter() - start) * 1e3)
            answer = SimpleNamespace(
                labels=labels,
                is_keyframe=t % 5 == 0,
                keyframe_age=t % 5,
                keyframe_age_ms=0.0,
                network_age_ms=0.0,
                reset="",
                step=step,
                label_drift=0.0,
                input_drift=None,
                feature_drift=None,
                times={},
            )
            start = time.perf_counter()
            meter(answer)
            spent.append((time.perf_counter() - start) * 1e3)
    return [f"{width}×{height}", f"{median(spent):.2f}", f"{median(moving):.2f}"]
