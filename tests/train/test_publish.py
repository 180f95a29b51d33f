"""A card says what was measured on what; what cannot be measured ends no training."""

from __future__ import annotations

import argparse
import dataclasses

import cv2
import numpy as np
import pytest
from vss_ros.networks import build
from vss_ros.networks.cards.card import read_card
from vss_ros.train import checkpoints
from vss_ros.train.publish import earlier, export
from vss_ros.train.recipe import Recipe

YAML = "classes: [wall, floor]\nval: {images: images, labels: labels}\n"


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("", "none: data set .* test: expected"),
        ("test: {images: images}", "none: it has no labels"),
        ("test: {images: images, labels: broken}", "none: .*0.png: ids 9 are of no class"),
    ],
)
def test_a_test_split_that_cannot_be_measured(tmp_path, test, said):
    import re

    for kind, value in (("images", 90), ("labels", 1), ("broken", 9)):
        (tmp_path / kind).mkdir()
        plane = np.full((64, 64), value, np.uint8)
        assert cv2.imwrite(
            str(tmp_path / kind / "0.png"), np.dstack([plane] * 3) if kind == "images" else plane
        )
    (tmp_path / "mine.yaml").write_text(YAML + test)
    data = str(tmp_path / "mine.yaml")
    recipe = Recipe("segformer", "mit_b0", data, (64, 64), (64, 64), batch=1, steps=1, lr=1e-3, neighbours=())
    state = {"step": 1, "best": 0.5, "seconds": 1.0, "recipe": dataclasses.asdict(recipe)}
    network = build("segformer", "mit_b0", 2).state_dict()
    checkpoints.save(tmp_path / "best.ckpt", {"network": network, **state})
    args = argparse.Namespace(root=None, cache=None, recipe="mine", devices=1, card_frames=0)
    card, _ = read_card(export(recipe, args, tmp_path, "made"))
    assert re.search(said, card.metrics["test"]["frames"]) and card.metrics["val"]["mIoU"] >= 0


def test_the_start_of_a_run_is_described_by_its_card_alone(tmp_path, monkeypatch, tiny_card):
    """Of a file the card beside it, of an installed model its own, whatever lies in this folder under its name."""
    monkeypatch.chdir(tmp_path)
    for name in ("street", "first"):
        (tmp_path / f"{name}.yaml").write_text("network: dcfm\nsteps: 3\n")  # recipes
    assert earlier("first.safetensors") == earlier("imagenet:x.pth") == earlier("") == {}
    of_street = {"start_training": read_card("street")[0].training}
    assert earlier("street") == earlier("backbone+head:street") == of_street
    beside = {"start_training": read_card(tiny_card)[0].training}
    assert earlier(str(tiny_card)) == earlier(str(tiny_card.with_suffix(".safetensors"))) == beside
