"""Cost of the consistency figures of a frame, on a rendered street with the renderer's own labels."""

from __future__ import annotations

import time
from statistics import median
from types import SimpleNamespace

from vss_ros.data.street.street import CLASSES, Street
from vss_ros.stream.consistency import Consistency

SIZES = ((480, 640), (1024, 2048))
FRAMES = 24
ROUNDS = 4


def cost() -> list[list[str]]:
    """Rows for each image size: size, median ms a frame without flow, with flow."""
    return [measure(height, width) for height, width in SIZES]


def measure(height: int, width: int) -> list[str]:
    street = Street(size=(height, width))
    frames = [street.frame(t) for t in range(FRAMES)]
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for flow, spent in times.items():
            meter = Consistency(CLASSES, flow)
            for t, (rgb, labels) in enumerate(frames):
                answer = SimpleNamespace(
                    labels=labels,
                    is_keyframe=t % 5 == 0,
                    keyframe_age=t % 5,
                    keyframe_age_ms=0.0,
                    reset="",
                    label_drift=0.0,
                    input_drift=None,
                    feature_drift=None,
                    times={},
                )
                start = time.perf_counter()
                meter(answer, rgb)
                spent.append((time.perf_counter() - start) * 1e3)
    return [f"{width}×{height}", f"{median(times[False]):.2f}", f"{median(times[True]):.2f}"]
