"""Pixel labels from maps by each rule, and `vss pseudo` from tags to a folder that a network trains on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from fixtures.tagged import KINDS, write_tagged
from vss_ros.config import VssError
from vss_ros.data.open import open_dataset
from vss_ros.deploy import pseudo
from vss_ros.deploy.pseudo_labels import along_motion, by_saliency, by_threshold
from vss_ros.networks import build
from vss_ros.networks.cards.card import ModelCard, save_model


def full(value: float) -> np.ndarray:
    return np.full((4, 4), value, np.float32)


def test_the_greatest_map_decides_between_two_thresholds():
    maps = np.stack([full(0.1), full(0.05)])
    maps[0, 0, 0], maps[1, 0, 1], maps[1, 0, 2], maps[:, 0, 3] = 0.9, 0.35, 0.3, (0.5, 0.6)
    labels = by_threshold(maps, np.array([3, 7]), 0.2, 0.35)
    assert labels[0].tolist() == [3, 7, 255, 7]
    assert (labels[1:] == 0).all()
    assert (by_threshold(np.zeros((0, 4, 4)), np.array([]), 0.2, 0.35) == 0).all()


def test_saliency_conflict_ignore_and_one_percent():
    salient = np.zeros((4, 4), np.uint8)
    salient[0, :] = 255
    one, two = full(0.0), full(0.0)
    one[0, 0] = 1.0
    one[0, 1] = two[0, 1] = 1.0  # two are sure
    two[0, 2] = 0.5
    one[2, 0] = 0.97  # nearly the class, but the background is surer
    salient[1, 0] = 40
    labels = by_saliency(np.stack([one, two]), np.array([1, 2]), salient)
    assert labels[0].tolist() == [1, 255, 2, 255]  # the last: nothing is likely where it is salient
    assert labels[1].tolist() == [255, 0, 0, 0]  # background that is salient
    assert labels[2, 0] == 255 and labels[3, 3] == 0
    big = np.zeros((20, 20), np.uint8)
    tiny = np.zeros((1, 20, 20), np.float32)
    tiny[0, 0, :3], big[0, :3] = 1.0, 255
    assert (by_saliency(tiny, np.array([1]), big) == 255).all()  # 3 of 400 pixels
    tiny[0, 0, :4], big[0, :4] = 1.0, 255
    assert (by_saliency(tiny, np.array([1]), big) == 1).sum() == 4


def test_maps_of_neighbours_are_fetched_along_the_flow():
    own, other = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32)
    own[2, 2], other[2, 5] = 1.0, 1.0
    flow = np.zeros((8, 8, 2), np.float32)
    flow[..., 0] = 3
    merged = along_motion(own, [(other, flow)])
    assert merged[2, 2] == 1.0 and merged.sum() == pytest.approx(1.0)


@pytest.fixture
def run(tmp_path):
    """A recipe, its data, and a trained model's place with fresh weights."""
    root = write_tagged(tmp_path / "data", 20, side=32)
    recipe = {
        **{"network": "mcis", "backbone": "mobilenet_v1", "data": "tags", "size": [32, 32], "crop": [32, 32]},
        **{"batch": 2, "steps": 2, "lr": 1e-3, "neighbours": [], "options": {"width": 8}, "save_every": 1},
        **{"loss": {"copies": 0}},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    network = build("mcis", "mobilenet_v1", 3, width=8)
    card = ModelCard(
        name="tiny",
        network="mcis",
        backbone="mobilenet_v1",
        classes=list(KINDS),
        palette=[[255, 0, 0], [0, 255, 0], [0, 0, 255]],
        size=[32, 32],
        task="tags",
        weights="tiny.safetensors",
        sha256="",
        licence="Apache-2.0",
        options={"width": 8},
    )
    save_model(network, card, tmp_path / "runs" / "tiny")
    return tmp_path, root


def command(folder, root, *more):
    line = [str(folder / "tiny.yaml"), "--out", str(folder / "runs" / "tiny"), "--root", str(root)]
    import argparse

    parser = argparse.ArgumentParser()
    pseudo.add_arguments(parser)
    return parser.parse_args([*line, *more])


def test_labels_data_yaml_sheet_and_agreement(run, capsys):
    folder, root = run
    assert pseudo.main(command(folder, root, "--truth", str(root / "truth"))) == 0
    made = folder / "runs" / "tiny" / "pseudo"
    about = yaml.safe_load((made / "data.yaml").read_text())
    assert [c["name"] for c in about["classes"]] == ["background", *KINDS]
    data = open_dataset("pseudo", "train", made)
    assert len(data) == 18 and len(open_dataset("pseudo", "val", made)) == 2
    clip = data.clip(3)
    tags = open_dataset("tags", "train", root).tags[3]
    found = set(np.unique(clip.labels[0])) - {0, 255}
    assert found <= set((np.flatnonzero(tags) + 1).tolist())  # never a class that the image has not
    assert cv2.imread(str(made / "sheet.jpg")) is not None
    assert "mIoU" in capsys.readouterr().out
    for other in (("--low", "0.1"), ("--maps", "classifier")):
        with pytest.raises(VssError, match="other weights or settings"):
            pseudo.main(command(folder, root, *other))


def test_images_of_the_same_recording_explain_a_class_first():
    class Data:
        def sharing(self, label, of, same_clip=False):
            return np.array([2, 3] if same_clip else [2, 3, 5, 6, 7])

    recipe = SimpleNamespace(crop=(32, 32), same_clip=0.5)
    args = SimpleNamespace(maps="pairs", related=4)
    chosen = pseudo.Maps(None, Data(), recipe, args).others(0, 1, np.random.default_rng(0))
    assert set(chosen[:2]) == {2, 3} and len(set(chosen)) == 4
    recipe.same_clip = 0.0
    firsts = {
        int(pseudo.Maps(None, Data(), recipe, args).others(0, 1, np.random.default_rng(i))[0])
        for i in range(40)
    }
    assert firsts == {2, 3, 5, 6, 7}


@pytest.mark.parametrize("more", [("--low", "0.7"), ("--background", "saliency"), ("--saliency", "x")])
def test_options_that_do_not_go_together(run, more):
    with pytest.raises(VssError, match="expected"):
        pseudo.main(command(*run, *more))


def test_saliency_maps_are_read_by_name(run, tmp_path):
    folder, root = run
    (tmp_path / "salient").mkdir()
    more = ("--background", "saliency", "--saliency", str(tmp_path / "salient"))
    with pytest.raises(VssError, match="expected a saliency map"):
        pseudo.main(command(folder, root, *more))
    for image in (root / "images").iterdir():
        mask = cv2.imread(str(root / "truth" / image.name), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(tmp_path / "salient" / image.name), ((mask > 0) * 255).astype(np.uint8))
    assert pseudo.main(command(folder, root, *more)) == 0


@pytest.mark.slow
def test_killed_it_goes_on_and_ends_alike(run):
    folder, root = run
    line = [sys.executable, "-m", "vss_ros.cli", "pseudo", str(folder / "tiny.yaml"), "--root", str(root)]
    line += ["--out", str(folder / "runs" / "tiny")]
    made = folder / "runs" / "tiny" / "pseudo"
    child = subprocess.Popen(line)
    while not list(made.glob("train/labels/*.png")) and child.poll() is None:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = {p: p.stat().st_mtime_ns for p in made.glob("train/labels/*.png")}
    assert before
    assert subprocess.run(line, stdout=subprocess.DEVNULL).returncode == 0
    assert all(p.stat().st_mtime_ns == when for p, when in before.items())
    first = {p.name: p.read_bytes() for p in made.glob("*/labels/*.png")}
    assert len(first) == 20
    for path in list(made.glob("*/labels/*.png")):
        path.unlink()
    assert subprocess.run(line, stdout=subprocess.DEVNULL).returncode == 0
    assert first == {p.name: p.read_bytes() for p in made.glob("*/labels/*.png")}


@pytest.mark.slow
def test_a_chain_from_tags_to_a_segmentation_model(run):
    folder, root = run
    after = {
        **{"network": "segformer", "backbone": "mobilenet_v1", "data": "pseudo", "after": "tiny"},
        **{"size": [32, 32], "crop": [32, 32], "batch": 2, "steps": 2, "lr": 1e-3, "neighbours": []},
    }
    (folder / "second.yaml").write_text(yaml.safe_dump(after))
    line = [sys.executable, "-m", "vss_ros.cli", "train", str(folder / "second.yaml"), "--root", str(root)]
    line += ["--out", str(folder / "chain" / "second"), "--accelerator", "cpu", "--workers", "0"]
    subprocess.run(line, check=True, stderr=subprocess.DEVNULL)
    card = yaml.safe_load((folder / "chain" / "second" / "second.yaml").read_text())
    assert card["classes"] == ["background", *KINDS]
    assert card["training"]["start_training"]["data"] == "tags, split train"
    first = yaml.safe_load((folder / "chain" / "tiny" / "tiny.yaml").read_text())
    assert first["task"] == "tags" and 0 <= first["metrics"]["val"]["mAP"] <= 1
