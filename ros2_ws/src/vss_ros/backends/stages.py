"""A network's stages as flat modules: tensors in, tensors out, nothing else, so that every runtime can take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Encode(nn.Module):
    """frame (1, H, W, 3) uint8 RGB → features; normalises inside the graph."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float32))
        self.register_buffer("scale", scale.view(1, 3, 1, 1))
        self.register_buffer("shift", (-255 * torch.tensor(mean) * scale).view(1, 3, 1, 1))

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        x = frame.permute(0, 3, 1, 2).to(self.scale.dtype)
        return self.network.encode(x * self.scale + self.shift)


class Remember(nn.Module):
    """features → memory."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        return self.network.remember(features)


class Decode(nn.Module):
    """features, then the tensors of each memory → logits (1, C, h, w)."""

    def __init__(self, network: nn.Module, features: int, memories: int):
        super().__init__()
        self.network = network
        self.features = features
        self.memories = memories

    def forward(self, *tensors: Tensor) -> Tensor:
        features, rest = tensors[: self.features], tensors[self.features :]
        each = len(rest) // self.memories if self.memories else 0
        return self.network.decode(features, *(rest[i * each : (i + 1) * each] for i in range(self.memories)))


class Propagate(nn.Module):
    """frame, then the tensors of each memory → logits: a frame that is not remembered needs no stop in between."""

    def __init__(self, encode: Encode, memories: int):
        super().__init__()
        self.encode = encode
        self.memories = memories

    def forward(self, frame: Tensor, *tensors: Tensor) -> Tensor:
        features = self.encode(frame)
        return Decode(self.encode.network, len(features), self.memories)(*features, *tensors)


def memories_read(network: nn.Module) -> int:
    """How many memories one pass of `decode` takes."""
    return len(network.reads(0, [0])[0]) if network.keeps else 0
