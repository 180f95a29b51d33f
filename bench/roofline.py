"""The least time that a device's arithmetic and memory allow each stage of a network, and how near it comes.

    python bench/roofline.py cpu|cuda            # measured under eager torch
    python bench/roofline.py h100|orin|4090      # counted for a GPU that is not at hand; nothing is computed
        [--network dcfm] [--backbone mit_b0] [--classes 19] [--sizes 360x480,512x1024]

Williams, Waterman, Patterson, "Roofline: an insightful visual performance model" (CACM 2009): a stage takes at least
FLOPs ÷ the rate of a large matrix product, and at least bytes ÷ the rate of a large copy. The bytes are those that any
implementation moves: weights and inputs read once, outputs written once; `eager` counts every operator's instead.

Of the GPUs that are not at hand, in f16 as `torch` on CUDA runs it (fused attention and LayerNorm, weights in 16 bits):
roof is that least time; operators the same operator by operator, none fused with the next, plus the pause before each
kernel of a CUDA graph.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from vss_ros.backends import typed
from vss_ros.backends.stages import flat_stages
from vss_ros.deploy.bench.stages import columns
from vss_ros.deploy.convert import parse_size
from vss_ros.networks import build
from vss_ros.networks.cards.model import Model
from vss_ros.options import progress


def of_attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


# torch's own table leaves out the CPU's attention
FORMULAS = {**flop_registry, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention}


@dataclass
class Rates:
    """What a device reaches: multiply-adds counted as two FLOPs a second; bytes read plus written a second."""

    flops: float
    bytes: float


@dataclass
class Cost:
    """FLOPs of a stage; bytes that must be moved; FLOPs and bytes of each operator, none fused with another."""

    flops: int
    bytes: int
    operators: list[tuple[int, int]]

    @property
    def eager_bytes(self) -> int:
        return sum(moved for _, moved in self.operators)

    def least_ms(self, rates: Rates) -> float:
        return max(self.flops / rates.flops, self.bytes / rates.bytes) * 1e3


class Traffic(TorchDispatchMode):
    """FLOPs of operators, and the bytes that they read and write; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[int, int]] = []
        self.outside: dict[int, int] = {}
        """Bytes by storage that was there before: inputs and weights."""
        self.made: set[int] = set()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = operator(*args, **(kwargs or {}))
        read, written = tensors((args, kwargs)), tensors(answer)
        sources = {storage(tensor) for tensor in read}
        for tensor in read:
            if storage(tensor) not in self.made:
                self.outside[storage(tensor)] = tensor.untyped_storage().nbytes()
        fresh = [tensor for tensor in written if storage(tensor) not in sources]
        if fresh:
            formula = FORMULAS.get(operator.overloadpacket)
            flops = formula(*args, **(kwargs or {}), out_val=answer) if formula else 0
            self.operators.append((flops, sum(tensor.nbytes for tensor in [*read, *fresh])))
        self.made |= {storage(tensor) for tensor in fresh}
        return answer


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # its address in memory would be 0 for one that is only described


@torch.no_grad()
def cost(stage: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Cost:
    """What one call of a stage costs."""
    with Traffic() as traffic:
        answer = stage(*inputs)
    compulsory = sum(traffic.outside.values()) + sum(tensor.nbytes for tensor in tensors(answer))
    return Cost(sum(flops for flops, _ in traffic.operators), compulsory, traffic.operators)


@torch.no_grad()
def measure_rates(device: torch.device, dtype: torch.dtype = torch.float32) -> Rates:
    """Best of a few sizes: a square matrix product of `dtype`, and a copy that no cache holds."""
    gpu = device.type == "cuda"
    flops = 0.0
    for side in (2048, 4096, 8192) if gpu else (512, 1024):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        flops = max(flops, 2 * side**3 / (min(times(partial(torch.matmul, a, b), device, 8)) / 1e3))
    source = torch.ones(2**28 if gpu else 2**25, device=device)  # 1 GiB, 128 MiB
    target = torch.empty_like(source)
    moved = 2 * source.nbytes / (min(times(partial(target.copy_, source), device, 8)) / 1e3)
    return Rates(flops, moved)


def times(work: Callable[[], Any], device: torch.device, count: int) -> list[float]:
    """Milliseconds of `count` runs after two that warm up: by CUDA events on a GPU, else by the clock."""
    for _ in range(2):
        work()
    found = []
    if device.type == "cuda":
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for begin, end in pairs:
            begin.record()
            work()
            end.record()
        torch.cuda.synchronize(device)
        return [begin.elapsed_time(end) for begin, end in pairs]
    for _ in range(count):
        begin = time.perf_counter()
        work()
        found.append((time.perf_counter() - begin) * 1e3)
    return found


@torch.no_grad()
def stage_rows(
    stages: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]],
    device: torch.device,
    rates: Rates,
    count: int = 20,
) -> dict[str, dict[str, float]]:
    """By stage: median ms, GFLOP, MB that must be moved, MB of unfused operators, least ms, and share reached."""
    rows = {}
    for name, (stage, inputs) in progress(stages.items(), "roofline", unit="stage"):
        needs = cost(stage, inputs)
        taken = median(times(partial(stage, *inputs), device, count))
        least = needs.least_ms(rates)
        rows[name] = {
            "ms": taken,
            "GFLOP": needs.flops / 1e9,
            "MB": needs.bytes / 1e6,
            "MB eager": needs.eager_bytes / 1e6,
            "least ms": least,
            "reached": least / taken,
        }
    return rows


# A GPU that is not at hand

DEVICES = {  # dense f16 and DRAM rates that well-written kernels reach, 60 to 90 % of the data sheets'
    "h100": Rates(800e12, 3.0e12),
    "orin": Rates(34e12, 0.17e12),
    "4090": Rates(150e12, 0.92e12),
}
PAUSE = 2e-6
"""Seconds from one kernel of a graph to the next."""
KEY, NONKEY = ("encode", "remember", "decode"), ("propagate",)


@dataclass
class Frame:
    """A key or a non-key frame. roof, operators: milliseconds."""

    gflop: float
    kernels: int
    megabytes: float
    roof: float
    operators: float


def count(network: str, backbone: str, classes: int, size: tuple[int, int]) -> dict[str, Cost]:
    """Cost of every stage in f16."""
    with torch.device("meta"), torch.no_grad(), patch.object(typed, "fused_attention", attention):
        model = Model(build(network, backbone, classes).eval(), size)
        stages = flat_stages(model, "f16", fused=True)
        return {name: cost(stage, inputs) for name, (stage, inputs) in stages.items()}


def attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *, dtype: torch.dtype
) -> Tensor:
    """One kernel, as on CUDA; tensors without a device would have it taken apart."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(q.to(dtype), k.to(dtype), v.to(dtype))[0]


def frames(costs: dict[str, Cost], rates: Rates) -> dict[str, Frame]:
    """A key and a non-key frame; of a network without memory the latter alone, as `key`."""
    kinds = {"key": KEY, "non-key": NONKEY} if "encode" in costs else {"key": NONKEY}
    found = {}
    for kind, names in kinds.items():
        parts = [costs[name] for name in names]
        roof = sum(part.least_ms(rates) for part in parts)
        one_by_one = sum(max(f / rates.flops, b / rates.bytes) for part in parts for f, b in part.operators)
        kernels = sum(len(part.operators) for part in parts)
        found[kind] = Frame(
            sum(part.flops for part in parts) / 1e9,
            kernels,
            sum(part.eager_bytes for part in parts) / 1e6,
            roof,
            (one_by_one + kernels * PAUSE) * 1e3,
        )
    return found


def rows(network: str, backbone: str, classes: int, size: tuple[int, int], device: str) -> list[list[Any]]:
    """Lines of the table: frame, GFLOP, kernels, MB of operators, ms of the roof, ms of operators, share of the key."""
    found = frames(count(network, backbone, classes, size), DEVICES[device])
    key = found["key"].operators
    figures = [
        (kind, f.gflop, f.kernels, f.megabytes, f.roof, f.operators, f.operators / key)
        for kind, f in found.items()
    ]
    return [line.split() for line in map(LINE.format, *zip(*figures, strict=True))]


LINE = "{} {:.1f} {} {:.0f} {:.3f} {:.2f} {:.2f}"
HEADS = ["frame", "GFLOP", "kernels", "MB", "roof ms", "operators ms", "of key"]


def measured(network: str, backbone: str, classes: int, size: tuple[int, int], device: torch.device) -> str:
    """Tables of the stages under eager torch, one a precision."""
    text = ""
    for precision in ("f32", "bf16", "f16") if device.type == "cuda" else ("f32",):
        torch.manual_seed(0)
        model = Model(build(network, backbone, classes).eval().to(device), size)
        rates = measure_rates(device, typed.DTYPES[precision])
        found = stage_rows(flat_stages(model, precision), device, rates)
        text += (
            f"\n{precision}: matrix products {rates.flops / 1e9:.0f} GFLOP/s, "
            f"copies {rates.bytes / 1e9:.1f} GB/s\n"
        )
        heads = ["stage", *next(iter(found.values()))]
        lines = [
            [name, *(f"{x:.3g}" for x in list(row.values())[:-1]), f"{row['reached']:.0%}"]
            for name, row in found.items()
        ]
        text += columns(heads, lines) + "\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("device", choices=("cpu", "cuda", *DEVICES))
    parser.add_argument("--network", default="dcfm")
    parser.add_argument("--backbone", default="mit_b0")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--sizes", default="360x480,512x1024")
    args = parser.parse_args()
    for text in args.sizes.split(","):
        print(f"\n{args.network}-{args.backbone}, {args.classes} classes, {text}, {args.device}")
        model = args.network, args.backbone, args.classes, parse_size(text)
        if args.device in DEVICES:
            print(columns(HEADS, rows(*model, args.device)), flush=True)
        else:
            print(measured(*model, torch.device(args.device)), flush=True)


if __name__ == "__main__":
    main()
