"""MCIS: where things are, learnt from image-level tags by looking at pairs of images (Sun et al., "Mining cross-image
semantics for weakly supervised semantic segmentation", ECCV 2020).

A classifier of tags whose class maps point at things; co-attention makes both images of a pair agree on what they
share, contrast on what they do not. `vss pseudo` makes pixel labels of the maps, on which any network is trained.

Deviations: on MobileNetV1 (stride 16) for machines without a GPU; co-attention by cosines of features (`temperature`),
since the published products are so far apart that attention is nearly hard and ground, too, finds things; no published
weights are known, so there are no authors' names. Where text and published code differ, the code decides: a second
classifier for common features (`shared_head` takes the text's one), three more pairs of an image with its mirror and
copies of other sizes (`copies`), contrast only from the third pass over the data on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vss_ros.config import VssError
from vss_ros.networks.backbones import MOBILENET, backbone
from vss_ros.networks.backbones.vgg import VGG
from vss_ros.networks.cards.reading import Reading

CONTRAST_FROM = 2
"""First pass over the data, counted from 0, with the contrastive loss."""
COPIES = (0.75, 2.0)


class MCIS(nn.Module, Reading):
    task = "tags"

    def __init__(
        self, name: str, classes: int, width: int = 512, shared_head: bool = False, temperature: float = 0.0
    ):
        """name: "vgg16", or a MobileNetV1. temperature: of co-attention by cosines, that starts with the features as
        they are; 0: by products, as published. Raises VssError for another backbone, or a temperature below 0."""
        super().__init__()
        if name != "vgg16" and name not in MOBILENET:
            raise VssError(f"mcis: expected a backbone of vgg16, {', '.join(MOBILENET)}; got {name!r}")
        if temperature < 0:
            raise VssError(f"mcis: expected a temperature of 0 or more, got {temperature:g}")
        self.temperature = temperature
        self.backbone: Any = VGG() if name == "vgg16" else backbone(name, output_stride=16)
        channels = self.backbone.channels
        before = channels if isinstance(channels, int) else channels[-1]
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
            before = width
        self.extra = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(width, classes, 1)
        self.common = None if shared_head else nn.Conv2d(width, classes, 1, bias=False)
        self.affinity = nn.Linear(width, width, bias=False)
        self.gate = nn.Conv2d(width, 1, 1, bias=False)
        convs = [m for m in [*self.extra, self.classifier] if isinstance(m, nn.Conv2d)]
        convs += [m for m in self.backbone.modules() if isinstance(m, nn.Conv2d)] if name == "vgg16" else []
        for conv in convs:
            fan = conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels
            nn.init.normal_(conv.weight, 0, math.sqrt(2 / fan))
            nn.init.zeros_(conv.bias)
        if temperature:
            nn.init.eye_(self.affinity.weight)

    def look(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """frame (B, 3, H, W) → a map of the backbone (B, D, H/8, W/8), by which places of images are compared, and
        `encode`'s feature."""
        maps = self.backbone(frame)
        details, last = (maps, maps) if isinstance(maps, Tensor) else (maps[1], maps[-1])
        return details, self.extra(last)

    def encode(self, frame: Tensor) -> tuple[Tensor, ...]:
        """frame (B, 3, H, W) → feature (B, width, H/8, W/8)."""
        return (self.look(frame)[1],)

    def remember(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return ()

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """→ class maps (B, classes, H/8, W/8), whose means are the scores of the tags."""
        return self.classifier(features[0])

    def coattend(self, m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D, h, w) of two images, of any two sizes → what each finds of itself in the other, each of the
        size of the one it stands for (section 3.2)."""
        a, b = m.flatten(2), n.flatten(2)  # (B, D, M), (B, D, N)
        asked, of = self.affinity(a.transpose(1, 2)), b
        if self.temperature:
            asked, of = F.normalize(asked, dim=2) / self.temperature, F.normalize(b, dim=1)
        alike = asked @ of  # (B, M, N)
        in_n = (a @ alike.softmax(1)).view_as(n)
        in_m = (b @ alike.transpose(1, 2).softmax(1)).view_as(m)
        return in_m, in_n

    def common_maps(self, common: Tensor) -> Tensor:
        """Class maps of co-attended features."""
        return (self.common or self.classifier)(common)

    def rest_maps(self, feature: Tensor, common: Tensor) -> Tensor:
        """Class maps of what an image does not share: where the gate on its common feature is closed."""
        return self.common_maps(feature * (1 - self.gate(common).sigmoid()))

    def loss(self, batch: dict[str, Tensor], copies: float = 1.0, pairs: float = 1.0) -> dict[str, Tensor]:
        """frames (B, 2, 3, H, W); tags (B, 2, C), 1 where an image has the class; epoch: passes over the data so far.

        "loss": classification of both by their own tags ("basic") and by those that they share ("common"), and of
        what they do not share by the others ("contrast"). copies: weight of the three more pairs, 0: none; pairs: of
        what is learnt from two images together, 0: a plain classifier.
        """
        (m, n), (tags_m, tags_n) = batch["frames"].unbind(1), batch["tags"].unbind(1)
        f, g = self.encode(m)[0], self.encode(n)[0]
        both = tags_m * tags_n
        in_m, in_n = self.coattend(f, g)
        basic = tag_loss(self.classifier(f), tags_m) + tag_loss(self.classifier(g), tags_n)
        common = tag_loss(self.common_maps(in_m), both) + tag_loss(self.common_maps(in_n), both)
        contrast = basic.new_zeros(())
        if int(batch["epoch"]) >= CONTRAST_FROM:
            for feature, shared, tags in ((f, in_m, tags_m), (g, in_n, tags_n)):
                rest = tags - both
                if bool(rest.any()):
                    contrast = contrast + tag_loss(self.rest_maps(feature, shared), rest)
        if copies:
            for other in (m.flip(-1), *(resized(m, scale) for scale in COPIES)):
                g = self.encode(other)[0]
                in_m, in_n = self.coattend(f, g)
                own = tag_loss(self.classifier(f), tags_m) + tag_loss(self.classifier(g), tags_m)
                shared = tag_loss(self.common_maps(in_m), tags_m) + tag_loss(self.common_maps(in_n), tags_m)
                basic, common = basic + copies * own, common + copies * shared
        return {
            "loss": basic + pairs * (common + contrast),
            "basic": basic,
            "common": common,
            "contrast": contrast,
        }


def tag_loss(maps: Tensor, tags: Tensor) -> Tensor:
    """Sigmoid cross entropy of the maps' (B, C, h, w) means with tags (B, C), a mean over classes and images."""
    return F.multilabel_soft_margin_loss(maps.float().mean((2, 3)), tags)


def resized(frame: Tensor, scale: float) -> Tensor:
    """(B, 3, H, W) at another size, rounded to whole cells of 16 pixels."""
    size = [max(16, round(side * scale / 16) * 16) for side in frame.shape[-2:]]
    return F.interpolate(frame, size=size, mode="bilinear", align_corners=False)


# ----------------------------------------------------------------------------------------------------------------------
# Localisation maps, for one image and one class


MAPS = ("both", "pairs", "classifier")
SHARP = 0.02
"""Temperature at which places of images are compared for "both"."""


@torch.no_grad()
def localise(
    network: MCIS, frame: Tensor, related: Sequence[Tensor], label: int, maps: str = "both"
) -> Tensor:
    """Where a class is in an image that has it: (h, w) in 0–1, at the feature's size, or at stride 8 for "both".

    frame (3, H, W); related: other images that have the class. maps: "classifier", its map of the image alone; "both",
    the geometric mean of that and of what its maps of the related images say of places that look alike (ours); "pairs",
    the mean of five of common features, as published, each clipped at 0 and divided by its greatest value; a map counts
    only where it speaks for the class: sigmoid(mean) > 0.1.
    """
    details, f = network.look(frame[None])
    if maps != "pairs":
        own = merge([network.classifier(f)[0, label]])
        return agreed(network, details, related, label, own) if maps == "both" and related else own
    mirror = network.encode(frame[None].flip(-1))[0]
    in_m, in_mirror = network.coattend(f, mirror)
    found = [network.common_maps(in_m)[0, label], network.common_maps(in_mirror)[0, label].flip(-1)]
    for scale in COPIES:
        copy = network.coattend(f, network.encode(resized(frame[None], scale))[0])[1]
        found.append(at(network.common_maps(copy)[0, label], f.shape[-2:]))
    others = [network.coattend(f, network.encode(other[None])[0])[0] for other in related]
    if others:
        found.append(torch.stack([network.common_maps(x)[0, label] for x in others]).mean(0))
    return merge(found)


def agreed(network: MCIS, details: Tensor, related: Sequence[Tensor], label: int, own: Tensor) -> Tensor:
    """√(an image's own map × the mean of the related images' maps over the places that look as one of its own, by its
    `look`'s details)."""
    here = F.normalize(details[0], dim=0)
    size = here.shape[-2:]
    there, values = [], []
    for other in related:
        others, feature = network.look(other[None])
        there.append(F.normalize(others[0], dim=0).flatten(1))
        values.append(merge([at(network.classifier(feature)[0, label], size)]).flatten())
    alike = here.flatten(1).T @ torch.cat(there, 1) / SHARP  # (places, places of all related images)
    said = merge([(alike.softmax(1) @ torch.cat(values)).view(size)])
    return (said * merge([at(own, size)])).sqrt()


def merge(maps: Sequence[Tensor]) -> Tensor:
    """Mean of class maps (h, w), each clipped and scaled to 0–1; all but the first only if they speak for the class."""
    total = torch.zeros_like(maps[0])
    for i, one in enumerate(maps):
        if i == 0 or float(one.mean().sigmoid()) > 0.1:
            clipped = one.clamp(min=0)
            total += clipped / clipped.max().clamp(min=1e-6)
    return total / len(maps)


def at(map_: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(map_[None, None], size=tuple(size), mode="bicubic", align_corners=False)[0, 0]
