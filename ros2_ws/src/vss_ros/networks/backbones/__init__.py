"""MiT-B0…B5, dilated ResNet-18/50/101 and MobileNetV1, the backbones of every network here.

MiT: Xie et al., "SegFormer", NeurIPS 2021, section 3.1. ResNet: He et al., CVPR 2016, with output stride 8
(Yu et al., "Dilated residual networks", CVPR 2017) and PSPNet's deep stem (Zhao et al., CVPR 2017).
MobileNetV1: Howard et al., "MobileNets", arXiv 1704.04861, table 1.
Module names are those of the published checkpoints, so that their weights load by name.
"""

from __future__ import annotations

from vss_ros.config import VssError
from vss_ros.networks.backbones.mit import MIT, MiT
from vss_ros.networks.backbones.mobilenet import MOBILENET, MobileNet
from vss_ros.networks.backbones.resnet import RESNET, ResNet

__all__ = ["MIT", "MOBILENET", "RESNET", "MiT", "MobileNet", "ResNet", "backbone"]


def backbone(name: str, **options: int) -> MiT | ResNet | MobileNet:
    """Fresh backbone by its name in MIT, RESNET or MOBILENET; options: `output_stride` of the latter two."""
    for names, kind in ((MIT, MiT), (RESNET, ResNet), (MOBILENET, MobileNet)):
        if name in names:
            return kind(name, **options)
    raise VssError(f"unknown backbone {name!r}: expected one of {', '.join([*MIT, *RESNET, *MOBILENET])}")
