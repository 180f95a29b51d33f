"""PSPNet, the image baseline on ResNet (Zhao et al., CVPR 2017), output stride 8. It ignores all earlier frames.

Deviation: no auxiliary loss. On a "v1c" backbone it is mmsegmentation's PSPNet, STF's and MAR's base.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vss_ros.config import VssError
from vss_ros.networks.backbones import RESNET, backbone
from vss_ros.networks.cards.reading import Reading
from vss_ros.networks.heads import PPM
from vss_ros.networks.losses import cross_entropy


class PSPNet(nn.Module, Reading):
    last_layer = "classifier"

    def __init__(self, name: str, classes: int, width: int = 512, dropout: float = 0.1):
        super().__init__()
        if name not in RESNET:
            raise VssError(f"pspnet: expected a backbone of {', '.join(RESNET)}; got {name!r}")
        self.width = width
        self.backbone = backbone(name)
        deepest = self.backbone.channels[-1]
        self.ppm = PPM(deepest, align_corners=not name.endswith("_v1c"))  # mmsegmentation's do not
        self.bottleneck = nn.Sequential(
            nn.Conv2d(2 * deepest, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)

    def encode(self, frame: Tensor) -> tuple[Tensor, ...]:
        """frame (B, 3, H, W) → feature (B, width, H/8, W/8)."""
        return (self.bottleneck(self.ppm(self.backbone(frame)[-1])),)

    def remember(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return ()

    def fuse(self, features: Sequence[Tensor]) -> Tensor:
        return features[0]

    def classify(self, fused: Tensor) -> Tensor:
        return self.classifier(self.dropout(fused))

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """→ logits (B, classes, H/8, W/8)."""
        return self.classify(self.fuse(features))

    def target(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Feature and labels of the labelled frame, the first of frames (B, T, 3, H, W)."""
        return self.encode(batch["frames"][:, 0])[0], batch["labels"][:, 0]

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy of the labelled frame."""
        feature, labels = self.target(batch)
        return {"loss": cross_entropy(self.classify(feature), labels)}


# mmsegmentation's names; STF's and MAR's authors put "pspnet." before them
MMSEGMENTATION_NAMES = [
    ("auxiliary_head.", None),
    ("backbone.stem.", "backbone.layer0."),
    ("backbone.", "backbone."),
    *((f"decode_head.psp_modules.{i}.1.conv.", f"ppm.features.{i}.1.") for i in range(4)),
    *((f"decode_head.psp_modules.{i}.1.bn.", f"ppm.features.{i}.2.") for i in range(4)),
    ("decode_head.bottleneck.conv.", "bottleneck.0."),
    ("decode_head.bottleneck.bn.", "bottleneck.1."),
    ("decode_head.conv_seg.", "classifier."),
]
AUTHORS_NAMES = [
    *((f"pspnet.{theirs}", ours) for theirs, ours in MMSEGMENTATION_NAMES),
    *MMSEGMENTATION_NAMES,
]
