"""MSAF: motion and state alignment over the frames t−2, t−1 and t.

Paper: Su et al., "Motion-state alignment for video semantic segmentation", CVPR workshops 2023; no code of its
authors is known. Motion: each frame passes a pyramid transformer (PST), coarser the older it is; the older two are
aligned to the current one by deformable convolution and joined with it by attention over time. State: attention over
the stages of the current frame. A region descriptor a class (from motion) and a descriptor a pixel (from state)
then meet: a pixel gets the class whose region points its way.

The pyramid transformer's output of a past frame depends on that frame alone: it is remembered at its small size.

Our choices where the paper is silent: d = 256 (128 on ResNet-18); average pooling; a 3×3 depthwise convolution in
the spatial MLP instead of positions, so that sizes may differ; offsets from neighbour and current frame together;
stages joined by a 3×3 convolution; `reduction` of the current frame's keys and values (1 as published, 4 for CPUs).
MobileNetV1, not in the paper, has d = 128, and its deeper stages are enlarged to H/8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vss_ros.config import VssError
from vss_ros.networks.backbones import MOBILENET, RESNET, backbone
from vss_ros.networks.cards.reading import LastTwo
from vss_ros.networks.heads import PPM
from vss_ros.networks.losses import cross_entropy

HEAD_WIDTH = 32


class Block(nn.Module):
    """Pre-norm transformer block on tokens (N, L, d) (eq. 2–3); `grid` adds the depthwise convolution."""

    def __init__(self, dim: int, spatial: bool, reduction: int = 1, ratio: int = 4):
        super().__init__()
        self.heads = dim // HEAD_WIDTH
        self.norm1 = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.reduce = nn.Conv2d(dim, dim, reduction, stride=reduction) if reduction > 1 else None
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.depthwise = (
            nn.Conv2d(ratio * dim, ratio * dim, 3, padding=1, groups=ratio * dim) if spatial else None
        )
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, int] = (1, 1)) -> Tensor:
        y = self.norm1(x)
        q, source = self.q(y), y
        if self.reduce is not None:
            source = to_tokens(self.reduce(to_map(y, grid)))
        k, v = self.kv(source).chunk(2, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = self.fc1(self.norm2(x))
        if self.depthwise is not None:
            y = to_tokens(self.depthwise(to_map(y, grid)))
        return x + self.fc2(F.gelu(y))


class Alignment(nn.Module):
    """Deformable 3×3 convolution of a neighbour, its offsets from neighbour and current frame (eq. 5)."""

    def __init__(self, dim: int):
        super().__init__()
        self.offset = nn.Conv2d(2 * dim, 18, 3, padding=1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, neighbour: Tensor, current: Tensor) -> Tensor:
        offset = self.offset(torch.cat([neighbour, current], 1))
        return deformable_conv(neighbour, offset, self.conv.weight, self.conv.bias)


class MSAF(nn.Module, LastTwo):
    """Memory of a frame: its pyramid features as t−1 (B, d, H/16, W/16) and as t−2 (B, d, H/32, W/32).

    `pyramid` pools the last stage as PSPNet does, the paper's strongest image network.
    """

    def __init__(
        self, name: str, classes: int, width: int | None = None, reduction: int = 1, pyramid: bool = False
    ):
        super().__init__()
        if name not in RESNET and name not in MOBILENET:
            raise VssError(f"msaf: expected a backbone of {', '.join([*RESNET, *MOBILENET])}; got {name!r}")
        d = width or (128 if name == "resnet18" or name in MOBILENET else 256)
        self.backbone = backbone(name)
        _, c3, c4, c5 = self.backbone.channels
        self.ppm = PPM(c5) if pyramid else nn.Identity()
        c5 *= 2 if pyramid else 1
        self.reduce = unit(c5, d, 1)
        self.near = Block(d, spatial=True)
        self.far = Block(d, spatial=True)
        self.current = Block(d, spatial=True, reduction=reduction)
        self.align_near = Alignment(d)
        self.align_far = Alignment(d)
        self.temporal = Block(d, spatial=False)
        self.stages = nn.ModuleList([unit(c, d, 1) for c in (c3, c4, c5)])
        self.over_stages = Block(d, spatial=False)
        self.join = unit(4 * d, d, 3)
        self.pixel = nn.Sequential(unit(d, d, 3), nn.Conv2d(d, d, 1))
        self.pixel_classes = nn.Conv2d(d, classes, 1)
        self.region = nn.Sequential(unit(d, d, 3), nn.Conv2d(d, classes, 1))

    def encode(self, frame: Tensor) -> tuple[Tensor, ...]:
        """frame (B, 3, H, W) → motion feature and three stage features, (B, d, H/8, W/8) each."""
        _, f3, f4, f5 = self.backbone(frame)
        f5 = self.ppm(f5)
        stages = [stage(x) for stage, x in zip(self.stages, (f3, f4, f5), strict=True)]
        return tuple(x if x.shape == stages[0].shape else enlarge(x, f3) for x in (self.reduce(f5), *stages))

    def remember(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x = features[0]
        return on_map(self.near, shrink(x, 2)), on_map(self.far, shrink(x, 4))

    def motion(self, x: Tensor, older: Sequence[Tensor], newer: Sequence[Tensor]) -> Tensor:
        """PST and ATT: M of the current frame, (B, d, h, w) (eq. 2–8)."""
        current = on_map(self.current, x)
        far = self.align_far(enlarge(older[1], x), current)
        near = self.align_near(enlarge(newer[0], x), current)
        return per_pixel(self.temporal, [far, near, current])[2]

    def descriptors(
        self, features: Sequence[Tensor], older: Sequence[Tensor], newer: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pixel descriptor P (B, d, h, w), region logits M' (B, C, h, w), region descriptors R (B, C, d)."""
        m = self.motion(features[0], older, newer)
        state = self.join(torch.cat(per_pixel(self.over_stages, [*features[1:], m]), 1))
        regions = self.region(m)
        r = regions.flatten(2) @ to_tokens(m) / (m.shape[-2] * m.shape[-1])
        return self.pixel(state), regions, r

    def decode(self, features: Sequence[Tensor], older: Sequence[Tensor], newer: Sequence[Tensor]) -> Tensor:
        """Semantic partition (eq. 13–14) → logits (B, classes, H/8, W/8); memories of t−2 and t−1."""
        p, _, r = self.descriptors(features, older, newer)
        return partition(p, r)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pixel, region and final cross entropy (eq. 15) of the last of frames (B, 3, 3, H, W), oldest first."""
        frames, labels = batch["frames"], batch["labels"][:, -1]
        features = [x.unflatten(0, frames.shape[:2]) for x in self.encode(frames.flatten(0, 1))]
        older, newer = (self.remember([x[:, i] for x in features]) for i in range(2))
        p, regions, r = self.descriptors([x[:, 2] for x in features], older, newer)
        parts = {
            "pixel": cross_entropy(self.pixel_classes(p), labels),
            "region": cross_entropy(regions, labels),
            "final": cross_entropy(partition(p, r), labels),
        }
        return {"loss": parts["pixel"] + parts["region"] + parts["final"], **parts}


def partition(pixels: Tensor, regions: Tensor) -> Tensor:
    """P · R/‖R‖ for each pixel and class: (B, d, h, w), (B, C, d) → (B, C, h, w)."""
    logits = F.normalize(regions, dim=-1) @ pixels.flatten(2)
    return logits.unflatten(2, pixels.shape[-2:])


def deformable_conv(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3×3 convolution whose taps are shifted by `offset` and read bilinearly, zero outside the map.

    x (B, C, h, w); offset (B, 18, h, w): (down, right) of each tap in raster order. Dai et al., ICCV 2017.
    By gathering the four neighbours, never by grid_sample, which TensorRT gets wrong.
    """
    height, width = x.shape[-2:]
    flat = x.flatten(2)
    offset = offset.float()  # bfloat16 holds no position above 256, and few between two pixels
    rows = torch.arange(height, dtype=offset.dtype, device=x.device)[:, None]
    columns = torch.arange(width, dtype=offset.dtype, device=x.device)[None]
    out = bias[None, :, None]
    for tap in range(9):
        y = rows + (tap // 3 - 1) + offset[:, 2 * tap]
        z = columns + (tap % 3 - 1) + offset[:, 2 * tap + 1]
        top, left = y.floor(), z.floor()
        value = torch.zeros_like(flat)
        for down in (0, 1):
            for right in (0, 1):
                row, column = top + down, left + right
                share = (1 - (y - row).abs()) * (1 - (z - column).abs())
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
                found = flat.gather(2, index.long().flatten(1)[:, None].expand_as(flat))
                value = value + found * (share * inside).flatten(1)[:, None]
        out = out + weight[:, :, tap // 3, tap % 3] @ value
    return out.unflatten(2, (height, width))


def unit(channels: int, width: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def on_map(block: Block, x: Tensor) -> Tensor:
    """Block over all pixels of a map (B, d, h, w)."""
    grid = (x.shape[-2], x.shape[-1])
    return to_map(block(to_tokens(x), grid), grid)


def per_pixel(block: Block, maps: Sequence[Tensor]) -> list[Tensor]:
    """Block over the maps' values at each pixel, T tokens a pixel; T maps (B, d, h, w) → as many."""
    batch, dim, height, width = maps[0].shape
    x = torch.stack(maps, 1).permute(0, 3, 4, 1, 2).reshape(-1, len(maps), dim)
    x = block(x).reshape(batch, height, width, len(maps), dim)
    return list(x.permute(3, 0, 4, 1, 2).unbind(0))


def shrink(x: Tensor, factor: int) -> Tensor:
    down, right = -x.shape[-2] % factor, -x.shape[-1] % factor
    if not (down or right):
        return F.avg_pool2d(x, factor)
    # a window that hangs over averages what it has; not by ceil_mode, which TensorRT lacks
    total, share = (
        F.avg_pool2d(F.pad(t, (0, right, 0, down)), factor) for t in (x, torch.ones_like(x[:1, :1]))
    )
    return total / share


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) → (B, h·w, C)."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h·w, C) → (B, C, h, w)."""
    return x.transpose(1, 2).unflatten(2, grid)
