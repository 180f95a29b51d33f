"""What a training run starts from, and its checkpoints: written whole or not at all, refused by another recipe."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vss_ros.config import VssError
from vss_ros.media.files import write_atomic
from vss_ros.networks import load_imagenet
from vss_ros.train.chain import freeze, load_memory, start_from, weights_before
from vss_ros.train.mar_memory import MEMORY_FILE
from vss_ros.train.recipe import Recipe


def start(network: Any, recipe: Recipe, out: Path) -> None:
    """Weights that the recipe starts from, and which of them it trains."""
    if recipe.after:
        before = weights_before(recipe, out)
        start_from(network, before, recipe.trains)
        if recipe.network.startswith("mar+"):
            load_memory(network, out / MEMORY_FILE, before)
    else:
        load_initial(network, recipe.init)
    freeze(network, recipe.trains)


def load_initial(network: Any, init: str) -> None:
    """Weights that the recipe starts from, if any."""
    if not init:
        return
    path = Path(os.path.expandvars(init.removeprefix("imagenet:")))
    try:
        read = load_file if path.suffix == ".safetensors" else partial(torch.load, weights_only=True)
        tensors = read(path)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError) as error:
        raise VssError(f"init: {path} cannot be read as .safetensors or .pth: {error}") from None
    if init.startswith("imagenet:"):
        load_imagenet(network, tensors)
        return
    try:
        network.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as error:
        raise VssError(f"init: {path} does not fit the recipe's network: {error}") from None


def save(path: Path, content: dict) -> None:
    """Write a checkpoint; a reader sees the one before or the whole new one."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise VssError(f"{path}: the disk is full; make room, then go on with --resume") from None


def load(path: Path, recipe: Recipe) -> dict:
    if not path.is_file():
        raise VssError(f"{path}: no such checkpoint; leave out --resume or --export to train from the start")
    content = torch.load(path, map_location="cpu", weights_only=True)
    saved = dataclasses.asdict(
        Recipe(**content["recipe"])
    )  # with the defaults of fields that are newer than it
    changed = [name for name, value in dataclasses.asdict(recipe).items() if saved[name] != value]
    if changed:
        raise VssError(f"{path}: made by another recipe; these differ: {', '.join(changed)}")
    return content


def resume(path: Path, network: Any, average: Any, optimiser: Any, recipe: Recipe) -> dict:
    """Put everything back as the checkpoint has it; → step, best score, seconds, recipe."""
    content = load(path, recipe)
    network.load_state_dict(content["network"])
    average.load_state_dict(content["average"])
    optimiser.load_state_dict(content["optimiser"])
    return {name: content[name] for name in ("step", "best", "seconds", "recipe")}
