"""`vss data check`: figures, a contact sheet, and what it says of splits that are not there."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
from vss_ros import cli

YAML = """
classes: [wall, floor, ball]
train: {images: images, labels: labels}
val: {images: images, labels: labels}
"""


@pytest.fixture
def data(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i in range(20):
        mask = np.full((32, 48), i % 2, np.uint8)
        assert cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.full((32, 48, 3), 100, np.uint8))
        assert cv2.imwrite(str(tmp_path / "labels" / f"{i}.png"), mask)
    (tmp_path / "mine.yaml").write_text(YAML)
    return tmp_path


def check(data, *options):
    return cli.main(["data", "check", str(data / "mine.yaml"), "--out", str(data / "out"), *options])


def test_a_sheet_shows_frames_with_their_labels(data, caplog):
    caplog.set_level(logging.INFO)
    assert check(data, "--split", "train") == 0
    sheet = cv2.imread(str(data / "out" / "mine_train.jpg"))
    assert sheet.shape[0] > 5 * 320 and sheet.shape[1] > 3 * 480, "the legend, then 14 frames"
    pictures = sheet[:320, 500:]
    assert pictures.std() > 5, "labels tint the frames"
    assert "20 labelled frames; sequences: 1 with every frame labelled" in caplog.text


def test_a_split_for_tests_may_be_missing_others_may_not(data, caplog, capsys):
    caplog.set_level(logging.INFO)
    assert check(data) == 0 and "test: none, and nothing else needs it" in caplog.text
    assert check(data, "--split", "test") == 1 and "test: expected {images" in capsys.readouterr().err
    (data / "mine.yaml").write_text(YAML.replace("val:", "test:"))
    assert check(data) == 1 and "val: expected {images" in capsys.readouterr().err


def test_broken_files_end_it_with_an_error(data, caplog):
    caplog.set_level(logging.INFO)
    (data / "images" / "3.png").write_bytes(b"no image")
    assert check(data, "--split", "train") == 1 and "broken: " in caplog.text and "3.png" in caplog.text
    assert check(data, "--split", "train", "--limit", "2") == 0


def test_a_split_without_labels_is_no_error(data, caplog):
    caplog.set_level(logging.INFO)
    (data / "mine.yaml").write_text(YAML + "test: {images: images}\n")
    assert check(data, "--split", "test", "--limit", "3") == 0 and "0 labelled frames" in caplog.text
