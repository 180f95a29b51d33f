"""From labelled frames of one's own to a card, and from that card to one of other classes."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
import yaml
from vss_ros import cli
from vss_ros.data.open import open_dataset
from vss_ros.networks.cards.card import read_card
from vss_ros.train.samples import read_clip

RECIPE = {
    "network": "segformer",
    "backbone": "mit_b0",
    "data": "mine.yaml",
    "size": [64, 64],
    "crop": [64, 64],
    "batch": 2,
    "steps": 2,
    "lr": 1e-3,
    "neighbours": [],
    "precision": "32-true",
}


def make_data(root, classes):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for number in range(2):
            mask = np.repeat(np.arange(64, dtype=np.uint8)[:, None] // 32, 64, 1)
            image = mask[..., None] * 100 + rng.integers(0, 50, (64, 64, 3), np.uint8)
            assert cv2.imwrite(str(root / split / "images" / f"{number}.png"), image)
            assert cv2.imwrite(str(root / split / "labels" / f"{number}.png"), mask)
    splits = {s: {"images": f"{s}/images", "labels": f"{s}/labels"} for s in ("train", "val")}
    (root / "mine.yaml").write_text(yaml.safe_dump({"classes": classes, **splits}))


@pytest.mark.slow
def test_train_evaluate_and_start_from_it_with_other_classes(tmp_path, caplog):
    make_data(tmp_path, ["wall", "floor", "ball"])
    recipe = tmp_path / "first.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    out = tmp_path / "first"
    common = ["--accelerator", "cpu", "--workers", "0"]
    assert cli.main(["train", str(recipe), "--out", str(out), *common]) == 0
    card, path = read_card(out / "first.yaml")
    assert card.classes == ["wall", "floor", "ball"] and card.metrics["val"]["mIoU"] >= 0
    assert "expected {images" in card.metrics["test"]["frames"], "what was not measured, and why"
    data = ["--data", str(tmp_path / "mine.yaml"), "--split", "val", "--k", "1", "--backend", "torch"]
    assert cli.main(["evaluate", "--model", str(path), *data, "--out", str(tmp_path / "figures")]) == 0
    assert (tmp_path / "figures" / "first_mine_val.json").is_file()

    make_data(tmp_path / "other", ["sky", "ground"])
    (tmp_path / "second.yaml").write_text(yaml.safe_dump({**RECIPE, "init": "first/first.yaml"}))
    line = ["train", str(tmp_path / "second.yaml"), "--data", str(tmp_path / "other" / "mine.yaml")]
    with caplog.at_level(logging.INFO):
        assert cli.main([*line, "--out", str(tmp_path / "second"), *common]) == 0
    assert "new: linear_pred.weight, linear_pred.bias" in caplog.text
    assert read_card(tmp_path / "second" / "second.yaml")[0].classes == ["sky", "ground"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_labels_is_refused_before_training(tmp_path, split, capsys):
    make_data(tmp_path, ["wall", "floor"])
    for path in (tmp_path / split / "labels").iterdir():
        path.unlink()
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    assert (
        cli.main(["train", str(tmp_path / "r.yaml"), "--accelerator", "cpu", "--out", str(tmp_path / "r")])
        == 1
    )
    assert f"mine {split}: expected labelled frames, found none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"stepps": 3}, "unknown ['stepps']: did you mean steps?"),
        ({"init": "stret"}, "or a model: camvid, street"),
    ],
)
def test_wrong_words_of_a_recipe_are_named(tmp_path, fields, said, capsys):
    make_data(tmp_path, ["wall", "floor"])
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**RECIPE, **fields}))
    assert (
        cli.main(["train", str(tmp_path / "r.yaml"), "--accelerator", "cpu", "--out", str(tmp_path / "r")])
        == 1
    )
    assert said in capsys.readouterr().err


def test_the_cache_tells_clips_by_size_and_folder(tmp_path):
    for size in ((64, 96), (96, 128)):
        frames, _ = read_clip(open_dataset("street", "train", size=size), 0, [0], tmp_path / "cache")
        assert frames[0].shape[:2] == size
    for name in ("a", "b"):
        make_data(tmp_path / name / "set", ["x", "y"])
    image = tmp_path / "b" / "set" / "train" / "images" / "0.png"
    assert cv2.imwrite(str(image), np.full((64, 64, 3), 9, np.uint8))
    found = [
        read_clip(open_dataset(str(tmp_path / n / "set" / "mine.yaml"), "train"), 0, [0], tmp_path / "cache")
        for n in ("a", "b")
    ]
    assert (found[1][0][0] == 9).all() and not (found[0][0][0] == 9).all()


def test_runs_of_other_offsets_share_the_caches_frames(tmp_path):
    data, cache = open_dataset("street", "train", size=(64, 96)), tmp_path / "cache"
    read_clip(data, 3, [-2, -1, 0], cache)
    offsets = [-3, -1, 0]
    frames, labels = read_clip(data, 3, offsets, cache)
    assert len(list(cache.iterdir())) == 4
    truth = data.clip(3, offsets)
    for found, expected in ((frames, truth.frames), (labels, truth.labels)):
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
