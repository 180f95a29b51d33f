"""MobileNetV1 (Howard et al., 2017), as TensorFlow pads it, so that its ImageNet weights keep their meaning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vss_ros.networks.heads import PPM

# channels and stride of the 12 separable convolutions; the maps after those in MOBILENET_MAPS are used
MOBILENET = {
    "mobilenet_v1": ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2))
}

MOBILENET_MAPS = (3, 5, 11, 12)


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
        self.shallow_channels = widths[0]
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
