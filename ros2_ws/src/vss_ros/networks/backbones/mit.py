"""MiT, the hierarchical transformer of SegFormer (Xie et al., NeurIPS 2021, section 3.1), B0 to B5."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# widths, depths of the four stages
MIT = {
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}

HEADS = (1, 2, 5, 8)

REDUCTIONS = (8, 4, 2, 1)


class DropPath(nn.Module):
    """Stochastic depth: the residual branch of a sample is dropped with probability `rate` in training."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * mask / keep


class Attention(nn.Module):
    """Multi-head attention whose keys and values come from a map reduced `reduction` times (eq. 1–2)."""

    def __init__(self, dim: int, heads: int, reduction: int):
        super().__init__()
        self.heads = heads
        self.reduction = reduction
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, stride=reduction)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        batch, tokens, dim = x.shape
        q = self.q(x).reshape(batch, tokens, self.heads, dim // self.heads).transpose(1, 2)
        if self.reduction > 1:
            x = self.sr(to_map(x, height, width))
            x = self.norm(x.flatten(2).transpose(1, 2))
        kv = self.kv(x).reshape(batch, -1, 2, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, kv[0], kv[1])  # (B, heads, N, dim / heads)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))

    def absorb(self, before: nn.LayerNorm) -> None:
        """With one head, have keys and values computed so that queries and outputs need no layer; equal up to rounding.

        before: the normalisation of the input, whose answer is z + 1 from here on; z has mean 0, so that (z + 1)·1 is
        its width, and what a query's bias adds to a key's score is that key's share of it. What a key's bias adds is
        the same for all keys. Rows of softmax add up to 1, so that the last layer moves into the values.
        """
        if self.heads > 1 or self.reduction == 1:
            return
        scale, shift = before.weight.double(), (before.bias - before.weight).double()
        before.weight, before.bias = (frozen(torch.ones_like(x)) for x in (before.weight, before.bias))
        weight = self.sr.weight.double()
        self.sr.bias = frozen(self.sr.bias + torch.einsum("oiyx,i->o", weight, shift))
        self.sr.weight = frozen(weight * scale[:, None, None])
        q, out = self.q.weight.double(), self.proj.weight.double()
        (key, value), value_bias = self.kv.weight.double().chunk(2), self.kv.bias.double().chunk(2)[1]
        key = (q * scale + (q @ shift + self.q.bias)[:, None] / len(q)).T @ key
        value_bias = out @ value_bias + self.proj.bias
        self.kv.weight = frozen(torch.cat([key, out @ value]))
        self.kv.bias = frozen(torch.cat([torch.zeros_like(value_bias), value_bias]))
        self.q, self.proj = nn.Identity(), nn.Identity()


def frozen(x: Tensor) -> nn.Parameter:
    return nn.Parameter(x.detach().float(), requires_grad=False)


class DWConv(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return self.dwconv(to_map(x, height, width)).flatten(2).transpose(1, 2)


class MixFFN(nn.Module):
    """Feed-forward layer with a 3×3 depthwise convolution, which stands in for positional encoding (eq. 3)."""

    def __init__(self, dim: int, ratio: int = 4):
        super().__init__()
        self.fc1 = nn.Linear(dim, dim * ratio)
        self.dwconv = DWConv(dim * ratio)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(dim * ratio, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x), height, width)))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, reduction: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, reduction)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MixFFN(dim)

    def fold(self) -> None:
        self.attn.absorb(self.norm1)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x), height, width))


class PatchEmbed(nn.Module):
    """Overlapping patch embedding: (B, C, H, W) → tokens (B, N, dim) and their grid."""

    def __init__(self, channels: int, dim: int, kernel: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        height, width = x.shape[-2:]
        return self.norm(x.flatten(2).transpose(1, 2)), height, width


class MiT(nn.Module):
    """Mix Transformer. `shallow` and `deep` are its two halves as DCFM splits it; `forward` runs both.

    frame (B, 3, H, W) → maps at strides 4, 8, 16, 32 with `self.channels` channels; that of `shallow` has
    `self.shallow_channels`.
    """

    def __init__(self, name: str, drop_path: float = 0.1):
        super().__init__()
        widths, depths = MIT[name]
        self.channels, self.shallow_channels = widths, widths[0]
        rates = [drop_path * i / (sum(depths) - 1) for i in range(sum(depths))]
        before = (3, *widths[:3])
        # stage and place of each block that `deep` runs
        self.blocks = [(i + 1, j) for i in range(4) for j in range(depths[i])][1:]
        for i in range(4):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            embed = PatchEmbed(before[i], widths[i], kernel, stride)
            blocks = [Block(widths[i], HEADS[i], REDUCTIONS[i], rates.pop(0)) for _ in range(depths[i])]
            self.add_module(f"patch_embed{i + 1}", embed)
            self.add_module(f"block{i + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(widths[i], eps=1e-6))
        self.apply(init_transformer)

    def shallow(self, frame: Tensor) -> Tensor:
        """frame → map (B, C1, H/4, W/4) after the first transformer block, before the stage's norm."""
        x, height, width = self.patch_embed1(frame)
        return to_map(self.block1[0](x, height, width), height, width)

    def deep(self, x: Tensor) -> list[Tensor]:
        """Output of `shallow` → the four stage outputs."""
        return self.part([x], 0, len(self.blocks))

    def part(self, maps: Sequence[Tensor], start: int, stop: int) -> list[Tensor]:
        """`deep` from its block `start` to before `stop`: the maps so far, the last of them unfinished, → the same."""
        *done, x = maps
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        for stage, place in self.blocks[start:stop]:
            if place == 0:
                done.append(to_map(x, height, width))
                x, height, width = getattr(self, f"patch_embed{stage}")(done[-1])
            blocks = getattr(self, f"block{stage}")
            x = blocks[place](x, height, width)
            if place == len(blocks) - 1:
                x = getattr(self, f"norm{stage}")(x)
        return [*done, to_map(x, height, width)]

    def forward(self, frame: Tensor) -> list[Tensor]:
        return self.deep(self.shallow(frame))


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, H·W, C) → (B, C, H, W)."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def init_transformer(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        # The authors cut this off at ±2, which is a hundred deviations: the same values, ten times as fast.
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
