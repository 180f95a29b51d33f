"""Time a frame of what users have today and of our schedules, all in one interleaved run over a moving scene."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from vss_ros.backends.choose import make_backend
from vss_ros.backends.cpu import cpu_has_bf16, openvino_core
from vss_ros.data.street.street import Street
from vss_ros.deploy.bench.schedules import backend_for
from vss_ros.media.motion import Motion
from vss_ros.networks import build
from vss_ros.networks.cards.model import Model
from vss_ros.options import progress
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.stream import Stream

FRAMES = 24
"""Of a scene, a multiple of every interval below."""
SCHEDULES = (
    ("K = 1", 1, 0.0, "at_once", "memory"),
    ("K = 5, motion", 5, 0.0, "at_once", "memory"),
    ("K = 5, motion, steady", 5, 0.7, "at_once", "memory"),
    ("K = 4, answer, steady", 4, 0.7, "at_once", "answer"),
    ("K = 2, 2 parts", 2, 0.7, "parts", "memory"),
    ("K = 8, motion", 8, 0.0, "at_once", "memory"),
    ("beside (answers only)", 5, 0.7, "beside", "memory"),
)
HEADS = [
    "",
    "ms a frame",
    "p50",
    "p99",
    "torch K = 1 ÷ it (goal 8)",
    "SegFormer eager ÷ it (15)",
    "SegFormer OpenVINO ÷ it (6)",
]
Runner = Callable[[np.ndarray, float], Any]


def compare(network: torch.nn.Module, size: tuple[int, int], classes: int, rounds: int) -> list[list[str]]:
    """Rows: who, median of the means of a turn in ms a frame, p50, p99 of its frames, how many times our K = 1 under
    torch, SegFormer-B0 of transformers, and that one through OpenVINO take its time."""
    street = Street(size=size)
    frames = [street.frame(t)[0] for t in range(FRAMES)]
    runners = contestants(network, size, classes)
    spent: dict[str, list[list[float]]] = {name: [] for name in runners}
    for turn in progress(range(rounds + 1), "peers"):
        for name, run in runners.items():
            times = []
            for t, frame in enumerate(frames):
                start = time.perf_counter()
                run(frame, turn + t / 30)
                times.append((time.perf_counter() - start) * 1e3)
            come_to_rest(run)
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
    torch.manual_seed(0)
    mobile = build("dcfm", "mobilenet_v1", classes).eval()
    precisions = ("f32", "bf16") if cpu_has_bf16() else ("f32",)
    for name, ours in (("ours", network), ("ours, DCFM-MobileNetV1", mobile)):
        for precision in precisions:
            backends = {
                schedule: backend_for(schedule, ours, size, "openvino", precision)
                for *_, schedule, _ in SCHEDULES
            }
            for kind, interval, steady, schedule, between in SCHEDULES:
                if schedule != "parts" or backends[schedule].parts > 1:
                    options: dict[str, Any] = {
                        "motion": Motion(size) if interval > 1 else None,
                        "schedule": schedule,
                        "between": between,
                    }
                    stream = Stream(backends[schedule], FixedInterval(interval), steady=steady, **options)
                    found[f"{name}, OpenVINO {precision}, {kind}"] = stream
    return found


def come_to_rest(run: Any) -> None:
    """Wait for what a stream's thread still computes: it would disturb the next one."""
    beside = getattr(run, "beside", None)
    if beside and (job := beside.job):
        run.reset()
        while job.started and not job.finished:
            time.sleep(1e-3)


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
