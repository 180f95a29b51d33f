"""The best checkpoint as a model: safetensors and a card that says how it was made and what was measured on what."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vss_ros.config import VssError, brief
from vss_ros.data.open import open_dataset
from vss_ros.networks import build
from vss_ros.networks.cards.card import ModelCard, find_models, load_model, read_card, save_model
from vss_ros.train.chain import data_root, weights_before
from vss_ros.train.checkpoints import PARTS, load
from vss_ros.train.mar_memory import MEMORY_FILE, about_memory
from vss_ros.train.recipe import Recipe
from vss_ros.train.task import task_of

log = logging.getLogger(__name__)


def export(recipe: Recipe, args: argparse.Namespace, out: Path, name: str) -> Path:
    """Write the best checkpoint as a model, measured as it is stored; → path of its card."""
    root = data_root(recipe, out, args.root)
    data = open_dataset(recipe.data, "val", root, recipe.size)
    best = load(out / "best.ckpt", recipe, data.classes)
    splits = {"val": data, "test": open_test(recipe, root)}
    network, options = with_weights(recipe, best["network"], len(data.classes))
    task = task_of(network, recipe, args.cache)
    card = ModelCard(
        name=name,
        network=recipe.network,
        backbone=recipe.backbone,
        options=options,
        classes=data.classes,
        palette=data.palette.tolist(),
        size=task.size(),
        task=getattr(network, "task", "segmentation"),
        weights=f"{name}.safetensors",
        sha256="",
        licence=recipe.licence,
        training={
            "command": f"vss train {args.recipe}"
            + (f" --devices {args.devices}" if args.devices > 1 else ""),
            "data": f"{recipe.data}, split train"
            + (f"; {recipe.mixed_share:.0%} of the clips from {recipe.mixed}" if recipe.mixed else ""),
            "start": recipe.after or recipe.init or "random weights",
            **earlier(str(weights_before(recipe, out)) if recipe.after else recipe.init),
            "steps": best["step"],
            "clips_per_step": recipe.batch,
            "hours": round(best["seconds"] / 3600, 2),
            "hardware": hardware(),
            **({"memory": about_memory(out / MEMORY_FILE)} if recipe.network.startswith("mar+") else {}),
        },
    )
    path = save_model(network, card, out)
    stored, _ = load_model(path)
    metrics: dict[str, Any] = {"protocol": task.protocol(data)}
    for split, frames in splits.items():
        if isinstance(frames, str):
            metrics[split] = {"frames": frames}
            continue
        try:
            counts = task.measure(stored, frames, args.card_frames).numpy()
        except VssError as error:  # a broken file must not end what took hours
            log.warning("%s is not measured: %s", split, error)
            metrics[split] = {"frames": f"none: {brief(error)}"}
            continue
        chosen = ", used to choose the checkpoint" if split == "val" else ""
        if not counts.any():  # as Cityscapes' test labels, which are all void
            metrics[split] = {"frames": "none: its labels are all void"}
            continue
        used = f"{min(args.card_frames or len(frames), len(frames))}{chosen}"
        metrics[split] = {"frames": used, **task.figures(counts, frames)}
    return save_model(network, dataclasses.replace(card, metrics=metrics), out)


def with_weights(recipe: Recipe, state: dict[str, Tensor], classes: int) -> tuple[Any, dict[str, Any]]:
    """The network as it is written, what `prior` takes back in its bias, and its options."""
    options = recipe.options
    network = build(recipe.network, recipe.backbone, classes, **options)
    if recipe.prior:
        if network.get_submodule(network.last_layer).bias is None:
            options = {**options, "bias": True}
            network = build(recipe.network, recipe.backbone, classes, **options)
        name = f"{network.last_layer}.bias"
        taken_back = -recipe.prior * torch.tensor(recipe.augment["keep"]).log()
        state = {**state, name: state.get(name, 0) + taken_back}
    network.load_state_dict(state)
    return network, options


def open_test(recipe: Recipe, root: Path | None) -> Any:
    """The test split, or why nothing can be measured on it."""
    try:
        data = open_dataset(recipe.data, "test", root, recipe.size)
    except VssError as error:
        return f"none: {brief(error)}"
    return data if len(data) else "none: it has no labels"


def earlier(init: str) -> dict[str, Any]:
    """How the weights that the run started from were made, if there is a card of them."""
    name = PARTS.sub("", init)
    path = find_models().get(name) or Path(name or "none").with_suffix(".yaml")
    try:
        return {"start_training": read_card(path)[0].training} if path.is_file() else {}
    except VssError:  # a file of that name that is something else, such as a recipe
        return {}


def hardware() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {model}"
