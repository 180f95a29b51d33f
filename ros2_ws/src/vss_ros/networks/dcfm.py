"""DCFM: distill common features of a keyframe and reuse them in the frames after it.

Paper: "Deep Common Feature Mining for Efficient Video Semantic Segmentation". A frame has an independent
feature (cheap: the first layers) and a common feature (deep), which barely changes between neighbours; a feature
fusion module (FFM) joins the frame's own independent feature with the keyframe's common one.

Deviations: ResNet's independent feature is normalised before it is resized in training, too (the authors do so
in inference only); the three fused features of the loss share one batch-norm statistic; MiT-B0, which the authors
did not publish, uses 16 of its 32 independent channels; MobileNetV1 and ESPNetv2, not in the paper, have MiT's head
at half its width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vss_ros.networks.backbones import MIT, RESNET, backbone
from vss_ros.networks.cards.reading import LastKeyframe
from vss_ros.networks.heads import PPM, AllMLP, Pointwise, fold_batch_norm
from vss_ros.networks.losses import CRITERIA, DISTANCES, named

VSPW_CLASSES = 124


class DCFM(nn.Module, LastKeyframe):
    """Memory of a keyframe: one map (B, h, w, D), the common feature's share of the fusion convolution. Channels
    come last since runtimes compute 1×1 convolutions that way and would else reorder it on every frame.

    `hidden` adds a 1×1 layer before the classifier; the authors do so except for VSPW on MiT. `bias` gives the logits
    one, which they have not: what corrects the classes' shares (`prior` of a recipe) is kept there.
    """

    encoder = ("backbone.", "head.", "ppm.")  # of the authors' two optimisers: all up to the common feature

    def __init__(
        self, name: str, classes: int, hidden: bool | None = None, dropout: float = 0.1, bias: bool = False
    ):
        super().__init__()
        self.backbone = backbone(name)
        deepest = self.backbone.channels[-1]
        if name not in RESNET:
            common = 256 if name in MIT else 128
            self.head = AllMLP(self.backbone.channels, common)
            self.dropout = nn.Dropout2d(dropout)
        else:
            common = 320 if name == "resnet18" else 1280
            self.ppm = PPM(deepest)
            self.reduce = nn.Conv2d(2 * deepest, common, 1, bias=False)
        self.common = self.width = common
        self.independent = self.backbone.channels[0] // 2  # "half of the independent feature"
        self.fusion = nn.ModuleDict(
            {"conv": nn.Conv2d(common + self.independent, common, 1), "norm": nn.BatchNorm2d(common)}
        )
        if hidden is None:
            hidden = name not in MIT or classes != VSPW_CLASSES
        self.classifier = classifier(common, classes, hidden, dropout, bias)
        for layer in (self.fusion, self.classifier):
            layer.apply(init_kaiming)

    def encode(self, frame: Tensor) -> tuple[Tensor, ...]:
        """frame (B, 3, H, W) → independent feature (B, C1, H/4, W/4)."""
        return (self.backbone.shallow(frame),)

    def remember(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Independent feature of a keyframe → W_c · n(common) + b, all that a later frame needs of it."""
        return self.remember_part(features, 0, self.steps)

    @property
    def last_layer(self) -> str:
        return f"classifier.{len(self.classifier) - 1}"

    @property
    def steps(self) -> int:
        """Pieces that `remember` can be cut between: the backbone's blocks, then the head."""
        return len(self.backbone.blocks) + 1

    def remember_part(self, state: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
        """`remember` from its step `start` to before `stop`: features, or what the steps before gave, → the same, or
        after the last step the memory."""
        maps = self.backbone.part(state, start, min(stop, self.steps - 1))
        if stop < self.steps:
            return tuple(maps)
        common = self.summarise(maps)
        return (self.shares()[0](F.normalize(common)).permute(0, 2, 3, 1),)

    def summarise(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps of the backbone → common feature (B, D, h, w), h = H/4 on MiT and H/8 on ResNet."""
        if hasattr(self, "head"):
            return self.dropout(self.head(maps))
        return self.reduce(self.ppm(maps[-1]))

    def fuse(self, features: Sequence[Tensor], memory: Sequence[Tensor]) -> Tensor:
        """FFM (section III-B): normalised ReLU of the two shares' sum, (B, D, h, w)."""
        length = torch.linalg.vector_norm(features[0], dim=1, keepdim=True).clamp_min(1e-12)
        independent = features[0][:, : self.independent] / length  # F.normalize, of half the channels
        size = memory[0].shape[1:3]
        if independent.shape[-2:] != size:
            independent = F.interpolate(independent, size=size, mode="bilinear", align_corners=False)
        x = memory[0].permute(0, 3, 1, 2) + self.shares()[1](independent)
        if self.training:
            x = self.fusion["norm"](x)
        return F.normalize(F.relu(x))

    def classify(self, fused: Tensor) -> Tensor:
        return self.classifier(fused)

    def decode(self, features: Sequence[Tensor], memory: Sequence[Tensor]) -> Tensor:
        """Features of a frame and the memory of a keyframe → logits (B, classes, h, w)."""
        if "whole" in self.fusion:  # a GPU's kernel that does both
            return self.fusion["whole"](features[0], memory[0])
        return self.classify(self.fuse(features, memory))

    def target(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fused feature and labels of the labelled frame as its own keyframe."""
        features = self.encode(batch["frames"][:, 0])
        return self.fuse(features, self.remember(features)), batch["labels"][:, 0]

    def loss(
        self,
        batch: dict[str, Tensor],
        key: float = 1.0,
        nonkey: float = 0.4,
        consistency: float = 10.0,
        criterion: str = "cross_entropy",
        distance: str = "mse",
    ) -> dict[str, Tensor]:
        """Symmetric training (eq. 8–12) on frames (B, 2, 3, H, W): the labelled frame, then a neighbour.

        Frame L is segmented once with its own common feature (key) and once with the neighbour's (nonkey); where
        both frames get the same label, their fused features are drawn together (consistency). The three numbers are
        the losses' weights; criterion and distance name what Table VII compares: one of `losses.CRITERIA`, and of
        `losses.DISTANCES`, both a mean over all entries, of unit vectors of D channels: the weight that counts
        grows with D (10 at the authors' 256 is 5 here at 128). With batch["flow"] (B, h', w', 2), from L's cells to
        where they were in U, what comes from U is moved along it, as a stream does it.
        """
        entropy, apart = named(CRITERIA, "criterion", criterion), named(DISTANCES, "distance", distance)
        labels = batch["labels"][:, 0]
        if batch["frames"].shape[1] == 1:  # no neighbour: the key loss alone, at half the work
            features = self.encode(batch["frames"][:, 0])
            loss = entropy(self.decode(features, self.remember(features)), labels)
            return {"loss": loss, "key": loss}
        features = self.encode(batch["frames"].transpose(0, 1).flatten(0, 1))  # all L, then all U
        memory = self.remember(features)
        (x_l, x_u), (m_l, m_u) = features[0].chunk(2), memory[0].chunk(2)
        flow = batch.get("flow")
        m_n = m_u if flow is None else moved(m_u.movedim(-1, 1), flow).movedim(1, -1)
        fused = self.fuse((torch.cat([x_l, x_l, x_u]),), (torch.cat([m_l, m_n, m_u]),))
        f_l, f_n, f_u = fused.chunk(3)
        if flow is not None:
            f_u = moved(f_u, flow)
        p_l, p_n, p_u = self.classify(torch.cat([f_l, f_n, f_u])).chunk(3)
        same = (p_l.argmax(1, keepdim=True) == p_u.argmax(1, keepdim=True)).to(f_l.dtype)
        parts = {
            "key": entropy(p_l, labels),
            "nonkey": entropy(p_n, labels),
            "consistency": apart(same * f_l, same * f_u),
        }
        total = key * parts["key"] + nonkey * parts["nonkey"] + consistency * parts["consistency"]
        return {"loss": total, **parts}

    def shares(self) -> Sequence[Any]:
        """The fusion convolution on the common feature and on the independent one; in inference with its batch norm."""
        if "folded" in self.fusion:
            return self.fusion["folded"]
        weight, bias = self.fusion["conv"].weight.flatten(1), self.fusion["conv"].bias
        if not self.training:
            weight, bias = fold_batch_norm(weight, bias, self.fusion["norm"])
        return Pointwise(weight[:, : self.common], bias), Pointwise(weight[:, self.common :])

    def fold(self) -> None:
        self.fusion["folded"] = nn.ModuleList(layer.module() for layer in self.shares())


def moved(x: Tensor, flow: Tensor) -> Tensor:
    """x (B, C, h, w) read at each cell plus the flow (B, h', w', 2; right, down; in cells of h' × w'), bilinear."""
    height, width = x.shape[-2:]
    grid = flow.movedim(-1, 1).to(x.dtype)
    if flow.shape[1:3] != (height, width):
        grid = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
    # grid_sample counts from −1 to 1 over the map: a cell of the flow is 2 / its number of cells
    y = (torch.arange(height, device=x.device) + 0.5) * 2 / height - 1
    z = (torch.arange(width, device=x.device) + 0.5) * 2 / width - 1
    right = z[None, None] + grid[:, 0] * (2 / flow.shape[2])
    down = y[None, :, None] + grid[:, 1] * (2 / flow.shape[1])
    where = torch.stack([right, down], -1).to(x.dtype)
    return F.grid_sample(x, where, mode="bilinear", padding_mode="border", align_corners=False)


def classifier(channels: int, classes: int, hidden: bool, dropout: float, bias: bool) -> nn.Sequential:
    """Segmentation head; the positions of its layers are those of the authors' checkpoints."""
    if not hidden:
        return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, classes, 1, bias=bias))
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        nn.Conv2d(channels, classes, 1, bias=bias),
    )


def init_kaiming(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)


def authors_options(tensors: dict) -> dict:
    return {"hidden": "decoder.final.4.weight" in tensors}


# (prefix in the authors' two checkpoints, ours); None: not used by inference
AUTHORS_NAMES = [
    ("encoder.backbone.decoder.conv_seg.", None),
    ("encoder.backbone.encoder.", "backbone."),
    ("encoder.backbone.decoder.", "head."),
    ("encoder.backbone.ppm.", "ppm."),
    ("encoder.backbone.", "backbone."),
    ("decoder.bot_aspp.", "reduce."),
    ("decoder.ffm.convblk.", "fusion."),
    ("decoder.final.", "classifier."),
]
