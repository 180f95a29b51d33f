"""Pixel labels from image tags: the maps of a trained MCIS as PNG masks, and a contact sheet to judge them by.

Any network trains on the folder that this writes: `data:` of its recipe names its data.yaml, or `data: pseudo` with
`after:` the recipe of the MCIS. A run that was stopped goes on with the next image.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from vss_ros.config import VssError, option
from vss_ros.data.clips import read_image
from vss_ros.data.metrics import confusion, dis_flow, iou
from vss_ros.data.open import open_dataset
from vss_ros.deploy.pseudo_labels import along_motion, by_saliency, by_threshold
from vss_ros.media.draw import contact_sheet, overlay, write_image
from vss_ros.media.files import write_atomic
from vss_ros.networks.cards.card import load_model
from vss_ros.networks.mcis import MAPS, localise
from vss_ros.options import DataConfig, add_options, progress
from vss_ros.train.recipe import Recipe, read_recipe
from vss_ros.train.tagging import fit
from vss_ros.train.validate import normalise

SPLITS = ("train", "val")
SHOWN = 24  # images on the contact sheet
NEXT = 1.0
"""Seconds to a neighbour along the motion at most."""


@dataclass(frozen=True)
class PseudoConfig:
    """Options of `vss pseudo`."""

    recipe: str = option(
        "", "recipe of an mcis network, by name or path, already trained", unset="positional"
    )
    out: Path | None = option(None, "folder of the recipe's run", kind=Path, unset="runs/<recipe>")
    background: str = option("threshold", "what tells it from things", choices=("threshold", "saliency"))
    saliency: Path | None = option(None, "folder of saliency maps, 8 bit, named like the images", kind=Path)
    low: float = option(0.4, "map below which is background", low=0.0, high=1.0)
    high: float = option(0.6, "map from which on is the class", low=0.0, high=1.0)
    related: int = option(3, "other images that explain each class of one", low=0)
    maps: str = option(
        "both",
        "of the classifier and of related images; of image pairs, as published; or of the classifier alone",
        choices=MAPS,
    )
    truth: Path | None = option(None, "folder of true masks, to say how well the labels agree", kind=Path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, PseudoConfig)
    add_options(parser, DataConfig, ("root",))


def main(args: argparse.Namespace) -> int:
    recipe = read_recipe(args.recipe)
    if recipe.network != "mcis":
        raise VssError(f"{args.recipe}: expected a recipe of network mcis, got {recipe.network}")
    if args.low > args.high:
        raise VssError(f"--low: expected at most --high ({args.high:g}), got {args.low:g}")
    if (args.background == "saliency") != bool(args.saliency):
        raise VssError("--background saliency and --saliency FOLDER: expected both or neither")
    name = Path(args.recipe).stem
    run = args.out or Path("runs") / name
    network, card = load_model(run / f"{name}.yaml")
    folder = run / "pseudo"
    settings = {
        "weights": card.sha256,
        "background": args.background,
        "saliency": str(args.saliency or ""),
        **{key: getattr(args, key) for key in ("low", "high", "related", "maps")},
    }
    begin(folder, settings)
    for split in SPLITS:
        data = open_dataset(recipe.data, split, args.root, recipe.size)
        if data.classes != card.classes:
            raise VssError(f"{card.name} knows {card.classes}, the tags are {data.classes}")
        write_split(folder / split, Maps(network, data, recipe, args), args)
    classes = ["background", *card.classes]
    palette = [[0, 0, 0], *card.palette]
    about: dict[str, Any] = {
        "path": ".",
        "classes": [{"name": c, "colour": list(p)} for c, p in zip(classes, palette, strict=True)],
        **{split: {"images": f"{split}/images", "labels": f"{split}/labels"} for split in SPLITS},
    }
    write_atomic(folder / "data.yaml", yaml.safe_dump(about, sort_keys=False).encode())
    sheet = draw_sheet(folder / "train", palette)
    write_image(folder / "sheet.jpg", sheet[:, :, ::-1])
    sys.stdout.write(f"wrote {folder / 'data.yaml'}; look at {folder / 'sheet.jpg'}\n")
    if args.truth:
        for split in SPLITS:
            sys.stdout.write(f"{split}: {agreement(folder / split / 'labels', args.truth, classes)}\n")
    return 0


def begin(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse to mix labels of other weights or settings with what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    if file.is_file() and json.loads(file.read_text()) != settings:
        raise VssError(f"{folder} holds labels of other weights or settings: remove it first")
    write_atomic(file, json.dumps(settings, indent=2).encode())


class Maps:
    """`maps(i)`: (K, H, W) float32 in 0–1, one for each class of the i-th image; the greatest value of each is 1."""

    def __init__(self, network: Any, data: Any, recipe: Recipe, args: argparse.Namespace):
        self.network, self.data, self.size, self.same_clip = network, data, recipe.crop, recipe.same_clip
        self.maps = args.maps
        self.related = 0 if args.maps == "classifier" else args.related
        self.own = lru_cache(maxsize=4)(self.own_maps)

    def frame(self, i: int) -> torch.Tensor:
        return normalise(torch.from_numpy(fit(self.data.read(i)[0], self.size)))

    def own_maps(self, i: int) -> dict[int, np.ndarray]:
        """Of one image alone, by class."""
        image, tags = self.data.read(i)
        rng, found = np.random.default_rng(i), {}
        for label in np.flatnonzero(tags).tolist():
            chosen = self.others(label, i, rng)
            related = [self.frame(int(j)) for j in chosen]
            small = localise(self.network, self.frame(i), related, label, self.maps)
            size = image.shape[1::-1]
            found[label] = np.clip(cv2.resize(small.numpy(), size, interpolation=cv2.INTER_CUBIC), 0, None)
        return found

    def others(self, label: int, i: int, rng: np.random.Generator) -> np.ndarray:
        """Images that explain a class of the i-th one, of which some are of its recording, as in training."""
        found = rng.permutation(self.data.sharing(label, i))
        same = rng.permutation(self.data.sharing(label, i, same_clip=True)) if self.same_clip else found[:0]
        first = same[: round(self.same_clip * self.related)]
        return np.concatenate([first, found[~np.isin(found, first)]])[: self.related]

    def __call__(self, i: int) -> np.ndarray:
        own, image = self.own(i), self.data.read(i)[0]
        near = [j for j in (i - 1, i + 1) if self.is_next(i, j)]
        flows = {j: dis_flow(image, self.data.read(j)[0]) for j in near}
        maps = []
        for label, one in own.items():
            others = [(self.own(j)[label], flows[j]) for j in near if label in self.own(j)]
            merged = along_motion(one, others)
            maps.append(merged / max(float(merged.max()), 1e-6))
        return np.array(maps, np.float32).reshape(-1, *image.shape[:2])

    def is_next(self, i: int, j: int) -> bool:
        """Whether j is the frame next to i in a recording."""
        if not 0 <= j < len(self.data):
            return False
        a, b = self.data.entries[i], self.data.entries[j]
        return bool(a.sequence) and a.sequence == b.sequence and abs(a.seconds - b.seconds) <= NEXT


def write_split(folder: Path, maps: Maps, args: argparse.Namespace) -> None:
    data = maps.data
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    names = [entry.image.stem for entry in data.entries]
    twice = len(set(names)) < len(names)
    for i, entry in enumerate(progress(data.entries, data.name)):
        name = f"{i:06d}_{names[i]}" if twice else names[i]
        label, image = folder / "labels" / f"{name}.png", folder / "images" / f"{name}{entry.image.suffix}"
        if label.is_file() and image.exists():
            continue
        found, ids = maps(i), np.flatnonzero(data.tags[i]) + 1
        if args.background == "saliency":
            salient = read_saliency(args.saliency, entry.image.stem, found.shape[1:])
            labels = by_saliency(found, ids, salient)
        else:
            labels = by_threshold(found, ids, args.low, args.high)
        if not image.exists():
            place(entry.image, image)
        write_image(label, labels)


def place(source: Path, target: Path) -> None:
    """A link to an image, or a copy where links are not possible."""
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def read_saliency(folder: Path, name: str, size: tuple[int, ...]) -> np.ndarray:
    found = next((p for p in sorted(folder.glob(f"{name}.*"))), None)
    if found is None:
        raise VssError(f"{folder}: expected a saliency map {name}.png")
    salient = read_image(found, cv2.IMREAD_GRAYSCALE)
    if salient.shape != size:
        raise VssError(f"{found}: expected the image's size {size[1]}x{size[0]}, got {salient.shape[::-1]}")
    return salient


def draw_sheet(folder: Path, palette: list[list[int]]) -> np.ndarray:
    """Images beside their labels; unlabelled pixels and background as they are."""
    files = sorted((folder / "labels").glob("*.png"))
    chosen = [files[i] for i in sorted({int(i) for i in np.linspace(0, len(files) - 1, SHOWN)})]
    pictures = []
    for file in chosen:
        image = next(p for p in sorted((folder / "images").glob(f"{file.stem}.*")))
        rgb = np.ascontiguousarray(read_image(image, cv2.IMREAD_COLOR)[:, :, ::-1])
        labels = read_image(file, cv2.IMREAD_UNCHANGED)
        pictures.append(np.hstack([rgb, overlay(rgb, labels, palette, 0.6)]))
    return contact_sheet(pictures)


def agreement(labels: Path, truth: Path, classes: list[str]) -> str:
    """mIoU with true masks of the same names, over pixels that both label, and how many are labelled."""
    counts, labelled, pixels = np.zeros((len(classes), len(classes) + 1), np.int64), 0, 0
    for file in sorted(labels.glob("*.png")):
        other = truth / file.name
        if not other.is_file():
            continue
        found, true = (read_image(p, cv2.IMREAD_UNCHANGED) for p in (file, other))
        labelled, pixels = labelled + int((found < 255).sum()), pixels + found.size
        counts += confusion(np.where(found < 255, true, 255).astype(np.uint8), found, len(classes))
    if not pixels:
        return f"no mask in {truth} is named like one in {labels}"
    scores = iou(counts)
    each = ", ".join(f"{c} {s:.3f}" for c, s in zip(classes, scores, strict=True) if s == s)
    return (
        f"mIoU {np.nanmean(scores):.4f} ({each}) over the {labelled / pixels:.1%} of pixels that are labelled"
    )
