"""VGG-16's thirteen convolutions at output stride 8, the backbone of classifiers that must keep places apart.

Simonyan and Zisserman, ICLR 2015; the fourth pooling has stride 1, there is no fifth one, and the last three
convolutions are dilated, as in DeepLab-LargeFOV (Chen et al., ICLR 2015). Names are torchvision's.
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """frame (B, 3, H, W) → (B, 512, H/8, W/8)."""

    channels = 512

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for i, block in enumerate(WIDTHS):
            spread = 2 if i == 4 else 1
            for width in block:
                layers += [
                    nn.Conv2d(before, width, 3, padding=spread, dilation=spread),
                    nn.ReLU(inplace=True),
                ]
                before = width
            if i < 3:
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
            elif i == 3:
                layers.append(nn.MaxPool2d(3, 1, padding=1))
        self.features = nn.Sequential(*layers)

    def forward(self, frame: Tensor) -> Tensor:
        return self.features(frame)
