"""MAR: refine any network's features against a memory of the training set's hardest and most typical pixels.

Paper: as STF, section 3.3. Keys are features of each class's hard pixels, values the class prototypes (means of its
good pixels); a pixel's feature attends to them before it is classified. `vss memory` builds them;
the last stage of training goes on to tune them, as the authors' code does.

Follows the authors' code where the paper is silent: a projection of the values, no scaling of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vss_ros.networks.losses import cross_entropy

PER_CLASS = 10  # hard pixels, and good ones (K_L, K_H in the paper)


class MemoryAttention(nn.Module):
    def __init__(self, dim: int, inner: int, dropout: float):
        super().__init__()
        for name in ("to_q", "to_k", "to_v"):
            layers = [nn.Linear(a, b, bias=False) for a, b in ((dim, dim), (dim, inner), (inner, inner))]
            self.add_module(name, nn.Sequential(*layers))
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """x (B, N, C) attends to key, value (1, M, C)."""
        weights = (self.to_q(x) @ self.to_k(key).transpose(1, 2)).softmax(-1)
        return self.to_out(weights @ self.to_v(value))


class Refiner(nn.Module):
    def __init__(self, dim: int, inner: int, dropout: float):
        super().__init__()
        self.attn = MemoryAttention(dim, inner, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, inner)
        self.linear2 = nn.Linear(inner, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attn(x, key, value)))
        y = self.linear2(self.dropout(F.relu(self.linear1(x))))
        return self.norm2(x + self.dropout(y))


class MemoryRefinement(nn.Module):
    """Feature map (B, C, h, w) → refined map. The memory holds 10 keys a class, grouped by class."""

    def __init__(self, dim: int, classes: int, inner: int = 256, dropout: float = 0.1):
        super().__init__()
        self.memory_key = nn.Parameter(torch.randn(1, PER_CLASS * classes, dim))
        self.memory_value = nn.Parameter(torch.randn(1, PER_CLASS * classes, dim))
        self.HEdecoder = Refiner(dim, inner, dropout)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = self.HEdecoder(tokens, self.memory_key, self.memory_value)
        return tokens.transpose(1, 2).unflatten(2, x.shape[-2:])


class MAR(nn.Module):
    """Wraps a network: its `decode` is `classify(refine(fuse(…)))`; everything else stays the network's own."""

    def __init__(self, network: nn.Module, classes: int):
        super().__init__()
        self.network = network
        self.mar = MemoryRefinement(network.width, classes)
        self.keeps, self.lookahead, self.interval = network.keeps, network.lookahead, network.interval
        self.last_layer = f"network.{network.last_layer}"
        self.steps, self.moves = getattr(network, "steps", 1), getattr(network, "moves", False)

    def encode(self, frame: Tensor) -> tuple[Tensor, ...]:
        return self.network.encode(frame)

    def remember(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self.network.remember(features)

    def remember_part(self, state: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
        return self.network.remember_part(state, start, stop)

    def decode(self, features: Sequence[Tensor], *memories: Sequence[Tensor]) -> Tensor:
        return self.network.classify(self.mar(self.network.fuse(features, *memories)))

    def reads(self, t: int, keys: Sequence[int]) -> list[tuple[int, ...]]:
        return self.network.reads(t, keys)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy of the wrapped network's target, refined (third stage of the paper's training)."""
        fused, labels = self.network.target(batch)
        return {"loss": cross_entropy(self.network.classify(self.mar(fused)), labels)}
