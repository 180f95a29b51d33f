"""An ONNX file of one's own goes the way of every model: card, evaluation, INT8, bfloat16, bench, TensorRT."""

from __future__ import annotations

import logging
import re

import cv2
import numpy as np
import pytest
import yaml
from fixtures.cuda import cuda, tensorrt
from fixtures.imported import SIZE, write_model
from vss_ros import cli
from vss_ros.backends.choose import make_backend
from vss_ros.backends.gpu.build import jobs
from vss_ros.config import VssError
from vss_ros.networks.cards.card import read_card
from vss_ros.networks.cards.model import open_model
from vss_ros.stream.load import load_stream


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VSS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def own(tmp_path):
    """Folder with own.onnx, own.yaml, twelve labelled frames and mine.yaml."""
    write_model(tmp_path)
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i in range(12):
        blocks = rng.integers(0, 256, (4, 6, 3), np.uint8)
        assert cv2.imwrite(
            str(tmp_path / "images" / f"{i}.png"), np.kron(blocks, np.ones((8, 8, 1), np.uint8))
        )
        assert cv2.imwrite(str(tmp_path / "labels" / f"{i}.png"), np.full(SIZE, i % 3, np.uint8))
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"classes": ["a", "b", "c"], "val": {"images": "images", "labels": "labels"}})
    )
    return tmp_path


@pytest.mark.parametrize("output", ["logits", "probabilities", "labels"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_import_finds_out_what_the_graph_says(own, output, layout, caplog):
    caplog.set_level(logging.INFO)
    write_model(own, output, layout)
    line = ["import", str(own / "own.onnx"), "--classes", "a,b,c", "--out", str(own / "cards" / "new.yaml")]
    assert cli.main([*line, "--image", str(own / "images")]) == 0
    card, _ = read_card(own / "cards" / "new.yaml")
    assert card.options["output"] == output and card.options["input_layout"] == layout
    assert card.size == list(SIZE) and card.classes == ["a", "b", "c"] and "wrote" in caplog.text


@pytest.mark.parametrize("content", [b"", b"abc", b"\x08" * 1000])
def test_import_names_a_file_that_is_no_onnx(tmp_path, content, capsys):
    (tmp_path / "bad.onnx").write_bytes(content)
    line = ["import", str(tmp_path / "bad.onnx"), "--classes", "a,b", "--out", str(tmp_path / "new.yaml")]
    assert cli.main(line) == 1
    assert f"{tmp_path / 'bad.onnx'}: is no valid ONNX file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--classes", "a,b"], "expected maps of 2 classes"),
        (["--classes", "a,b,c", "--size", "64x64"], "--size: expected HEIGHTxWIDTH"),
        (["--classes", "a,b,c", "--input", "y"], "expected one of x, got 'y'"),
    ],
)
def test_import_refuses_with_reasons(own, options, said, capsys):
    line = ["import", str(own / "own.onnx"), *options, "--out", str(own / "cards" / "new.yaml")]
    assert cli.main(line) == 1 and said in capsys.readouterr().err
    assert not (own / "cards").exists()


def test_it_is_evaluated_on_data_of_ones_own(own):
    line = ["evaluate", "--model", str(own / "own.yaml"), "--data", str(own / "mine.yaml"), "--split", "val"]
    assert cli.main([*line, "--k", "1,2", "--out", str(own / "out")]) == 0
    assert "| fixed | K = 2 | P |" in (own / "out" / "own_mine_val.md").read_text()


def calibrate(own, *more):
    line = ["calibrate", "--model", str(own / "own.yaml"), "--frames", str(own / "images")]
    return cli.main([*line, "--clips", "2", "--interval", "2", *more])


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_int8_keeps_its_labels(own, backend, capsys):
    card = own / "own.yaml"
    more = ["--data", f"{own / 'mine.yaml'}:val", "--backend", backend, "--write-card"]
    assert calibrate(own, *more) == 0 and "mIoU" in capsys.readouterr().out
    assert read_card(card)[0].metrics["int8"]["agreement"] > 0.95
    frame = cv2.imread(str(own / "images" / "0.png"))
    answers = [load_stream(card, backend=backend, precision=p)(frame).labels for p in ("f32", "int8")]
    assert (answers[0] == answers[1]).mean() > 0.95


def test_bfloat16_where_the_processor_has_it(own):
    frame = cv2.imread(str(own / "images" / "0.png"))
    answers = [
        load_stream(own / "own.yaml", backend="openvino", precision=p)(frame).labels for p in ("f32", "bf16")
    ]
    assert (answers[0] == answers[1]).mean() > 0.95


@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("output", ["logits", "probabilities", "labels"])
def test_tensorrt_builds_and_runs_it(tensorrt, own, output, precision, caplog):
    card = write_model(own, output)
    frame = cv2.imread(str(own / "images" / "0.png"))
    truth = load_stream(card, backend="onnxruntime", precision="f32")(frame).labels
    with caplog.at_level(logging.WARNING):
        assert make_backend(open_model(card), precision="auto").name in ("openvino", "onnxruntime")
    assert re.search("backend auto: .*slower than TensorRT: .* build it once", caplog.text)
    assert cli.main(["build", "--model", str(card), "--precision", precision]) == 0
    stream = load_stream(card, backend="tensorrt", precision=precision)
    assert (stream.backend.name, stream.backend.precision) == ("tensorrt", precision)
    assert (stream(frame).labels == truth).mean() > 0.98


def test_tensorrt_builds_int8_of_it_too(tensorrt, own):
    card = own / "own.yaml"
    assert calibrate(own, "--backend", "onnxruntime") == 0
    assert cli.main(["build", "--model", str(card), "--precision", "int8"]) == 0
    frame = cv2.imread(str(own / "images" / "0.png"))
    stream = load_stream(card, backend="tensorrt", precision="int8")
    assert stream(frame).labels.shape == SIZE
    with pytest.raises(VssError, match="of an ONNX file TensorRT builds f32, f16 or int8"):
        jobs(open_model(card), "bf16")
