"""Training lowers the loss, is exact over a kill -9, and stops with a clear message."""

import argparse
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from vss_ros.config import VssError
from vss_ros.networks.cards.card import load_model
from vss_ros.train import checkpoints
from vss_ros.train import loop as train
from vss_ros.train.checkpoints import load_initial, save
from vss_ros.train.recipe import RANGES, find_recipes, read_recipe
from vss_ros.train.samples import Positions, Samples

RECIPE = {
    "network": "dcfm",
    "backbone": "mit_b0",
    "data": "camvid",
    "size": [64, 96],
    "crop": [64, 64],
    "batch": 2,
    "steps": 4,
    "lr": 1e-3,
    "augment": {"scale": [0.8, 1.25], "brightness": 0.2},
    "save_every": 2,
    "validate_every": 2,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A CamVid of 5 train, 2 val and 2 test frames: sky above, road below, a car that moves."""
    folder = tmp_path_factory.mktemp("camvid")
    for split, count in (("train", 5), ("val", 2), ("test", 2)):
        for part in (split, f"{split}annot"):
            (folder / part).mkdir()
        for i in range(count):
            labels = np.zeros((64, 96), np.uint8)
            labels[32:] = 3
            labels[36:52, 10 * i : 10 * i + 30] = 8
            image = np.array([(200, 150, 90), (60, 60, 60), (20, 20, 180)], np.uint8)[
                (labels > 0) + 0 + (labels > 3)
            ]
            name = f"0001TP_{30 * i:06d}.png"
            cv2.imwrite(str(folder / split / name), image)
            cv2.imwrite(str(folder / f"{split}annot" / name), labels)
    return folder


def write_recipe(folder: Path, **changes) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


def words(recipe: Path, root: Path, workers: int) -> list[str]:
    options = {"out": recipe.parent / "run", "root": root, "accelerator": "cpu", "workers": workers}
    options |= {"precision": "32-true"}
    return [str(recipe), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def arguments(recipe: Path, root: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser.parse_args([*words(recipe, root, 0), *more])


def losses(folder: Path) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.value for event in events.Scalars("loss/loss")]


def test_training_lowers_the_loss_and_writes_a_model(tmp_path, root):
    # Dropout and augmentation off: ten steps must show.
    recipe = write_recipe(
        tmp_path,
        steps=10,
        options={"dropout": 0.0},
        augment={"flip": False},
        validate_every=10,
        crop=[64, 96],
    )
    assert train.main(arguments(recipe, root)) == 0
    curve = losses(tmp_path / "run")
    assert np.isfinite(curve).all() and curve[-1] < 0.9 * curve[0]
    network, card = load_model(tmp_path / "run" / "tiny.yaml")
    assert not network.training and card.classes[3] == "road" and card.size == [64, 96]
    assert card.training["steps"] == 10 and 0 <= card.metrics["test"]["mIoU"] <= 1
    assert "chosen" in card.metrics["protocol"] or "choose" in card.metrics["val"]["frames"]


def start(recipe: Path, root: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "vss_ros.cli", "train", *words(recipe, root, 1), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path, root):
    """A batch of 2 in each of two processes against a batch of 4 in one, in two parts: batch norm sees the same.

    Dropout is off, since each process draws its own.
    """
    curves = []
    for name, changes, more in (
        ("two", {}, ("--devices", "2")),
        ("one", {"accumulate": 2}, ()),
        ("half", {"batch": 2}, ()),
    ):
        (tmp_path / name).mkdir()
        recipe = {"backbone": "resnet18", "options": {"dropout": 0.0}, "batch": 4, "steps": 20, **changes}
        path = write_recipe(tmp_path / name, **recipe, lr=1e-3, validate_every=20, save_every=20)
        process = start(path, root, *more)
        assert process.wait(600) == 0, process.stderr.read()
        curves.append(losses(tmp_path / name / "run"))
    two, one, half = curves
    assert len(two) == 3 and two[-1] < 0.8 * two[0]
    assert np.allclose(two, one, rtol=0.02)
    assert not np.allclose(two, half, rtol=0.02)
    assert (tmp_path / "two" / "run" / "tiny.safetensors").is_file()


def test_samples_follow_from_their_position(tmp_path, root):
    from vss_ros.data.open import open_dataset

    recipe = read_recipe(str(write_recipe(tmp_path)))
    data = open_dataset("camvid", "train", root)
    samples, again = Samples(data, recipe), Samples(data, recipe)
    for position in (3, 12):
        for a, b in zip(samples[position], again[position], strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(samples[3][0], samples[8][0])
    cached = Samples(data, recipe, tmp_path / "cache")
    first, second = cached[0], cached[0]
    assert torch.equal(first[0], second[0]) and len(list((tmp_path / "cache").glob("*.npy"))) == len(first[0])


def test_frames_of_a_clip_stand_in_the_recipe(tmp_path, root, monkeypatch):
    from vss_ros.data.clips import Files
    from vss_ros.data.open import open_dataset

    asked = []
    read = Files.clip
    monkeypatch.setattr(
        Files, "clip", lambda self, i, offsets: asked.append(offsets) or read(self, i, offsets)
    )
    data = open_dataset("camvid", "train", root)
    for offsets, neighbours, count in (([0], [-1, 1], 2), ([-2, -1, 0], [], 3), ([0], [], 1)):
        recipe = read_recipe(str(write_recipe(tmp_path, offsets=offsets, neighbours=neighbours)))
        frames, _ = Samples(data, recipe)[0]
        assert len(frames) == count and asked[-1][: len(offsets)] == offsets


def test_one_epoch_shows_every_clip_once(tmp_path, root, monkeypatch):
    from vss_ros.data.clips import Files
    from vss_ros.data.open import open_dataset

    seen = []
    read = Files.clip
    monkeypatch.setattr(Files, "clip", lambda self, i, offsets: seen.append(i) or read(self, i, offsets))
    samples = Samples(open_dataset("camvid", "train", root), read_recipe(str(write_recipe(tmp_path))))
    for position in range(10):
        samples[position]
    assert sorted(seen[:5]) == sorted(seen[5:]) == list(range(5)) and seen[:5] != seen[5:]


def test_schedule():
    recipe = read_recipe("street")
    factors = [train.rate(step, recipe) for step in range(recipe.steps)]
    assert factors[0] == pytest.approx(1 / recipe.warmup) and max(factors) == factors[recipe.warmup] == 1
    assert 0 < factors[-1] < 0.05 and np.all(np.diff(factors[recipe.warmup :]) < 0)


def test_no_checkpoint_of_the_first_half_is_chosen(tmp_path, root, monkeypatch):
    """At a high rate few val frames may like what all others do not: two of six runs on CamVid ended so."""
    scores = iter([0.9, 0.5, 0.6, 0.4])
    monkeypatch.setattr("vss_ros.train.segmentation.score_of", lambda counts: next(scores))
    recipe = write_recipe(tmp_path, steps=4, validate_every=1)
    train.train(read_recipe(str(recipe)), arguments(recipe, root), tmp_path)
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert best["step"] == 3 and best["best"] == 0.6


def test_a_run_stopped_before_its_first_validation_goes_on(tmp_path, root):
    recipe = write_recipe(tmp_path, steps=2, validate_every=9, save_every=1)
    args = arguments(recipe, root)
    read, stopped = read_recipe(str(recipe)), tmp_path / "run"
    stopped.mkdir()
    saved = []
    original = train.save

    def save_once(path, content):
        original(path, content)
        saved.append(path)
        if len(saved) == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "save", save_once)
        train.train(read, args, stopped)
    args.resume = True
    assert train.train(read, args, stopped)
    assert (stopped / "best.ckpt").is_file()


def test_every_recipe_can_be_read():
    assert {"street", "camvid"} <= set(find_recipes())
    for name in find_recipes():
        recipe = read_recipe(name)
        assert recipe.licence != "unknown", name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": "fast"}, "lr: expected float, got 'fast'"),
        ({"lr": 0}, "lr: expected 1e-12 to 10"),
        ({"steps": 0}, "steps: expected 1 to 100000000"),
        ({"crop": [64]}, r"crop: expected tuple\[int, int\]"),
        ({"optimiser": "adam"}, "expected adamw or sgd"),
        ({"colour": 1}, r"unknown \['colour'\]"),
        ({"augment": {"zoom": 2}}, "augment: .*zoom"),
        ({"augment": {"scale": [2, 1]}}, "augment: scale: expected"),
    ],
)
def test_bad_recipe_is_refused(tmp_path, change, message):
    with pytest.raises(VssError, match=message):
        read_recipe(str(write_recipe(tmp_path, **change)))


def test_missing_and_broken_recipes(tmp_path):
    with pytest.raises(VssError, match=r"one of .*street"):
        read_recipe("strasse")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(VssError, match="cannot be read"):
        read_recipe(str(tmp_path / "a.yaml"))
    (tmp_path / "a.yaml").write_text("network: dcfm")
    with pytest.raises(VssError, match=r"missing .*backbone"):
        read_recipe(str(tmp_path / "a.yaml"))


def test_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint(tmp_path, root, monkeypatch):
    monkeypatch.setitem(RANGES, "lr", (0, 1e30))
    recipe = write_recipe(tmp_path, lr=1e30, optimiser="sgd", save_every=1, validate_every=100)
    with pytest.raises(VssError, match=r"the loss is (nan|inf) at step .*last\.ckpt"):
        train.main(arguments(recipe, root))
    saved = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert 1 <= saved["step"] < 4
    recipe = write_recipe(tmp_path, lr=1e30, optimiser="sgd", save_every=100, validate_every=100)
    with pytest.raises(VssError, match="nothing was saved yet"):
        train.main(arguments(recipe, root, "--out", str(tmp_path / "unsaved")))


def test_full_disk_keeps_the_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    save(path, {"step": 1})

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_atomic", fail)
    with pytest.raises(VssError, match="disk is full"):
        save(path, {"step": 2})
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_a_run_is_not_overwritten_nor_resumed_with_another_recipe(tmp_path, root):
    recipe = write_recipe(tmp_path)
    (tmp_path / "run").mkdir()
    with pytest.raises(VssError, match="no such checkpoint"):
        train.main(arguments(recipe, root, "--resume"))
    save(tmp_path / "run" / "last.ckpt", {"recipe": {**RECIPE, "lr": 5.0}})
    with pytest.raises(VssError, match="give --resume"):
        train.main(arguments(recipe, root))
    with pytest.raises(VssError, match=r"these differ: .*lr"):
        train.main(arguments(recipe, root, "--resume"))


def test_batch_must_be_divisible(tmp_path, root):
    with pytest.raises(VssError, match="multiple of devices × accumulate = 3, got 2"):
        train.main(arguments(write_recipe(tmp_path, accumulate=3), root))


def test_weights_to_start_from(tmp_path, tiny_card, root):
    from vss_ros.networks import build

    weights = tiny_card.with_suffix(".safetensors")
    network = build("dcfm", "mit_b0", 3)
    load_initial(network, str(weights))
    with pytest.raises(VssError, match="does not fit"):
        load_initial(build("dcfm", "mit_b0", 4), str(weights))
    with pytest.raises(VssError, match="cannot be read"):
        load_initial(network, str(tmp_path / "none.safetensors"))
    broken = shutil.copy(weights, tmp_path / "broken.safetensors")
    Path(broken).write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(VssError, match="cannot be read"):
        load_initial(network, str(broken))


def test_broken_picture_in_a_loader_process_is_named(tmp_path, root):
    from vss_ros.data.open import open_dataset
    from vss_ros.train.samples import Samples, make_loader

    folder = shutil.copytree(root, tmp_path / "camvid")
    for path in (folder / "train").glob("*.png"):
        path.write_bytes(b"")
    recipe = read_recipe(str(write_recipe(tmp_path)))
    with pytest.raises(VssError) as failure:
        data = open_dataset("camvid", "train", folder)
        next(make_loader(Samples(data, recipe), recipe, 0, workers=1))
    assert "cannot be read as an image" in str(failure.value) and "Traceback" not in str(failure.value)


def test_a_full_disk_and_a_killed_loader_are_one_line(tmp_path, root, monkeypatch):
    from vss_ros.data.open import open_dataset
    from vss_ros.train.samples import Samples, make_loader

    recipe = read_recipe(str(write_recipe(tmp_path)))
    data = open_dataset("camvid", "train", root)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "clip.npy")

    def killed(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    for fails, said in ((full, "No space left on device"), (killed, "lower --workers")):
        monkeypatch.setattr(Samples, "__getitem__", fails)
        with pytest.raises(VssError, match=said) as failure:
            next(make_loader(Samples(data, recipe), recipe, 0, workers=1))
        assert len(str(failure.value).splitlines()) == 1
