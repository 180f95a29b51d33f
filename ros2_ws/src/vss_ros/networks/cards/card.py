"""Model cards: a YAML file beside each weights file that says what the network is and how it was made."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import typing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vss_ros.config import IMAGENET_MEAN, IMAGENET_STD, VssError, brief, fits, share_dir
from vss_ros.media.files import read_bytes, read_fields, write_atomic
from vss_ros.options import near

TASKS = ("segmentation", "counting", "tags")
PLAIN_NAME = re.compile(r"[^./\\\\][^/\\\\]{0,199}")
SHA256 = re.compile("[0-9a-f]{64}")
GREATEST_OPTION = 4096
WEIGHTS_BYTES = 4 << 30
KINDS = {"classes": "a list of names", "palette": "lists of whole numbers", "options": "a mapping"}

if TYPE_CHECKING:  # reading a card must not wait seconds for torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class ModelCard:
    """What must be known to run a model; written by `vss train` and `vss convert`.

    classes: names, index = class id; palette: one [r, g, b] a class, 0–255; size: [height, width] of the network's
    input, of a counting network its patches; task: segmentation, counting or tags; mean, std: of RGB in 0–1; weights:
    safetensors file beside the card, with network onnx the ONNX file; sha256: of that file;
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
    task: str = "segmentation"
    mean: list[float] = field(default_factory=lambda: list(IMAGENET_MEAN))
    std: list[float] = field(default_factory=lambda: list(IMAGENET_STD))
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item, kind in typing.get_type_hints(type(self)).items():
            expect(fits(getattr(self, item), kind), self, item, KINDS.get(item, kind))
        for item in ("name", "weights"):
            expect(PLAIN_NAME.fullmatch(getattr(self, item)), self, item, "a plain file name")
        expect(self.task in TASKS, self, "task", " or ".join(TASKS))
        expect(not self.sha256 or SHA256.fullmatch(self.sha256), self, "sha256", "64 hexadecimal digits")
        expect(
            0 < len(set(self.classes)) == len(self.classes) <= 255 and all(self.classes),
            self,
            "classes",
            "1 to 255 different names",
        )
        colours = [len(c) == 3 and 0 <= min(c) <= max(c) <= 255 for c in self.palette]
        expect(
            colours == [True] * len(self.classes), self, "palette", "one [r, g, b] of 0–255 for each class"
        )
        expect(
            len(self.size) == 2 and 32 <= min(self.size) <= max(self.size) <= 8192,
            self,
            "size",
            "[height, width] of 32 to 8192",
        )
        expect(len(self.mean) == 3, self, "mean", "three numbers")
        expect(len(self.std) == 3 and min(self.std) >= 1e-6, self, "std", "three numbers of at least 1e-6")
        expect(
            all(map(is_option, self.options.values())), self, "options", f"numbers up to {GREATEST_OPTION}"
        )
        for part in ("val", "test", "bf16", "int8"):
            measured = self.metrics.get(part, {})
            right = type(measured) is dict and all(
                fits(measured[name], float) for name in ("mIoU", "agreement") if name in measured
            )
            expect(right, self, f"metrics.{part}", "a mapping whose mIoU and agreement are numbers")


def expect(holds: Any, card: ModelCard, name: str, what: object) -> None:
    if not holds:
        got = brief(repr(getattr(card, name.partition(".")[0])))
        what = str(what).replace("typing.", "")
        raise VssError(f"model {brief(card.name, 80)}: {name}: expected {what}, got {got}")


def is_option(value: Any) -> bool:
    """Whether it may be given to a network's constructor: one number or word, or a list of numbers."""
    if isinstance(value, (list, tuple)):
        return (
            len(value) <= 8
            and not any(isinstance(v, (list, str)) for v in value)
            and all(map(is_option, value))
        )
    if isinstance(value, (bool, str)) or value is None:
        return True
    return fits(value, float) and abs(value) <= GREATEST_OPTION


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
            maker = "import" if path.suffix == ".onnx" else "convert" if path.is_dir() else ""
            hint = f"; `vss {maker}` makes a card of it" if maker else near(str(model), list(models))
            raise VssError(
                f"model {str(model)!r}: expected the path of a card (.yaml) or one of: {names}{hint}"
            )
        path = models[str(model)]
    try:
        content = read_fields(path, ModelCard, given=["name"])
    except VssError as error:
        raise VssError(f"model card {error}") from error
    try:
        return ModelCard(**{"name": path.stem, **content}), path
    except VssError as error:
        raise VssError(f"model card {path}: {error}") from error


class StoredNetwork:
    """A card's network: its weights are checked at once, and it is built by torch where it is first asked for.

    Raises VssError if the weights are missing, damaged or belong to another card.
    """

    def __init__(self, card: ModelCard, path: Path):
        self.card, self.path = card, path
        self.read()

    def read(self) -> bytes:
        """The weights file as the card knows it."""
        file = self.path.parent / self.card.weights
        try:
            content = read_bytes(file, WEIGHTS_BYTES)
        except VssError as error:
            raise VssError(f"weights of model {self.card.name}: {error}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.card.sha256:
            raise VssError(
                f"weights {file} do not belong to the card {self.path}: expected sha256 {self.card.sha256}, "
                f"got {found}; restore the file or run `vss train` or `vss convert` again"
            )
        return content

    @cached_property
    def network(self) -> nn.Module:
        """In inference mode. Raises VssError if the weights do not fit what the card says."""
        import torch

        from vss_ros.networks import build
        from vss_ros.networks.cards.weights import parse_safetensors, restore

        card, content, file = self.card, self.read(), self.path.parent / self.card.weights
        if card.network == "onnx":
            from vss_ros.networks.cards.imported import Imported

            return Imported(content, len(card.classes), **card.options).eval()
        tensors = parse_safetensors(content, file)
        with torch.device("meta"):  # costs no memory, whatever the card asks for
            wanted = build(card.network, card.backbone, len(card.classes), **card.options).state_dict()
        if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in wanted.items()}:
            raise VssError(
                f"weights {file} do not fit {card.network}-{card.backbone} with options {card.options}"
            )
        network = build(card.network, card.backbone, len(card.classes), **card.options)
        restore(network, tensors, f"weights {file}")
        return network.eval()


def load_model(model: str | Path) -> tuple[nn.Module, ModelCard]:
    """Network in inference mode with its weights, and its card. Raises VssError as StoredNetwork does."""
    stored = StoredNetwork(*read_card(model))
    return stored.network, stored.card


def save_model(network: nn.Module, card: ModelCard, folder: Path, half: bool = True) -> Path:
    """Write weights and card into `folder`; the card's `sha256` is set here. Returns the card's path.

    half: as float16; tensors whose values that cannot hold, such as a running variance of 7e4, stay float32.
    """
    from safetensors.torch import save

    tensors = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    if half:
        tensors = {name: halved(t) for name, t in tensors.items()}
    content = save(tensors)
    card = dataclasses.replace(card, sha256=hashlib.sha256(content).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / card.weights, content)
    path = folder / f"{card.name}.yaml"
    write_card(card, path)
    return path


def halved(tensor: Tensor) -> Tensor:
    half = tensor.half() if tensor.is_floating_point() else tensor
    return half if bool((half.isfinite() == tensor.isfinite()).all()) else tensor


def write_card(card: ModelCard, path: Path) -> None:
    text = yaml.safe_dump(dataclasses.asdict(card), sort_keys=False, allow_unicode=True, width=110)
    write_atomic(path, text.encode())
