"""Parts of decoders: the all-MLP head, pyramid pooling, folded batch norms, attention, sine positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 10000
"""Of DETR's sine embedding."""


class Projection(nn.Module):
    """Holds the linear layer of one pyramid level under the name of the published checkpoints."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.proj = nn.Linear(channels, width)


class ConvBN(nn.Module):
    """Holds a 1×1 convolution without bias and its batch norm under the names of the published checkpoints."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)


class Pointwise(NamedTuple):
    """A 1×1 convolution whose weight (O, I) and bias (O,) are computed from those of others."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)

    def module(self) -> nn.Conv2d:
        """With a copy of them: for a network that learns no more, see `stages.fold_batch_norms`."""
        after, before = self.weight.shape
        conv = nn.Conv2d(before, after, 1, bias=self.bias is not None, device="meta").requires_grad_(False)
        conv.weight = nn.Parameter(self.weight[:, :, None, None].detach().clone(), requires_grad=False)
        if self.bias is not None:
            conv.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return conv


class AllMLP(nn.Module):
    """SegFormer's all-MLP head up to its fused feature (Xie et al. 2021, eq. 4, first three lines).

    maps at strides 4, 8, 16, 32 → (B, width, H/4, W/4), after batch norm and ReLU.

    Published as: project each level, upsample, concatenate, fuse by a 1×1 convolution. Projection, upsampling and
    fusion are linear, so each level is projected and fused in one step at its own small size and the upsampled
    results are added; the sum is the same, up to rounding. In inference the batch norm is folded in, too.
    """

    def __init__(self, channels: Sequence[int], width: int = 256):
        super().__init__()
        self.width = width
        for i, c in enumerate(channels, 1):
            self.add_module(f"linear_c{i}", Projection(c, width))
        self.linear_fuse = ConvBN(4 * width, width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        layers = self.folded if hasattr(self, "folded") else self.levels()
        size = maps[0].shape[-2:]
        total = None
        for x, layer in zip(reversed(maps), layers, strict=True):
            x = layer(x)
            if x.shape[-2:] != size:
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            total = x if total is None else total.add_(x)  # the largest maps of all: no copy of them
        return F.relu(self.linear_fuse.bn(total) if self.training else total, inplace=True)

    def levels(self) -> list[Pointwise]:
        """Projection and fusion of each level, c4 first; c1's has the bias of all."""
        weight = self.linear_fuse.conv.weight.flatten(1)  # (width, 4·width), levels in this order
        bias = weight.new_zeros(self.width)
        if not self.training:
            weight, bias = fold_batch_norm(weight, bias, self.linear_fuse.bn)
        found = []
        for i, fuse in zip((4, 3, 2, 1), weight.split(self.width, 1), strict=True):
            level = getattr(self, f"linear_c{i}").proj
            bias = bias + fuse @ level.bias
            found.append(Pointwise(fuse @ level.weight, bias if i == 1 else None))
        return found

    def fold(self) -> None:
        self.folded = nn.ModuleList(layer.module() for layer in self.levels())


class PPM(nn.Module):
    """Pyramid pooling module (Zhao et al. 2017, section 3.2): (B, C, h, w) → (B, 2·C, h, w)."""

    def __init__(self, channels: int, bins: Sequence[int] = (1, 2, 3, 6), align_corners: bool = True):
        super().__init__()
        self.align_corners = align_corners
        width = channels // len(bins)
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(size),
                nn.Conv2d(channels, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            )
            for size in bins
        )

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        pooled = [
            F.interpolate(pool(x), size=size, mode="bilinear", align_corners=self.align_corners)
            for pool in self.features
        ]
        return torch.cat([x, *pooled], 1)


def fold_batch_norm(weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight (O, I) and bias (O,) of the linear layer that equals `norm(linear(x))` in inference."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return weight * scale[:, None], (bias - norm.running_mean) * scale + norm.bias


class Attention(nn.Module):
    """Multi-head attention on projected queries (B, Q, heads · e), keys and values; only its output is projected."""

    def __init__(self, width: int, heads: int = 8):
        super().__init__()
        self.heads = heads
        self.out = nn.Linear(width, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout if self.training else 0.0)
        return self.out(x.transpose(1, 2).flatten(2))


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def sine_embedding(angles: Tensor, width: int) -> Tensor:
    """angles (N, 2) → (N, width): sines and cosines in turn, half of them for each coordinate (DETR, appendix A.4)."""
    steps = torch.arange(width // 4, device=angles.device, dtype=angles.dtype)
    turned = angles[..., None] / TEMPERATURE ** (4 * steps / width)  # (N, 2, width / 4)
    return torch.stack([turned.sin(), turned.cos()], -1).flatten(1)


def sine_positions(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """(h·w, channels) embedding of each cell's row and column, counted from 1, the last one at 2π."""
    rows, columns = (
        torch.arange(1, n + 1, device=like.device, dtype=torch.float32) / (n + 1e-6) * 2 * math.pi
        for n in (height, width)
    )
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    return sine_embedding(grid, channels)
