"""IOCFormer: points and density of one class of objects (Sun et al., "Indiscernible object counting in underwater
scenes", CVPR 2023), on Conditional DETR (Meng et al., ICCV 2021).

An image is cut into patches (`stream/tiles.py`), each counted by itself. A point is (row, column), each as a share of
the patch. The published training script decides where the text is silent or says otherwise: stride 16; the density
branch on a map of twice the size; the density feature added after each encoder layer through one shared norm; the
third output of a query (mean distance to its neighbours, a share of the patch) for matching and loss alone.

Deviations: a score is that of the class of objects alone, not the greater of it and an untrained second one. On
MobileNetV1 (stride 16, too) batch norms are trained; on ResNet they, the stem and layer1 stay ImageNet's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vss_ros.config import VssError
from vss_ros.networks.backbones import MOBILENET, RESNET, ResNet, backbone
from vss_ros.networks.cards.reading import Reading
from vss_ros.networks.heads import Attention, mlp, sine_embedding, sine_positions
from vss_ros.networks.matching import count_loss, matched_loss, place_loss, targets_of

SHARP = 6.0
"""Gain at which queries that begin spread over the patch see about a cell around them."""
OBJECT = 1
"""Index of the class of objects; the other logit is never a target."""


class IOCFormer(nn.Module, Reading):
    task = "counting"

    def __init__(
        self,
        name: str,
        classes: int = 1,
        queries: int = 700,
        width: int = 256,
        layers: int = 6,
        feedforward: int = 2048,
        dropout: float = 0.1,
        density: bool = True,
        output_stride: int = 16,
        spread: bool = False,
        fine: bool = False,
        merge_before: bool = False,
    ):
        """queries: most objects of a patch; density: False is CLTR, which has no second opinion (published with
        output_stride 32); spread: queries, a square number, begin evenly over the patch, each with what lies there, and
        are matched by where they begin, for trainings of minutes; fine: the density branch reads the backbone's map of
        stride 8, too, for small objects; merge_before: the encoder as the text has it (equations 2.2 and 2.3), not as
        the code. Raises VssError for a backbone other than ResNet and MobileNet, or several classes."""
        super().__init__()
        if name not in RESNET and name not in MOBILENET:
            known = ", ".join([*RESNET, *MOBILENET])
            raise VssError(f"iocformer: expected a backbone of {known}; got {name!r}")
        if merge_before and not density:
            raise VssError("iocformer: merge_before: expected the density branch, which is what it merges")
        if classes != 1:
            raise VssError(f"iocformer: counts one class of objects, got {classes}")
        self.queries = queries
        self.backbone = backbone(name, output_stride=output_stride)
        deepest = self.backbone.channels[-1]
        self.fine = fine
        self.input = nn.Conv2d(deepest, width, 1)
        self.density = Density(deepest, width, self.backbone.channels[1] if fine else 0) if density else None
        self.dete = Encoder(width, layers, feedforward, dropout, density, merge_before)
        self.decoder = Decoder(width, layers, feedforward, dropout)
        for parameter in [*self.dete.parameters(), *self.decoder.parameters()]:
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.query = nn.Embedding(queries, width)
        self.spread = spread
        self.start = nn.LayerNorm(width) if spread and density else None
        if spread:
            self.decoder.spread(queries)
        self.classifier = nn.Linear(width, 2)
        nn.init.constant_(self.classifier.bias, -math.log(99))
        self.locate = mlp(width, width, width, 3)
        nn.init.zeros_(self.locate[-1].weight)
        nn.init.zeros_(self.locate[-1].bias)
        self.frozen = isinstance(self.backbone, ResNet)
        if self.frozen:
            norms = [module for module in self.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
            for module in (self.backbone.layer0, self.backbone.layer1, *norms):
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> IOCFormer:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def encode(self, frame: Tensor) -> tuple[Tensor, ...]:
        """patch (B, 3, H, W) → feature (B, C, H/16, W/16); where `fine`, that of stride 8, too."""
        maps = self.backbone(frame)
        return (maps[-1], maps[1]) if self.fine else (maps[-1],)

    def remember(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return ()

    def decode(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """→ scores (B, Q) in 0–1; points (B, Q, 2), row and column in 0–1; density (B, 1, H/8, W/8), objects a cell,
        of no cells without the density branch."""
        outputs, density = self.answer(features, every=False)
        logits, located = outputs[-1]
        return logits[..., OBJECT].sigmoid(), located[..., :2], F.relu(density)

    def answer(self, features: Sequence[Tensor], every: bool) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Logits (B, Q, 2) and located (B, Q, 3) of the last or of every decoder layer; the density before its ReLU."""
        x, hint, density = self.input(features[0]), None, features[0].new_zeros(len(features[0]), 1, 0, 0)
        double = None
        if self.density is not None:
            density, double = self.density(*features)
            hint = double[..., ::2, ::2]
            x = x + hint
        positions = sine_positions(x.shape[2], x.shape[3], x.shape[1], x)  # (h·w, d)
        tokens = self.dete(x, hint, positions)
        start = None
        if self.spread:
            start = self.at_queries(tokens.transpose(1, 2).unflatten(2, x.shape[-2:]))
            if self.start is not None:  # else what is fine is lost beside tokens, which have a norm
                start = start + self.start(self.at_queries(double))
        references, states = self.decoder(tokens, positions, self.query.weight, start)
        outputs = []
        for state in states if every else states[-1:]:
            located = self.locate(state)
            centre = located[..., :2] + torch.logit(references, 1e-5)
            outputs.append((self.classifier(state), torch.cat([centre, located[..., 2:]], -1).sigmoid()))
        return outputs, density

    def at_queries(self, map_: Tensor) -> Tensor:
        """(B, d, h, w) → (B, Q, d) at the places of the queries' grid."""
        side = math.isqrt(self.queries)
        return F.interpolate(map_, (side, side), mode="bilinear").flatten(2).transpose(1, 2)

    def loss(
        self,
        batch: dict[str, Tensor],
        classify: float = 2.0,
        locate: float = 5.0,
        density: float = 0.5,
        place: float = 0.0,
    ) -> dict[str, Tensor]:
        """frames (B, 1, 3, H, W); points (B, M, 2), column and row in pixels, NaN beyond an image's last.

        "loss": classify · focal + locate · L1, of every decoder layer with its own matching, + density · |ΣD − K|
        + place · `place_loss`, which says where the density belongs: the published code has such terms, times 0.
        """
        frames, points = batch["frames"][:, 0], batch["points"]
        targets = targets_of(points, frames.shape[-2:])
        outputs, raw = self.answer(self.encode(frames), every=True)
        # several queries near an object that all find it would be matched by chance, and none would become sure
        begin = self.decoder.reference.sigmoid() if self.spread else None
        parts = [matched_loss(*output, targets, begin) for output in outputs]
        total = sum(classify * part[0] + locate * part[1] for part in parts)
        losses = {"classify": parts[-1][0], "locate": parts[-1][1]}
        if self.density is not None:
            losses["density"] = count_loss(F.relu(raw), targets)
            total = total + density * losses["density"]
            if place:
                losses["place"] = place_loss(raw, targets)  # without the ReLU, which dies of an early step
                total = total + place * losses["place"]
        return {"loss": total, **losses}


class Density(nn.Module):
    """Feature (B, C, h, w), and with `fine` channels a map of twice its size → density (B, 1, 2h, 2w), objects a cell,
    before its ReLU, and what the encoder learns of every second cell (B, d, 2h, 2w)."""

    def __init__(self, channels: int, width: int, fine: int):
        super().__init__()
        half = width // 2
        self.narrow = nn.Conv2d(channels, width, 1) if fine else None
        self.beside = nn.Conv2d(fine, width, 1) if fine else None
        self.feature = nn.Sequential(
            nn.Conv2d(width if fine else channels, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, half, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.map = nn.Conv2d(half, 1, 1)
        self.project = nn.Sequential(
            nn.Conv2d(half, half, 1), nn.ReLU(inplace=True), nn.Conv2d(half, width, 1), nn.ReLU(inplace=True)
        )

    def forward(self, feature: Tensor, fine: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.narrow is not None:
            feature = self.narrow(feature)
        x = F.interpolate(feature, scale_factor=2, mode="bilinear", align_corners=True)
        if self.beside is not None:
            x = F.relu(x + self.beside(fine))
        x = self.feature(x)
        return self.map(x), self.project(x)


class FeedForward(nn.Module):
    """The second half of a post-norm layer: x → norm(x + linear(relu(linear(x))))."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.grow, self.shrink = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shrink(self.dropout(F.relu(self.grow(x))))
        return self.norm(x + self.dropout(y))


class EncoderLayer(nn.Module):
    """DETR's: queries and keys with the position, values without."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.attention = Attention(width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.feed = FeedForward(width, hidden, dropout)

    def forward(self, x: Tensor, positions: Tensor | int) -> Tensor:
        placed = x + positions
        y = self.attention(self.q(placed), self.k(placed), self.v(x), self.dropout.p)
        return self.feed(self.norm(x + self.dropout(y)))


class Encoder(nn.Module):
    """Density-enhanced transformer encoder: map (B, d, h, w), and the density's feature → tokens (B, h·w, d).

    before: the density's feature is added before each layer but the first, which has it already, and positions once.
    """

    def __init__(self, width: int, layers: int, hidden: int, dropout: float, density: bool, before: bool):
        super().__init__()
        self.before = before
        self.layers = nn.ModuleList(EncoderLayer(width, hidden, dropout) for _ in range(layers))
        self.merges = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 1),
                nn.ReLU(inplace=True),
            )
            for _ in range(layers - before if density else 0)
        )
        self.norm = nn.LayerNorm(width) if density and not before else None  # one for all layers

    def forward(self, x: Tensor, hint: Tensor | None, positions: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        if self.before:
            tokens = self.layers[0](tokens + positions, 0)
            for layer, merge in zip(self.layers[1:], self.merges, strict=True):
                hint = merge(hint)
                tokens = layer(tokens + hint.flatten(2).transpose(1, 2), 0)
            return tokens
        for i, layer in enumerate(self.layers):
            tokens = layer(tokens, positions)
            if hint is not None and self.norm is not None:
                hint = self.merges[i](hint)
                tokens = tokens + self.norm(hint.flatten(2).transpose(1, 2))
        return tokens


class DecoderLayer(nn.Module):
    """Conditional DETR's (section 3.3): in cross-attention content and position are compared apart."""

    def __init__(self, width: int, hidden: int, dropout: float, first: bool):
        super().__init__()
        self.qc, self.qp, self.kc, self.kp, self.v = (nn.Linear(width, width) for _ in range(5))
        self.self_attention = Attention(width)
        self.cross_qc, self.cross_kc, self.cross_kp, self.cross_v, self.cross_sine = (
            nn.Linear(width, width) for _ in range(5)
        )
        self.cross_qp = nn.Linear(width, width) if first else None
        self.cross_attention = Attention(width)
        self.norm1, self.norm2, self.dropout = nn.LayerNorm(width), nn.LayerNorm(width), nn.Dropout(dropout)
        self.feed = FeedForward(width, hidden, dropout)

    def forward(self, x: Tensor, query: Tensor, sine: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        q, k = self.qc(x) + self.qp(query), self.kc(x) + self.kp(query)
        x = self.norm1(x + self.dropout(self.self_attention(q, k, self.v(x), self.dropout.p)))
        q, k, place = self.cross_qc(x), self.cross_kc(tokens), self.cross_kp(positions)
        if self.cross_qp is not None:
            q, k = q + self.cross_qp(query), k + place
        q = beside(q, self.cross_sine(sine), self.cross_attention.heads)
        k = beside(k, place.expand_as(k), self.cross_attention.heads)
        y = self.cross_attention(q, k, self.cross_v(tokens), self.dropout.p)
        return self.feed(self.norm2(x + self.dropout(y)))


class Decoder(nn.Module):
    """tokens (B, N, d), positions (N, d), queries (Q, d) → references (Q, 2) in 0–1, states (B, Q, d) of all layers."""

    def __init__(self, width: int, layers: int, hidden: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, hidden, dropout, i == 0) for i in range(layers))
        self.norm = nn.LayerNorm(width)
        self.scale = mlp(width, width, width)
        self.reference: Any = mlp(width, width, 2)

    def spread(self, queries: int) -> None:
        """Reference points on a grid of their own, and attention that starts with what lies there."""
        side = math.isqrt(queries)
        if side * side != queries:
            raise VssError(f"iocformer: spread: expected a square number of queries, got {queries}")
        places = (torch.arange(side) + 0.5) / side
        grid = torch.stack(torch.meshgrid(places, places, indexing="ij"), -1).flatten(0, 1)
        del self.reference
        self.reference = nn.Parameter(torch.logit(grid))
        for module in self.layers:
            nn.init.orthogonal_(module.cross_kp.weight, SHARP)
            module.cross_sine.load_state_dict(module.cross_kp.state_dict())
        nn.init.zeros_(self.scale[-1].weight)
        nn.init.ones_(self.scale[-1].bias)

    def forward(
        self, tokens: Tensor, positions: Tensor, query: Tensor, start: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        learnt = isinstance(self.reference, nn.Parameter)
        references = (self.reference if learnt else self.reference(query)).sigmoid()
        sine = sine_embedding(references.flip(-1) * 2 * math.pi, query.shape[1])
        x = query.new_zeros(1, *query.shape).expand(len(tokens), -1, -1) if start is None else start
        states: list[Tensor] = []
        for layer in self.layers:
            scaled = sine * self.scale(x) if states else sine.expand_as(x)
            x = layer(x, query, scaled, tokens, positions)
            states.append(self.norm(x))
        return references, states


def beside(content: Tensor, place: Tensor, heads: int) -> Tensor:
    """(B, N, d) twice → (B, N, 2·d): each head gets its part of both."""
    parts = (x.unflatten(-1, (heads, -1)) for x in (content, place))
    return torch.cat(list(parts), -1).flatten(2)
