"""Time a frame of what users have today and of our schedules, all in one interleaved run over a moving scene."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from vss_ros.backends.choose import make_backend
from vss_ros.backends.cpu import openvino_core
from vss_ros.data.street.street import Street
from vss_ros.networks.cards.model import Model
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.motion import Motion
from vss_ros.stream.stream import Stream

FRAMES = 24
"""Of a scene, a multiple of every interval below."""
SCHEDULES = (
    ("K = 1", 1, 0.0),
    ("K = 5, motion", 5, 0.0),
    ("K = 5, motion, steady", 5, 0.7),
    ("K = 8, motion", 8, 0.0),
)
Runner = Callable[[np.ndarray, float], Any]


def compare(network: torch.nn.Module, size: tuple[int, int], classes: int, rounds: int) -> list[list[str]]:
    """Rows: who, median of the means of a turn in ms a frame, p50, p99 of its frames, how many times our K = 1 under
    torch, SegFormer-B0 of transformers, and that one through OpenVINO take its time."""
    street = Street(size=size)
    frames = [street.frame(t)[0] for t in range(FRAMES)]
    runners = contestants(network, size, classes)
    spent: dict[str, list[list[float]]] = {name: [] for name in runners}
    for turn in range(rounds + 1):
        for name, run in runners.items():
            times = []
            for t, frame in enumerate(frames):
                start = time.perf_counter()
                run(frame, turn + t / 30)
                times.append((time.perf_counter() - start) * 1e3)
            if turn:  # the first turn warms up
                spent[name].append(times)
    means = {name: float(np.median([np.mean(turn) for turn in turns])) for name, turns in spent.items()}
    rows = []
    for name, turns in spent.items():
        p50, p99 = np.percentile(np.concatenate(turns), (50, 99))
        ratios = [f"{means[peer] / means[name]:.1f}×" if peer in means else "–" for peer in PEERS]
        rows.append([name, f"{means[name]:.1f}", f"{p50:.1f}", f"{p99:.1f}", *ratios])
    return rows


PEERS = ("ours, torch eager, K = 1", "SegFormer-B0, transformers eager", "SegFormer-B0, OpenVINO f32")


def contestants(network: torch.nn.Module, size: tuple[int, int], classes: int) -> dict[str, Runner]:
    torch_k1 = Stream(make_backend(Model(network, size), "torch"), FixedInterval(1))
    found: dict[str, Runner] = {PEERS[0]: torch_k1}
    found |= segformers(size, classes)
    backend = make_backend(Model(network, size), "openvino")
    for name, interval, steady in SCHEDULES:
        motion = Motion(size) if interval > 1 else None
        found[f"ours, OpenVINO f32, {name}"] = Stream(
            backend, FixedInterval(interval), motion=motion, steady=steady
        )
    return found


def segformers(size: tuple[int, int], classes: int) -> dict[str, Runner]:
    """SegFormer-B0 as published in transformers, if that is installed: eager, and its graph through OpenVINO."""
    try:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation
    except ImportError:
        return {}
    import openvino

    model = SegformerForSemanticSegmentation(SegformerConfig.from_dict({"num_labels": classes})).eval()

    class Labels(torch.nn.Module):
        """Normalised frame → labels at its size, as users of transformers write it."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = self.model(x).logits
            full = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            return full.argmax(1)

    labels = Labels().eval()
    example = (torch.zeros(1, 3, *size),)
    converted = openvino.convert_model(torch.export.export(labels, example))
    compiled = openvino_core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def prepare(rgb: np.ndarray) -> torch.Tensor:
        return (torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255 - 0.45) / 0.226

    def eager(rgb: np.ndarray, stamp: float) -> Any:
        with torch.inference_mode():
            return labels(prepare(rgb))

    return {PEERS[1]: eager, PEERS[2]: lambda rgb, stamp: compiled(prepare(rgb).numpy())}
