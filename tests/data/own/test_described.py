"""A data set of one's own: its YAML, and what annotation tools export, are read as they are."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from vss_ros import cli
from vss_ros.config import IGNORE, VssError
from vss_ros.data.open import open_dataset, open_labelled
from vss_ros.media.labels import read_labels

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


def test_a_neighbour_of_another_size_is_none(tmp_path):
    """A folder of photos of several cameras, or a recording whose size was changed."""
    sizes = [(6, 8), (6, 8), (4, 4), (8, 6)]
    for number, size in enumerate(sizes):
        image(tmp_path / "images" / f"{number}.png", number, size)
        put(tmp_path / "labels" / f"{number}.png", np.full(size, number % 3, np.uint8))
    data = open_dataset(describe(tmp_path), "train")
    for offsets in ((0, -1, 1, 2), (-1, 1, 0), (1,), (-3, -2, -1)):
        for i, size in enumerate(sizes):
            clip = data.clip(i, offsets)
            assert {frame.shape[:2] for frame in clip.frames} == {size} == {m.shape for m in clip.labels}
    assert [int(frame[0, 0, 0]) for frame in data.clip(1, (-1, 0, 1)).frames] == [0, 1, 1]


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
        picture = Image.fromarray(ids, "P")
        picture.putpalette([n % 256 for n in range(0, 768 * 5, 5)])
        (tmp_path / "labels").mkdir()
        picture.save(tmp_path / "labels" / "1.png")
    else:
        put(tmp_path / "labels" / "1.png", mask[kind])
    text = f"classes: {classes}\n{ignore}\nval: {{images: images, labels: labels}}\n"
    assert open_dataset(describe(tmp_path, text), "val").clip(0).labels[0].tolist() == [[0, 1, IGNORE]]


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("palette", [False, True])
def test_masks_of_few_bits_keep_their_ids(tmp_path, depth, palette):
    """OpenCV reads a grey 1 of 1 bit as 255, which would mean no label."""
    ids = np.array([[0, 1, 1], [1, 0, 1]] if depth == 1 else [[0, 2, 1], [1, 0, 2]], np.uint8)
    rows = b"".join(
        b"\0"
        + int("".join(f"{v:0{depth}b}" for v in row).ljust(-(-3 * depth // 8) * 8, "0"), 2).to_bytes(
            -(-3 * depth // 8), "big"
        )
        for row in ids
    )
    header = struct.pack(">IIBBBBB", 3, 2, depth, 3 if palette else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if palette:
        chunks.insert(1, (b"PLTE", bytes(range(9)) + bytes(range(100, 139))))
    (tmp_path / "labels").mkdir()
    with (tmp_path / "labels" / "1.PNG").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in chunks:
            file.write(
                struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            )
    image(tmp_path / "images" / "1.png", size=(2, 3))
    np.testing.assert_array_equal(open_dataset(describe(tmp_path), "train").clip(0).labels[0], ids)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels" / "1.PNG"), ids)


@pytest.mark.parametrize("kind", ["grey and alpha", "colours and alpha"])
def test_alpha_is_no_label(tmp_path, kind):
    image(tmp_path / "images" / "1.png", size=(1, 3))
    ids = np.array([[0, 2, 1]], np.uint8)
    (tmp_path / "labels").mkdir()
    alpha = np.array([[255, 0, 9]], np.uint8)
    text = YAML
    if kind == "grey and alpha":
        Image.fromarray(np.dstack([ids, alpha]), "LA").save(tmp_path / "labels" / "1.png")
    else:
        text = YAML.replace(
            "[wall, floor, ball]", str([{"name": n, "colour": [0, i, 9]} for i, n in enumerate("abc")])
        )
        colours = np.dstack([np.full_like(ids, 0), ids, np.full_like(ids, 9), alpha])
        Image.fromarray(colours, "RGBA").save(tmp_path / "labels" / "1.png")
    assert open_dataset(describe(tmp_path, text), "train").clip(0).labels[0].tolist() == ids.tolist()


@pytest.mark.parametrize("name", ["1.jpg", "1.png", "1.webp"])
def test_lossy_masks_are_refused(tmp_path, name):
    image(tmp_path / "images" / "1.png")
    (tmp_path / "labels").mkdir()
    kind = ".jpg" if name == "1.png" else Path(name).suffix  # whatever a file calls itself
    data = cv2.imencode(kind, np.zeros((6, 8), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes()
    (tmp_path / "labels" / name).write_bytes(data)
    with pytest.raises(VssError, match=rf"{name}: expected a mask as PNG, got JPEG or lossy WebP"):
        open_dataset(describe(tmp_path), "train").clip(0)


def test_fractions_are_no_ids(tmp_path):
    image(tmp_path / "images" / "1.png")
    put(tmp_path / "labels" / "1.tif", np.full((6, 8), 1.5, np.float32))
    with pytest.raises(VssError, match="expected whole numbers as ids, got a mask of float32"):
        open_dataset(describe(tmp_path), "train").clip(0)


def test_names_and_folders_of_every_kind(tmp_path):
    """Spaces, umlauts, capitals, links to folders and round in circles, photos beside masks, what systems hide."""
    far = tmp_path / "far"
    for name in ("Grüße 1.JPG", "b.v2_2.jpeg"):
        image(far / "images" / "süd west" / name, size=(1, 3))
        put(far / "labels" / "süd west" / Path(name).with_suffix(".PNG"), np.array([[0, 1, 2]], np.uint8))
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a").symlink_to(far / kind)
        (far / kind / "süd west" / "round").symlink_to(tmp_path / kind)
        (far / kind / "._1.png").write_bytes(b"of macOS")
        (far / kind / ".ipynb_checkpoints").mkdir()
        put(far / kind / ".ipynb_checkpoints" / "1.png", np.zeros((2, 2), np.uint8))
    data = open_dataset(describe(tmp_path), "train")
    assert len(data) == len(data.frames) == 2 and {f.sequence for f in data.frames} == {"a/süd west"}
    assert [data.clip(i).labels[0].tolist() for i in range(2)] == [[[0, 1, 2]]] * 2
    (far / "images" / "lost.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(VssError, match=r"lost.png: expected a file, got a link to nothing; 1 such"):
        open_dataset(describe(tmp_path), "train")


def test_masks_may_lie_beside_their_photos(tmp_path):
    for name in ("1.jpg", "2.jpg"):
        image(tmp_path / "all" / name, size=(1, 3))
    put(tmp_path / "all" / "1.png", np.array([[0, 1, 2]], np.uint8))
    data = open_dataset(
        describe(tmp_path, YAML.replace("images: images, labels: labels", "images: all, labels: all")),
        "train",
    )
    assert len(data.frames) == 2 and len(data) == 1


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
        (("train:", "ignore: [0]\ntrain:"), "ignore: ['0'] is a class, too"),
        (
            ("[wall, floor, ball]", "[wall, {name: ball, colour: [255, 255, 255]}]"),
            "ball is white, and 255 in a grey",
        ),
        (
            ("[wall, floor, ball]", "[wall, {name: b, id: 0}]"),
            "b: expected an id of its own in 0…65535, got 0",
        ),
        (
            ("[wall, floor, ball]", "[{name: a, colour: [1, 2, 3]}, {name: b, color: [1, 2, 3]}]"),
            "b has the colour of a",
        ),
        (("[wall, floor, ball]", "[yes, no]"), "expected a name or {name, colour, id}, got True"),
        (("path: .", "path: [."), "mine.yaml"),
        (("path: .", "fps: 0"), "fps: expected a positive rate"),
        (("train:", "val:"), "train: expected {images: FOLDER, labels: FOLDER}"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, said):
    image(tmp_path / "images" / "1.png")
    put(tmp_path / "labels" / "1.png", np.zeros((6, 8), np.uint8))
    with pytest.raises(VssError, match=re.escape(said)):
        open_dataset(describe(tmp_path, YAML.replace(*change)), "train")


def test_splits_without_labels_or_of_other_names(tmp_path):
    image(tmp_path / "images" / "1.png")
    (tmp_path / "labels").mkdir()
    assert len(open_dataset(describe(tmp_path), "train")) == 0
    with pytest.raises(VssError, match="mine train: expected labelled frames, found none"):
        open_labelled(describe(tmp_path), "train")
    with pytest.raises(VssError, match="split 'trian': expected one of train, val, test"):
        open_dataset(describe(tmp_path), "trian")


def test_masks_without_image_are_named(tmp_path):
    image(tmp_path / "images" / "1.png")
    put(tmp_path / "labels" / "2.png", np.zeros((6, 8), np.uint8))
    with pytest.raises(VssError, match="1 masks have no image, such as 2"):
        open_dataset(describe(tmp_path), "train")


@pytest.mark.parametrize("windows", [False, True])
def test_cvat(tmp_path, windows):
    lines = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nwall:10,20,30::\nball:250,0,0::\n"
    (tmp_path / "labelmap.txt").write_bytes(as_windows(lines) if windows else lines.encode())
    listing = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    listing.parent.mkdir(parents=True)
    listing.write_bytes(as_windows("a/1\n") if windows else b"a/1\n")
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

    (tmp_path / "labelmap.txt").write_bytes("wänd:1,2,3::".encode("latin-1"))
    with pytest.raises(VssError, match=r"labelmap.txt: expected text in UTF-8"):
        open_dataset(str(tmp_path), "train")


def as_windows(text):
    """With its line ends, and a mark of the order of bytes."""
    return b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()


def test_roboflow(tmp_path):
    image(tmp_path / "valid" / "x_jpg.rf.12ab.jpg", size=(1, 3))
    put(tmp_path / "valid" / "x_jpg.rf.12ab_mask.png", np.array([[0, 1, 2]], np.uint8))
    classes = as_windows("Pixel Value, Class\n0, background\n1, ball\n2, wall\n")
    (tmp_path / "valid" / "_classes.csv").write_bytes(classes)
    data = open_dataset(str(tmp_path), "val")
    assert data.classes == ["ball", "wall"]
    assert data.clip(0).labels[0].tolist() == [[IGNORE, 0, 1]]
