"""MRCFA: mining relations among cross-frame affinities, over the frames t−9, t−6, t−3 and t.

Paper: Sun et al., "Mining relations among cross-frame affinities for video semantic segmentation", ECCV 2022. The
affinity of the target to each earlier frame is computed at three scales for the most important tokens of that frame
(STM, selective token masking), refined as an image of its own (SAR), aggregated from coarse to fine (MAA), and then
used to retrieve that frame's features.

Keys and feature tokens of an earlier frame are computed once, when it is remembered. The affinity of the target to
one token is an image; all S of them lie in the channels of one map and are refined by grouped convolutions, which a
CPU computes many times faster than a batch of S images with one channel.

Deviations: sizes that are no multiple of 32 are padded feature by feature; the authors refuse them. MobileNetV1, not
in the paper, has half the width, B0's share of tokens, and keys of 512 channels where its pooled map has 2048.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vss_ros.config import VssError
from vss_ros.networks.backbones import MIT, MOBILENET, backbone
from vss_ros.networks.cards.reading import OFFSETS, Before, check_offsets
from vss_ros.networks.heads import AllMLP
from vss_ros.networks.losses import cross_entropy

STRONGEST = 5  # affinities that are summed to a token's importance (n in the paper)
WIDEST_KEY = 512
KERNELS = {4: 3, 3: 5, 2: 5}


class Conv(nn.Module):
    """One convolution for S images: (B, S·channels, h, w) → (B, S·width, h, w)."""

    def __init__(self, channels: int, width: int, kernel: int):
        super().__init__()
        self.conv2 = nn.Conv2d(channels, width, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        conv, images = self.conv2, x.shape[1] // self.conv2.in_channels
        weight, bias = conv.weight.repeat(images, 1, 1, 1), conv.bias.repeat(images)
        return F.conv2d(x, weight, bias, padding=conv.padding, groups=images)


class Norm(nn.GroupNorm):
    """Normalises each of S images alone: (B, S·width, h, w)."""

    def __init__(self, width: int):
        super().__init__(1, width)

    def forward(self, x: Tensor) -> Tensor:
        images = x.shape[1] // self.num_channels
        if x[0, : self.num_channels].numel() == 1:  # torch refuses: one value is its own mean
            return self.bias.repeat(images).view(1, -1, 1, 1).expand_as(x)
        return F.group_norm(x, images, self.weight.repeat(images), self.bias.repeat(images), self.eps)


def refine(*layers: tuple[int, int, int]) -> nn.Sequential:
    """G, the affinity's convolutions: (channels, width, kernel) each, group norm, ReLU."""
    modules: list[nn.Module] = []
    for channels, width, kernel in layers:
        modules += [Conv(channels, width, kernel), Norm(width), nn.ReLU()]
    return nn.Sequential(*modules)


class Affinities(nn.Module):
    """SAR and MAA (section 3.4): affinities (B, S, h, w) at 1/32, 1/16, 1/8 to S tokens → (B, S, h/8, w/8)."""

    def __init__(self, wide: bool):
        super().__init__()
        if wide:
            self.encoder_layer4 = refine((1, 1, 3), (1, 2, 3))
            self.encoder_layer3 = refine((1, 1, 3), (1, 2, 3))
            self.encoder_layer2 = refine((1, 1, 5), (1, 2, 3))
            self.encoder_layer4to3 = refine((2, 2, 3), (2, 2, 3))
            self.encoder_layer3to2 = refine((2, 2, 3), (2, 1, 3))
        else:
            for level, kernel in KERNELS.items():
                self.add_module(f"encoder_layer{level}", refine((1, 1, kernel)))
            self.encoder_layer4to3 = refine((1, 1, 3))
            self.encoder_layer3to2 = refine((1, 1, 3))

    def forward(self, a4: Tensor, a3: Tensor, a2: Tensor) -> Tensor:
        x = self.encoder_layer4(a4)
        x = self.encoder_layer4to3(upsampled(x, a3) + self.encoder_layer3(a3))
        return self.encoder_layer3to2(upsampled(x, a2) + self.encoder_layer2(a2))


def upsampled(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


class MRCFA(nn.Module, Before):
    """Memory of a frame: keys of its tokens at three scales and their features, (B, N, C) each.

    `offsets`: the earlier frames, counted back from the target, oldest first. `grid`: stride of an earlier frame's
    tokens, 32, or 16 as in the Cityscapes model, which is not released: its published size says so.
    """

    @property
    def last_layer(self) -> str:
        return f"deco.{len(self.deco) - 1}"

    def __init__(
        self,
        name: str,
        classes: int,
        width: int | None = None,
        dropout: float = 0.1,
        offsets: Sequence[int] = OFFSETS,
        grid: int = 32,
    ):
        super().__init__()
        if grid not in (16, 32):
            raise VssError(f"mrcfa: grid: expected 16 or 32, got {grid}")
        self.offsets, self.finer = check_offsets(offsets), 32 // grid
        if name not in MIT and name not in MOBILENET:
            raise VssError(f"mrcfa: expected a backbone of {', '.join([*MIT, *MOBILENET])}; got {name!r}")
        small = name == "mit_b0" or name in MOBILENET
        self.share = 0.8 if small else 0.5  # of the tokens that STM keeps (p in the paper)
        width = width or (256 if name in MIT else 128)
        self.backbone = backbone(name)
        channels = self.backbone.channels
        self.head = AllMLP(channels, width)
        self.linear_pred = nn.Conv2d(width, classes, 1)
        self.query = nn.ModuleList([nn.Linear(c, min(c, WIDEST_KEY)) for c in channels[1:]])
        self.key = nn.ModuleList([nn.Linear(c, min(c, WIDEST_KEY)) for c in channels[1:]])
        near, far = 4 // self.finer, 2 // self.finer
        self.sr2 = nn.Conv2d(channels[1], channels[1], near, stride=near)
        self.sr3 = nn.Conv2d(channels[2], channels[2], far, stride=far)
        self.sr1_feat = nn.Conv2d(width, width, near, stride=near)
        self.affinities = Affinities(wide=name == "mit_b1")
        self.deco = nn.ModuleList([nn.Conv2d(width, classes, 1) for _ in range(len(offsets) + 1)])
        self.dropout = nn.Dropout2d(dropout)

    def encode(self, frame: Tensor) -> tuple[Tensor, ...]:
        """frame (B, 3, H, W) → maps c2, c3, c4 (strides 8, 16, 32) and trunk feature (B, 256, H/8, W/8)."""
        return self.prepare(self.backbone(frame))[1:]

    def prepare(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        trunk = self.head(maps)
        small = F.interpolate(trunk, size=maps[1].shape[-2:], mode="bilinear", align_corners=False)
        return (trunk, *maps[1:], small)

    def remember(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        c2, c3, c4, trunk = features
        size = c4.shape[-2:]
        reduced = (self.sr2(padded(c2, size, 4)), self.sr3(padded(c3, size, 2)), c4)
        keys = [layer(tokens(x)) for layer, x in zip(self.key, reduced, strict=True)]
        if self.finer > 1:  # the affinity at 1/32 is linear in its keys: enlarging these enlarges it
            coarse = keys[2].transpose(1, 2).unflatten(2, size)
            grid = (size[0] * self.finer, size[1] * self.finer)
            keys[2] = tokens(F.interpolate(coarse, size=grid, mode="bilinear", align_corners=False))
        return (*keys, tokens(self.sr1_feat(padded(trunk, size, 4))))

    def retrieve(self, features: Sequence[Tensor], memory: Sequence[Tensor]) -> Tensor:
        """What the target finds in one earlier frame, (B, 256, H/8, W/8) (eq. 4–8)."""
        maps = features[:3]
        queries = [layer(tokens(x)) for layer, x in zip(self.query, maps, strict=True)]
        keys, values = memory[:3], memory[3]
        affinity = queries[2] @ keys[2].transpose(1, 2)  # (B, target tokens, earlier tokens) at 1/32
        kept = self.select(affinity)
        images = []
        for query, key, x in zip(queries, keys, maps, strict=True):
            a = query @ pick(key, kept).transpose(1, 2)  # (B, h·w, S)
            images.append(a.unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2))
        refined = self.affinities(images[2], images[1], images[0])
        found = tokens(refined).softmax(-1) @ pick(values, kept)  # (B, h·w, 256)
        return found.transpose(1, 2).unflatten(2, maps[0].shape[-2:])

    def select(self, affinity: Tensor) -> Tensor:
        """STM: indices (B, S) of the earlier frame's most important tokens, in raster order."""
        positions, count = affinity.shape[1:]
        importance = affinity.topk(min(STRONGEST, positions), 1).values.sum(1)
        return importance.topk(max(1, int(self.share * count)), 1).indices.sort(1).values

    def fuse(self, features: Sequence[Tensor], *memories: Sequence[Tensor]) -> Tensor:
        """Mean of what was retrieved plus the target's own feature, (B, 256, H/8, W/8)."""
        found = [self.retrieve(features, memory) for memory in memories]
        return sum(found[1:], found[0]) / len(found) + features[3]

    def classify(self, fused: Tensor) -> Tensor:
        logits = self.deco[-1](self.dropout(fused))
        return F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)

    def decode(self, features: Sequence[Tensor], *memories: Sequence[Tensor]) -> Tensor:
        """→ logits (B, classes, H/4, W/4)."""
        return self.classify(self.fuse(features, *memories))

    def loss(self, batch: dict[str, Tensor], auxiliary: float = 0.5) -> dict[str, Tensor]:
        """CE of the target, averaged over the heads on what each frame and all gave, plus `auxiliary` times that of
        every labelled frame alone; frames (B, T, 3, H, W), oldest first."""
        frames, labels = batch["frames"], batch["labels"]
        trunk, *features = self.prepare(self.backbone(frames.flatten(0, 1)))
        alone = cross_entropy(self.linear_pred(self.dropout(trunk)), labels.flatten(0, 1))
        by_frame = [feature.unflatten(0, frames.shape[:2]) for feature in features]
        target = [feature[:, -1] for feature in by_frame]
        earlier = range(len(self.offsets))
        found = [self.retrieve(target, self.remember([f[:, i] for f in by_frame])) for i in earlier]
        outputs = [*found, sum(found[1:], found[0]) / len(found) + target[3]]
        losses = [
            cross_entropy(head(self.dropout(x)), labels[:, -1])
            for head, x in zip(self.deco, outputs, strict=True)
        ]
        final = torch.stack(losses).mean()
        return {"loss": final + auxiliary * alone, "final": final, "alone": alone}


def tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) → (B, h·w, C)."""
    return x.flatten(2).transpose(1, 2)


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Tokens of x (B, N, C) at index (B, S): (B, S, C)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def padded(x: Tensor, size: Sequence[int], factor: int) -> Tensor:
    """Zero-pad below and right to `factor` times size, if x is smaller."""
    return F.pad(x, (0, factor * size[1] - x.shape[-1], 0, factor * size[0] - x.shape[-2]))


AUTHORS_NAMES = [
    ("decode_head.conv_seg.", None),
    ("backbone.", "backbone."),
    ("decode_head.linear_pred.", "linear_pred."),
    *((f"decode_head.deco{i + 1}.smalldecoder.1.", f"deco.{i}.") for i in range(4)),
    *((f"decode_head.hypercorre_module.q{i + 1}.", f"query.{i}.") for i in range(3)),
    *((f"decode_head.hypercorre_module.k{i + 1}.", f"key.{i}.") for i in range(3)),
    ("decode_head.hypercorre_module.hpn.", "affinities."),
    ("decode_head.sr", "sr"),
    ("decode_head.", "head."),
]
