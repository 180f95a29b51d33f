"""A network as a runtime needs it: with the input size, normalisation and calibration that its graphs hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vss_ros.config import IMAGENET_MEAN, IMAGENET_STD
from vss_ros.networks.cards.card import ModelCard, load_model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Calibration:
    """What `vss calibrate` made for INT8. files: a quantised ONNX file a stage; sha256: hash that names them all."""

    files: Mapping[str, Path]
    sha256: str


@dataclass(frozen=True)
class Model:
    """network: in inference mode; size: (height, width) of its input; card: None where the weights are fresh.

    parts: how many stages of like cost `remember` becomes, which may run one a frame; at most the network's steps;
    source: what the user calls the model, for commands in messages.
    """

    network: nn.Module
    size: tuple[int, int]
    card: ModelCard | None = None
    calibration: Calibration | None = None
    parts: int = 1
    source: str = ""

    @property
    def mean(self) -> Sequence[float]:
        """Of RGB in 0–1."""
        return self.card.mean if self.card else IMAGENET_MEAN

    @property
    def std(self) -> Sequence[float]:
        """Of RGB in 0–1."""
        return self.card.std if self.card else IMAGENET_STD

    @property
    def bf16_agreement(self) -> float:
        """Share of pixels that keep their label in bf16, as it was measured; 0 where it was not."""
        return self.card.metrics.get("bf16", {}).get("agreement", 0.0) if self.card else 0.0


def open_model(model: str | Path, size: tuple[int, int] | None = None) -> Model:
    """An installed model's name or a card's path, at the card's size unless another is given. Raises VssError."""
    network, card = load_model(model)
    height, width = size or card.size
    return Model(network, (height, width), card, source=str(model))
