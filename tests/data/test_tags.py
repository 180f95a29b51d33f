"""Tags as people write them: CSV, VOC lists, time ranges of a recording; what tags cannot tell is said."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from fixtures.tagged import KINDS, write_tagged
from vss_ros.config import VssError
from vss_ros.data.open import open_dataset
from vss_ros.data.tags import VOC_CLASSES, Tagged, TaggedFiles, check_tags, tagged_files
from vss_ros.train.tagging import average_precision, draw_pair


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tagged(tmp_path_factory.mktemp("tags") / "set", 30)


def test_every_tenth_image_is_held_out(root):
    train, val = (open_dataset("tags", split, root) for split in ("train", "val"))
    assert len(train) == 27 and len(val) == 3
    assert not {e.image for e in train.entries} & {e.image for e in val.entries}
    assert train.classes == list(KINDS)
    image, tags = train.read(0)
    mask = cv2.imread(str(root / "truth" / f"{train.entries[0].image.stem}.png"), cv2.IMREAD_UNCHANGED)
    assert image.shape == (64, 64, 3)
    assert (np.flatnonzero(tags) + 1).tolist() == [k for k in np.unique(mask) if k]


def test_pairs_share_a_class_drawn_evenly_among_the_firsts(root):
    data = open_dataset("tags", "train", root)
    rng = np.random.default_rng(0)
    m = int(np.flatnonzero(data.tags.sum(1) == 2)[0])
    one, two = np.flatnonzero(data.tags[m])
    only = {one: 0, two: 0}
    for _ in range(10_000):
        first, n = draw_pair(data, m, rng)
        assert first == m and (data.tags[m] & data.tags[n]).any()
        for label in only:
            only[label] += (data.tags[m] & data.tags[n])[label]
    # each of m's two classes is drawn in half of the cases, and comes along in some of the others
    assert min(only.values()) > 4800


def test_tags_of_nearly_every_image_and_of_one_are_warned_of(tmp_path):
    root = write_tagged(tmp_path / "set", 20)
    lines = [f"{line},road" for line in (root / "tags.csv").read_text().split()]
    lines[0] += ",moon"
    (root / "tags.csv").write_text("\n".join(lines))
    (root / "classes.txt").unlink()
    said = {line.split()[1]: line for line in check_tags(open_dataset("tags", "train", root))}
    assert "WARN: in nearly every image" in said["road"] and "100.0%" in said["road"]
    assert "fewer than two images" in said["moon"]
    assert not any("WARN" in said[kind] for kind in KINDS)


def test_voc_lists(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    for name in ("2007_000032", "2007_000033"):
        cv2.imwrite(str(tmp_path / "JPEGImages" / f"{name}.jpg"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "train_cls.txt").write_text("2007_000032 0 14\n2007_000033 0\n")
    data = open_dataset("voc_tags", "train", tmp_path)
    assert [VOC_CLASSES[i] for i in np.flatnonzero(data.tags[0])] == ["aeroplane", "person"]
    assert data.sharing(0).tolist() == [0, 1] and data.sharing(0, of=0).tolist() == [1]
    (tmp_path / "train_cls.txt").write_text("2007_000032 20\n")
    with pytest.raises(VssError, match="line 1: expected numbers below 20"):
        open_dataset("voc_tags", "train", tmp_path)


def test_time_ranges_of_a_recording(tmp_path):
    frames = tmp_path / "drive"
    frames.mkdir()
    for i in range(60):  # 2 s at 30 Hz
        cv2.imwrite(str(frames / f"{i:03d}.png"), np.full((16, 16, 3), 4 * i, np.uint8))
    (tmp_path / "tags.yaml").write_text(
        "recording: drive\nevery: 0.2\nranges:\n"
        "  - {from: 0, to: 1, tags: [floor, chair]}\n  - {from: 0.5, to: 1.5, tags: [person]}\n"
    )
    data = tagged_files(tmp_path, "train")
    lines = (tmp_path / "tags.csv").read_text().split()
    assert lines[0] == "images/drive_0ms.jpg,chair,floor"
    assert {"chair", "floor", "person"} == set(lines[3].split(",")[1:])  # 0.6 s
    assert lines[-1].endswith(",person") and len(lines) == 8  # nothing is tagged after 1.5 s
    assert data.entries[1].sequence == "drive" and data.entries[1].seconds == pytest.approx(0.2)
    person = data.classes.index("person")
    assert not data.sharing(person, of=3).size or all(
        abs(data.entries[i].seconds - data.entries[3].seconds) >= 1 for i in data.sharing(person, of=3)
    )


def test_pairs_of_one_recording_are_a_second_apart():
    entries = [Tagged(Path(f"{c}_{i}"), ("a",), c, 0.4 * i) for c in ("x", "y") for i in range(5)]
    entries += [Tagged(Path("alone"), ("a",)), Tagged(Path("short"), ("a",), "z", 0.0)]
    data = TaggedFiles("made", entries, ["a"])
    assert data.sharing(0, of=0, same_clip=True).tolist() == [3, 4]
    assert data.sharing(0, of=0).tolist() == [3, 4, *range(5, 12)]
    rng = np.random.default_rng(0)
    drawn = [draw_pair(data, 0, rng, same_clip=0.5)[1] for _ in range(2000)]
    assert 0.5 < np.isin(drawn, [3, 4]).mean() < 0.66 and set(drawn) == set(range(12))
    assert {draw_pair(data, 0, rng, same_clip=1.0)[1] for _ in range(50)} == {3, 4}
    for lonely in (10, 11):  # a still, and a frame without another one a second away
        assert len({draw_pair(data, lonely, rng, same_clip=1.0)[1] for _ in range(50)}) > 5


@pytest.mark.parametrize(
    ("text", "words"),
    [("recording: x\n", "expected recording and ranges"), ("- 1\n", "expected recording and ranges")],
)
def test_broken_ranges_are_named(tmp_path, text, words):
    (tmp_path / "tags.yaml").write_text(text)
    with pytest.raises(VssError, match=words):
        tagged_files(tmp_path, "train")


def test_missing_images_and_unknown_tags_are_named(tmp_path):
    (tmp_path / "tags.csv").write_text("image,tag\ngone.png,chair\n")
    with pytest.raises(VssError, match=r"line 2: expected image,class,…; there is no .*gone\.png"):
        tagged_files(tmp_path, "train")
    cv2.imwrite(str(tmp_path / "gone.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "classes.txt").write_text("floor\n")
    with pytest.raises(VssError, match="the tags chair are not in"):
        tagged_files(tmp_path, "train")


def test_average_precision_by_hand():
    assert average_precision(np.array([1, 0, 1]), np.array([0.9, 0.8, 0.1])) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(average_precision(np.zeros(2), np.ones(2)))


def test_lists_as_programs_write_them(tmp_path):
    """Excel's mark at the beginning, other encodings, a line for each tag of an image."""
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    lines = "Image,tag\r\na.png,chair\r\nb.png,floor\r\na.png,person\r\na.png,chair\r\n"
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "tags.csv").write_bytes(lines.encode(encoding))
        data = tagged_files(tmp_path, "train")
        assert [entry.tags for entry in data.entries] == [("chair", "person"), ("floor",)]
    (tmp_path / "tags.csv").write_bytes("a.png,Stühle\n".encode("latin-1"))
    with pytest.raises(VssError, match="expected text in UTF-8, got byte 0xfc at 8; save it as UTF-8"):
        tagged_files(tmp_path, "train")
