"""What a training run starts from, and its checkpoints: written whole or not at all, refused by another recipe."""

from __future__ import annotations

import dataclasses
import errno
import io
import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vss_ros.config import VssError, brief, fits
from vss_ros.media.files import write_atomic
from vss_ros.networks.cards.authors import load_imagenet
from vss_ros.networks.cards.card import find_models, load_model
from vss_ros.networks.cards.hugging_face import read_backbone, read_weights
from vss_ros.networks.cards.weights import read_checkpoint, read_safetensors, read_state, restore
from vss_ros.train.chain import weights_before
from vss_ros.train.mar_memory import MEMORY_FILE, is_current
from vss_ros.train.recipe import Recipe

log = logging.getLogger(__name__)

# Attributes under which a network holds the one that it builds on: STF its PSPNet, MAR what it refines.
HOLDERS = ("", "pspnet.", "network.")
PARTS = re.compile(r"(backbone(?:\+\w+)*):")
"""Of `init`: which parts of a model are taken."""


def start(network: Any, recipe: Recipe, out: Path) -> None:
    """Weights that the recipe starts from, and which of them it trains."""
    if recipe.after and recipe.data != "pseudo":
        before = weights_before(recipe, out)
        start_from(network, before, recipe.trains)
        if recipe.network.startswith("mar+"):
            load_memory(network, out / MEMORY_FILE, before)
    else:
        load_initial(network, recipe.init)
    freeze(network, recipe.trains)
    freeze_matching(network, recipe.frozen)


def load_initial(network: Any, init: str) -> None:
    """Weights that the recipe starts from, if any."""
    if not init:
        return
    if parts := PARTS.match(init):
        prefixes = tuple(f"{part}." for part in parts[1].split("+"))
        return start_from_model(network, init[parts.end() :], prefixes)
    path = Path(os.path.expandvars(init.removeprefix("imagenet:")))
    if path.suffix in (".yaml", ".yml") or (init in find_models() and not path.exists()):
        return start_from_model(network, str(path))
    try:
        if init.startswith("imagenet:"):
            load_imagenet(network, read_backbone(path) if path.is_dir() else read_state(path))
        else:
            restore(network, read_weights(path) if path.is_dir() else read_state(path), path)
    except VssError as error:
        names = ", ".join(find_models())
        known = "" if path.exists() else f"; expected a file or folder, imagenet:FILE, or a model: {names}"
        raise VssError(f"init: {error}{known}") from None


def start_from_model(network: Any, model: str, prefixes: tuple[str, ...] = ("",)) -> None:
    """What fits by name and shape of a trained model, also of other classes; what stays fresh is listed."""
    state = network.state_dict()
    before = load_model(model)[0].state_dict()
    if lost := [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in before)]:
        parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in before))
        raise VssError(f"init: {model} has no {lost[0].rstrip('.')}: expected some of {parts}")
    kept = {
        holder + name: t
        for name, t in before.items()
        for holder in HOLDERS
        if name.startswith(prefixes) and holder + name in state and state[holder + name].shape == t.shape
    }
    if not kept:
        raise VssError(f"init: {model}: nothing of it fits the recipe's network")
    network.load_state_dict(kept, strict=False)
    fresh = [name for name in state if name not in kept]
    log.info(
        "init: %d of %d tensors are %s's; new: %s", len(kept), len(state), model, ", ".join(fresh) or "none"
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


def save(path: Path, content: dict) -> None:
    """Write a checkpoint; a reader sees the one before or the whole new one."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        keep_previous(path)
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise VssError(f"{path}: the disk is full; make room, then go on with --resume") from None


def previous(path: Path) -> Path:
    """Where the checkpoint before the newest one is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def keep_previous(path: Path) -> None:
    """The newest checkpoint by a second name, which takes no room and leaves the first where it is."""
    if path.is_file():
        second = path.with_name(f".{path.name}.link")
        second.unlink(missing_ok=True)
        try:
            os.link(path, second)
        except OSError:  # exFAT and the like have no links
            shutil.copyfile(path, second)
        os.replace(second, previous(path))


def load(path: Path, recipe: Recipe, classes: Sequence[str] = ()) -> dict:
    """A checkpoint of this recipe, and of a data set with these classes, if any are given. Raises VssError if it is
    missing, damaged, foreign, or another recipe's."""
    if not path.is_file():
        raise VssError(f"{path}: no such checkpoint; leave out --resume or --export to train from the start")
    try:
        content = read_checkpoint(path, own=True)
        saved = recipe_of(content, path)
        changed = [name for name, v in dataclasses.asdict(recipe).items() if repr(saved[name]) != repr(v)]
        if not changed and not (isinstance(content.get("network"), dict) and is_progress(content, recipe)):
            raise VssError(f"{path} is damaged: it lacks weights, or where the run stood")
    except VssError as error:
        before = previous(path)
        advice = f"; the one before it is {before}: rename it to {path.name}" if before.is_file() else ""
        raise VssError(f"{error}{advice}") from None
    if changed:
        raise VssError(f"{path}: made by another recipe; these differ: {', '.join(changed)}")
    if classes and content.get("classes", list(classes)) != list(classes):
        raise VssError(
            f"{path}: made when {recipe.data} had the classes {brief(content['classes'])}, now it has "
            f"{brief(list(classes))}: train it anew, with another --out"
        )
    return content


def recipe_of(content: dict, path: Path) -> dict:
    """The recipe in a checkpoint, with the defaults of fields that are newer than it."""
    try:
        return dataclasses.asdict(Recipe(**content["recipe"]))
    except (KeyError, TypeError) as error:
        raise VssError(f"{path} is no checkpoint of a run, it holds no recipe: {brief(error)}") from None


def is_progress(content: dict, recipe: Recipe) -> bool:
    """Whether step, best score and seconds are what a run of the recipe can have reached."""
    step = content.get("step")
    known = type(step) is int and 0 <= step <= recipe.steps
    return known and all(fits(content.get(name), float) for name in ("best", "seconds"))


def resume(
    path: Path, network: Any, average: Any, optimiser: Any, recipe: Recipe, classes: Sequence[str] = ()
) -> dict:
    """Put everything back as the checkpoint has it; → step, best score, seconds, recipe."""
    content = load(path, recipe, classes)
    try:
        network.load_state_dict(content["network"])
        average.load_state_dict(content["average"])
        restore_optimiser(optimiser, content["optimiser"])
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise VssError(f"{path} does not fit the recipe's network: {brief(error, 600)}") from None
    return {name: content[name] for name in ("step", "best", "seconds", "recipe")}


def restore_optimiser(optimiser: Any, saved: Any) -> None:
    """What it remembers of each parameter; how it steps follows from the recipe, not from the file.

    Raises ValueError, and whatever torch raises, if the file's is not of this kind or for other parameters.
    """
    settings = [
        {name: value for name, value in g.items() if name != "params"} for g in optimiser.param_groups
    ]
    optimiser.load_state_dict(saved)
    for group, setting in zip(optimiser.param_groups, settings, strict=True):
        group.update(setting)
        wanted = {"momentum_buffer"} if "momentum" in setting else {"step", "exp_avg", "exp_avg_sq"}
        for parameter in group["params"]:
            state = optimiser.state.get(parameter, {})
            shapes = {getattr(value, "shape", None) for value in state.values()}
            if state and (set(state) != wanted or not shapes <= {parameter.shape, torch.Size()}):
                raise ValueError("the optimiser's state is of other shapes than the parameters")
            if (
                not all(value.isfinite().all() for value in state.values())
                or not 0 <= state.get("step", 0) < 1e9
            ):
                raise ValueError("the optimiser's state is not finite")
            # a damaged file's tensors may share memory, with themselves or with others
            state.update({name: value.clone() for name, value in state.items()})
