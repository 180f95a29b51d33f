"""Build MAR's key-value memory from a training set (the second stage of its paper's training, section 3.3).

The network that MAR refines labels every training clip once. Of each class's correctly labelled pixels the 10 least
certain ones become keys, and the mean of the 10 most certain ones, the class's prototype, becomes their value.
Exact and in one pass: only the best so far are held. A build that was killed goes on where it last saved.

Where a class has fewer than 10 such pixels they are repeated, as the authors do; where it has none, its keys and
values are zero, which the paper does not provide for. Clips are neither cropped nor flipped.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vss_ros.config import VssError, option
from vss_ros.data.open import open_labelled
from vss_ros.media.files import write_atomic
from vss_ros.networks.cards.card import load_model
from vss_ros.networks.cards.weights import read_checkpoint
from vss_ros.networks.mar import PER_CLASS
from vss_ros.options import DataConfig, add_options, progress
from vss_ros.train.recipe import Recipe, on_data, read_recipe
from vss_ros.train.samples import read_clip
from vss_ros.train.validate import normalise

MEMORY_FILE = "memory.safetensors"


@dataclass(frozen=True)
class MemoryConfig:
    """Options of `vss memory`."""

    recipe: str = option("", "recipe of a mar+… network, by name or path", unset="positional")
    out: Path | None = option(None, "folder of the recipe's run", kind=Path, unset="runs/<recipe>")
    data: str = option("", "a data set's name, or a YAML file of your own", unset="the recipe's")
    cache: Path | None = option(None, "folder of clips that `vss train --cache` shares", kind=Path)
    save_every: int = option(200, "clips from one saved state to the next", low=1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, MemoryConfig)
    add_options(parser, DataConfig, ("root",))


def main(args: argparse.Namespace) -> int:
    recipe = on_data(read_recipe(args.recipe), args.data)
    if not recipe.network.startswith("mar+") or not recipe.after:
        raise VssError(
            f"{args.recipe}: expected a recipe of a mar+… network that names the recipe it comes after"
        )
    out = args.out or Path("runs") / Path(args.recipe).stem
    card = out.parent / recipe.after / f"{recipe.after}.yaml"
    network, _ = load_model(card)
    data = open_labelled(recipe.data, "train", args.root, recipe.size)
    out.mkdir(parents=True, exist_ok=True)
    weights = card.with_suffix(".safetensors")
    build_memory(network, data, recipe, out / MEMORY_FILE, fingerprint(weights), args.cache, args.save_every)
    sys.stderr.write(f"wrote {out / MEMORY_FILE}\n")
    return 0


class Extremes:
    """For each class the `count` pixels of least and of greatest score so far, exactly; ties: the earlier one."""

    def __init__(self, classes: int, dim: int, count: int = PER_CLASS):
        self.count = count
        self.scores = torch.full((2, classes, count), torch.inf)  # least scores; greatest scores, negated
        self.features = torch.zeros(2, classes, count, dim)

    def add(self, features: Tensor, scores: Tensor, labels: Tensor) -> None:
        """features (N, dim), scores (N,), labels (N,): pixels of any classes."""
        for c in labels.unique().tolist():
            mine = labels == c
            for side, sign in enumerate((1, -1)):
                every = torch.cat([self.scores[side, c], sign * scores[mine].float()])
                order = every.argsort(stable=True)[: self.count]
                pool = torch.cat([self.features[side, c], features[mine].float()])
                self.scores[side, c], self.features[side, c] = every[order], pool[order]

    def found(self) -> Tensor:
        """How many pixels of each class are held, (classes,)."""
        return self.scores[0].isfinite().sum(1)

    def memory(self) -> tuple[Tensor, Tensor]:
        """Keys and values (1, classes · count, dim), grouped by class."""
        keys, values = [], []
        for c, n in enumerate(self.found().tolist()):
            if n == 0:
                keys.append(self.features[0, c])
                values.append(self.features[0, c])
                continue
            keys.append(self.features[0, c, torch.arange(self.count) % n])
            values.append(self.features[1, c, :n].mean(0).expand(self.count, -1))
        return torch.cat(keys)[None], torch.cat(values)[None]


@torch.no_grad()
def build_memory(
    network: Any,
    data: Any,
    recipe: Recipe,
    path: Path,
    weights: str,
    cache: Path | None = None,
    save_every: int = 200,
) -> None:
    """Write the memory of `network`, whose weights have the sha256 `weights`, over the clips of `data` to `path`."""

    network.eval()
    best = Extremes(len(data.classes), network.width)
    state = path.with_suffix(".part")
    first = resume(best, state, weights)
    clips = np.arange(len(data))
    if recipe.memory_clips:
        clips = np.linspace(0, len(data) - 1, min(recipe.memory_clips, len(data))).astype(int)
    for n in progress(range(first, len(clips)), initial=first, total=len(clips), mininterval=2):
        best.add(*correct_pixels(network, clip_of(data, int(clips[n]), recipe, cache)))
        if (n + 1) % save_every == 0:
            parts = {"clips": n + 1, "weights": weights, "scores": best.scores, "features": best.features}
            buffer = io.BytesIO()
            torch.save(parts, buffer)
            write_atomic(state, buffer.getvalue())
    absent = [name for name, n in zip(data.classes, best.found().tolist(), strict=True) if n == 0]
    if absent:
        sys.stderr.write(f"no pixel was labelled correctly of: {', '.join(absent)}; their memory is zero\n")
    key, value = best.memory()
    about = {"weights": weights, "clips": str(len(clips)), "data": data.name, "absent": ", ".join(absent)}
    write_atomic(path, save({"key": key.contiguous(), "value": value.contiguous()}, about))
    state.unlink(missing_ok=True)


def clip_of(data: Any, i: int, recipe: Recipe, cache: Path | None = None) -> dict[str, Tensor]:
    """The i-th clip whole, as a batch of one for the network's `target`."""
    images, labels = read_clip(data, i, recipe.offsets, cache)
    frames = normalise(torch.from_numpy(np.stack(images)))
    if frames.shape[-2:] != recipe.size:
        frames = F.interpolate(frames, size=recipe.size, mode="bilinear", antialias=True)
    return {"frames": frames[None], "labels": torch.from_numpy(np.stack(labels))[None]}


def correct_pixels(network: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, dim), largest probabilities (N,) and labels (N,) of the feature map's rightly labelled pixels."""
    fused, labels = network.target(batch)
    score, predicted = network.classify(fused).softmax(1).max(1)
    if predicted.shape[-2:] != fused.shape[-2:]:
        raise VssError("expected a network whose logits have its features' size")
    truth = F.interpolate(labels[:, None].float(), size=fused.shape[-2:], mode="nearest")[:, 0].long()
    right = predicted == truth
    return fused.movedim(1, -1)[right], score[right], truth[right]


def resume(best: Extremes, state: Path, weights: str) -> int:
    """Go on from a saved state of the same weights, if there is one; → number of clips that it has seen."""
    if not state.is_file():
        return 0
    try:
        saved = read_checkpoint(state, own=True)
    except VssError as error:
        sys.stderr.write(f"{error}; begins anew\n")
        return 0
    shapes = [getattr(saved.get(name), "shape", None) for name in ("scores", "features")]
    if saved.get("weights") != weights or shapes != [best.scores.shape, best.features.shape]:
        return 0
    best.scores, best.features = saved["scores"], saved["features"]
    return saved["clips"]


def fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_current(path: Path, weights: Path) -> bool:
    """Is `path` the memory of the network with these weights?"""
    return weights.is_file() and about_memory(path).get("weights") == fingerprint(weights)


def about_memory(path: Path) -> dict[str, str]:
    """What the memory was built from; empty if `path` is no such file."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}
