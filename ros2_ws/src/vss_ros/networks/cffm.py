"""CFFM: coarse-to-fine feature mining over the frames t−9, t−6, t−3 and t.

Paper: Sun et al., "Coarse-to-fine feature mining for video semantic segmentation", CVPR 2022. Each 7×7 window of
the target attends to itself, to its surroundings and to pooled windows of the earlier frames: coarse and wide for
the oldest, fine and narrow for the newest.

What depends on an earlier frame alone, its pooled keys and values, is computed once, when it is remembered.

Deviations: while fewer than ten frames have come, the oldest one stands in for those that lack; the authors fall
back to the single-frame head or to other offsets. MobileNetV1, not in the paper, has one block of half the width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from vss_ros.config import VssError
from vss_ros.networks.backbones import MIT, MOBILENET, backbone
from vss_ros.networks.cards.reading import OFFSETS, Before, check_offsets
from vss_ros.networks.heads import AllMLP
from vss_ros.networks.losses import cross_entropy

WINDOW = 7
SHIFT = 3
# by scale, coarse to fine: pooled tokens a window side, pixels a token side; kernel, padding of unfold
SCALES = {1: (1, 7, 7, 3), 2: (2, 3, 5, 2), 3: (3, 2, 3, 1)}
POOLED_TARGET = (1, 7, 5, 2)
DEPTHS = {"mit_b0": 1, "mit_b1": 2, "mit_b2": 2, "mit_b3": 3, "mit_b4": 3, "mit_b5": 4}
OUTSIDE = -100.0  # added to the logit of a key outside the map


class FocalAttention(nn.Module):
    """Attention of 49 queries to 289 keys (section 3.2); the tables hold the position bias of each group of keys."""

    def __init__(self, dim: int, heads: int, scales: tuple[int, ...]):
        super().__init__()
        self.heads, self.scales = heads, scales
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        neighbours = len(surrounding_positions())
        self.relative_position_bias_table_to_neighbors = small((1, heads, WINDOW**2, neighbours))
        pooled = (WINDOW + POOLED_TARGET[2] - 1) ** 2
        self.relative_position_bias_table_to_windows = nn.ParameterList([small((heads, pooled))])
        self.relative_position_bias_table_to_windows_clips = nn.ParameterList(
            [small((heads, (WINDOW + SCALES[scale][2] - 1) ** 2)) for scale in scales]
        )
        for i, kernel in enumerate((WINDOW, POOLED_TARGET[2], *(SCALES[scale][2] for scale in scales))):
            self.register_buffer(f"relative{i}", relative_index(kernel), persistent=False)
        self.index: Tensor | None
        self.register_buffer("index", None, persistent=False)
        self.grid: tuple[int, int] | None = None  # of windows, which `index` is for

    def keys(self, pooled: Tensor) -> Tensor:
        """Pooled map (B, h, w, C) → its keys and values (B, h·w, 2C)."""
        dim = pooled.shape[-1]
        return F.linear(pooled.flatten(1, 2), self.qkv.weight[dim:], self.qkv.bias[dim:])

    def forward(self, x: Tensor, pooled: Tensor, references: Sequence[Tensor]) -> Tensor:
        """x: padded target (B, H, W, C); pooled: its keys; references: those of t−9, t−6, t−3 → (B, H, W, C)."""
        batch, height, width, dim = x.shape
        q, kv = self.qkv(x).split([dim, 2 * dim], -1)
        rows = torch.cat([kv.flatten(1, 2), pooled, *references, torch.zeros_like(pooled[:, :1])], 1)
        index = self.index_of(height // WINDOW, width // WINDOW, x.device)
        tokens = rows.index_select(1, index.flatten())
        tokens = tokens.reshape(-1, index.shape[1], 2 * dim)  # (B·nW, 289, 2C)
        k, v = (split_heads(part, self.heads) for part in tokens.chunk(2, -1))
        q = split_heads(windows(q), self.heads)
        outside = (index == rows.shape[1] - 1)[:, None, None].to(x.dtype)
        bias = self.bias() + OUTSIDE * outside.repeat(batch, 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (B·nW, heads, 49, dim / heads)
        out = self.proj(out.transpose(1, 2).flatten(2))
        return unwindows(out, batch, height, width)

    def index_of(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Rows of keys (nW, 289); the last row is outside the maps. Kept on the device: no frame waits for it."""
        if self.grid == (rows, columns) and self.index is not None and self.index.device == device:
            return self.index
        index = torch.tensor(key_index(rows, columns, self.scales), device=device)
        if type(index) is Tensor:  # not while an exporter looks on
            self.grid, self.index = (rows, columns), index
        return index

    def bias(self) -> Tensor:
        """Position bias (1, heads, 49, 289)."""
        own = self.relative_position_bias_table.t()
        tables = [
            own,
            *self.relative_position_bias_table_to_windows,
            *self.relative_position_bias_table_to_windows_clips,
        ]
        groups = [table[:, getattr(self, f"relative{i}")] for i, table in enumerate(tables)]
        groups.insert(1, self.relative_position_bias_table_to_neighbors[0])
        return torch.cat(groups, -1)[None]


class CFFMBlock(nn.Module):
    def __init__(self, dim: int, scales: tuple[int, ...], heads: int = 8, ratio: int = 4):
        super().__init__()
        self.scales = scales
        self.norm1 = nn.LayerNorm(dim)
        self.pool_layers = nn.ModuleList([mean_pooling(WINDOW)])
        self.pool_layers_clips = nn.ModuleList([mean_pooling(SCALES[scale][1]) for scale in scales])
        self.attn = FocalAttention(dim, heads, scales)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, ratio * dim), "fc2": nn.Linear(ratio * dim, dim)})

    def summarise(self, x: Tensor) -> tuple[Tensor, ...]:
        """An earlier frame (B, C, h, w) → its keys and values in each of its roles."""
        x = self.padded(x)
        rows, columns = x.shape[1] // WINDOW, x.shape[2] // WINDOW
        roles = []
        for scale, layer in zip(self.scales, self.pool_layers_clips, strict=True):
            tokens, side = SCALES[scale][:2]
            size = (tokens * rows * side, tokens * columns * side)
            resized = x
            if size != tuple(x.shape[1:3]):
                resized = F.interpolate(
                    x.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False
                )
                resized = resized.permute(0, 2, 3, 1)
            roles.append(self.attn.keys(pool(resized, layer, side)))
        return tuple(roles)

    def forward(self, x: Tensor, references: Sequence[Tensor]) -> Tensor:
        """Target (B, C, h, w) and the keys of t−9, t−6, t−3 → enhanced target."""
        height, width = x.shape[-2:]
        normed = self.padded(x)
        pooled = self.attn.keys(pool(normed, self.pool_layers[0], WINDOW))
        x = x.permute(0, 2, 3, 1)
        x = x + self.attn(normed, pooled, references)[:, :height, :width]
        x = x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return x.permute(0, 3, 1, 2)

    def padded(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → normalised, zero-padded to whole windows: (B, H, W, C)."""
        height, width = x.shape[-2:]
        x = self.norm1(x.permute(0, 2, 3, 1))
        return F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))


class CFFM(nn.Module, Before):
    """Memory of a frame: for each block its pooled keys and values as t−9, as t−6 and as t−3.

    Other earlier frames are options: `offsets` counts back from the target, oldest first, and `scales` says how finely
    each is pooled: 1 (coarse and wide), 2 or 3 (fine and narrow). On Cityscapes the authors take the same.
    """

    last_layer = "linear_pred2"

    def __init__(
        self,
        name: str,
        classes: int,
        depth: int | None = None,
        width: int | None = None,
        dropout: float = 0.1,
        offsets: Sequence[int] = OFFSETS,
        scales: Sequence[int] = (1, 2, 3),
    ):
        super().__init__()
        if name not in MIT and name not in MOBILENET:
            raise VssError(f"cffm: expected a backbone of {', '.join([*MIT, *MOBILENET])}; got {name!r}")
        if len(offsets) != len(scales) or not set(scales) <= set(SCALES):
            raise VssError(f"cffm: scales: expected one of 1, 2, 3 for each of {offsets}, got {scales}")
        self.offsets = check_offsets(offsets)
        self.backbone = backbone(name)
        width = width or (256 if name in MIT else 128)
        self.head = AllMLP(self.backbone.channels, width)
        self.linear_pred = nn.Conv2d(width, classes, 1)
        self.blocks = nn.ModuleList(
            [CFFMBlock(width, tuple(scales)) for _ in range(depth or DEPTHS.get(name, 1))]
        )
        self.linear_pred2 = nn.Conv2d(2 * width, classes, 1)
        self.dropout = nn.Dropout2d(dropout)

    def encode(self, frame: Tensor) -> tuple[Tensor, ...]:
        """frame (B, 3, H, W) → trunk feature (B, D, H/8, W/8); D = 256 on MiT."""
        return (halved(self.head(self.backbone(frame))),)

    def remember(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(keys for block in self.blocks for keys in block.summarise(features[0]))

    def fuse(self, features: Sequence[Tensor], *memories: Sequence[Tensor]) -> Tensor:
        """Target and its enhanced copy, (B, 2D, H/8, W/8); memories of t−9, t−6, t−3."""
        x = features[0]
        for j, block in enumerate(self.blocks):
            x = block(x, [memory[len(memories) * j + role] for role, memory in enumerate(memories)])
        return torch.cat([features[0], x], 1)

    def classify(self, fused: Tensor) -> Tensor:
        logits = self.linear_pred2(self.dropout(fused))
        return F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)

    def decode(self, features: Sequence[Tensor], *memories: Sequence[Tensor]) -> Tensor:
        """→ logits (B, classes, H/4, W/4)."""
        return self.classify(self.fuse(features, *memories))

    def loss(self, batch: dict[str, Tensor], auxiliary: float = 0.5) -> dict[str, Tensor]:
        """CE of the target plus `auxiliary` times that of every labelled frame alone; frames (B, T, 3, H, W), the
        target last."""
        frames, labels = batch["frames"], batch["labels"]
        trunk = self.head(self.backbone(frames.flatten(0, 1)))
        alone = cross_entropy(self.linear_pred(self.dropout(trunk)), labels.flatten(0, 1))
        small = halved(trunk).unflatten(0, frames.shape[:2])
        memories = [self.remember((small[:, i],)) for i in range(len(self.offsets))]
        final = cross_entropy(self.decode((small[:, -1],), *memories), labels[:, -1])
        return {"loss": final + auxiliary * alone, "final": final, "alone": alone}


DIAGONALS = ((-SHIFT, -SHIFT), (-SHIFT, SHIFT), (SHIFT, -SHIFT), (SHIFT, SHIFT))


def surrounding_positions() -> list[int]:
    """Which of the 4·49 positions of the four diagonally shifted windows lie outside the window itself: 132."""
    kept = []
    for i, (down, right) in enumerate(DIAGONALS):
        for y in range(WINDOW):
            for x in range(WINDOW):
                if not (0 <= y - down < WINDOW and 0 <= x - right < WINDOW):
                    kept.append(i * WINDOW**2 + y * WINDOW + x)
    return kept


def relative_index(kernel: int) -> Tensor:
    """Index (49, kernel²) into a bias table: relative position of each query of a window and each pooled key."""
    q, k = torch.arange(WINDOW), torch.arange(kernel)
    offset = q[:, None] - k[None] + kernel - 1  # (7, kernel)
    index = offset[:, None, :, None] * (WINDOW + kernel - 1) + offset[None, :, None, :]
    return index.reshape(WINDOW**2, kernel**2)


def windows(x: Tensor) -> Tensor:
    """(B, H, W, C) → (B·nW, 49, C)."""
    batch, height, width, dim = x.shape
    x = x.reshape(batch, height // WINDOW, WINDOW, width // WINDOW, WINDOW, dim)
    return x.transpose(2, 3).reshape(-1, WINDOW**2, dim)


def unwindows(x: Tensor, batch: int, height: int, width: int) -> Tensor:
    """(B·nW, 49, C) → (B, H, W, C)."""
    x = x.reshape(batch, height // WINDOW, width // WINDOW, WINDOW, WINDOW, -1)
    return x.transpose(2, 3).reshape(batch, height, width, -1)


@functools.lru_cache(maxsize=8)
def key_index(rows: int, columns: int, scales: tuple[int, ...] = (1, 2, 3)) -> np.ndarray:
    """Where the 289 keys of each of rows·columns windows lie: (nW, 289) int64.

    Counts through the target's pixels, its pooled map and those of t−9, t−6, t−3, all in raster order; the number
    after the last stands for a key outside its pooled map.
    """
    pixels = np.arange(rows * columns * WINDOW**2).reshape(rows * WINDOW, columns * WINDOW)

    def window(grid: np.ndarray) -> np.ndarray:
        grid = grid.reshape(rows, WINDOW, columns, WINDOW).transpose(0, 2, 1, 3)
        return grid.reshape(rows * columns, WINDOW**2)

    around = np.concatenate([window(np.roll(pixels, shift, (0, 1))) for shift in DIAGONALS], 1)
    groups = [window(pixels), around[:, surrounding_positions()]]
    maps = (POOLED_TARGET, *(SCALES[scale] for scale in scales))
    first, outside = pixels.size, pixels.size + rows * columns * sum(side**2 for side, _, _, _ in maps)
    for side, _, kernel, padding in maps:
        grid = first + np.arange(rows * columns * side**2).reshape(rows * side, columns * side)
        first += grid.size
        around = sliding_window_view(np.pad(grid, padding, constant_values=outside), (kernel, kernel))
        groups.append(around[::side, ::side].reshape(rows * columns, kernel**2))
    return np.concatenate(groups, 1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, tokens, C) → (N, heads, tokens, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def pool(x: Tensor, layer: nn.Linear, side: int) -> Tensor:
    """Mean of side×side pixels, weighted alike in all channels: (B, h, w, C) → (B, h/side, w/side, C)."""
    batch, height, width, dim = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, dim)
    weight = layer.weight.reshape(1, 1, side, 1, side, 1)
    return (x * weight).sum((2, 4)) + layer.bias


def halved(x: Tensor) -> Tensor:
    size = (x.shape[-2] // 2, x.shape[-1] // 2)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def mean_pooling(side: int) -> nn.Linear:
    layer = nn.Linear(side**2, 1)
    nn.init.constant_(layer.weight, 1 / side**2)
    nn.init.zeros_(layer.bias)
    return layer


def small(shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


AUTHORS_NAMES = [
    ("decode_head.conv_seg.", None),
    ("backbone.", "backbone."),
    ("decode_head.linear_pred.", "linear_pred."),
    ("decode_head.linear_pred2.", "linear_pred2."),
    ("decode_head.decoder_focal.", ""),
    ("decode_head.", "head."),
]
