"""Parameters, multiply-accumulates and memory of a network, counted."""

from __future__ import annotations

from typing import Any

import torch

from vss_ros.backends.stages import fold_batch_norms, memories_read
from vss_ros.networks import build


def costs(name: str, backbone: str, classes: int, size: tuple[int, int], **options: Any) -> dict[str, float]:
    """What a network needs, its weights folded, whatever runs it; nothing is computed.

    parameters: numbers; encode, remember, decode: multiply-accumulates of one frame, matrix products and
    convolutions, attention included; memory: bytes of a remembered frame in float32.
    """
    from torch.utils.flop_counter import FlopCounterMode

    def count(stage: Any, *inputs: Any) -> tuple[Any, int]:
        with FlopCounterMode(display=False) as counter:
            result = stage(*inputs)
        return result, counter.get_total_flops() // 2

    with torch.device("meta"), torch.no_grad():
        network = build(name, backbone, classes, **options).eval()
        parameters = sum(parameter.numel() for parameter in network.parameters())
        network = fold_batch_norms(network)
        features, encode = count(network.encode, torch.empty(1, 3, *size))
        memory, remember = count(network.remember, features)
        _, decode = count(network.decode, features, *[memory] * memories_read(network))
    return {
        "parameters": parameters,
        "encode": encode,
        "remember": remember,
        "decode": decode,
        "memory": sum(4 * tensor.numel() for tensor in memory),
    }


def describe(cost: dict[str, float]) -> str:
    stages = ", ".join(f"{stage} {cost[stage] / 1e9:.2f}" for stage in ("encode", "remember", "decode"))
    return (
        f"{cost['parameters'] / 1e6:.2f} M parameters; GMACs: {stages}; "
        f"memory: {cost['memory'] / 2**20:.1f} MiB a remembered frame (float32)"
    )
