"""Training in stages: what a recipe starts from, in the order in which it is made.

A recipe may name another one, `after`, whose result it starts from. `vss train` runs whatever of that chain is
missing, for a `mar+…` network also `vss memory`, each as a command of its own, and says where it is.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from vss_ros.config import VssError
from vss_ros.networks import reads_of
from vss_ros.networks.cards.weights import read_safetensors
from vss_ros.options import succeeds
from vss_ros.train.mar_memory import MEMORY_FILE, is_current
from vss_ros.train.recipe import Recipe, read_recipe

log = logging.getLogger(__name__)
# Attributes under which a network holds the one that it builds on: STF its PSPNet, MAR what it refines.
HOLDERS = ("", "pspnet.", "network.")
PASSED_ON = (
    "accelerator",
    "devices",
    "nodes",
    "precision",
    "workers",
    "validate_frames",
    "card_frames",
)


def weights_before(recipe: Recipe, out: Path) -> Path:
    """Weights of the recipe that this one comes after; its folder lies beside `out`."""
    return out.parent / recipe.after / f"{recipe.after}.safetensors"


def data_root(recipe: Recipe, out: Path, root: Path | None) -> Path | None:
    """Folder of the recipe's data: the pseudo labels of the recipe that it comes after, where it says so."""
    return weights_before(recipe, out).parent / "pseudo" if recipe.data == "pseudo" else root


def run_earlier(recipe: Recipe, args: argparse.Namespace, out: Path) -> None:
    """Train the recipes that this one comes after, and build MAR's memory, unless that is done."""
    stages = [(args.recipe, recipe)]
    while stages[0][1].after:
        before = beside(stages[0][1].after, args.recipe)
        if before != stages[0][1].after and not Path(before).is_file():
            raise VssError(f"recipe {stages[0][0]}: after: expected a recipe {before}, found none")
        if before in (source for source, _ in stages):
            raise VssError(
                f"recipe {args.recipe}: its stages go round in a circle: {before} comes after itself"
            )
        stages.insert(0, (before, read_recipe(before)))
    commands = []  # (command, recipe, folder, is it done?)
    for source, its in stages:
        name, last = Path(source).stem, source == args.recipe
        folder = out if last else out.parent / name
        if its.network.startswith("mar+"):
            done = is_current(folder / MEMORY_FILE, weights_before(its, folder))
            commands.append(("memory", source, folder, done))
        commands.append(("train", source, folder, not last and (folder / f"{name}.yaml").is_file()))
        if its.network == "mcis" and not last:
            commands.append(("pseudo", source, folder, (folder / "pseudo" / "data.yaml").is_file()))
    if len(commands) == 1:
        return
    for i, (command, source, folder, done) in enumerate(commands, 1):
        place = f"{Path(args.recipe).stem}: stage {i} of {len(commands)}: vss {command} {source}"
        log.info("%s: %s (%s)", place, "done" if done else "now", folder)
        if not done and (command, source) != ("train", args.recipe):
            run(command, source, folder, args)


def beside(recipe: str, other: str) -> str:
    """A recipe's name as the name of an installed one, or as a path where `other` is one."""
    path = Path(other)
    return str(path.with_stem(recipe)) if path.suffix in (".yaml", ".yml") else recipe


def run(command: str, recipe: str, folder: Path, args: argparse.Namespace) -> None:
    line = [command, recipe, "--out", str(folder)]
    for option in ("root",) if command == "pseudo" else ("root", "cache", "data"):
        line += [f"--{option}", str(getattr(args, option))] if getattr(args, option) else []
    if command == "train":
        for option in PASSED_ON:
            value = getattr(args, option, None)
            line += [] if value is None else [f"--{option.replace('_', '-')}", str(value)]
        line += ["--resume"] if args.resume and (folder / "last.ckpt").exists() else []
    if not succeeds(*line):
        raise VssError(
            f"vss {command} {recipe} ended early; the same command with --resume goes on from there"
        )


def start_from(network: nn.Module, path: Path, trained: Sequence[str]) -> None:
    """Give a fresh network what an earlier one learnt: `path`'s tensors that fit by name and shape.

    Those under the prefixes `trained` stay fresh; every other one must be there. Without such prefixes all must be
    there that belong to the backbone. Raises VssError.
    """
    tensors = read_safetensors(path)
    state, prefixes = network.state_dict(), tuple(trained)
    found = {}
    for name, tensor in tensors.items():
        for key in (holder + name for holder in HOLDERS):
            if key in state and state[key].shape == tensor.shape and not key.startswith(prefixes):
                found[key] = tensor.float()
    needed = [k for k in state if (not k.startswith(prefixes) if trained else "backbone." in k)]
    missing = [key for key in needed if key not in found]
    if missing:
        raise VssError(f"{path} does not fit the recipe's network: it lacks {', '.join(missing[:5])}, …")
    network.load_state_dict(found, strict=False)


def load_memory(network: Any, path: Path, weights: Path) -> None:
    """Put the memory that `vss memory` wrote into a `mar+…` network."""
    if not is_current(path, weights):
        raise VssError(f"{path}: expected the memory of {weights}; run `vss memory` with the same recipe")
    tensors = read_safetensors(path)
    for name, parameter in (("key", network.mar.memory_key), ("value", network.mar.memory_value)):
        found = tuple(tensors[name].shape) if name in tensors else "nothing"
        if found != tuple(parameter.shape):
            raise VssError(f"{path}: {name}: expected {tuple(parameter.shape)}, got {found}")
        parameter.data.copy_(tensors[name])


def freeze(network: nn.Module, trained: Sequence[str]) -> None:
    """Train only parameters under these prefixes (none: all); modules that hold no such parameter infer."""
    if not trained:
        return
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(trained)))
    if not is_trained(network):
        raise VssError(f"trains: no parameter of the network begins with {' or '.join(trained)}")
    for module in network.modules():
        if any(True for _ in module.parameters()) and not is_trained(module):
            module.eval()


def freeze_matching(network: nn.Module, pattern: str) -> None:
    """Let modules infer, and their parameters rest, whose whole names the regular expression matches."""
    if not pattern:
        return
    found = [module for name, module in network.named_modules() if re.fullmatch(pattern, name)]
    if not found:
        raise VssError(f"frozen: no module of the network is called like {pattern!r}")
    for module in found:
        module.eval().requires_grad_(False)
    if not is_trained(network):
        raise VssError(f"frozen: {pattern!r} leaves nothing to train: expected a pattern of some modules")


def is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


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
        raise VssError(f"loss: {recipe.network}: {error}; expected some of {known}") from None
    reads = reads_of(network)
    if set(reads) <= {0}:  # an image network, or DCFM with its neighbour
        if recipe.offsets[:1] == (0,) and len(recipe.offsets) + bool(recipe.neighbours) <= 2:
            return
        raise VssError(
            f"{recipe.network}: expected offsets: [0] and perhaps neighbours, got {recipe.offsets}"
        )
    paper = tuple(sorted({0, *reads}))
    signs = [(o > 0) - (o < 0) for o in recipe.offsets]
    if signs != [(o > 0) - (o < 0) for o in paper] or recipe.neighbours:
        raise VssError(
            f"{recipe.network}: expected offsets such as {list(paper)} and neighbours: [], "
            f"got offsets {list(recipe.offsets)}, neighbours {list(recipe.neighbours)}"
        )
