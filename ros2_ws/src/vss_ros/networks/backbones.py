"""MiT-B0…B5, dilated ResNet-18/50/101 and MobileNetV1, the backbones of every network here.

MiT: Xie et al., "SegFormer", NeurIPS 2021, section 3.1. ResNet: He et al., CVPR 2016, with output stride 8
(Yu et al., "Dilated residual networks", CVPR 2017) and PSPNet's deep stem (Zhao et al., CVPR 2017).
MobileNetV1: Howard et al., "MobileNets", arXiv 1704.04861, table 1.
Module names are those of the published checkpoints, so that their weights load by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vss_ros.config import VssError
from vss_ros.networks.heads import PPM

# widths, depths of the four stages
MIT = {
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
# stem, depths of the four stages; "deep" is PSPNet's stem, "plain" the one of torchvision's weights, "v1c" that of
# mmsegmentation's ResNetV1c, here with its contract_dilation, as in the authors' weights of STF and MAR
RESNET = {
    "resnet18": ("plain", (2, 2, 2, 2)),
    "resnet50": ("deep", (3, 4, 6, 3)),
    "resnet101": ("deep", (3, 4, 23, 3)),
    "resnet50_plain": ("plain", (3, 4, 6, 3)),
    "resnet101_plain": ("plain", (3, 4, 23, 3)),
    "resnet50_v1c": ("v1c", (3, 4, 6, 3)),
    "resnet101_v1c": ("v1c", (3, 4, 23, 3)),
}
# channels and stride of the 12 separable convolutions; the maps after those in MOBILENET_MAPS are used
MOBILENET = {
    "mobilenet_v1": ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2))
}
MOBILENET_MAPS = (3, 5, 11, 12)
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
        self.fc2 = nn.Linear(dim * ratio, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), height, width)))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, reduction: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, reduction)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MixFFN(dim)

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

    frame (B, 3, H, W) → maps at strides 4, 8, 16, 32 with `self.channels` channels.
    """

    def __init__(self, name: str, drop_path: float = 0.1):
        super().__init__()
        widths, depths = MIT[name]
        self.channels = widths
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


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, dilation: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = projection(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, dilation: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.downsample = projection(channels, width * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    """ResNet with output stride 8, or 16 or 32 as in DETR. `shallow` and `deep` split it after layer1, as DCFM does.

    frame (B, 3, H, W) → maps of layer1 (stride 4), layer2, layer3, layer4 (stride 8, or what is asked for).
    """

    def __init__(self, name: str, output_stride: int = 8):
        super().__init__()
        strides = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}[output_stride]
        dilations = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}[output_stride]
        stem, depths = RESNET[name]
        block = BasicBlock if name == "resnet18" else Bottleneck
        self.layer0 = plain_stem() if stem == "plain" else deep_stem(32 if stem == "v1c" else 64)
        channels = 128 if stem == "deep" else 64
        self.channels = tuple(width * block.expansion for width in (64, 128, 256, 512))
        self.blocks = [(i + 1, j) for i in range(1, 4) for j in range(depths[i])]  # those that `deep` runs
        for i, (width, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True)):
            stride, dilation = strides[i], dilations[i]
            blocks = []
            for j in range(depth):
                contracted = (stem == "v1c" or output_stride > 8) and j == 0 and dilation > 1
                step, spread = stride if j == 0 else 1, dilation // 2 if contracted else dilation
                blocks.append(block(channels, width, step, spread))
                channels = width * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def shallow(self, frame: Tensor) -> Tensor:
        """frame → map (B, C1, H/4, W/4) of layer1."""
        return self.layer1(self.layer0(frame))

    def deep(self, x: Tensor) -> list[Tensor]:
        """Output of `shallow` → the four layer outputs."""
        return self.part([x], 0, len(self.blocks))

    def part(self, maps: Sequence[Tensor], start: int, stop: int) -> list[Tensor]:
        """As in MiT."""
        found = list(maps)
        for layer, place in self.blocks[start:stop]:
            y = getattr(self, f"layer{layer}")[place](found[-1])
            found = [*found, y] if place == 0 else [*found[:-1], y]
        return found

    def forward(self, frame: Tensor) -> list[Tensor]:
        return self.deep(self.shallow(frame))


class ConvSame(nn.Conv2d):
    """3×3 convolution padded as TensorFlow does ("SAME"): at stride 2 and even sizes right and below only."""

    def forward(self, x: Tensor) -> Tensor:
        before = [1 if self.stride[0] == 1 else size % 2 for size in x.shape[-2:]]
        return super().forward(F.pad(x, (before[1], 1, before[0], 1)))


class MobileNet(nn.Module):
    """MobileNetV1 up to its twelfth separable convolution, with PSPNet's pyramid pooling after the last map, since
    so small a convolutional network sees too little of the scene. `shallow`, `deep`, `forward` as in MiT.

    frame (B, 3, H, W) → maps at strides 4, 8, 16, 32 with `self.channels` channels; with output stride 16 it ends
    before the last one, without pooling.
    """

    def __init__(self, name: str, output_stride: int = 32):
        super().__init__()
        self.ends = MOBILENET_MAPS[: 4 if output_stride == 32 else 3]
        layers = MOBILENET[name][: self.ends[-1]]
        before = 32
        self.conv1 = ConvSame(3, before, 3, stride=2, bias=False)
        self.conv1_bn = nn.BatchNorm2d(before, eps=1e-3)
        for i, (width, stride) in enumerate(layers, 1):
            self.add_module(f"conv_dw_{i}", ConvSame(before, before, 3, stride, groups=before, bias=False))
            self.add_module(f"conv_dw_{i}_bn", nn.BatchNorm2d(before, eps=1e-3))
            self.add_module(f"conv_pw_{i}", nn.Conv2d(before, width, 1, bias=False))
            self.add_module(f"conv_pw_{i}_bn", nn.BatchNorm2d(width, eps=1e-3))
            before = width
        self.ppm = PPM(before) if output_stride == 32 else None
        self.blocks = list(range(self.ends[0] + 1, self.ends[-1] + 1))  # those that `deep` runs
        widths = [layers[i - 1][0] for i in self.ends]
        self.channels = (*widths[:-1], 2 * widths[-1]) if self.ppm else tuple(widths)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def shallow(self, frame: Tensor) -> Tensor:
        """frame → map (B, C1, H/4, W/4) after the third separable convolution."""
        return self.run(self.unit("conv1", frame), range(1, MOBILENET_MAPS[0] + 1))

    def deep(self, x: Tensor) -> list[Tensor]:
        """Output of `shallow` → the four maps."""
        return self.part([x], 0, len(self.blocks))

    def part(self, maps: Sequence[Tensor], start: int, stop: int) -> list[Tensor]:
        """As in MiT."""
        found = list(maps)
        for block in self.blocks[start:stop]:
            y = self.run(found[-1], [block])
            found = [*found, y] if block - 1 in self.ends else [*found[:-1], y]
            if block == self.ends[-1] and self.ppm:
                found[-1] = self.ppm(found[-1])
        return found

    def run(self, x: Tensor, blocks: Iterable[int]) -> Tensor:
        for i in blocks:
            x = self.unit(f"conv_pw_{i}", self.unit(f"conv_dw_{i}", x))
        return x

    def unit(self, name: str, x: Tensor) -> Tensor:
        return F.relu6(getattr(self, f"{name}_bn")(getattr(self, name)(x)))

    def forward(self, frame: Tensor) -> list[Tensor]:
        return self.deep(self.shallow(frame))


def backbone(name: str, **options: int) -> MiT | ResNet | MobileNet:
    """Fresh backbone by its name in MIT, RESNET or MOBILENET; options: `output_stride` of the latter two."""
    for names, kind in ((MIT, MiT), (RESNET, ResNet), (MOBILENET, MobileNet)):
        if name in names:
            return kind(name, **options)
    raise VssError(f"unknown backbone {name!r}: expected one of {', '.join([*MIT, *RESNET, *MOBILENET])}")


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, H·W, C) → (B, C, H, W)."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def plain_stem() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


def deep_stem(narrow: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels, width, stride in ((3, narrow, 2), (narrow, narrow, 1), (narrow, 2 * narrow, 1)):
        conv = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(3, stride=2, padding=1))


def projection(channels: int, width: int, stride: int) -> nn.Module:
    """Shortcut of a residual block: identity, or 1×1 convolution where the shape changes."""
    if stride == 1 and channels == width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))


def init_transformer(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
