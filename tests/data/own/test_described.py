"""A data set of one's own: its YAML, and what annotation tools export, are read as they are."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from vss_ros import cli
from vss_ros.config import IGNORE, VssError
from vss_ros.data.open import open_dataset

YAML = """
path: .
classes: [wall, floor, ball]
train: {images: images, labels: labels}
"""


def put(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


def image(path, value=7, size=(6, 8)):
    put(path, np.full((*size, 3), value, np.uint8))


def describe(root, text=YAML):
    (root / "mine.yaml").write_text(text)
    return str(root / "mine.yaml")


def test_unlabelled_frames_between_labelled_ones_make_clips(tmp_path):
    for number in range(1, 6):
        image(tmp_path / "images" / "a" / f"f{number}.png", number)
    image(tmp_path / "images" / "b" / "f1.jpg", 200, (4, 4))
    put(tmp_path / "labels" / "a" / "f3.png", np.full((6, 8), 2, np.uint8))
    put(tmp_path / "labels" / "b" / "f1.png", np.full((4, 4), 1, np.uint16))
    data = open_dataset(describe(tmp_path), "train")
    assert data.classes == ["wall", "floor", "ball"] and len(data) == 2 and len(data.palette) == 3
    clip = data.clip(0, (0, -1, 1))
    assert [int(frame[0, 0, 0]) for frame in clip.frames] == [3, 2, 4]
    assert [int(labels[0, 0]) for labels in clip.labels] == [2, IGNORE, IGNORE]
    other = data.clip(1, (0, -1))
    assert other.frames[1].shape == (4, 4, 3) and (other.labels[0] == 1).all()


@pytest.mark.parametrize("kind", ["grey", "deep", "three planes", "colours", "palette"])
def test_masks_of_every_kind(tmp_path, kind):
    image(tmp_path / "images" / "1.png", size=(1, 3))
    classes = "[wall, {name: floor, colour: [10, 200, 30], id: 7}]"
    ids = np.array([[0, 7, 255]], np.uint8)
    colours = np.array([[(0, 0, 0), (30, 200, 10), (1, 2, 3)]], np.uint8)  # blue first
    mask = {
        "grey": ids,
        "deep": ids.astype(np.uint16),
        "three planes": np.dstack([ids] * 3),
        "colours": colours,
    }
    ignore = ""
    if kind == "colours":
        classes = "[{name: wall, colour: [0, 0, 0]}, {name: floor, colour: [10, 200, 30]}]"
        ignore = "ignore: [[3, 2, 1]]"
    if kind == "three planes":
        classes = "[wall, {name: floor, id: 7}]"
    if kind == "palette":
        from PIL import Image

        picture = Image.fromarray(ids, "P")
        picture.putpalette([n % 256 for n in range(0, 768 * 5, 5)])
        (tmp_path / "labels").mkdir()
        picture.save(tmp_path / "labels" / "1.png")
    else:
        put(tmp_path / "labels" / "1.png", mask[kind])
    text = f"classes: {classes}\n{ignore}\nval: {{images: images, labels: labels}}\n"
    assert open_dataset(describe(tmp_path, text), "val").clip(0).labels[0].tolist() == [[0, 1, IGNORE]]


def test_ids_of_no_class_are_named(tmp_path, capsys):
    image(tmp_path / "images" / "1.png", size=(1, 3))
    put(tmp_path / "labels" / "1.png", np.array([[0, 9, 12]], np.uint8))
    name = describe(tmp_path)
    with pytest.raises(VssError, match=re.escape("1.png: ids 9, 12 are of no class: expected 0, 1, 2")):
        open_dataset(name, "train").clip(0)
    assert cli.main(["data", "check", name, "--split", "train"]) == 1


def test_a_pattern_groups_frames_into_videos(tmp_path):
    for name in ("left_1", "left_2", "right_1"):
        image(tmp_path / "images" / f"{name}.png")
    (tmp_path / "labels").mkdir()
    data = open_dataset(describe(tmp_path, YAML + "video: '(.*)_'\n"), "train")
    assert [video.name for video in data.videos()] == ["left", "right"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("path: .", "pfad: ."), "unknown ['pfad']"),
        (("[wall, floor, ball]", "[wall, wall]"), "1 to 255 different names"),
        (("[wall, floor, ball]", "{wall: 1}"), "classes: expected a list of names"),
        (("[wall, floor, ball]", "[{name: a, colour: [1, 2]}]"), "expected a colour [r, g, b]"),
        (("labels: labels", "labels: none"), "expected the folder"),
        (("train:", "val:"), "train: expected {images: FOLDER, labels: FOLDER}"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, said):
    image(tmp_path / "images" / "1.png")
    put(tmp_path / "labels" / "1.png", np.zeros((6, 8), np.uint8))
    with pytest.raises(VssError, match=re.escape(said)):
        open_dataset(describe(tmp_path, YAML.replace(*change)), "train")


def test_masks_without_image_are_named(tmp_path):
    image(tmp_path / "images" / "1.png")
    put(tmp_path / "labels" / "2.png", np.zeros((6, 8), np.uint8))
    with pytest.raises(VssError, match="1 masks have no image, such as 2"):
        open_dataset(describe(tmp_path), "train")


def test_cvat(tmp_path):
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nwall:10,20,30::\nball:250,0,0::\n"
    )
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("a/1\n")
    image(tmp_path / "JPEGImages" / "a" / "1.jpg", size=(1, 3))
    put(
        tmp_path / "SegmentationClass" / "a" / "1.png",
        np.array([[(0, 0, 0), (30, 20, 10), (0, 0, 250)]], np.uint8),
    )
    data = open_dataset(str(tmp_path), "train")
    assert data.classes == ["wall", "ball"] and data.palette.tolist() == [[10, 20, 30], [250, 0, 0]]
    assert data.clip(0).labels[0].tolist() == [[IGNORE, 0, 1]]
    with pytest.raises(VssError, match=r"split val: expected .*; there are train"):
        open_dataset(str(tmp_path), "val")


def test_roboflow(tmp_path):
    image(tmp_path / "valid" / "x_jpg.rf.12ab.jpg", size=(1, 3))
    put(tmp_path / "valid" / "x_jpg.rf.12ab_mask.png", np.array([[0, 1, 2]], np.uint8))
    (tmp_path / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, ball\n2, wall\n")
    data = open_dataset(str(tmp_path), "val")
    assert data.classes == ["ball", "wall"]
    assert data.clip(0).labels[0].tolist() == [[IGNORE, 0, 1]]
