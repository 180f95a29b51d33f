"""Evaluation drives the real stream; its figures are those of the metrics on the stream's answers."""

import json
import logging
from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from fixtures.motion import SIZE, Colours, texture, window
from vss_ros import cli
from vss_ros.config import VssError
from vss_ros.data import metrics
from vss_ros.data.open import open_dataset
from vss_ros.data.street.street import CLASSES
from vss_ros.evaluate import dataset
from vss_ros.evaluate.dataset import evaluate, streamed
from vss_ros.evaluate.settings import parse_intervals, parse_modes
from vss_ros.media.motion import Motion
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.load import load_stream
from vss_ros.stream.schedule import Costs
from vss_ros.stream.stream import Stream


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """A DCFM of random weights for the 11 classes, 64×96."""
    import torch
    from vss_ros.data.street.street import PALETTE
    from vss_ros.networks import build
    from vss_ros.networks.cards.card import ModelCard, save_model

    torch.manual_seed(1)
    fields = {"network": "dcfm", "backbone": "mit_b0", "classes": list(CLASSES), "palette": PALETTE.tolist()}
    made = ModelCard(
        name="random",
        size=[64, 96],
        weights="random.safetensors",
        sha256="",
        licence="Apache-2.0",
        training={"data": "camvid, split train"},
        **fields,
    )
    return save_model(build("dcfm", "mit_b0", 11), made, tmp_path_factory.mktemp("models"))


def make_camvid(root, split, spacing, count=5):
    rng = np.random.default_rng(0)
    for part in (split, f"{split}annot"):
        (root / part).mkdir(parents=True)
    for i in range(count):
        name = f"0016E5_{i * spacing:05d}.png"
        cv2.imwrite(str(root / split / name), window(texture(), 2 * i, size=(64, 96)))
        labels = np.repeat(rng.integers(0, 12, (64, 1), dtype=np.uint8), 96, 1)
        cv2.imwrite(str(root / f"{split}annot" / name), labels)
    return root


def answers(stream, clip, fps=30.0):
    stream.reset()
    return [r.labels for r in stream.run((np.ascontiguousarray(f), t / fps) for t, f in enumerate(clip))]


def options(card, k, **more):
    return load_stream(card, backend="torch", interval=k, max_gap=0.0, **more)


@pytest.mark.parametrize("both_sides", [False, True])
def test_dense_video(card, tmp_path, both_sides):
    data = open_dataset("camvid", "val", make_camvid(tmp_path, "val", 2, count=10))
    stream = options(card, 2, both_sides=both_sides)
    row = evaluate(stream, data)
    clip = data.clip(0, range(10))
    labels = answers(stream, clip.frames)
    counts = sum(metrics.confusion(t, p, 11) for t, p in zip(clip.labels, labels, strict=True))
    assert row["mIoU"] == metrics.mean_iou(counts) and row["wIoU"] == metrics.weighted_iou(counts)
    expected = metrics.mean_video_consistency([metrics.video_consistency(clip.labels, labels, 8)])
    assert row["confusion"] == counts.tolist()
    assert row["mVC_8"] == (None if np.isnan(expected) else expected) and row["mVC_16"] is None
    assert 0 <= row["TC"] <= 1 and row["key_ms"] > 0 and row["nonkey_ms"] > 0
    assert row["latency_ms"] == pytest.approx(row["key_ms"] + both_sides * 1e3 / data.fps)


def test_sparse_labels_are_answered_at_every_age(card, tmp_path):
    data = open_dataset("camvid", "test", make_camvid(tmp_path, "test", 30, count=3))
    stream = options(card, 2)
    row = evaluate(stream, data)
    counts = 0
    for i in range(3):
        for age in (0, 1):
            clip = data.clip(i, range(-age, 1))
            counts = counts + metrics.confusion(clip.labels[age], answers(stream, clip.frames)[age], 11)
    assert row["mIoU"] == metrics.mean_iou(counts) and "TC" not in row
    assert counts.sum() == 2 * sum((data.clip(i).labels[0] < 255).sum() for i in range(3))


@pytest.mark.parametrize(
    ("k", "late", "ages"),
    [
        (3, {"parts": 2}, (2, 3, 4)),
        (2, {"parts": 2}, (2, 3)),
        (1, {"parts": 2}, (2, 3)),
        (2, {"parts": 3}, (3, 4, 5)),
        (3, {"parts": 4}, (4, 5, 6, 7)),
        (1, {"delay": 2}, (2, 3)),
        (1, {"delay": 1}, (1,)),
    ],
)
def test_sparse_labels_are_answered_as_late_as_the_schedule_is(k, late, ages):
    """Its first keyframe answers at once, which would flatter the others; so would the second's, once parts take longer
    than an interval."""
    parts = late.pop("parts", 0)
    options = {"motion": Motion(SIZE), "schedule": "parts" if parts else "beside", **late}
    make = lambda: Stream(Colours(int(parts > 0), parts or 1), FixedInterval(k), **options)  # noqa: E731
    clip = [(window(texture(), 2 * t), t / 10) for t in range(24)]
    seen = [
        list(make().run(clip[: dataset.run_up(make()) + age + 1]))[-1].keyframe_age
        for age in dataset.ages(make())
    ]
    assert sorted(seen) == list(ages)
    assert {result.keyframe_age for result in list(make().run(clip))[10:]} == set(ages), "as in a long video"


@pytest.mark.parametrize("schedule", ["beside", "auto"])
def test_beside_without_a_delay_depends_on_the_machine_and_is_refused(
    schedule, card, tmp_path, capsys, caplog, monkeypatch
):
    """By the data set's command and by that of recordings; also where auto comes to it."""
    monkeypatch.setattr("vss_ros.stream.load.measure", lambda _: Costs(1e6, 1e6))
    make_camvid(tmp_path, "val", 2)
    command = ["evaluate", "--model", str(card), "--backend", "torch", "--out", str(tmp_path / "out")]
    for data in (
        ["--data", "camvid", "--split", "val", "--root", str(tmp_path)],
        ["--bag", "street", "--limit", "4"],
    ):
        assert cli.main([*command, *data, "--k", "2", "--schedule", schedule]) == 1
        assert "--delay how many frames late" in capsys.readouterr().err + caplog.text
        assert cli.main([*command, *data, "--k", "2", "--schedule", schedule, "--delay", "1"]) == 0


def make_own(root, videos):
    """YAML of a data set: for each video which of its frames have labels."""
    rng = np.random.default_rng(0)
    for video, labelled in enumerate(videos):
        for kind in ("images", "labels"):
            (root / kind / str(video)).mkdir(parents=True)
        for i, has in enumerate(labelled):
            cv2.imwrite(
                str(root / "images" / str(video) / f"{i}.png"), window(texture(), 2 * i, size=(64, 96))
            )
            if has:
                labels = np.repeat(rng.integers(0, 11, (64, 1), dtype=np.uint8), 96, 1)
                cv2.imwrite(str(root / "labels" / str(video) / f"{i}.png"), labels)
    folders = "{images: images, labels: labels}"
    (root / "own.yaml").write_text(f"classes: [{', '.join(CLASSES)}]\nval: {folders}\n")
    return open_dataset(str(root / "own.yaml"), "val")


def test_each_video_gives_the_figures_that_its_labels_allow(card, tmp_path):
    stream = options(card, 2)
    sparse = make_own(tmp_path / "sparse", [[0, 0, 1, 0]])
    row = evaluate(stream, sparse)
    assert row["TC"] > 0 and "mVC_8" not in row
    frames = sparse.clip(0, (-2, -1, 0, 1)).frames
    found, counts = answers(stream, frames), 0
    for i in range(3):
        flow = metrics.dis_flow(frames[i], frames[i + 1])
        counts = counts + metrics.flow_confusion(found[i], found[i + 1], flow, 11)
    assert row["TC"] == metrics.mean_iou(counts)
    both = evaluate(stream, make_own(tmp_path / "both", [[0, 0, 1, 0], [1] * 9]))
    assert "mVC_8" in both
    dense = evaluate(stream, make_own(tmp_path / "dense", [[1] * 9]))
    assert sum(map(sum, both["confusion"])) > sum(map(sum, dense["confusion"])) and both["TC"] > 0


def test_cityscapes_snippets_give_mIoU_of_the_labelled_frame_and_TC_of_all(card, tmp_path):
    """30 frames, of which the 20th is labelled; two snippets of one drive that touch are two videos."""
    cameras = [[window(texture(snippet), t, size=(64, 96)) for t in range(30)] for snippet in range(2)]
    for number, image in enumerate(cameras[0] + cameras[1]):
        stem = f"val/ulm/ulm_000007_{number:06d}"
        files = {f"leftImg8bit_sequence/{stem}_leftImg8bit.png": image[..., ::-1]}
        if number % 30 == 19:
            ids = np.array([7, 8, 26, 0], np.uint8)  # road, sidewalk, car, and what is not scored
            files[f"gtFine/{stem}_gtFine_labelIds.png"] = np.repeat(ids, 16 * 96).reshape(64, 96)
        for name, pixels in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / name), pixels)
    stream = options(card, 1)
    row = evaluate(stream, open_dataset("cityscapes", "val", tmp_path))
    moved = 0
    for camera in cameras:
        found = answers(stream, camera, 17.0)
        for (image, labels), (later, then) in pairwise(zip(camera, found, strict=True)):
            moved = moved + metrics.flow_confusion(labels, then, metrics.dis_flow(image, later), 19)
    assert row["TC"] == metrics.mean_iou(moved) > 0 and "mVC_8" not in row
    assert np.sum(row["confusion"]) == 2 * 3 * 16 * 96
    (tmp_path / "leftImg8bit_sequence").rename(tmp_path / "leftImg8bit")
    stills = open_dataset("cityscapes", "val", tmp_path)
    assert "single frames" in stills.notes[0]


def test_command_writes_the_table(card, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    make_camvid(tmp_path / "camvid", "val", 2)
    out = tmp_path / "out"
    command = ["evaluate", "--model", str(card), "--data", "camvid", "--split", "val", "--backend", "torch"]
    command += ["--root", str(tmp_path / "camvid"), "--k", "1,2", "--mode", "P,B", "--out", str(out)]
    command += ["--precision", "bf16"]
    assert cli.main(command) == 0
    report = json.loads((out / "random_camvid_val.json").read_text())
    shown = [(row["setting"], row["mode"]) for row in report["rows"]]
    assert shown == [("K = 1", "P"), ("K = 2", "P"), ("K = 2", "B")]
    assert [row["interval"] for row in report["rows"]] == [1, 5 / 3, 5 / 3]
    assert cv2.imread(str(out / "random_camvid_val.png")) is not None
    table = (out / "random_camvid_val.md").read_text()
    assert table in caplog.text and "choose the checkpoint" in table and "1 s from training frames" in table
    assert cv2.imread(str(out / "random_camvid_val_worst.png")).shape == (4 * 64, 3 * 96, 3)
    assert report["backend"] == "torch bf16, 96x64"
    last = list(report["rows"][0]["IoU"])[-1]
    matrix = [line for line in table.splitlines() if line.startswith(f"| {last} |")]
    assert "labelled as, at K = 1" in table and len(matrix[-1].split("|")) == 14
    assert report["frames"] == 5 and "| fixed | K = 2 | B |" in table


def test_adaptive_policy(card, tmp_path, caplog):
    """At threshold 0 every frame is a keyframe; at a huge one only each max-interval-th."""
    make_camvid(tmp_path / "camvid", "val", 2, count=9)
    out = tmp_path / "out"
    command = ["evaluate", "--model", str(card), "--data", "camvid", "--split", "val", "--backend", "torch"]
    command += ["--root", str(tmp_path / "camvid"), "--out", str(out)]
    policies = ["--policy", "fixed,aks,consistency", "--k", "1,3", "--max-interval", "3"]
    assert cli.main([*command, *policies, "--thresholds", "0,9", "--drifts", "0,1"]) == 0
    every, third, *others = json.loads((out / "random_camvid_val.json").read_text())["rows"]
    assert [row["policy"] for row in others] == ["adaptive"] * 2 + ["consistency"] * 2
    for fixed, row in zip((every, third) * 2, others, strict=True):
        assert all(fixed[name] == row[name] for name in ("interval", "mIoU", "mVC_8"))
    for wrong in (["--policy", "lucky"], ["--policy", "aks", "--thresholds", "x"]):
        assert cli.main([*command, *wrong]) == 1


def test_streaming_accuracy_holds_answers_against_the_truth_when_they_are_out(tmp_path):
    """An answer that takes no time is the offline one; one that takes two frames is two frames old, and one comes."""

    class Copies:
        """Answers the frame's own grey level, which is its label."""

        ms, late = 0.0, 0

        def reset(self):
            self.waiting = []

        def after(self):
            pass

        def feed(self, rgb, stamp):
            self.waiting.append(rgb[..., 0].copy())
            done = [self.waiting.pop(0)] if len(self.waiting) > self.late else []
            return [SimpleNamespace(labels=x, times={"total": self.ms}, is_keyframe=True) for x in done]

    truths = [np.full((4, 4), t % 3, np.uint8) for t in range(9)]
    video = [(np.repeat(t[..., None], 3, 2), t, True) for t in truths]
    stream = Copies()
    assert metrics.mean_iou(streamed(stream, video, 10.0, 3)) == 1
    # frame 0 is out at 150 ms, then 1 at 300, 3 at 450, 4 at 600, 6 at 750 ms; the other waits for two later frames
    for ms, late, out in ((150.0, 0, [None, None, 0, 1, 1, 3, 4, 4, 6]), (0.0, 2, [None, None, *range(7)])):
        stream.ms, stream.late = ms, late
        counts = streamed(stream, video, 10.0, 3)
        expected = np.zeros_like(counts)
        for t, shown in enumerate(out):
            labels = np.full((4, 4), 255 if shown is None else shown % 3, np.uint8)
            expected += metrics.confusion(truths[t], labels, 3)
        assert np.array_equal(counts, expected)


def test_streaming_accuracy_in_mode_b(card, tmp_path):
    data = open_dataset("camvid", "val", make_camvid(tmp_path, "val", 2, count=6))
    row = evaluate(options(card, 3, both_sides=True), data, streaming=True)
    assert 0 <= row["sIoU"] <= 1 and row["mIoU"] > 0


def test_sparse_labels_with_an_adaptive_policy(card, tmp_path):
    data = open_dataset("camvid", "test", make_camvid(tmp_path, "test", 30, count=3))
    adaptive = load_stream(card, backend="torch", policy="adaptive", threshold=0.0, max_gap=0.0, steady=0.0)
    assert evaluate(adaptive, data)["mIoU"] == evaluate(options(card, 1, steady=0.0), data)["mIoU"]


def test_other_classes_are_refused(tiny_card, tmp_path, capsys):
    make_camvid(tmp_path, "val", 2)
    command = ["evaluate", "--model", str(tiny_card), "--data", "camvid", "--split", "val"]
    assert cli.main([*command, "--root", str(tmp_path), "--backend", "torch"]) == 1
    assert "differ in their classes" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "0", "1,x", "2.5"])
def test_bad_intervals(text):
    with pytest.raises(VssError, match="--k"):
        parse_intervals(text)


def test_modes():
    assert parse_modes("P,B") == ["P", "B"]
    with pytest.raises(VssError, match="--mode"):
        parse_modes("P,C")
