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


def points(tmp_path, caplog, lines: str) -> int:
    caplog.set_level(logging.INFO)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 48, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((20, 48, 3), np.uint8))
    (tmp_path / "train.csv").write_text("image,x,y\n" + lines)
    return cli.main(
        ["data", "check", "points", "--root", str(tmp_path), "--split", "train", "--out", str(tmp_path)]
    )


def test_points_are_counted_and_those_that_nobody_can_mean_are_warned_of(tmp_path, caplog):
    assert points(tmp_path, caplog, "a.png,3,4\na.png,3,4\na.png,48,4\nb.png,1,1\n") == 0
    assert "2 images, read 2, sizes 48x32 (1), 48x20 (1)" in caplog.text
    assert "3 objects, 1.5 an image, at most 2; 0 images without any" in caplog.text
    assert "the mean always has an MAE of 0.50" in caplog.text
    assert (
        "WARN: 1 points lie outside" in caplog.text and "WARN: 1 points lie exactly on another" in caplog.text
    )
    sheet = cv2.imread(str(tmp_path / "points_train.jpg"))
    assert sheet.max() > 100  # rings on black


def test_points_without_any_object_or_with_a_broken_image(tmp_path, caplog):
    assert points(tmp_path, caplog, "a.png,,\nb.png,,\n") == 0
    assert "WARN: no object in any image" in caplog.text
    (tmp_path / "b.png").write_bytes(b"no image")
    check = ["data", "check", "points", "--root", str(tmp_path), "--split", "train", "--out", str(tmp_path)]
    assert cli.main(check) == 1 and "broken: " in caplog.text and "b.png" in caplog.text


def test_rendered_points_are_checked_as_well(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert (
        cli.main(["data", "check", "street_points", "--split", "val", "--limit", "1", "--out", str(tmp_path)])
        == 0
    )
    assert "street_points val: 60 images, read 1, sizes 480x360 (1)" in caplog.text
