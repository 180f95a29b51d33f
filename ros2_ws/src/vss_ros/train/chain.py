"""Training in stages: the recipes that one comes after, in the order in which they are made.

A recipe may name another one, `after`, whose result it starts from. `vss train` runs whatever of that chain is
missing, for a `mar+…` network also `vss memory`, each as a command of its own, and says where it is.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from vss_ros.config import VssError
from vss_ros.options import succeeds
from vss_ros.train.mar_memory import MEMORY_FILE, is_current
from vss_ros.train.recipe import Recipe, read_recipe

log = logging.getLogger(__name__)
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


def stages_of(source: str, recipe: Recipe) -> list[tuple[str, Recipe]]:
    """Name or path, and recipe, of each stage up to this one, in their order. Raises VssError for one that is not there
    or comes after itself."""
    stages = [(source, recipe)]
    while after := stages[0][1].after:
        before = beside(after, source)
        if before != after and not Path(before).is_file():
            raise VssError(f"recipe {stages[0][0]}: after: expected a recipe {before}, found none")
        if before in (path for path, _ in stages):
            raise VssError(
                f"recipe {stages[0][0]}: its stages go round in a circle: {after} comes after itself"
            )
        stages.insert(0, (before, read_recipe(before)))
    return stages


def run_earlier(recipe: Recipe, args: argparse.Namespace, out: Path) -> None:
    """Train the recipes that this one comes after, and build MAR's memory, unless that is done."""
    stages = stages_of(args.recipe, recipe)
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
