"""Model cards: a YAML file beside each weights file that says what the network is and how it was made."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vss_ros.config import IMAGENET_MEAN, IMAGENET_STD, VssError, share_dir
from vss_ros.media.files import write_atomic

if TYPE_CHECKING:  # reading a card must not wait seconds for torch
    from torch import nn


@dataclass(frozen=True)
class ModelCard:
    """What must be known to run a model; written by `vss train` and `vss convert`.

    classes: names, index = class id; palette: one [r, g, b] a class, 0–255; size: [height, width] of the network's
    input; mean, std: of RGB in 0–1; weights: safetensors file beside the card; sha256: of that file;
    licence: of the weights; training: how they were made; metrics: what was measured, and on what.
    """

    name: str
    network: str
    backbone: str
    classes: list[str]
    palette: list[list[int]]
    size: list[int]
    weights: str
    sha256: str
    licence: str
    mean: list[float] = field(default_factory=lambda: list(IMAGENET_MEAN))
    std: list[float] = field(default_factory=lambda: list(IMAGENET_STD))
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.palette), {len(colour) for colour in self.palette})
        if shape != (len(self.classes), {3}):
            raise VssError(f"model {self.name}: expected one [r, g, b] of palette for each class")
        if len(self.size) != 2 or min(self.size) < 32:
            raise VssError(
                f"model {self.name}: size: expected [height, width] of at least 32, got {self.size}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise VssError(f"model {self.name}: mean, std: expected three numbers each, std > 0")


def find_models() -> dict[str, Path]:
    """Names of the installed models and the paths of their cards."""
    return {path.stem: path for path in sorted((share_dir() / "models").glob("*.yaml"))}


def read_card(model: str | Path) -> tuple[ModelCard, Path]:
    """The card of an installed model's name or a card's path, and that path; VssError if it is not a card."""
    path = Path(model)
    if path.suffix not in (".yaml", ".yml"):
        models = find_models()
        if str(model) not in models:
            names = ", ".join(models) or "none is installed"
            raise VssError(f"model {str(model)!r}: expected the path of a card (.yaml) or one of: {names}")
        path = models[str(model)]
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise VssError(f"model card {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise VssError(f"model card {path}: expected a YAML mapping, got {type(content).__name__}")
    known = {item.name: item for item in dataclasses.fields(ModelCard)}
    required = {name for name, item in known.items() if item.default_factory is dataclasses.MISSING} - {
        "name"
    }
    missing, unknown = sorted(required - set(content)), sorted(set(content) - set(known))
    if missing or unknown:
        raise VssError(f"model card {path}: missing {missing}, unknown {unknown}")
    try:
        return ModelCard(**{"name": path.stem, **content}), path
    except TypeError as error:
        raise VssError(f"model card {path}: a field has the wrong type ({error})") from error


def load_model(model: str | Path) -> tuple[nn.Module, ModelCard]:
    """Network in inference mode with its weights, and its card.

    Raises VssError if the card or the weights are missing, damaged or do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from vss_ros.networks import build

    card, path = read_card(model)
    file = path.parent / card.weights
    try:
        content = file.read_bytes()
    except OSError as error:
        raise VssError(f"weights {file} of model {card.name} cannot be read: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        raise VssError(
            f"weights {file} do not belong to the card {path}: expected sha256 {card.sha256}, got {found}; "
            "restore the file or run `vss train` or `vss convert` again"
        )
    network = build(card.network, card.backbone, len(card.classes), **card.options)
    try:
        tensors = {name: tensor.float() for name, tensor in load(content).items()}
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise VssError(f"weights {file} do not fit {card.network}-{card.backbone}: {error}") from error
    return network.eval(), card


def save_model(network: nn.Module, card: ModelCard, folder: Path) -> Path:
    """Write weights (float16) and card into `folder`; the card's `sha256` is set here. Returns the card's path."""
    from safetensors.torch import save

    tensors = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in ((n, t.detach().cpu().contiguous()) for n, t in network.state_dict().items())
    }
    content = save(tensors)
    card = dataclasses.replace(card, sha256=hashlib.sha256(content).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / card.weights, content)
    path = folder / f"{card.name}.yaml"
    write_card(card, path)
    return path


def write_card(card: ModelCard, path: Path) -> None:
    text = yaml.safe_dump(dataclasses.asdict(card), sort_keys=False, allow_unicode=True, width=110)
    write_atomic(path, text.encode())
