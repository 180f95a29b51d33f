"""ResNet (He et al., CVPR 2016), dilated to output stride 8 as semantic segmentation uses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

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
