"""Time per stage of any network on every installed CPU runtime, and the cost of ROS and of consistency figures.

Before the times stand parameters, multiply-accumulates and the memory that a remembered frame takes. Key and non-key
frames are told apart. All runtimes take turns in one run, a few frames each, so that a noisy machine harms them
alike: trust the ratios. On CUDA, and with --roofline on a CPU, also each stage under torch against the least time that
the machine's arithmetic and memory allow.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from vss_ros.backends.choose import make_backend
from vss_ros.backends.cpu import cpu_has_bf16
from vss_ros.backends.stages import flat_stages
from vss_ros.backends.typed import DTYPES
from vss_ros.config import StreamConfig, VssError, option
from vss_ros.deploy.bench import consistency as bench_consistency
from vss_ros.deploy.bench import paper, roofline, schedules
from vss_ros.deploy.bench.costs import costs, describe
from vss_ros.deploy.convert import parse_size
from vss_ros.networks import build, class_of
from vss_ros.networks.cards.card import read_card
from vss_ros.networks.cards.model import Model, open_model
from vss_ros.node_config import CountConfig
from vss_ros.options import NetworkConfig, add_json, add_options, progress
from vss_ros.stream.count import CountStream
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.stream import Stream

STAGES = ("encode", "remember", "decode", "propagate", "label")
INTERVAL = 5
CPU_BACKENDS = "torch,openvino,onnxruntime"
CUDA_BACKENDS = "torch,torch+bf16,torch+f16,torch+f16+compile,tensorrt+f16"
BLOCK = 2 * INTERVAL  # frames that a runtime computes in its turn: two keyframes, eight others
PAUSE = 0.2  # seconds; threads of the runtime before it spin for a while after their last frame


@dataclass(frozen=True)
class BenchConfig:
    """Options of `vss bench`."""

    model: str = option("", "installed model or card, at its size; instead of --network with fresh weights")
    sizes: str = option("360x480,512x1024", "HEIGHTxWIDTH of the input, with commas")
    backends: str = option(
        "",
        "with commas; +bf16 after one changes its precision, torch+f16+compile fuses operators on CUDA",
        unset=f"{CPU_BACKENDS}, on CUDA {CUDA_BACKENDS}",
    )
    device: str | None = option(
        None,
        "what it runs on; for --paper a GPU",
        choices=("cpu", "cuda", *paper.DEVICES),
        kind=str,
        unset="cuda where there is one",
    )
    paper: bool = option(False, "what --device should reach, counted, not measured")
    roofline: bool = option(False, "print the roofline on a CPU, too")
    against: str = option("", "image networks to measure in the same run: segformer,pspnet")
    intervals: str = option("1,2,5", "keyframe intervals, with commas")
    rounds: int = option(8, "turns of each backend", low=1)
    peers: bool = option(
        False, "instead: a frame of our schedules against torch eager and SegFormer-B0 of transformers"
    )
    schedules: bool = option(
        False,
        "instead: how even the latency of each schedule is, and several cameras in one process, on the first of "
        "backends (openvino, in bf16 where the CPU has it)",
    )
    frames: int = option(1000, "of each measurement of schedules", low=10)
    rate: float = option(
        0.0, "images a second for schedules; 0: what the machine holds", low=0.0, high=1000.0
    )
    ros: bool = option(True, "also the cost of ROS")
    out: Path | None = option(None, "JSON file to write the figures to as well", kind=Path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, NetworkConfig, ("network", "backbone", "classes"))
    add_options(parser, BenchConfig)
    add_json(parser)
    add_options(parser, StreamConfig, ("threads",))


def main(args: argparse.Namespace) -> int:
    if args.paper or args.device in paper.DEVICES:
        return on_paper(args)
    intervals = [int(k) for k in args.intervals.split(",")]
    card = read_card(args.model)[0] if args.model else None
    if card:
        args.network, args.backbone, args.classes = card.network, card.backbone, len(card.classes)
        args.sizes = args.sizes if args.sizes != BenchConfig.sizes else "x".join(map(str, card.size))
    known, options = class_of(args.network) is not None, card.options if card else {}
    device = use_device(args.device)
    args.backends = args.backends or (CUDA_BACKENDS if device.type == "cuda" else CPU_BACKENDS)
    args.networks = [args.network, *filter(None, (args.against or "").split(","))]
    figures: dict[str, Any] = {
        "network": f"{args.network}-{args.backbone}",
        "classes": args.classes,
        "costs": {},
        "sizes": {},
    }
    if args.peers or args.schedules:
        for text in args.sizes.split(","):
            heading = (
                f"{figures['network']}, {args.classes} classes, {text.replace('x', ' rows by ')} columns"
            )
            figures["sizes"][text] = found = others(args, text)
            for title, (heads, lines) in found.items():
                sys.stdout.write(f"\n{heading}: {title}\n{columns(heads, lines)}\n")
        return write(args, figures)
    for text in args.sizes.split(","):
        height, width = parse_size(text)
        rows = measure(args, (height, width))
        figures["sizes"][text] = rows
        sys.stdout.write(f"\n{figures['network']}, {args.classes} classes, {width}×{height}, medians in ms\n")
        if known:  # of an ONNX file only its times
            cost = costs(args.network, args.backbone, args.classes, (height, width), **options)
            figures["costs"][text] = cost
            sys.stdout.write(describe(cost) + "\n")
        sys.stdout.write(table(rows, intervals) + "\n" + against(rows, intervals, args.networks[1:]))
        if known and (args.roofline or device.type == "cuda"):
            sys.stdout.write(rooflines(args, (height, width), device, figures.setdefault("roofline", {})))
    if args.ros:
        from vss_ros.deploy.bench.ros import overhead

        figures["ros"] = overhead()
        sys.stdout.write("\ncost of ROS, network replaced by a constant, medians in ms\n")
        sys.stdout.write(columns(["image", "frames", "lost", "node", "image → mask"], figures["ros"]) + "\n")
    figures["motion"] = schedules.cost()
    sys.stdout.write("\ncost of motion on one core, processor time, medians in ms a frame\n")
    sys.stdout.write(columns(schedules.COSTS, figures["motion"]) + "\n")
    figures["consistency"] = bench_consistency.cost()
    sys.stdout.write("\ncost of the consistency figures, medians in ms a frame\n")
    sys.stdout.write(columns(["image", "figures", "motion"], figures["consistency"]) + "\n")
    return write(args, figures)


def others(args: argparse.Namespace, size: str) -> dict[str, tuple[list[str], list[list[str]]]]:
    """The tables that are asked for instead: titles, heads and rows."""
    if args.peers:
        from vss_ros.deploy.bench import peers

        network = open_network(args, args.network)
        return {"peers": (peers.HEADS, peers.compare(network, parse_size(size), args.classes, args.rounds))}
    default = "openvino+bf16" if cpu_has_bf16() else "openvino"
    name, _, precision = (
        default if args.backends == CPU_BACKENDS else args.backends.split(",")[0]
    ).partition("+")
    spec = (args.network, args.backbone, str(args.classes), size, name, precision or "f32")
    return schedules.tables(spec, args.frames, args.rate)


def write(args: argparse.Namespace, figures: dict[str, Any]) -> int:
    args.result = figures
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2))
    return 0


def on_paper(args: argparse.Namespace) -> int:
    if not args.paper or args.device not in paper.DEVICES:
        raise VssError(f"expected --paper with --device {', '.join(paper.DEVICES)}")
    rates = paper.DEVICES[args.device]
    args.result = {}
    for text in args.sizes.split(","):
        for name in [args.network, *filter(None, (args.against or "").split(","))]:
            size = parse_size(text)
            lines = paper.rows(name, args.backbone, args.classes, size, args.device)
            args.result.setdefault(text, {})[name] = lines
            sys.stdout.write(
                f"\n{name}-{args.backbone}, {args.classes} classes, {size[1]}×{size[0]}, f16, on paper: {args.device}, "
                f"{rates.flops / 1e12:.0f} TFLOP/s, {rates.bytes / 1e12:.2f} TB/s\n"
                + columns(paper.HEADS, lines)
                + "\n"
            )
    return 0


def use_device(name: str | None) -> torch.device:
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # torch looks when CUDA is used first, which is later
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise VssError("--device cuda: torch finds no CUDA device; install its CUDA build and the driver")
    return torch.device("cuda" if there else "cpu")


def measure(args: argparse.Namespace, size: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Median milliseconds of each stage, of key and of non-key frames, by backend; other networks as NAME: BACKEND."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (BLOCK, *size, 3), dtype=np.uint8)
    streams: dict[str, Any] = {}
    for name, network in itertools.product(args.backends.split(","), args.networks):
        runtime, _, precision = name.partition("+")
        label = name if network == args.network else f"{network}: {name}"
        try:
            backend = open_backend(args, network, size, runtime, precision or "f32")
        except VssError as error:
            sys.stderr.write(f"{label} left out: {error}\n")
            continue
        counts = getattr(class_of(network), "task", "") == "counting"
        streams[label] = (
            CountStream(backend, None, CountConfig()) if counts else Stream(backend, FixedInterval(INTERVAL))
        )
    if not streams:
        raise VssError(f"no backend of {args.backends} is installed: pip install openvino onnx onnxscript")
    results: dict[str, list] = {name: [] for name in streams}
    for turn in progress(range(args.rounds + 1), f"{size[1]}×{size[0]}"):
        for name, stream in streams.items():
            time.sleep(PAUSE)
            answers = list(stream.run((frame, 0.0) for frame in frames))
            if turn > 0:  # the first turn warms up
                results[name] += answers
    return {name: summary(answers) for name, answers in results.items()}


def open_network(args: argparse.Namespace, name: str) -> torch.nn.Module:
    if args.model and name == args.network:
        return open_model(args.model).network
    torch.manual_seed(0)  # the same weights in each run: exported stages are found again
    return build(name, args.backbone, args.classes).eval()


def open_backend(
    args: argparse.Namespace, network: str, size: tuple[int, int], runtime: str, precision: str
) -> Any:
    precision, _, extra = precision.partition("+")
    if extra not in ("", "compile") or (extra and (runtime != "torch" or not torch.cuda.is_available())):
        raise VssError(f"{runtime}+{precision}+{extra}: expected torch+PRECISION+compile, on CUDA")
    from_card = args.model and network == args.network
    model = open_model(args.model, size) if from_card else Model(open_network(args, network), size)
    if extra:
        from vss_ros.backends.gpu.torch import TorchCudaBackend

        return TorchCudaBackend(model, precision, compiled=True)
    return make_backend(model, runtime, precision=precision, threads=args.threads)


def rooflines(
    args: argparse.Namespace, size: tuple[int, int], device: torch.device, figures: dict[str, Any]
) -> str:
    """Tables of a network's stages under eager torch, one a precision, that are also put into `figures`."""
    text = ""
    for precision in ("f32", "bf16", "f16") if device.type == "cuda" else ("f32",):
        network = open_network(args, args.network).to(device)
        rates = roofline.measure_rates(device, DTYPES[precision])
        stages = flat_stages(Model(network, size), precision)
        rows = roofline.stage_rows(stages, device, rates)
        figures[f"{size[0]}x{size[1]} {precision}"] = {"rates": vars(rates), "stages": rows}
        text += (
            f"\nroofline, torch eager {precision} on {device.type}: matrix products {rates.flops / 1e9:.0f} GFLOP/s, "
            f"copies {rates.bytes / 1e9:.1f} GB/s\n"
        )
        heads = ["stage", *next(iter(rows.values()))]
        lines = [
            [name, *(f"{x:.3g}" for x in list(row.values())[:-1]), f"{row['reached']:.0%}"]
            for name, row in rows.items()
        ]
        text += columns(heads, lines) + "\n"
    return text


def summary(answers: list) -> dict[str, float]:
    keys, others = [a for a in answers if a.is_keyframe], [a for a in answers if not a.is_keyframe]
    stages = {
        stage: median([a.times[stage] for a in answers if stage in a.times] or [0.0]) for stage in STAGES
    }
    key = median(a.times["total"] for a in keys)
    return {**stages, "key": key, "nonkey": median([a.times["total"] for a in others] or [key])}


def average(row: dict[str, float], interval: int) -> float:
    """Mean milliseconds a frame at a keyframe interval, as the papers report it."""
    return (row["key"] + (interval - 1) * row["nonkey"]) / interval


def table(rows: dict[str, dict[str, float]], intervals: list[int]) -> str:
    """Rows of figures; the last columns compare with the first backend."""
    first = next(iter(rows))
    heads = ["backend", *STAGES, "key", "nonkey", "nonkey/key", *(f"K={k}" for k in intervals)]
    heads += [f"key vs {first}", f"nonkey vs {first}"]
    lines = []
    for name, row in rows.items():
        figures = [row[stage] for stage in STAGES] + [row["key"], row["nonkey"]]
        means = [f"{average(row, k):.1f}" for k in intervals]
        gains = [f"{rows[first][kind] / row[kind]:.2f}×" for kind in ("key", "nonkey")]
        lines.append(
            [name, *(f"{x:.1f}" for x in figures), f"{row['nonkey'] / row['key']:.2f}", *means, *gains]
        )
    return columns(heads, lines)


def against(rows: dict[str, dict[str, float]], intervals: list[int], networks: list[str]) -> str:
    """How many times faster than each image network on the same backend, at each keyframe interval."""
    lines = [
        [name, other, *(f"{rows[f'{other}: {name}']['key'] / average(row, k):.2f}×" for k in intervals)]
        for name, row in rows.items()
        for other in networks
        if f"{other}: {name}" in rows
    ]
    heads = ["backend", "faster than", *(f"K={k}" for k in intervals)]
    return "\n" + columns(heads, lines) + "\n" if lines else ""


def columns(heads: list[str], lines: Iterable[Iterable[Any]]) -> str:
    """Text table, columns aligned."""
    rows = [heads, *([str(cell) for cell in line] for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
