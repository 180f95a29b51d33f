"""Training recipes: small YAML files in config/train/, one a (network, backbone, data set); and whether network and
data take what a recipe says."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import logging
import os
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vss_ros.config import VssError, brief, fits, share_dir
from vss_ros.media.files import read_fields
from vss_ros.networks import class_of, reads_of
from vss_ros.networks.cards.card import GREATEST_OPTION, find_models, is_option
from vss_ros.networks.losses import KINDS, named
from vss_ros.options import near
from vss_ros.train.augment import Augmentation, check_ranges

log = logging.getLogger(__name__)
RANGES = {
    **dict.fromkeys(("size", "crop"), (32, 8192)),
    **dict.fromkeys(("batch", "accumulate"), (1, 4096)),
    **dict.fromkeys(("steps", "validate_every", "save_every"), (1, 10**8)),
    **dict.fromkeys(("warmup", "memory_clips"), (0, 10**8)),
    **dict.fromkeys(("offsets", "neighbours"), (-1000, 1000)),
    **dict.fromkeys(("reverse", "mixed_share", "same_clip", "weight_decay", "floor", "prior"), (0, 1)),
    "lr": (1e-12, 10),
    "lr_head": (0, 10),
    "power": (0, 100),
    "average": (0, 0.99999),
    "clip_norm": (0, 1e9),
    "seed": (0, 2**32 - 1),
}
PRECISIONS = ("bf16-mixed", "16-mixed", "32-true")


@dataclass(frozen=True)
class Recipe:
    """One training run; every field may stand in the YAML file."""

    network: str
    backbone: str
    data: str
    size: tuple[int, int]
    """(H, W) at which the model is used: what is rendered, validated and written to the card."""
    crop: tuple[int, int]
    batch: int
    """Clips an optimiser step, over all devices and accumulated parts."""
    steps: int
    lr: float
    """Of the backbone and what else the network's authors count to its encoder, after warm-up."""
    options: dict = field(default_factory=dict)
    """Of the network's constructor."""
    offsets: tuple[int, ...] = (0,)
    """Frames of a clip relative to the labelled one, in the order that the network's loss takes them."""
    neighbours: tuple[int, ...] = (-1, 1)
    """Offsets of one more frame, drawn for each clip; empty: no such frame."""
    moved: bool = False
    """Move what DCFM takes from the neighbour along the optical flow, as a stream with motion does."""
    reverse: float = 0.0
    """Share of the clips that run backwards in time (all offsets negated)."""
    lr_head: float = 0.0
    """Of everything but the encoder; 0: lr."""
    mixed: str = ""
    """Data set of the same classes whose clips take the place of some of the data's own, such as street; and"""
    mixed_share: float = 0.5
    """how many, drawn for each clip."""
    same_clip: float = 0.0
    """Of MCIS: share of the pairs whose second image is of the first one's recording, a second or more away."""
    weight_decay: float = 0.01
    optimiser: str = "adamw"
    warmup: int = 0
    power: float = 1.0
    floor: float = 0.0
    """Learning rate at the end of the poly schedule, as a share of its start."""
    accumulate: int = 1
    average: float = 0.0
    """Decay of the moving average of the weights, which is what is validated and published; 0: the weights."""
    precision: str = "bf16-mixed"
    """Of the network's arithmetic: bf16-mixed, 16-mixed, or 32-true as the papers have it."""
    prior: float = 0.0
    """How much of what augment.keep did to the classes' shares is taken back in what is written, 1 all of it: the
    logits get −prior · log keep (logit adjustment, Menon et al., ICLR 2021). Not for MSAF, which has no last layer."""
    clip_norm: float = 0.0
    """Longest gradient; 0: any."""
    loss: dict = field(default_factory=dict)
    """Arguments of the network's `loss`: weights, and kinds of losses by name."""
    augment: dict = field(default_factory=dict)
    """Fields of Augmentation other than crop."""
    init: str = ""
    """Weights to start from: a .safetensors file of the same network, "imagenet:<file>" for the backbone's (or a folder
    of Hugging Face's MiT), or a model (installed name or card), of which all that fits is kept: "<model>",
    "backbone:<model>" its backbone alone, "backbone+head:<model>" these two. Environment variables are filled in; of
    several, with " | " between them, the first that is there counts."""
    after: str = ""
    """Recipe whose result this one starts from, instead of `init`; it is trained first if it is not there yet."""
    trains: tuple[str, ...] = ()
    """Prefixes of the parameters that are trained, from fresh ones; all others stay as `after` left them. Empty: all
    are trained, and everything that fits is taken from `after`."""
    frozen: str = ""
    """Regular expression: modules whose whole names it matches keep what they start from, statistics included. Early
    layers cost the most to train and change the least."""
    memory_clips: int = 0
    """Training clips, evenly spread, that MAR's memory is built from; 0: all."""
    seed: int = 0
    validate_every: int = 500
    save_every: int = 100
    licence: str = "unknown"
    """Of the trained weights, which follows from the data's terms."""


def find_recipes() -> dict[str, Path]:
    """Names of the installed recipes and their paths."""
    return {path.stem: path for path in sorted((share_dir() / "config" / "train").glob("*.yaml"))}


def read_recipe(name: str) -> Recipe:
    """Recipe by installed name, or by path (.yaml). Raises VssError naming the file and the field at fault."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in find_recipes():
            known = list(find_recipes())
            raise VssError(
                f"recipe {name!r}: expected the path of a .yaml file or one of {', '.join(known)}{near(name, known)}"
            )
        path = find_recipes()[name]
    try:
        values = read_fields(path, Recipe)
    except VssError as error:
        raise VssError(f"recipe {error}") from None
    if fits(values.get("init"), str):
        values["init"] = first_there(values["init"])
    for name in ("data", "mixed", "init"):  # a data set's description or a card beside the recipe
        beside = path.parent / str(values.get(name) or ".")
        if beside.suffix in (".yaml", ".yml") and beside.is_file():
            values[name] = str(beside)
    try:
        recipe = Recipe(**convert(values, Recipe))
        check(recipe)
    except VssError as error:
        raise VssError(f"recipe {path}: {error}") from None
    return recipe


def on_data(recipe: Recipe, data: str) -> Recipe:
    """The recipe with another data set, if one is named, without what is said of the classes of its own."""
    if not data or data == recipe.data:
        return recipe
    given = {"augment.keep": recipe.augment.get("keep"), "prior": recipe.prior, "mixed": recipe.mixed}
    if left := ", ".join(name for name, value in given.items() if value):
        say_once(f"left out is what is of the classes of {recipe.data}: {left}")
    augment = {name: value for name, value in recipe.augment.items() if name != "keep"}
    return dataclasses.replace(recipe, data=data, augment=augment, prior=0.0, mixed="")


@functools.cache
def say_once(line: str) -> None:
    """A table makes many recipes of one."""
    log.info(line)


def first_there(init: str) -> str:
    """Of alternatives the first whose file exists or whose model is installed; the first of all if none is."""
    choices = [choice.strip() for choice in init.split(" | ")]
    for choice in choices:
        name = os.path.expandvars(choice.split(":", 1)[-1])
        if name in find_models() or Path(name).exists():
            return choice
    return choices[0]


def convert(values: dict[str, Any], kind: type) -> dict[str, Any]:
    """Values of a YAML file as the types of a dataclass's fields."""
    kinds, converted = typing.get_type_hints(kind), {}
    for name, value in values.items():
        expected = kinds[name]
        if typing.get_origin(expected) is tuple and isinstance(value, list):
            value = tuple(value)
        if expected in (float, dict) or float in typing.get_args(expected):
            value = number(value)
        if expected is float and type(value) is int:
            with contextlib.suppress(OverflowError):
                value = float(value)
        if not fits(value, expected):
            shown = str(kind.__annotations__[name])
            raise VssError(f"{name}: expected {shown}, got {brief(repr(value))}")
        converted[name] = value
    return converted


def number(value: Any) -> Any:
    """What is meant as a number, also inside a list or mapping: 1e-3 is text in YAML 1.1, which wants 1.0e-3."""
    if isinstance(value, dict):
        return {name: number(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(number, value))
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def check_augmentation(recipe: Recipe) -> None:
    known = {item.name for item in dataclasses.fields(Augmentation)} - {"crop"}
    if unknown := sorted(set(recipe.augment) - known):
        raise VssError(f"augment: unknown {brief(unknown)}, expected some of {', '.join(sorted(known))}")
    try:
        Augmentation(recipe.crop, **convert(recipe.augment, Augmentation))
    except VssError as error:
        raise VssError(f"augment: {error}") from None


def check(recipe: Recipe) -> None:
    check_augmentation(recipe)  # first: `prior` counts on its shares
    if recipe.optimiser not in ("adamw", "sgd"):
        raise VssError(f"optimiser: expected adamw or sgd, got {recipe.optimiser!r}")
    if recipe.precision not in PRECISIONS:
        raise VssError(f"precision: expected one of {', '.join(PRECISIONS)}, got {recipe.precision!r}")
    check_ranges(recipe, RANGES)
    if not all(map(is_option, recipe.options.values())):
        raise VssError(f"options: expected numbers up to {GREATEST_OPTION}, got {brief(recipe.options)}")
    for name, value in recipe.loss.items():
        if name in KINDS:
            named(KINDS[name], name, str(value))
        elif not (fits(value, float) and value >= 0):
            raise VssError(
                f"loss: {brief(name)}: expected a weight of 0 or more, got {brief(repr(value))}; "
                f"kinds of losses are given to {' and '.join(KINDS)}"
            )
    if recipe.after != Path(recipe.after).name:
        raise VssError(f"after: expected the name of a recipe, got {brief(recipe.after)!r}")
    if recipe.data == "pseudo" and not recipe.after:
        raise VssError("data pseudo: expected `after`, the recipe of the mcis that makes them")
    if recipe.after and recipe.init and recipe.data != "pseudo":
        raise VssError("expected after or init, not both")
    if recipe.prior and not all(recipe.augment.get("keep", [0])):
        raise VssError("prior: expected shares above 0 in augment.keep, one a class")
    if recipe.prior and not hasattr(class_of(recipe.network), "last_layer"):
        raise VssError(
            f"prior: {brief(recipe.network)} has no last layer whose bias could hold it: leave it out"
        )
    if recipe.moved and not (recipe.network == "dcfm" and len(recipe.offsets) + bool(recipe.neighbours) == 2):
        raise VssError(
            "moved: expected network dcfm and neighbours, whose memory it moves; else leave it out"
        )
    try:
        re.compile(recipe.frozen)
    except (re.error, RecursionError, OverflowError) as error:
        raise VssError(
            f"frozen: expected a regular expression, got {brief(recipe.frozen)!r}: {error}"
        ) from error
    if recipe.trains and not recipe.after:
        raise VssError("trains: expected `after`, which says where the other parameters come from")


def check_data(data: Any, recipe: Recipe) -> None:
    """VssError if the recipe's clips are of several frames, and the data set is of single ones; if its shares are of
    another number of classes."""
    keep = recipe.augment.get("keep", ())
    if keep and len(keep) != len(data.classes):
        raise VssError(
            f"augment.keep: expected {len(data.classes)} shares, as {data.name} has classes, got {len(keep)}"
        )
    others = {*recipe.offsets, *recipe.neighbours} - {0}
    if others and getattr(data, "stills", False):
        why = "; ".join(data.notes) or "each sequence (`video`) is one frame"
        raise VssError(
            f"{data.name}: expected videos for a recipe whose clips have frames at {sorted(others)}, too: {why}; "
            "else take an image network with offsets: [0], neighbours: []"
        )


def check_clip(network: Any, recipe: Recipe) -> None:
    """VssError if the recipe's clips are not what the network's loss takes: as many frames, the target at its place.

    How far the frames lie apart is the recipe's business: a data set may have another frame rate than the paper's.
    """
    try:
        inspect.signature(network.loss).bind(None, **recipe.loss)
    except TypeError as error:
        known = ", ".join(list(inspect.signature(network.loss).parameters)[1:]) or "none"
        raise VssError(f"loss: {brief(recipe.network)}: {error}; expected some of {known}") from None
    reads = reads_of(network)
    if set(reads) <= {0}:  # an image network, or DCFM with its neighbour
        if recipe.offsets[:1] == (0,) and len(recipe.offsets) + bool(recipe.neighbours) <= 2:
            return
        raise VssError(
            f"{brief(recipe.network)}: expected offsets: [0] and perhaps neighbours, got {recipe.offsets}"
        )
    paper = tuple(sorted({0, *reads}))
    signs = [(o > 0) - (o < 0) for o in recipe.offsets]
    if signs != [(o > 0) - (o < 0) for o in paper] or recipe.neighbours:
        raise VssError(
            f"{brief(recipe.network)}: expected offsets such as {list(paper)} and neighbours: [], "
            f"got offsets {list(recipe.offsets)}, neighbours {list(recipe.neighbours)}"
        )
