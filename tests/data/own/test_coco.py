"""COCO's annotations become masks: crowds, run lengths, holes, what lies on what; bad ones are named."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from vss_ros import cli
from vss_ros.config import IGNORE
from vss_ros.data.open import open_dataset

mask_api = pytest.importorskip("pycocotools.mask", reason="reads COCO (extra: train)")
SIZE = (20, 30)
CATEGORIES = [{"id": 7, "name": "wall"}, {"id": 3, "name": "ball"}]


def square(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(mask, compressed):
    """Run lengths of a mask (H, W), as numbers or as COCO's text."""
    if compressed:
        found = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": list(found["size"]), "counts": found["counts"].decode()}
    flat = mask.astype(np.uint8).ravel(order="F")
    edges = (
        np.flatnonzero(np.diff(np.r_[0, flat]))
        if flat[0] == 0
        else np.r_[0, np.flatnonzero(np.diff(flat)) + 1]
    )
    return {"size": list(mask.shape), "counts": np.diff(np.r_[0, edges, flat.size]).tolist()}


@pytest.fixture
def coco(tmp_path):
    """Writes IN with two images, `regions` on the first of which, and → what `vss data import` returned, and OUT."""

    def write(regions, *options, categories=CATEGORIES, names=("1.png", "2.png"), **image):
        folder = tmp_path / "in"
        (folder / "train2017").mkdir(parents=True)
        (folder / "annotations").mkdir()
        images = []
        for i, name in enumerate(names):
            if "/" not in name:
                assert cv2.imwrite(str(folder / "train2017" / name), np.full((*SIZE, 3), 50 * i, np.uint8))
            images.append({"id": i, "file_name": name, "width": SIZE[1], "height": SIZE[0], **image})
        annotations = [
            {"id": i, "image_id": 0, "category_id": 7, **region} for i, region in enumerate(regions)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
        (folder / "annotations" / "captions_train2017.json").write_text("{}")
        out = tmp_path / "out"
        return cli.main(["data", "import", "coco", str(folder), str(out), *options]), out

    return write


def labels(out, split="train"):
    data = open_dataset(str(out / "data.yaml"), split)
    return data, data.clip(0).labels[0]


def test_what_is_small_lies_on_what_is_large_and_crowds_below(coco):
    everything = np.ones(SIZE, bool)
    code, out = coco(
        [
            {"segmentation": square(5, 5, 10, 10), "category_id": 3},
            {"segmentation": square(0, 0, 15, 20)},
            {"segmentation": runs(everything, False), "category_id": 3, "iscrowd": 1},
        ]
    )
    data, found = labels(out)
    assert code == 0 and data.classes == ["wall", "ball"] and len(data) == 1 and len(data.frames) == 2
    assert found[7, 7] == 1 and found[2, 2] == 0 and found[10, 25] == 1
    assert cli.main(["data", "check", str(out / "data.yaml"), "--split", "train"]) == 0


@pytest.mark.parametrize("compressed", [True, False])
def test_holes_stay_open(coco, compressed):
    ring = np.zeros(SIZE, bool)
    ring[2:18, 3:20] = True
    ring[6:9, 8:12] = False
    code, out = coco([{"segmentation": runs(ring, compressed)}])
    assert code == 0 and np.array_equal(labels(out)[1], np.where(ring, 0, IGNORE))


def test_several_polygons_are_one_region(coco):
    _, out = coco([{"segmentation": square(0, 0, 4, 4) + square(10, 10, 14, 14)}])
    found = labels(out)[1]
    assert found[1, 1] == found[11, 11] == 0 and found[7, 7] == IGNORE


def test_the_rest_may_be_a_class(coco):
    code, out = coco([{"segmentation": square(0, 0, 4, 4)}], "--background", "other")
    data, found = labels(out)
    assert code == 0 and data.classes == ["wall", "ball", "other"] and found[10, 10] == 2
    assert len(data) == 2, "an image without regions is all background"


def test_names_of_the_void_are_no_class(coco):
    categories = [*CATEGORIES, {"id": 0, "name": "Background"}]
    _, out = coco(
        [{"segmentation": square(0, 0, 9, 9)}, {"segmentation": square(2, 2, 5, 5), "category_id": 0}],
        categories=categories,
    )
    data, found = labels(out)
    assert data.classes == ["wall", "ball"] and found[3, 3] == IGNORE and found[1, 1] == 0


def test_a_category_that_heads_others_is_no_class(coco):
    """Roboflow's first; that of COCO itself has names of its own."""
    categories = [{"id": 0, "name": "things", "supercategory": "none"}]
    categories += [{**item, "supercategory": "things"} for item in CATEGORIES]
    _, out = coco([{"segmentation": square(0, 0, 9, 9)}], categories=categories)
    assert labels(out)[0].classes == ["wall", "ball"]


GOOD = {"segmentation": square(0, 0, 9, 9)}


@pytest.mark.parametrize(
    ("regions", "fields", "said"),
    [
        ([GOOD, {"category_id": 99}], {}, "annotation 1: expected a category_id of [3, 7], got 99"),
        ([GOOD, {"bbox": [0, 0, 1, 1]}], {}, "1 annotations are boxes without a mask"),
        ([GOOD, {**GOOD, "image_id": 12}], {}, "annotations of images that it does not list: 12"),
        ([GOOD, {**GOOD, "image_id": [1]}], {}, "annotations of images that it does not list: [1]"),
        ([GOOD, {**GOOD, "category_id": {}}], {}, "annotation 1: expected a category_id of [3, 7], got {}"),
        ([GOOD], {"names": ("1.png", "../../etc/passwd")}, "expected an image's name below its folder"),
        ([GOOD], {"names": ("1.png", "a/lost.png")}, "expected the image a/lost.png beside it"),
    ],
)
def test_what_is_left_out_is_named(coco, caplog, regions, fields, said):
    code, out = coco(regions, **fields)
    assert code == 1 and said in caplog.text and labels(out)[1][1, 1] == 0


@pytest.mark.parametrize(
    ("region", "said"),
    [
        ([[1, 2, 3]], "expected polygons"),
        ([[1, 2, 3, 4, 5, float("nan")]], "expected polygons"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "expected coordinates within"),
        ({"size": [3, 3], "counts": [9]}, "expected run lengths of size [20, 30]"),
        ({"size": list(SIZE), "counts": [5, 9]}, "expected run lengths of 600 pixels"),
        ({"size": list(SIZE), "counts": [-1, 601]}, "expected run lengths of 600 pixels"),
        ({"size": list(SIZE), "counts": "0" * 50}, "expected run lengths of 600 pixels"),
        ({"size": list(SIZE), "counts": "~~~"}, "expected run lengths as COCO writes"),
        ({"size": list(SIZE), "counts": None}, "expected run lengths of 600 pixels"),
        (7, "expected polygons"),
    ],
)
def test_bad_regions_are_named_with_their_image(coco, capsys, region, said):
    code, out = coco([{"segmentation": region}])
    error = capsys.readouterr().err
    assert code == 1 and f"1.png: annotation 0: {said}" in error and not out.exists()


def test_an_image_of_another_size_is_named(coco, capsys):
    assert coco([GOOD], width=31)[0] == 1
    assert "its annotations are of 31x20 pixels, the image has 30x20" in capsys.readouterr().err


def test_what_is_no_coco_is_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text("[1, 2]")
    for name in ("x.json", "."):
        assert cli.main(["data", "import", "coco", str(tmp_path / name), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert (
        "expected lists of images, annotations, categories" in error and "expected COCO annotations" in error
    )
    assert cli.main(["data", "import", "voc", "a", "b"]) == 1
    assert "expected coco or labelme, IN and OUT" in capsys.readouterr().err
