"""Roofline of a network's stages under plain torch: measured times against the least that the machine allows.

Williams, Waterman, Patterson, "Roofline: an insightful visual performance model" (CACM 2009): a stage takes at least
FLOPs ÷ the rate of a large matrix product, and at least bytes ÷ the rate of a large copy. The bytes are those that any
implementation moves: weights and inputs read once, outputs written once; `eager` counts every operator's instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from vss_ros.backends.gpu import fused  # noqa: F401  its operators
from vss_ros.options import progress


def of_attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def of_decode(
    features: Tensor, memory: Tensor, own: Tensor, hidden: Any, _: Any, last: Tensor, *__: Any, **___: Any
) -> int:
    layers = own.numel() + (0 if hidden is None else hidden.numel()) + last.numel()
    return 2 * features.shape[:3].numel() * layers


# torch's own table leaves out the CPU's attention
FORMULAS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention,
    torch.ops.aten._addmm_activation: flop_registry[torch.ops.aten.addmm],
    torch.ops.vss_ros.fuse_and_classify: of_decode,
    torch.ops.vss_ros.depthwise_gelu: lambda x, weight, *_, **__: 2 * x.numel() * len(weight),
}
NO_KERNEL = {torch.ops.aten.empty_like, torch.ops.aten.empty, torch.ops.aten.new_empty}


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
        if operator.overloadpacket is torch.ops.aten.convolution and answer.is_meta:
            answer = answer.to(memory_format=layout(args))
        if operator.overloadpacket in NO_KERNEL:
            self.made |= {storage(tensor) for tensor in tensors(answer)}
            return answer
        given = {key: value for key, value in (kwargs or {}).items() if key != "out"}
        read, written = tensors((args, given)), tensors(answer)
        sources = {storage(tensor) for tensor in read}
        for tensor in read:
            if storage(tensor) not in self.made:
                self.outside[storage(tensor)] = tensor.untyped_storage().nbytes()
        in_place = operator._schema.is_mutable
        fresh = [tensor for tensor in written if in_place or storage(tensor) not in sources]
        if fresh:
            formula = FORMULAS.get(operator.overloadpacket)
            flops = formula(*args, **(kwargs or {}), out_val=answer) if formula else 0
            self.operators.append((flops, sum(tensor.nbytes for tensor in [*read, *fresh])))
        if not in_place:
            self.made |= {storage(tensor) for tensor in fresh}
        return answer


def layout(args: Any) -> torch.memory_format:
    """In which cuDNN answers a convolution; without a device torch does not say."""
    last = torch.channels_last
    ours = [tensor.is_contiguous(memory_format=last) and not tensor.is_contiguous() for tensor in args[:2]]
    return last if any(ours) else torch.contiguous_format


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
