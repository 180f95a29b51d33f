"""From labelled frames of one's own to a card, and from that card to one of other classes."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
import torch
import yaml
from vss_ros import cli
from vss_ros.data.open import open_dataset
from vss_ros.networks import build, reads_of
from vss_ros.networks.cards.card import read_card
from vss_ros.train.counting import read_points
from vss_ros.train.publish import with_weights
from vss_ros.train.recipe import Recipe, check
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
POOLED = {"backbone": "mobilenet_v1"}  # pools to one cell, as PSPNet does
VOID = {"classes": [{"name": "ball", "id": 2}], "ignore": [0, 1]}
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


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


@pytest.mark.parametrize("classes", [["floor", "wall"], ["wall", "floor", "ball"]])
def test_a_run_is_of_the_classes_that_it_began_with(tmp_path, classes, capsys):
    """Or its card would name them wrongly."""
    make_data(tmp_path, ["wall", "floor"])
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**RECIPE, "steps": 1}))
    line = ["train", str(tmp_path / "r.yaml"), "--accelerator", "cpu", "--workers", "0"]
    line += ["--out", str(tmp_path / "r")]
    assert cli.main(line) == 0
    described = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**described, "classes": classes}))
    for more in ("--resume", "--export"):
        assert cli.main([*line, more]) == 1
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert "had the classes ['wall', 'floor'], now it has " + str(classes) in last
    assert read_card(tmp_path / "r" / "r.yaml")[0].classes == ["wall", "floor"]


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
        ({"moved": True}, "moved: expected network dcfm and neighbours"),
        ({"network": "dcfm", "moved": True}, "moved: expected network dcfm and neighbours"),
        ({"frozen": ".*"}, "frozen: '.*' leaves nothing to train"),
        ({**POOLED, "batch": 1}, "expected 2 clips or more at a time"),
        ({**POOLED, "accumulate": 2}, "expected 2 clips or more at a time"),
        (
            {"loss": {"nonkey": 0.4}},
            "segformer: got an unexpected keyword argument 'nonkey'; expected some of none",
        ),
        ({"network": "dcfm", "loss": {"dice": 1}}, "expected some of key, nonkey, consistency, criterion"),
        ({"mixed": "other/mine.yaml"}, "with the classes of mine train, wall, floor; mine train has sky"),
        ({"mixed": "street"}, "with the classes of mine train, wall, floor; street train has sky"),
        ({"after": "nothing"}, "nothing.yaml, found none"),
        (
            {"after": "base", "loss": {"a": 1}},
            "unexpected keyword argument 'a'",
        ),  # and nothing is trained before
        ({"data": "street_points"}, "street_points train: segformer learns from labelled pixels"),
        ({**POOLED, "network": "mcis"}, "mine train: mcis learns from image tags"),
        ({**POOLED, "network": "iocformer", "data": "void.yaml"}, "void train: iocformer learns from points"),
        ({"data": "void.yaml"}, "void train: expected labelled pixels, all are void (255)"),
        (
            {"data": "half.yaml"},
            "val: expected {images: FOLDER, labels: FOLDER}, got nothing; it describes train",
        ),
        ({"prior": 1.0, "network": "msaf", "augment": {"keep": [1, 0.5]}}, "prior: msaf has no last layer"),
    ],
)
def test_what_a_run_cannot_be_made_of_is_one_line(tmp_path, fields, said, capsys):
    make_data(tmp_path, ["wall", "floor"])
    make_data(tmp_path / "other", ["sky", "ground"])
    data = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    (tmp_path / "void.yaml").write_text(yaml.safe_dump({**data, **VOID}))
    (tmp_path / "half.yaml").write_text(yaml.safe_dump({name: data[name] for name in ("classes", "train")}))
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**RECIPE, **fields}))
    line = ["train", str(tmp_path / "r.yaml"), "--accelerator", "cpu", "--workers", "0"]
    assert cli.main([*line, "--out", str(tmp_path / "r")]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("vss train: ") and said in last
    assert not list(tmp_path.glob("**/*.ckpt"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--accelerator", "cuda"], "--accelerator cuda", marks=NO_GPU),
        (["--nodes", "2"], "--nodes 2: expected to be started on each machine by torchrun"),
        (["--cache", "r.yaml/cache"], "Not a directory"),
        (["--out", "r.yaml"], "File exists"),
    ],
)
def test_what_a_command_line_cannot_do_is_one_line(tmp_path, options, said, capsys, monkeypatch):
    make_data(tmp_path, ["wall", "floor"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    assert cli.main(["train", "r.yaml", "--accelerator", "cpu", "--workers", "1", *options]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("vss train: ") and said in last


@pytest.mark.parametrize(
    ("network", "backbone"),
    [
        *((name, "mit_b0") for name in ("segformer", "dcfm", "cffm", "mrcfa")),
        *((name, "resnet18") for name in ("pspnet", "stf", "mar+dcfm", "mar+stf")),
    ],
)
def test_the_prior_is_taken_back_in_the_logits_of_every_network(network, backbone):
    keep = [1.0, 0.25, 0.5]
    values = {**RECIPE, "network": network, "backbone": backbone, "prior": 0.5, "augment": {"keep": keep}}
    small = {"grid": (8, 16)} if "stf" in network else {}  # positions for 64×64 pixels, not 1024×2048
    recipe = Recipe(**values, options=small)
    check(recipe)
    plain = build(network, backbone, 3, **small).eval()
    for parameter in plain.parameters():  # biases, too, are no longer those of fresh layers
        torch.nn.init.normal_(parameter, std=0.05)
    corrected, options = with_weights(recipe, plain.state_dict(), 3)
    logits = [answer(model) for model in (plain, corrected.eval())]
    expected = -0.5 * torch.tensor(keep).log()[None, :, None, None].expand_as(logits[0])
    assert torch.allclose(logits[1] - logits[0], expected, atol=1e-4)
    assert build(network, backbone, 3, **options).state_dict().keys() == corrected.state_dict().keys()


@torch.no_grad()
def answer(network):
    features = network.encode(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    return network.decode(features, *[network.remember(features) for _ in reads_of(network)])


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


def test_the_cache_forgets_what_has_changed(tmp_path):
    """A mask that was mended, ids that mean another class, one frame more or less, points, and the rendered size."""
    make_data(tmp_path, ["wall", "floor"])
    own, cache = tmp_path / "mine.yaml", tmp_path / "cache"
    mask, points = tmp_path / "train" / "labels" / "0.png", tmp_path / "train.csv"

    def first():
        return read_clip(open_dataset(str(own), "train"), 0, [0], cache)[1][0]

    before = first()
    assert np.array_equal(first(), before) and len(list(cache.iterdir())) == 1
    assert cv2.imwrite(str(mask), 1 - before)
    assert np.array_equal(first(), 1 - before)
    classes = [{"name": "wall", "id": 1}, {"name": "floor", "id": 0}]
    own.write_text(yaml.safe_dump({**yaml.safe_load(own.read_text()), "classes": classes}))
    assert np.array_equal(first(), before)
    mask.with_name("1.png").replace(mask)
    mask.parents[1].joinpath("images", "1.png").unlink()
    assert np.array_equal(first(), 1 - before)

    for text, expected in (("train/images/0.png,3,4", [[3, 4]]), ("train/images/0.png,30,40", [[30, 40]])):
        points.write_text(f"image,x,y\n{text}\n")
        assert read_points(open_dataset("points", "train", tmp_path), 0, cache)[1].tolist() == expected
    for size in ((64, 96), (96, 128)):
        rendered = open_dataset("street_points", "val", size=size)
        assert read_points(rendered, 0, cache)[0].shape[:2] == size


def test_runs_of_other_offsets_share_the_caches_frames(tmp_path):
    data, cache = open_dataset("street", "train", size=(64, 96)), tmp_path / "cache"
    read_clip(data, 3, [-2, -1, 0], cache)
    offsets = [-3, -1, 0]
    frames, labels = read_clip(data, 3, offsets, cache)
    assert len(list(cache.iterdir())) == 4
    truth = data.clip(3, offsets)
    for found, expected in ((frames, truth.frames), (labels, truth.labels)):
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
