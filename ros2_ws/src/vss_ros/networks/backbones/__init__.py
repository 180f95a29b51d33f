"""MiT-B0…B5, dilated ResNet-18/50/101, MobileNetV1 and ESPNetv2, the backbones of every network here.

MiT: Xie et al., "SegFormer", NeurIPS 2021, section 3.1. ResNet: He et al., CVPR 2016, with output stride 8
(Yu et al., "Dilated residual networks", CVPR 2017) and PSPNet's deep stem (Zhao et al., CVPR 2017).
MobileNetV1: Howard et al., "MobileNets", arXiv 1704.04861, table 1. ESPNetv2: Mehta et al., CVPR 2019, section 3.
Module names are those of the published checkpoints, so that their weights load by name.
"""

from __future__ import annotations

from vss_ros.config import VssError
from vss_ros.networks.backbones.espnet import ESPNET, ESPNet
from vss_ros.networks.backbones.mit import MIT, MiT
from vss_ros.networks.backbones.mobilenet import MOBILENET, MobileNet
from vss_ros.networks.backbones.resnet import RESNET, ResNet

__all__ = ["ESPNET", "MIT", "MOBILENET", "RESNET", "ESPNet", "MiT", "MobileNet", "ResNet", "backbone"]


def backbone(name: str, **options: int) -> MiT | ResNet | MobileNet | ESPNet:
    """Fresh backbone by its name in MIT, RESNET, MOBILENET or ESPNET; options: `output_stride` of the middle two."""
    kinds = ((MIT, MiT), (RESNET, ResNet), (MOBILENET, MobileNet), (ESPNET, ESPNet))
    for names, kind in kinds:
        if name in names:
            return kind(name, **options)
    known = ", ".join(name for names, _ in kinds for name in names)
    raise VssError(f"unknown backbone {name!r}: expected one of {known}")
