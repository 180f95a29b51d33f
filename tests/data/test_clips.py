"""Data sets are read as they are published; what is missing or misnamed is named."""

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
from fixtures.paths import find_data
from vss_ros.config import IGNORE, VssError
from vss_ros.data.check import check, format_report
from vss_ros.data.open import open_dataset
from vss_ros.data.published.cityscapes import CITYSCAPES_CLASSES
from vss_ros.train.augment import Augmentation
from vss_ros.train.recipe import Recipe, check_data


def write(path, shape, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full(shape, value, np.uint8))


def make_camvid(root, numbers, split="train", drive="0001TP"):
    for number in numbers:
        write(root / split / f"{drive}_{number:06d}.png", (6, 8, 3), number % 251)
        write(root / f"{split}annot" / f"{drive}_{number:06d}.png", (6, 8), number % 12)
    return root


def test_camvid_clip(tmp_path):
    data = open_dataset("camvid", "train", make_camvid(tmp_path, [30, 60, 90]))
    clip = data.clip(1, (0, -1, 1))
    assert (clip.labelled, clip.sequence, clip.index) == (0, "0001TP_00030", 60)
    assert [int(frame[0, 0, 0]) for frame in clip.frames] == [60, 30, 90]
    assert [int(labels[0, 0]) for labels in clip.labels] == [0, 6, 6]
    assert clip.frames[0].shape == (6, 8, 3) and clip.labels[0].dtype == np.uint8


def test_clips_end_where_their_sequence_does(tmp_path):
    data = open_dataset("camvid", "train", make_camvid(tmp_path, [30, 60, 3000, 3030]))
    first, after_pause = data.clip(0, (0, -1)), data.clip(2, (0, -1))
    assert int(first.frames[1][0, 0, 0]) == 30
    assert int(after_pause.frames[1][0, 0, 0]) == 3000 % 251
    assert first.sequence != after_pause.sequence


def test_camvid_void_is_ignored(tmp_path):
    data = open_dataset("camvid", "train", make_camvid(tmp_path, [11]))
    assert (data.clip(0).labels[0] == IGNORE).all()


@pytest.mark.parametrize(
    ("shape", "value", "said"), [((6, 8), 12, r"got \[12\]"), ((6, 8, 3), 1, "got colours")]
)
def test_camvid_ids_of_no_class_are_named(tmp_path, shape, value, said):
    data = open_dataset("camvid", "train", make_camvid(tmp_path, [11]))
    write(tmp_path / "trainannot" / "0001TP_000011.png", shape, value)
    with pytest.raises(VssError, match=rf"0001TP_000011\.png: expected ids 0 to 11 \(void\), {said}"):
        data.clip(0)


def test_camvid_colours(tmp_path):
    data = open_dataset("camvid", "train", make_camvid(tmp_path, [0]))
    write(tmp_path / "train" / "0001TP_000000.png", (6, 8, 3), (10, 20, 30))  # BGR
    assert data.clip(0).frames[0][0, 0].tolist() == [30, 20, 10]


def test_original_camvid(tmp_path):
    (tmp_path / "label_colors.txt").write_text(
        "64 128 64\tAnimal\n128 128 128\tSky\n0 0 0\tVoid\n128 64 128\tRoad\n"
    )
    (tmp_path / "val.txt").write_text("0016E5_07959\n")
    write(tmp_path / "701_StillsRaw_full" / "0016E5_07959.png", (4, 4, 3), 7)
    mask = np.zeros((4, 4, 3), np.uint8)  # row 0 void, then sky, road, animal
    mask[1], mask[2], mask[3] = 128, (128, 64, 128), (64, 128, 64)
    path = tmp_path / "LabeledApproved_full" / "0016E5_07959_L.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), mask[..., ::-1])
    data = open_dataset("camvid", "val", tmp_path)
    assert data.clip(0).labels[0][:, 0].tolist() == [IGNORE, 0, 3, 9]
    path.unlink()
    with pytest.raises(VssError, match=r"0016E5_07959_L\.png, which does not exist"):
        open_dataset("camvid", "val", tmp_path)


def make_original(root, numbers, split):
    """CamVid as it is published: stills, masks in colours, lists of names."""
    (root / "label_colors.txt").write_text("128 128 128\tSky\n")
    names = [f"0016E5_{number:05d}" for number in numbers]
    (root / f"{split}.txt").write_text("\n".join(names))
    for name in names:
        write(root / "701_StillsRaw_full" / f"{name}.png", (6, 8, 3), 7)
        write(root / "LabeledApproved_full" / f"{name}_L.png", (6, 8, 3), 128)


def test_camvid_original_uses_the_frames_between(tmp_path):
    make_original(tmp_path, [30, 60, 90], "train")
    for number in (29, 31, 45, 60, 91):
        write(tmp_path / "frames" / "a" / f"0016E5_{number:05d}.jpg", (6, 8, 3), number)
    data = open_dataset("camvid", "train", tmp_path)
    assert [frame.number for frame in data.frames] == [30, 31, 45, 60, 90] and len(data) == 3
    assert not data.notes and data.clip(1, (0, -1)).labels[1][0, 0] == IGNORE


def test_dense_is_told_from_sparse(tmp_path):
    """Each video for itself: figures over time are of those whose frames follow each other."""
    data = open_dataset("camvid", "val", make_camvid(tmp_path, [2, 4, 6, 1000, 1030, 3000], "val"))
    found = list(data.videos())
    assert [(v.moves, v.dense, list(v.targets)) for v in found] == [
        (True, True, [0, 1, 2]),
        (False, False, [3, 4]),
        (False, False, [5]),
    ]


def test_videos(tmp_path):
    data = open_dataset("camvid", "train", make_camvid(tmp_path, [30, 60, 3000]))
    videos = {video.name: list(video.frames) for video in data.videos()}
    assert [len(frames) for frames in videos.values()] == [2, 1]
    assert [stamp for _, _, stamp in videos["0001TP_00030"]] == [1.0, 2.0]


def make_cityscapes(root, numbers, labelled=19, folder="leftImg8bit_sequence"):
    stem = "aachen/aachen_000000"
    for number in numbers:
        write(root / folder / "val" / f"{stem}_{number:06d}_leftImg8bit.png", (4, 8, 3), number)
    write(root / "gtFine" / "val" / f"{stem}_{labelled:06d}_gtFine_labelIds.png", (4, 8), 26)
    return root


def test_cityscapes_snippet(tmp_path):
    data = open_dataset("cityscapes", "val", make_cityscapes(tmp_path, range(35)))
    assert len(data) == 1 and len(data.frames) == 30
    (video,) = data.videos()
    assert video.moves and not video.dense
    clip = data.clip(0, (-100, 0, 100))
    assert [int(frame[0, 0, 0]) for frame in clip.frames] == [0, 19, 29]
    assert [int(labels[0, 0]) for labels in clip.labels] == [IGNORE, 13, IGNORE]
    assert (clip.labelled, clip.index) == (1, 19)


def test_cityscapes_without_sequences(tmp_path):
    """Stills, which say so, and are no video to learn from."""
    data = open_dataset("cityscapes", "val", make_cityscapes(tmp_path, [19], folder="leftImg8bit"))
    assert len(data.clip(0, (0, 1)).frames) == 2 and data.stills
    assert "single frames, no videos (leftImg8bit_sequence_trainvaltest.zip)" in data.notes[0]
    assert "no frame has a neighbour" in format_report(check(data))
    recipe = Recipe("dcfm", "mit_b0", "cityscapes", (64, 64), (64, 64), batch=1, steps=1, lr=1e-3)
    with pytest.raises(VssError, match=r"expected videos for a recipe .*leftImg8bit_sequence"):
        check_data(data, recipe)
    recipe = dataclasses.replace(recipe, neighbours=())
    check_data(data, recipe)
    check_data(data, dataclasses.replace(recipe, augment={"keep": [0.5] * 19}))
    with pytest.raises(VssError, match=r"expected 19 shares, .* got 11"):
        check_data(data, dataclasses.replace(recipe, augment={"keep": [0.5] * 11}))


def test_cityscapes_real_names():
    root = find_data("cityscapes_sample")
    train, val = open_dataset("cityscapes", "train", root), open_dataset("cityscapes", "val", root)
    assert len(train) == len(val) == 1 and len(val.frames) == 2
    clip = val.clip(0, (0, -1))
    assert (clip.sequence, clip.index) == ("frankfurt_000001_047552", 47552)
    assert clip.frames[0].shape == (1024, 2048, 3) and (clip.labels[1] == IGNORE).all()
    for data, split in (
        (train, "train/aachen/aachen_000000_000019"),
        (val, "val/frankfurt/frankfurt_000001_047552"),
    ):
        derived = root / "gtFine" / f"{split}_gtFine_labelTrainIds.png"
        expected = cv2.imread(str(derived), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(data.clip(0).labels[0], expected)
    assert len(val.classes) == len(CITYSCAPES_CLASSES) == len(val.palette) == 19


def test_vspw(tmp_path):
    (tmp_path / "val.txt").write_text("127_abc\n")
    for number, label in ((1, 0), (2, 1), (3, 124)):
        write(tmp_path / f"data/127_abc/origin/{number:08d}.jpg", (4, 8, 3), 9)
        write(tmp_path / f"data/127_abc/mask/{number:08d}.png", (4, 8), label)
    (tmp_path / "label_num_dic_final.json").write_text('{"others": 0, "wall": 1}')
    data = open_dataset("vspw", "val", tmp_path)
    assert [int(data.clip(i).labels[0][0, 0]) for i in range(3)] == [IGNORE, 0, 123]
    assert len(data.classes) == 124 and data.classes[0] == "wall"
    assert [video.dense for video in data.videos()] == [True]


def test_camvid_counts():
    root = find_data("camvid")
    data = {split: open_dataset("camvid", split, root) for split in ("train", "val", "test")}
    assert [len(part) for part in data.values()] == [367, 101, 233]
    kinds = [{video.dense for video in part.videos()} for part in data.values()]
    assert kinds == [{False}, {True}, {False}]
    assert len(data["train"].ends) == 5  # 0001TP, 0006R0 and three blocks of 0016E5


def test_street_splits_share_no_street():
    data = [open_dataset("street", split, size=(64, 96)) for split in ("train", "val", "test")]
    seeds = [set(range(part.first, part.first + part.seeds)) for part in data]
    assert not (seeds[0] & seeds[1] or seeds[0] & seeds[2] or seeds[1] & seeds[2])
    clip = data[1].clip(31, (0, 2))
    assert clip.frames[0].shape == (64, 96, 3) and clip.labels[0].shape == (64, 96)
    assert clip.sequence == f"street:{data[1].first + 1}" and clip.index == 1
    video = list(data[1].videos())[1]
    frames = list(itertools.islice(video.frames, 4))
    np.testing.assert_array_equal(frames[1][0], clip.frames[0])
    np.testing.assert_array_equal(frames[3][1], clip.labels[1])
    assert video.name == clip.sequence and frames[3][2] == pytest.approx(0.1)
    last = data[1].clip(30 + 29, (0, 1, -60))  # clamped to its video
    np.testing.assert_array_equal(last.frames[0], last.frames[1])
    np.testing.assert_array_equal(last.frames[2], data[1].clip(30).frames[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("camvid", "expected the folder .*train; it comes from CamVid"),
        ("cityscapes", "gtFine_trainvaltest.zip"),
        ("vspw", "VSPW_480p"),
        ("kitti", "expected one of street, street_points, camvid, cityscapes, vspw"),
    ],
)
def test_missing_folder_names_the_download(tmp_path, name, message):
    with pytest.raises(VssError, match=message):
        open_dataset(name, "train", tmp_path)


def test_no_folder_given(monkeypatch):
    monkeypatch.delenv("VSS_DATA", raising=False)
    with pytest.raises(VssError, match="VSS_DATA"):
        open_dataset("camvid", "train")


def test_broken_files_are_named(tmp_path):
    make_camvid(tmp_path, [30, 60])
    (tmp_path / "train/0001TP_000030.png").write_bytes(b"not a picture")
    write(tmp_path / "trainannot/0001TP_000060.png", (3, 3), 1)
    data = open_dataset("camvid", "train", tmp_path)
    with pytest.raises(VssError, match=r"0001TP_000030\.png: cannot be read"):
        data.clip(0)
    with pytest.raises(VssError, match=r"000060.png: expected labels of the image's size \(6, 8\)"):
        data.clip(1)
    (tmp_path / "trainannot/0001TP_000060.png").unlink()
    with pytest.raises(VssError, match="expected its labels in"):
        open_dataset("camvid", "train", tmp_path)


def test_augmentation_moves_frames_and_labels_alike(rng):
    """Labels are drawn into the image, so that they must agree after any geometry."""
    labels = np.kron(rng.integers(0, 5, (12, 16), dtype=np.uint8), np.ones((8, 8), np.uint8))
    image = np.repeat(labels[..., None] * 50, 3, -1)
    augment = Augmentation((64, 80), scale=(0.5, 2.0), rotation=10)
    agree = []
    for _ in range(20):
        images, maps = augment([image, image], [labels, labels], rng)
        assert images.shape == (2, 64, 80, 3) and maps.shape == (2, 64, 80)
        np.testing.assert_array_equal(images[0], images[1])
        np.testing.assert_array_equal(maps[0], maps[1])
        inside = maps[0] != IGNORE
        assert inside.mean() > 0.3
        agree.append((np.abs(images[0, ..., 0] / 50 - maps[0]) < 0.5)[inside].mean())
    assert np.mean(agree) > 0.85  # bilinear and nearest differ along edges alone


def test_motion_moves_later_frames_with_their_labels(rng):
    labels = np.repeat(np.arange(48, dtype=np.uint8)[:, None] // 8, 64, 1)
    image = np.repeat(labels[..., None] * 40, 3, 2)
    frames, maps = Augmentation((48, 64), flip=False, motion=0.2)([image] * 3, [labels] * 3, rng)
    assert np.array_equal(frames[0], image) and np.array_equal(maps[0], labels)
    for i in (1, 2):
        inside = maps[i] < 255
        assert inside.mean() > 0.5 and (maps[i] != labels).mean() > 0.05
        assert (np.abs(frames[i][inside][:, 0] / 40 - maps[i][inside]) < 0.5).mean() > 0.95
    assert not np.array_equal(maps[1], maps[2])


def test_augmentation_without_options_is_a_crop(rng):
    image = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    images, maps = Augmentation((40, 60), flip=False)([image], [image[..., 0]], rng)
    np.testing.assert_array_equal(images[0], image)
    np.testing.assert_array_equal(maps[0], image[..., 0])


def test_colour_jitter_leaves_labels_alone(rng):
    image, labels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8), np.zeros((32, 32), np.uint8)
    augment = Augmentation((32, 32), flip=False, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1)
    images, maps = augment([image, image], [labels, labels], rng)
    assert (images[0] != image).any() and not maps.any()
    np.testing.assert_array_equal(images[0], images[1])


def test_keep_thins_out_a_class(rng):
    labels = np.repeat(np.array([0, 1, IGNORE], np.uint8), 1024).reshape(48, 64)
    image = np.zeros((48, 64, 3), np.uint8)
    _, maps = Augmentation((48, 64), flip=False, keep=(0.25, 1.0))([image], [labels], rng)
    assert 0.2 < (maps[0] == 0).sum() / 1024 < 0.3
    assert (maps[0] == 1).sum() == 1024 and (maps[0][labels == 0] != 1).all()


def test_check_counts_and_names_what_is_broken(tmp_path):
    make_camvid(tmp_path, [3, 33, 71])  # ids 3, 9 and void
    (tmp_path / "train/0001TP_000033.png").write_bytes(b"")
    report = check(open_dataset("camvid", "train", tmp_path))
    assert (report["labelled"], report["sizes"]) == (3, {(6, 8): 2})
    assert report["sequences"] == {"of stills (mIoU)": 1}
    assert report["shares"]["road"] == 0.5 and report["unlabelled"] == 0.5
    assert len(report["broken"]) == 1 and "0001TP_000033.png" in format_report(report)


def test_an_image_that_states_gigapixels_is_refused_unread(tmp_path):
    data = open_dataset("camvid", "train", make_camvid(tmp_path, [30]))
    for folder in ("train", "trainannot"):
        path = tmp_path / folder / "0001TP_000030.png"
        sound = path.read_bytes()
        for place in (8, 16, 33):  # the first chunk's length, the width, the data's length
            broken = bytearray(sound)
            broken[place] ^= 0x40
            path.write_bytes(broken)
            with pytest.raises(VssError, match=r"0001TP_000030\.png: .*is the download complete"):
                data.clip(0, (0,))
        path.write_bytes(sound)
