"""SegFormer, the image baseline on MiT (Xie et al., NeurIPS 2021). It ignores all earlier frames.

Deviation: the head is 256 wide on every MiT and 128 on MobileNetV1 and ESPNetv2, as in the video networks that compare
against it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vss_ros.config import VssError
from vss_ros.networks.backbones import ESPNET, MIT, MOBILENET, backbone
from vss_ros.networks.cards.reading import Reading
from vss_ros.networks.heads import AllMLP
from vss_ros.networks.losses import cross_entropy


class SegFormer(nn.Module, Reading):
    last_layer = "linear_pred"

    def __init__(self, name: str, classes: int, width: int | None = None, dropout: float = 0.1):
        super().__init__()
        if name not in (known := [*MIT, *MOBILENET, *ESPNET]):
            raise VssError(f"segformer: expected a backbone of {', '.join(known)}; got {name!r}")
        self.backbone = backbone(name)
        width = width or (256 if name in MIT else 128)
        self.head = AllMLP(self.backbone.channels, width)
        self.dropout = nn.Dropout2d(dropout)
        self.linear_pred = nn.Conv2d(width, classes, 1)

    def encode(self, frame: Tensor) -> tuple[Tensor, ...]:
        """frame (B, 3, H, W) → fused feature (B, width, H/4, W/4)."""
        return (self.head(self.backbone(frame)),)

    def remember(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return ()

    def classify(self, fused: Tensor) -> Tensor:
        return self.linear_pred(self.dropout(fused))

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """→ logits (B, classes, H/4, W/4)."""
        return self.classify(features[0])

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy of the labelled frame, the first of frames (B, T, 3, H, W)."""
        logits = self.decode(self.encode(batch["frames"][:, 0]))
        return {"loss": cross_entropy(logits, batch["labels"][:, 0])}


# The video networks' authors train it with mmsegmentation, whose names these are.
AUTHORS_NAMES = [
    ("decode_head.conv_seg.", None),
    ("backbone.", "backbone."),
    ("decode_head.linear_pred.", "linear_pred."),
    ("decode_head.", "head."),
]
