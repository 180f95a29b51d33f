"""Decoder parts that several networks share: the all-MLP head, pyramid pooling, folded batch norms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        # (width, 4·width), levels in the order c4, c3, c2, c1
        weight = self.linear_fuse.conv.weight.flatten(1)
        bias = weight.new_zeros(self.width)
        if not self.training:
            weight, bias = fold_batch_norm(weight, bias, self.linear_fuse.bn)
        size = maps[0].shape[-2:]
        total = None
        for i in (4, 3, 2, 1):
            level = getattr(self, f"linear_c{i}").proj
            fuse = weight[:, (4 - i) * self.width : (5 - i) * self.width]
            bias = bias + fuse @ level.bias
            x = F.conv2d(maps[i - 1], (fuse @ level.weight)[:, :, None, None], bias if i == 1 else None)
            x = x if i == 1 else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            total = x if total is None else total.add_(x)  # the largest maps of all: no copy of them
        return F.relu(self.linear_fuse.bn(total) if self.training else total, inplace=True)


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
