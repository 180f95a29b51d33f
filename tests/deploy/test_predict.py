"""Masks as files: ids, colours, Cityscapes' names; a second run goes on where the first one was."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import vss_ros
import yaml
from fixtures.imported import write_model
from vss_ros import cli
from vss_ros.config import VssError
from vss_ros.deploy import predict as module
from vss_ros.deploy.predict import Frames
from vss_ros.networks.cards.card import read_card
from vss_ros.stream.stream import Stream


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(3):
        picture = np.kron(rng.integers(0, 256, (4, 6, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        assert cv2.imwrite(str(folder / f"city_{i}_leftImg8bit.png"), picture)
    return folder


def predict(model, frames, out, *words):
    line = ["predict", str(frames), "--out", str(out), "--model", str(model), "--backend", "onnxruntime"]
    return cli.main([*line, "--quiet", *words])


def test_ids_colours_and_video(tmp_path, frames):
    model = write_model(tmp_path)
    assert predict(model, frames, tmp_path / "ids") == 0
    assert predict(model, frames, tmp_path / "colours", "--png", "color", "--video", "--limit", "2") == 0
    assert sorted(p.name for p in (tmp_path / "ids").iterdir()) == [
        *(f"city_{i}_leftImg8bit.png" for i in range(3)),
        "masks.json",
    ]
    assert json.loads((tmp_path / "ids" / "masks.json").read_text())["classes"] == {"a": 0, "b": 1, "c": 2}
    ids = cv2.imread(str(tmp_path / "ids" / "city_0_leftImg8bit.png"), cv2.IMREAD_UNCHANGED)
    colours = cv2.imread(str(tmp_path / "colours" / "city_0_leftImg8bit.png"))[:, :, ::-1]
    palette = np.array(read_card(model)[0].palette)
    assert ids.shape == (32, 48) and (palette[ids] == colours).all()
    video = cv2.VideoCapture(str(tmp_path / "colours" / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 2
    assert len(list((tmp_path / "colours").glob("*.png"))) == 2


def test_a_run_goes_on_and_cityscapes_needs_its_classes(tmp_path, frames, caplog):
    model = write_model(tmp_path)
    with caplog.at_level(logging.INFO):
        assert predict(model, frames, tmp_path / "ids", "--limit", "2") == 0
        logging.getLogger("vss_ros").setLevel(logging.INFO)
        line = ["predict", str(frames), "--out", str(tmp_path / "ids"), "--model", str(model)]
        assert cli.main([*line, "--backend", "onnxruntime"]) == 0
    assert "2 were there already" in caplog.text
    assert predict(model, frames, tmp_path / "c", "--png", "cityscapes") == 1
    assert not (tmp_path / "c").exists(), "refused before anything is written"


def test_a_resumed_run_answers_no_frame_twice_and_its_video_is_whole(tmp_path, frames, monkeypatch):
    model, out = write_model(tmp_path), tmp_path / "masks"
    assert predict(model, frames, out, "--png", "color", "--limit", "2") == 0
    fed = []
    feed = Stream.feed
    monkeypatch.setattr(Stream, "feed", lambda *args: fed.append(args) or feed(*args))
    assert predict(model, frames, out, "--png", "color", "--video") == 0
    assert len(fed) == 1
    video = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert predict(model, frames, out, "--png", "color", "--video") == 0 and len(fed) == 1


def test_masks_keep_their_images_names_where_one_image_is_damaged(tmp_path, frames):
    model = write_model(tmp_path)
    assert predict(model, frames, tmp_path / "all", "--no-motion") == 0
    (frames / "city_1_leftImg8bit.png").write_bytes(b"damaged")
    assert predict(model, frames, tmp_path / "some", "--no-motion") == 0
    masks = {path.name: path.read_bytes() for path in (tmp_path / "some").glob("*.png")}
    assert sorted(masks) == ["city_0_leftImg8bit.png", "city_2_leftImg8bit.png"]
    assert all((tmp_path / "all" / name).read_bytes() == mask for name, mask in masks.items())


def test_a_folder_with_other_files_is_refused(tmp_path, frames, capsys):
    model, out = write_model(tmp_path), tmp_path / "masks"
    assert predict(model, frames, frames) == 1
    assert "holds PNG files that are no masks" in capsys.readouterr().err
    assert predict(model, frames, out) == 0
    assert predict(model, frames, out, "--png", "color") == 1
    assert predict(model, "street", out) == 1
    said = capsys.readouterr().err
    assert "holds masks of another png" in said and "holds masks of another input" in said


def test_networks_that_look_ahead_answer_every_frame(tmp_path):
    """A stream whose answers wait gives them with the frames that they belong to."""
    pictures = [np.full((8, 8, 3), i, np.uint8) for i in range(4)]

    class Waiting:
        def __init__(self):
            self.pending = []

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def feed(self, rgb, stamp, source, gap):
            self.pending.append(SimpleNamespace(stamp=stamp, source=source))
            return [self.pending.pop(0)] if len(self.pending) > 2 else []

        def after(self):
            pass

        def flush(self):
            return self.pending

    found = list(module.answers(Waiting(), Frames([(rgb, float(i)) for i, rgb in enumerate(pictures)], 1, 4)))
    assert [(int(rgb[0, 0, 0]), result.stamp) for rgb, result in found] == [(i, float(i)) for i in range(4)]


def test_a_live_source_gives_masks_named_by_time(tmp_path, monkeypatch):
    class Camera:
        fps, length, dropped = 25.0, None, 2

        def __init__(self, text, patience):
            assert (text, patience) == ("camera:7", 3.0)

        def __iter__(self):
            yield np.zeros((32, 48, 3), np.uint8), 100.25
            yield np.zeros((32, 48, 3), np.uint8), 100.5
            raise KeyboardInterrupt  # the only end that a camera has

    monkeypatch.setattr(module, "Live", Camera)
    out = tmp_path / "masks"
    assert predict(write_model(tmp_path), "camera:7", out, "--video", "--reconnect", "3") == 0
    assert sorted(path.name for path in out.glob("*.png")) == ["100.250000.png", "100.500000.png"]
    assert cv2.VideoCapture(str(out / "overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 2


@pytest.mark.parametrize(("gap", "begun"), [(0.1, 1), (5.0, 2)])
def test_a_slow_machine_stays_with_its_camera(tmp_path, monkeypatch, gap, begun):
    class Camera:
        fps, length = 25.0, None

        def __init__(self, *_):
            self.gap = gap

        def __iter__(self):
            yield from ((np.zeros((32, 48, 3), np.uint8), stamp) for stamp in (100.0, 105.0))

    monkeypatch.setattr(module, "Live", Camera)
    found = [
        result for _, result in vss_ros.predict("camera:0", write_model(tmp_path), backend="onnxruntime")
    ]
    assert [result.index for result in found] == [0, 2 - begun], (
        "5 s between its answers, not its camera's frames"
    )


def test_frames_of_a_file_do_not_wait_for_a_network_beside_them(tmp_path, frames, capsys):
    model, words = write_model(tmp_path), ("--schedule", "beside")
    with pytest.raises(VssError, match="--delay how many frames late"):
        vss_ros.predict(frames, model, backend="onnxruntime", schedule="beside")
    assert predict(model, frames, tmp_path / "out", *words) == 1
    assert "--delay how many frames late" in capsys.readouterr().err
    assert predict(model, frames, tmp_path / "out", *words, "--delay", "1") == 0


def test_three_lines_of_python(tmp_path, frames):
    for rgb, result in vss_ros.predict(frames, write_model(tmp_path), backend="onnxruntime"):
        assert result.save(tmp_path / "out" / f"{result.index}.png").exists()
        assert result.overlay(rgb).shape == rgb.shape == (32, 48, 3)
    assert len(list((tmp_path / "out").iterdir())) == 3
    with pytest.raises(VssError, match="no such file"):
        vss_ros.predict("/nowhere.mp4")  # at once, not with the first frame


@pytest.mark.parametrize("output", ["logits", "probabilities", "labels"])
def test_import_finds_out_what_a_file_is(tmp_path, output):
    write_model(tmp_path, output, "nhwc" if output == "logits" else "nchw")
    out = tmp_path / "cards" / "mine.yaml"
    line = ["import", str(tmp_path / "own.onnx"), "--out", str(out), "--image", "street"]
    assert cli.main([*line, "--classes", "a,b,c"]) == 0
    options = yaml.safe_load(out.read_text())["options"]
    assert options["output"] == output and options["input"] == "x"
    assert cli.main([*line, "--classes", "a"]) == 1, "another number of classes"
    assert cli.main([*line, "--classes", "a,b,c", "--size", "64x64"]) == 1, "the graph's size is fixed"
