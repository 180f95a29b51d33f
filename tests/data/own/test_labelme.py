"""LabelMe's shapes become masks in the order they lie; bad files are named."""

from __future__ import annotations

import base64
import json

import cv2
import numpy as np
import pytest
from vss_ros import cli
from vss_ros.config import IGNORE
from vss_ros.data.open import open_dataset

SIZE = (20, 30)


def write(folder, name, shapes, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / f"{name}.png"), np.full((*SIZE, 3), 90, np.uint8))
    if shapes is not None:
        content = {
            "imagePath": f"{name}.png",
            "imageHeight": SIZE[0],
            "imageWidth": SIZE[1],
            "shapes": shapes,
        }
        (folder / f"{name}.json").write_text(json.dumps({**content, **fields}))


def shape(label, points, kind="polygon", **fields):
    return {"label": label, "points": points, "shape_type": kind, **fields}


def box(label, left, top, right, bottom):
    return shape(label, [[left, top], [right, bottom]], "rectangle")


def imported(tmp_path, *options):
    return cli.main(["data", "import", "labelme", str(tmp_path / "in"), str(tmp_path / "out"), *options])


def mask(tmp_path, split="train", frame=0):
    return open_dataset(str(tmp_path / "out" / "data.yaml"), split).clip(frame).labels[0]


def test_shapes_of_every_kind(tmp_path):
    png = cv2.imencode(".png", np.array([[0, 255], [255, 255]], np.uint8))[1].tobytes()
    shapes = [
        shape("wall", [[0, 0], [29, 0], [29, 9], [0, 9]]),
        box("ball", 4, 2, 8, 6),
        shape("floor", [[20, 15], [23, 15]], "circle"),
        shape("ball", [[2, 12], [3, 13]], "mask", mask=base64.b64encode(png).decode()),
    ]
    write(tmp_path / "in", "1", shapes)
    assert imported(tmp_path) == 0
    data = open_dataset(str(tmp_path / "out" / "data.yaml"), "train")
    found = data.clip(0).labels[0]
    assert data.classes == ["ball", "floor", "wall"]
    assert found[1, 1] == 2 and found[4, 6] == 0 and found[15, 20] == 1 and found[15, 27] == IGNORE
    assert found[12:14, 2:4].tolist() == [[IGNORE, 0], [0, 0]]


def test_later_shapes_lie_above_and_the_background_cuts_holes(tmp_path):
    write(
        tmp_path / "in",
        "1",
        [box("wall", 0, 0, 20, 15), box("_background_", 5, 5, 9, 9), box("ball", 0, 0, 2, 2)],
    )
    assert imported(tmp_path) == 0
    found = mask(tmp_path)
    assert found[1, 1] == 0 and found[4, 4] == 1 and found[7, 7] == IGNORE


def test_the_last_images_of_a_folder_are_val(tmp_path):
    for number in range(1, 11):
        write(tmp_path / "in" / "drive", str(number), [box("wall", 0, 0, number, 9)])
    write(tmp_path / "in" / "drive", "0", None)
    assert imported(tmp_path, "--background", "other") == 0
    splits = {s: open_dataset(str(tmp_path / "out" / "data.yaml"), s) for s in ("train", "val")}
    assert [frame.number for frame in splits["val"].frames] == [9, 10]
    assert not any(video.moves for data in splits.values() for video in data.videos()), (
        "stills until said otherwise"
    )
    assert len(splits["train"]) == 8 and len(splits["train"].frames) == 9, "what nobody looked at has no mask"
    assert cli.main(["data", "check", str(tmp_path / "out" / "data.yaml"), "--split", "train,val"]) == 0


def test_folders_say_which_split(tmp_path):
    for split in ("train", "valid", "test"):
        write(tmp_path / "in" / split, "1", [box("wall", 0, 0, 9, 9)])
    assert imported(tmp_path) == 0
    assert all(
        len(open_dataset(str(tmp_path / "out" / "data.yaml"), s)) == 1 for s in ("train", "val", "test")
    )


def test_json_files_may_lie_in_a_folder_of_their_own(tmp_path):
    write(tmp_path / "in" / "images", "1", [box("wall", 0, 0, 9, 9)], imagePath="../images/1.png")
    (tmp_path / "in" / "notes").mkdir()
    (tmp_path / "in" / "images" / "1.json").rename(tmp_path / "in" / "notes" / "a.json")
    assert imported(tmp_path) == 0


def test_images_outside_of_the_folder_are_not_taken(tmp_path, caplog):
    write(tmp_path, "secret", None)
    write(tmp_path / "in", "1", [box("wall", 0, 0, 9, 9)], imagePath="../secret.png")
    (tmp_path / "in" / "1.png").unlink()
    assert imported(tmp_path) == 1 and "expected its image '../secret.png' below" in caplog.text


def test_the_image_may_lie_under_another_name_than_it_says(tmp_path):
    write(tmp_path / "in", "1", [box("wall", 0, 0, 9, 9)], imagePath="C:\\me\\1.png")
    assert imported(tmp_path) == 0


@pytest.mark.parametrize(
    ("shapes", "fields", "said"),
    [
        ([shape("a", [[0, 0], [1, 1]])], {}, "polygon: expected 3 points or more, got 2"),
        ([{"points": []}], {}, "expected a label and points"),
        ([shape("a", [[0, 0], [1, 1], [1, "x"]])], {}, "expected a label and points"),
        (
            [shape("a", [[0, 0], [1, 9]], "line")],
            {},
            "left out are shapes other than polygon, rectangle, circle, mask: line",
        ),
        ([shape("a", [[0, 0], [1, 1]], "mask", mask="no")], {}, "a mask does not decode"),
        ([], {"imageWidth": 99}, "its annotations are of 99x20 pixels"),
        (3, {}, "expected a list of shapes"),
    ],
)
def test_bad_files_are_named_and_the_rest_is_written(tmp_path, caplog, shapes, fields, said):
    write(tmp_path / "in", "1", [box("wall", 0, 0, 9, 9)])
    write(tmp_path / "in", "2", shapes, **fields)
    (tmp_path / "in" / "3.json").write_text("{")
    assert imported(tmp_path, "--val", "0") == 1
    assert "2.json" in caplog.text and said in caplog.text and "3.json: is no JSON file" in caplog.text
    assert mask(tmp_path)[1, 1] < IGNORE


def test_an_earlier_result_is_left_alone(tmp_path, capsys):
    write(tmp_path / "in", "1", [box("wall", 0, 0, 9, 9)])
    (tmp_path / "out").mkdir()
    assert imported(tmp_path) == 1 and "exists; give a folder that does not" in capsys.readouterr().err
