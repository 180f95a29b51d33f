"""ESPNetv2 (Mehta et al., CVPR 2019) with its segmentation decoder, whose Cityscapes weights are public."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ESPNET = {"espnetv2": (32, 128, 256, 512)}
"""Channels at strides 2, 4, 8, 16 (the authors' s = 2.0)."""

BRANCHES = 4
DILATIONS, AT_16 = (1, 2, 3, 4), (1, 1, 2, 3)
"""Of the branches, and of those at stride 16, which reach less far (section 3.3)."""
DECODED, PROJECTED = (32, 48, 64), 10
"""Channels of the decoder at strides 4, 8, 16, and inside its pyramids."""
SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
"""At which they look at a map, shares of its size."""


def conv(
    before: int, after: int, size: int = 1, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, size // 2 * dilation, dilation, groups, bias=False)


def normed(layer: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=layer, bn=nn.BatchNorm2d(layer.out_channels)))


def active(layer: nn.Conv2d | int) -> nn.Sequential:
    """Convolution, or nothing, for so many channels; batch norm; PReLU."""
    if isinstance(layer, int):
        return nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(layer), act=nn.PReLU(layer)))
    layers = normed(layer)
    layers.add_module("act", nn.PReLU(layer.out_channels))
    return layers


class EESP(nn.Module):
    """Depth-wise dilated separable convolutions in four branches, their sums, residual (section 3.1)."""

    def __init__(self, before: int, after: int, dilations: Sequence[int] = DILATIONS, stride: int = 1):
        super().__init__()
        width = after // BRANCHES
        self.proj_1x1 = active(conv(before, width, groups=BRANCHES))
        self.spp_dw = nn.ModuleList(
            nn.Sequential(OrderedDict(conv=conv(width, width, 3, stride, width, dilation)))
            for dilation in dilations
        )
        self.conv_1x1_exp = normed(conv(after, after, groups=BRANCHES))
        self.br_after_cat = active(after)
        self.module_act = nn.PReLU(after) if stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.proj_1x1(x)
        sums: list[Tensor] = []
        for branch in self.spp_dw:
            y = branch(reduced)
            sums.append(y + sums[-1] if sums else y)
        y = self.conv_1x1_exp(self.br_after_cat(torch.cat(sums, 1)))
        return self.module_act(y + x) if self.module_act else y


class DownSampler(nn.Module):
    """Half the size: averages beside an EESP unit, and the image itself at that size (section 3.2)."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.eesp = EESP(before, after - before, stride=2)
        self.inp_reinf = nn.Sequential(active(conv(3, 3, 3)), normed(conv(3, after)))
        self.act = nn.PReLU(after)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        return self.act(torch.cat([halved(x), self.eesp(x)], 1) + self.inp_reinf(image))


class Pyramid(nn.Module):
    """Efficient pyramid pooling: depthwise convolutions at five scales, merged (the authors' decoder)."""

    def __init__(self, before: int, after: int):
        super().__init__()
        width, count = PROJECTED, len(SCALES)
        self.projection_layer = active(conv(before, width))
        self.stages = nn.ModuleList(conv(width, width, 3, groups=width) for _ in SCALES)
        merged = active(conv(width * count, width, 3, groups=width))
        self.merge_layer = nn.Sequential(active(width * count), Shuffle(count), merged, conv(width, after))
        self.br = active(after)

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection_layer(x)
        size, found = x.shape[-2:], []
        for scale, stage in zip(SCALES, self.stages, strict=True):
            scaled = [max(math.ceil(side * scale), 5) for side in size]
            if scale < 1:
                found.append(resized(stage(self.pooled(x, scaled)), size))
            else:
                found.append(stage(x) if scale == 1 else self.pooled(stage(resized(x, scaled)), size))
        return self.br(self.merge_layer(torch.cat(found, 1)))

    def pooled(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Adaptive average pooling; in inference as two matrix products, which every runtime has for every size."""
        if self.training:
            return F.adaptive_avg_pool2d(x, tuple(size))
        rows, columns = (averages(x, side, after) for side, after in zip(x.shape[-2:], size, strict=True))
        return rows @ x @ columns.T


class Shuffle(nn.Module):
    """nn.ChannelShuffle by operators that TensorRT takes, too."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class Weighed(nn.Module):
    """3×3 convolution of an encoder's map, each channel weighed by what the means of all say (the authors' decoder)."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.wt_layer = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(before, after), nn.Sigmoid())
        self.expansion_layer = active(conv(before, after, 3, groups=math.gcd(before, after)))

    def forward(self, x: Tensor) -> Tensor:
        return self.expansion_layer(x) * self.wt_layer(x)


class ESPNet(nn.Module):
    """ESPNetv2's encoder up to stride 16 and its decoder down to stride 4. `shallow`, `deep`, `part` and `forward` as
    in MiT.

    frame (B, 3, H, W) → the encoder's map at stride 4, the decoder's at 4, 8, 16, with `self.channels` channels. That
    of `shallow` has three more, the image at its size, which deeper layers take, too.
    """

    def __init__(self, name: str):
        super().__init__()
        c1, c2, c3, c4 = ESPNET[name]
        base = nn.Module()
        base.level1 = active(conv(3, c1, 3, 2))
        base.level2_0 = DownSampler(c1, c2)
        base.level3_0 = DownSampler(c2, c3)
        base.level3 = nn.ModuleList(EESP(c3, c3) for _ in range(3))
        base.level4_0 = DownSampler(c3, c4)
        base.level4 = nn.ModuleList(EESP(c4, c4, AT_16) for _ in range(7))
        self.base_net = base
        d2, d3, d4 = DECODED
        self.bu_dec_l1, self.bu_dec_l2, self.bu_dec_l3 = Pyramid(c4, d4), Pyramid(d4, d3), Pyramid(d3, d2)
        self.merge_enc_dec_l2, self.merge_enc_dec_l3 = Weighed(c3, d4), Weighed(c2, d3)
        self.bu_br_l2, self.bu_br_l3 = active(d4), active(d3)
        self.channels, self.shallow_channels = (c2, *DECODED), c2 + 3
        self.blocks = [  # names of what `part` runs
            *("level3_0", *(f"level3.{i}" for i in range(len(base.level3)))),
            *("level4_0", *(f"level4.{i}" for i in range(len(base.level4)))),
            *("bu_dec_l1", "bu_dec_l2", "bu_dec_l3"),
        ]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def shallow(self, frame: Tensor) -> Tensor:
        """frame → map (B, C1 + 3, H/4, W/4) after the second unit, and the frame averaged to that size."""
        image = halved(halved(frame))
        return torch.cat([self.base_net.level2_0(self.base_net.level1(frame), image), image], 1)

    def deep(self, x: Tensor) -> list[Tensor]:
        """Output of `shallow` → the four maps."""
        return self.part([x], 0, len(self.blocks))

    def part(self, maps: Sequence[Tensor], start: int, stop: int) -> list[Tensor]:
        """As in MiT."""
        found = list(maps)
        for block in self.blocks[start:stop]:
            found = self.encoded(found, block) if block.startswith("level") else self.decoded(found, block)
        return found

    def encoded(self, maps: list[Tensor], block: str) -> list[Tensor]:
        """Maps of `shallow` and of deeper levels → the same after one more unit."""
        layer = self.base_net.get_submodule(block)
        if not isinstance(layer, DownSampler):
            return [*maps[:-1], layer(maps[-1])]
        x, image = maps[0].split([self.channels[0], 3], 1)
        if block == "level3_0":
            return [maps[0], layer(x, halved(image))]
        return [*maps, layer(maps[-1], halved(halved(image)))]

    def decoded(self, maps: list[Tensor], block: str) -> list[Tensor]:
        """Maps of the encoder and, deepest first, of the decoder → the same with one map more of the decoder."""
        x = maps[0][:, : self.channels[0]]
        if block == "bu_dec_l1":
            return [*maps[:2], self.bu_dec_l1(maps[2])]
        if block == "bu_dec_l2":
            return [maps[0], self.joined(2, maps[1], maps[2]), maps[2]]
        return [x, self.joined(3, x, maps[1]), *maps[1:]]

    def joined(self, level: int, encoded: Tensor, deeper: Tensor) -> Tensor:
        """A level of the decoder from the encoder's map at its size and the decoder's at half."""
        merge, after, pyramid = (
            getattr(self, f"{name}_l{level}") for name in ("merge_enc_dec", "bu_br", "bu_dec")
        )
        return pyramid(after(merge(encoded) + resized(deeper, encoded.shape[-2:])))

    def forward(self, frame: Tensor) -> list[Tensor]:
        return self.deep(self.shallow(frame))


def halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=2, padding=1)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def averages(x: Tensor, before: int, after: int) -> Tensor:
    """(after, before): row i averages what F.adaptive_avg_pool2d averages for cell i."""
    place, cell = torch.arange(before, device=x.device), torch.arange(after, device=x.device)[:, None]
    first, last = cell * before // after, -((cell + 1) * before // -after)
    inside = ((place >= first) & (place < last)).to(x.dtype)
    return inside / inside.sum(1, keepdim=True)
