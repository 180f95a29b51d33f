"""Masks as files: ids, colours, Cityscapes' names; a second run goes on where the first one was."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
import yaml
from fixtures.imported import write_model
from vss_ros import cli
from vss_ros.deploy.predict import encoded
from vss_ros.networks.cards.card import read_card


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(3):
        picture = np.kron(rng.integers(0, 256, (4, 6, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        assert cv2.imwrite(str(folder / f"city_{i}_leftImg8bit.png"), picture)
    return folder


def predict(model, frames, out, *words):
    line = ["predict", str(frames), "--out", str(out), "--model", str(model), "--backend", "onnxruntime"]
    return cli.main([*line, "--quiet", *words])


def test_ids_colours_and_video(tmp_path, frames):
    model = write_model(tmp_path)
    assert predict(model, frames, tmp_path / "ids") == 0
    assert predict(model, frames, tmp_path / "colours", "--png", "color", "--video", "--limit", "2") == 0
    assert sorted(p.name for p in (tmp_path / "ids").iterdir()) == [
        f"city_{i}_leftImg8bit.png" for i in range(3)
    ]
    ids = cv2.imread(str(tmp_path / "ids" / "city_0_leftImg8bit.png"), cv2.IMREAD_UNCHANGED)
    colours = cv2.imread(str(tmp_path / "colours" / "city_0_leftImg8bit.png"))[:, :, ::-1]
    palette = np.array(read_card(model)[0].palette)
    assert ids.shape == (32, 48) and (palette[ids] == colours).all()
    video = cv2.VideoCapture(str(tmp_path / "colours" / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 2
    assert len(list((tmp_path / "colours").glob("*.png"))) == 2


def test_a_run_goes_on_and_cityscapes_needs_its_classes(tmp_path, frames, caplog):
    model = write_model(tmp_path)
    with caplog.at_level(logging.INFO):
        assert predict(model, frames, tmp_path / "ids", "--limit", "2") == 0
        logging.getLogger("vss_ros").setLevel(logging.INFO)
        line = ["predict", str(frames), "--out", str(tmp_path / "ids"), "--model", str(model)]
        assert cli.main([*line, "--backend", "onnxruntime"]) == 0
    assert "2 were there already" in caplog.text
    assert predict(model, frames, tmp_path / "c", "--png", "cityscapes") == 1
    table = encoded(np.array([[0, 18, 255]], np.uint8), "cityscapes", np.zeros((19, 3)))
    assert table.tolist() == [[7, 33, 0]]


@pytest.mark.parametrize("output", ["logits", "probabilities", "labels"])
def test_import_finds_out_what_a_file_is(tmp_path, output):
    write_model(tmp_path, output, "nhwc" if output == "logits" else "nchw")
    out = tmp_path / "cards" / "mine.yaml"
    line = ["import", str(tmp_path / "own.onnx"), "--out", str(out), "--image", "street"]
    assert cli.main([*line, "--classes", "a,b,c"]) == 0
    options = yaml.safe_load(out.read_text())["options"]
    assert options["output"] == output and options["input"] == "x"
    assert cli.main([*line, "--classes", "a"]) == 1, "another number of classes"
    assert cli.main([*line, "--classes", "a,b,c", "--size", "64x64"]) == 1, "the graph's size is fixed"
