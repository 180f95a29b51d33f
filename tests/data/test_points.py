"""Points of counting data sets: as the files have them, inside the image, and exact on rendered streets."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from vss_ros.config import VssError
from vss_ros.data.metrics import count_figures
from vss_ros.data.open import open_dataset
from vss_ros.data.points import point_csv
from vss_ros.data.street.instances import FIRST, instances, road_users
from vss_ros.data.street.street import Street


def folder(tmp_path, text: str):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 30, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((10, 10, 3), np.uint8))
    (tmp_path / "train.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path


def test_csv_with_an_image_without_objects(tmp_path):
    root = folder(tmp_path, "image,x,y\na.png,3.5,4\nb.png,,\na.png,29.9,19.9\na.png,30,5\n")
    data = open_dataset("points", "train", root)
    assert len(data) == 2 and data.classes == ["object"]
    image, points = data.read(0)
    assert image.shape == (20, 30, 3)
    assert points.tolist() == [[3.5, 4.0], pytest.approx([29.9, 19.9])]  # the third lies outside
    assert data.read(1)[1].shape == (0, 2)
    (root / "class.txt").write_text("bottle\n")
    assert point_csv(root, "train").classes == ["bottle"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"expected a header with image,x,y, separated by commas, got ''"),
        ("image,x\na.png,1\n", "expected a header with image,x,y"),
        ("image;x;y\na.png;1;2\n", "separated by commas, got 'image;x;y'"),
        ("image,x,y\n", "found none"),
        ("image,x,y\na.png,1,left\n", "line 2: expected numbers"),
        ("image,x,y\na.png,1\n", "line 2: expected numbers x,y .* got '1', ''"),
        ("image,x,y\na.png,nan,3\n", "line 2: expected numbers"),
        ("image,x,y\na.png,3,5,4\n", "line 2: expected 3 values, got 4: .* decimal point"),
        ("image,x,y\na.png,1,2\n,3,4\n", "line 3: expected image,x,y, got no image"),
        ("image,x,y\ngone.png,1,2\n", "line 2: expected an image's path in .*; there is no 'gone.png'"),
        (
            "image,x,y\nnäh.png,1,2\n".encode("latin-1"),
            "expected text in UTF-8, got byte 0xe4 at 11; save it",
        ),
    ],
)
def test_broken_csv_is_named(tmp_path, text, words):
    with pytest.raises(VssError, match=words):
        point_csv(folder(tmp_path, text), "train")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_as_programs_write_it(tmp_path, encoding):
    """Excel's mark at the beginning, blanks, upper case, CRLF, more columns, blank lines."""
    text = "Image, X ,Y,note\r\na.png, 3.5 ,4,\r\n\r\nb.png,,,none\r\n"
    data = point_csv(folder(tmp_path, text.encode(encoding)), "train")
    assert [data.read(i)[1].tolist() for i in range(len(data))] == [[[3.5, 4.0]], []]


def test_iocfish5k_layout(tmp_path):
    for name in ("images", "annotations"):
        (tmp_path / name).mkdir()
    (tmp_path / "val_id.txt").write_text("7\n")
    cv2.imwrite(str(tmp_path / "images" / "7.jpg"), np.zeros((20, 30, 3), np.uint8))
    point = "<object><point><x>{}</x><y>{}</y></point></object>"
    note = tmp_path / "annotations" / "7.xml"
    note.write_text(f"<annotation>{point.format(4, 5)}{point.format(40, 5)}</annotation>")
    data = open_dataset("iocfish5k", "val", tmp_path)
    assert data.read(0)[1].tolist() == [[4, 5]]
    note.write_text("<annotation>")
    with pytest.raises(VssError, match=r"7\.xml"):
        data.read(0)


def test_road_users_of_a_street_lie_on_their_pixels():
    street = Street(seed=410_003, size=(180, 240))
    rgb, points = road_users(street, 30)
    ids, labels = instances(street, 30), street.frame(30)[1]
    assert rgb.shape == (180, 240, 3) and len(points) > 1
    # what is an instance on top is a car, pedestrian or rider in the labels, too
    assert np.isin(labels[ids >= FIRST], (8, 9, 10)).mean() > 0.99
    for x, y in points:
        around = labels[max(int(y) - 6, 0) : int(y) + 7, max(int(x) - 6, 0) : int(x) + 7]
        assert np.isin(around, (8, 9, 10)).any()


def test_splits_of_streets_share_no_seed():
    splits = [open_dataset("street_points", split) for split in ("train", "val", "test")]
    seeds = [set(range(data.first, data.first + data.seeds)) for data in splits]
    assert not seeds[0] & seeds[1] and not seeds[0] & seeds[2] and not seeds[1] & seeds[2]


def test_figures_by_hand():
    assert count_figures([4, 0, 2], [1, 1, 2]) == {
        "MAE": pytest.approx(4 / 3),
        "MSE": pytest.approx((10 / 3) ** 0.5),
        "NAE": pytest.approx(0.375),
    }
    assert count_figures([0], [2])["NAE"] == 0
    with pytest.raises(VssError, match="a count for each"):
        count_figures([1], [1, 2])
