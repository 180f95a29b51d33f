"""A network as a runtime needs it: with the input size, normalisation and calibration that its graphs hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vss_ros.config import IMAGENET_MEAN, IMAGENET_STD
from vss_ros.networks.cards.card import ModelCard, StoredNetwork, read_card
from vss_ros.networks.cards.reading import reading_of

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Calibration:
    """What `vss calibrate` made for INT8. files: a quantised ONNX file a stage; sha256: hash that names them all."""

    files: Mapping[str, Path]
    sha256: str


@dataclass(frozen=True)
class Model:
    """given: a network in inference mode, or a card's, which is built where `network` is first asked for: a process
    that runs exported stages never loads torch; size: (height, width) of its input; card: None where the weights are
    fresh.

    parts: how many stages of like cost `remember` becomes, which may run one a frame; at most the network's steps;
    source: what the user calls the model, for commands in messages.
    """

    given: nn.Module | StoredNetwork
    size: tuple[int, int]
    card: ModelCard | None = None
    calibration: Calibration | None = None
    parts: int = 1
    source: str = ""

    @property
    def stored(self) -> StoredNetwork | None:
        return self.given if isinstance(self.given, StoredNetwork) else None

    @property
    def network(self) -> nn.Module:
        return self.given.network if isinstance(self.given, StoredNetwork) else self.given

    @property
    def reading(self) -> Any:
        """What the network keeps and reads, as in `reading.Reading`; known without the network itself."""
        stored = self.stored
        return reading_of(stored.card.network, stored.card.options) if stored else self.given

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
    stored = StoredNetwork(*read_card(model))
    height, width = size or stored.card.size
    return Model(stored, (height, width), stored.card, source=str(model))
