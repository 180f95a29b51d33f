"""Every recipe in config/train/ runs: two steps on made data of its layout."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from vss_ros.data.open import open_dataset
from vss_ros.networks import build
from vss_ros.networks.cards.card import ModelCard, load_model, save_model
from vss_ros.train import loop, mar_memory, publish
from vss_ros.train.recipe import Recipe, find_recipes, read_recipe

SIZE = (64, 96)
NUMBERS = range(10, 22)  # of the frames of a made video
QUICK = ("street", "small_dcfm")  # the others take seconds each


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def picture(number: int, ids: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A frame and its labels: two halves, and a block that moves."""
    labels = np.full(SIZE, ids[0], np.uint8)
    labels[32:] = ids[1]
    labels[36:52, 2 * number : 2 * number + 24] = ids[2]
    return np.repeat(labels[..., None], 3, -1) * 3 + np.uint8(number), labels


def make(root: Path, name: str) -> Path:
    """The smallest folder of the data set's published layout, all three splits."""
    for split in ("train", "val", "test"):
        if name == "vspw":
            (root / "data").mkdir(parents=True, exist_ok=True)
            (root / f"{split}.txt").write_text(f"1_{split}\n")
        for number in NUMBERS:
            if name == "camvid":
                image, labels = picture(number, (0, 3, 8))
                write(root / split / f"0001TP_{number:06d}.png", image)
                write(root / f"{split}annot" / f"0001TP_{number:06d}.png", labels)
            elif name == "cityscapes":
                image, labels = picture(number, (23, 7, 26))
                stem = f"{split}/aachen/aachen_000000_{number:06d}"
                write(root / "leftImg8bit_sequence" / f"{stem}_leftImg8bit.png", image)
                if number == 19:
                    write(root / "gtFine" / f"{stem}_gtFine_labelIds.png", labels)
            elif name == "vspw":
                image, labels = picture(number, (1, 2, 124))
                write(root / f"data/1_{split}/origin/{number:08d}.jpg", image)
                write(root / f"data/1_{split}/mask/{number:08d}.png", labels)
            elif name == "pseudo":
                image, labels = picture(number, (0, 1, 0))
                write(root / split / f"images/{number}.jpg", image)
                write(root / split / f"labels/{number}.png", labels)
            else:
                folder = {"iocfish5k": "images", "voc_tags": "JPEGImages"}.get(name, ".")
                write(root / folder / f"{number}.jpg", picture(number, (0, 1, 2))[0])
                points = f"<point><x>{2 * number}</x><y>40</y></point>"
                (root / "annotations").mkdir(exist_ok=True)
                (root / "annotations" / f"{number}.xml").write_text(f"<annotation>{points}</annotation>")
        for file, text in LISTS.get(name, {}).items():
            lines = [text.format(number) for number in NUMBERS]
            (root / f"{split}{file}").write_text("\n".join(["image,x,y"] * (name == "points") + lines))
    if name == "pseudo":
        classes = [{"name": thing, "colour": [9, 9, 9]} for thing in ("ground", "ball")]
        (root / "data.yaml").write_text(yaml.safe_dump({"classes": classes}))
    return root


LISTS = {
    "iocfish5k": {"_id.txt": "{}"},
    "points": {".csv": "{}.jpg,30,40"},
    "tags": {".csv": "{}.jpg,ball"},
    "voc_tags": {"_cls.txt": "{} 0 14"},
}
"""Of a split: how its file's name ends, and a line an image."""


def shrunk(recipe: Recipe) -> Recipe:
    """The recipe at a size that a test can pay: all that is left out is what costs time."""
    options = {**recipe.options, **({"grid": [8, 12]} if "stf" in recipe.network else {})}
    if recipe.network == "iocformer":
        options |= {"queries": 9}
    small = {"size": SIZE, "crop": SIZE, "batch": 2, "steps": 2, "validate_every": 2, "save_every": 2}
    return dataclasses.replace(recipe, **small, accumulate=1, init="", options=options, memory_clips=2)


def earlier(name: str, folder: Path, data: str, root: Path | None) -> None:
    """Fresh weights in the place of what the recipe `name` would have made."""
    recipe = shrunk(read_recipe(name))
    found = open_dataset(data, "val", root, SIZE)
    network = build(recipe.network, recipe.backbone, len(found.classes), **recipe.options)
    card = ModelCard(
        name=name,
        network=recipe.network,
        backbone=recipe.backbone,
        classes=found.classes,
        palette=found.palette.tolist(),
        size=list(SIZE),
        weights=f"{name}.safetensors",
        sha256="",
        licence="none",
        options=recipe.options,
    )
    (folder / name).mkdir(exist_ok=True)
    save_model(network, card, folder / name)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in find_recipes()]
)
def test_a_recipe_runs(name, tmp_path, monkeypatch):
    torch.manual_seed(0)
    recipe = shrunk(read_recipe(name))
    rendered = recipe.data in ("street", "street_points")
    place = f"{recipe.after}/pseudo" if recipe.data == "pseudo" else "data"
    root = None if rendered else make(tmp_path / place, recipe.data)
    out = tmp_path / "made"
    path = tmp_path / "made.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(recipe)))))
    parser = argparse.ArgumentParser()
    loop.add_arguments(parser)
    line = [str(path), "--out", str(out), "--accelerator", "cpu", "--workers", "0"]
    line += ["--validate-frames", "1", "--card-frames", "1", *(["--root", str(root)] if root else [])]
    args = parser.parse_args(line)
    out.mkdir()
    if recipe.after:
        earlier(recipe.after, tmp_path, recipe.data, root)
    if recipe.network.startswith("mar+"):
        parser = argparse.ArgumentParser()
        mar_memory.add_arguments(parser)
        where = ["--root", str(root)] if root else []
        mar_memory.main(parser.parse_args([str(path), "--out", str(out), *where]))
    before = {}
    if recipe.after:
        before = load_model(tmp_path / recipe.after / f"{recipe.after}.yaml")[0].state_dict()
    assert loop.train(recipe, args, out)
    if name in QUICK:
        publish.export(recipe, args, out, "made")
        network, card = load_model(out / "made.yaml")
        if recipe.prior:
            taken_back = -recipe.prior * torch.tensor(recipe.augment["keep"]).log()
            assert torch.allclose(network.classifier[-1].bias, taken_back, atol=1e-3)
        assert card.training["steps"] == 2 and 0 <= card.metrics["val"]["mIoU"] <= 1
    saved = torch.load(out / "last.ckpt", weights_only=True)
    assert all(
        torch.isfinite(value).all() for value in saved["network"].values() if value.is_floating_point()
    )
    if recipe.trains:  # what the recipe does not train is what the earlier stage left
        kept = [key for key in before if key in saved["network"] and not key.startswith(recipe.trains)]
        assert all(torch.equal(saved["network"][key], before[key]) for key in kept)
