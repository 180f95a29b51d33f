"""Build the engines of a model for this machine's GPU, ahead of time. Safe to interrupt: run it again to go on."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vss_ros.backends import int8_files
from vss_ros.backends.choose import best_precision
from vss_ros.backends.gpu import engines
from vss_ros.backends.gpu.build import engine_keys, jobs
from vss_ros.config import StreamConfig, option
from vss_ros.deploy.convert import parse_size
from vss_ros.networks.cards.model import open_model
from vss_ros.options import NetworkConfig, add_options


@dataclass(frozen=True)
class BuildConfig:
    """Options of `vss build`."""

    precision: str = option("f16", "f32, f16, bf16 or int8; auto is f16")
    calibration: Path | None = option(None, "int8: folder of `vss calibrate`", kind=Path, unset="its own")
    parts: int = option(
        1,
        "engines that a keyframe's deep layers become: the node's `parts` for its schedules parts and auto",
        low=1,
    )
    force: bool = option(False, "build anew what the cache holds already")
    limit: float = option(engines.LIMIT / 1e9, "GB of all cached engines together", low=0.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, StreamConfig, ("model",))
    add_options(parser, NetworkConfig, ("size",))
    add_options(parser, BuildConfig)


def main(args: argparse.Namespace) -> int:
    model = open_model(args.model, parse_size(args.size) if args.size else None)
    precision = best_precision("tensorrt", False) if args.precision == "auto" else args.precision
    model, name, size = replace(model, parts=args.parts), Path(args.model).stem, model.size
    if precision == "int8" and model.card:
        folder = args.calibration or int8_files.folder_of(model.card, size)
        model = replace(model, calibration=int8_files.find(folder, model.card, size))
    keys = engine_keys(model, precision)
    missing = [stage for stage, key in keys.items() if args.force or not is_cached(key)]
    if not missing:
        sys.stdout.write(f"{name}: all {len(keys)} engines are built\n")
        return 0
    sys.stdout.write(f"{name}, {size[1]}×{size[0]}, {precision}: {len(missing)} engines to build\n")
    work = jobs(model, precision)
    build_all({stage: (keys[stage], work[stage]) for stage in missing}, int(args.limit * 1e9), args.force)
    return 0


def build_all(work: dict[str, tuple[engines.Key, Any]], limit: int, force: bool = False) -> None:
    """Build engines one by one, and say before each how long the rest will take."""
    report_memory(max(job.memory for _, job in work.values()))
    rate = rate_of_earlier_builds({stage: job.operators for stage, (_, job) in work.items()}, work)
    done, spent = 0, 0.0
    left = sum(job.operators for _, job in work.values())
    # TensorRT does not return for minutes: the signal ends the process at once, which leaves the cache whole
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        for number, (stage, (key, job)) in enumerate(work.items(), 1):
            guess = f", about {duration(left * rate)} left" if rate else ""
            sys.stdout.write(f"{number}/{len(work)} {stage}: {job.operators} operators{guess} ... ")
            sys.stdout.flush()
            start = time.monotonic()
            if force:
                engines.file_of(key).unlink(missing_ok=True)
            content = engines.build(key, job.make, limit)
            done, spent = done + job.operators, spent + time.monotonic() - start
            left, rate = left - job.operators, spent / max(done, 1)
            sys.stdout.write(f"{duration(time.monotonic() - start)}, {len(content) / 1e6:.1f} MB\n")
    finally:
        signal.signal(signal.SIGINT, handler)


def rate_of_earlier_builds(operators: dict[str, int], work: dict[str, tuple[engines.Key, Any]]) -> float:
    """Seconds an operator, from engines of the same stages that were built before, for whatever size; 0: none."""
    seconds, count = 0.0, 0
    for entry in engines.entries():
        key = work.get(entry.key.stage, (None,))[0] if entry.key else None
        if key and (entry.key.network, entry.key.precision) == (key.network, key.precision):  # type: ignore[union-attr]
            seconds, count = seconds + entry.seconds, count + operators[key.stage]
    return seconds / count if count else 0.0


def report_memory(need: int) -> None:
    import torch

    if not torch.cuda.is_available():
        return
    free = torch.cuda.mem_get_info()[0]
    sys.stdout.write(f"needs about {need / 1e9:.1f} GB of GPU memory, {free / 1e9:.1f} GB are free\n")
    if free < need:
        sys.stdout.write("this may fail: stop what else uses the GPU, or choose a smaller --size\n")


def is_cached(key: engines.Key) -> bool:
    try:
        engines.load(key)
    except engines.NoEngine:
        return False
    return True


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
