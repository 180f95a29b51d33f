"""What a GPU that is not at hand should reach, counted on the stages' operators; nothing is computed.

roof: every weight and input read once, every output written once, or all FLOPs at full rate, whichever takes longer.
operators: the same operator by operator, none fused with the next, plus the pause before each kernel of a CUDA graph.
Counted is what `torch` on CUDA runs in f16: fused attention and LayerNorm, weights in 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from vss_ros.backends import typed
from vss_ros.backends.stages import flat_stages
from vss_ros.deploy.bench.roofline import Cost, Rates, cost
from vss_ros.networks import build
from vss_ros.networks.cards.model import Model

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
