"""INT8 calibration: which frames are picked, what is quantised, what stays in float, what a folder must hold."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import onnx
import pytest
import yaml
from fixtures.counting import counting_card
from onnx import TensorProto, helper, numpy_helper
from vss_ros import cli
from vss_ros.backends import int8_files
from vss_ros.backends.choose import make_backend
from vss_ros.config import VssError
from vss_ros.deploy.calibrate import farthest, is_video, stream_on
from vss_ros.deploy.quantize import keep_float, layer_groups, quantise
from vss_ros.networks import build
from vss_ros.networks.cards.card import read_card
from vss_ros.networks.cards.model import Model, open_model
from vss_ros.stream.load import load_stream


def test_picked_frames_differ_and_do_not_overlap():
    points = np.array([[0.0], [0.1], [0.2], [5], [5.1], [9], [9.1]])
    assert farthest(points, 3, 1) == [3, 0, 6]
    picked = farthest(np.arange(40.0)[:, None] ** 2, 6, 5)
    assert len(picked) == 6 and (np.diff(sorted(picked)) >= 5).all()
    assert farthest(points, 5, 4) == [3], "no room for a second run of 4 frames beside the first"


def note(node, scopes):
    item = node.metadata_props.add()
    item.key, item.value = "pkg.torch.onnx.name_scopes", str(scopes)
    return node


@pytest.fixture
def stage(rng):
    """in0 (1, 4, 8, 8) → 3×3 convolution → depthwise convolution → product with a matrix."""
    weights = {
        "w1": rng.normal(size=(6, 4, 3, 3)),
        "w2": rng.normal(size=(6, 1, 3, 3)),
        "w3": rng.normal(size=(8, 5)),
    }
    conv = helper.make_node("Conv", ["in0", "w1"], ["a"], "first", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    wise = helper.make_node(
        "Conv", ["a", "w2"], ["b"], "wise", kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=6
    )
    nodes = [
        note(conv, ["", "encode.network.backbone.patch_embed1.proj", "conv2d"]),
        note(wise, ["", "network.backbone.block1.0", "network.backbone.block1.0.mlp.dw", "conv2d_1"]),
        note(helper.make_node("MatMul", ["b", "w3"], ["out"], "last"), ["", "matmul"]),
    ]
    graph = helper.make_graph(
        nodes,
        "stage",
        [helper.make_tensor_value_info("in0", TensorProto.FLOAT, (1, 4, 8, 8))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, (1, 6, 8, 5))],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def answer(model, x):
    import onnxruntime

    return onnxruntime.InferenceSession(model).run(None, {"in0": x})[0]


def test_layers_are_grouped_by_part_and_kind(stage):
    assert layer_groups(stage) == {
        "first": "backbone.patch_embed1 conv",
        "wise": "backbone.block1 depthwise",
        "last": "fusion linear",
    }


def test_layers_given_back_compute_as_before(stage, rng):
    frames = [(rng.normal(size=(1, 4, 8, 8)).astype(np.float32),) for _ in range(3)]
    quantised = quantise(stage, frames)
    x = frames[0][0]
    exact, coarse = answer(stage, x), answer(quantised, x)
    scale = np.abs(exact).max()
    assert 1e-4 * scale < np.abs(coarse - exact).max() < 0.1 * scale
    kinds = [node.op_type for node in onnx.load_from_string(quantised).graph.node]
    assert kinds.count("QuantizeLinear") == 6, "an activation and a weight of each of three layers"
    assert all(
        not numpy_helper.to_array(tensor).any()
        for tensor in onnx.load_from_string(quantised).graph.initializer
        if tensor.name.endswith("zero_point")
    ), "symmetric, as TensorRT wants it"
    partly = keep_float(quantised, ["first", "last"])
    assert [n.op_type for n in onnx.load_from_string(partly).graph.node].count("QuantizeLinear") == 2
    assert np.abs(answer(partly, x) - exact).max() < np.abs(coarse - exact).max()
    np.testing.assert_array_equal(answer(keep_float(quantised, ["first", "wise", "last"]), x), exact)


@pytest.fixture
def folder(tiny_card, tmp_path):
    card, _ = read_card(tiny_card)
    int8_files.write(
        tmp_path / "int8", {"encode": b"1", "remember": b"2"}, card, (64, 96), {"agreement": 0.9}
    )
    return tmp_path / "int8", card


def test_a_calibration_is_found_again_by_its_hash(folder, tmp_path):
    path, card = folder
    found = int8_files.find(path, card, (64, 96))
    assert {stage: file.read_bytes() for stage, file in found.files.items()} == {
        "encode": b"1",
        "remember": b"2",
    }
    other = int8_files.write(tmp_path / "b", {"encode": b"1", "remember": b"3"}, card, (64, 96), {})
    assert len(found.sha256) == 64 and found.sha256 != other


@pytest.mark.parametrize("damage", ["missing", "flip", "yaml", "size", "weights"])
def test_calibrations_that_do_not_fit_are_refused(folder, damage):
    path, card = folder
    description = path / "calibration.yaml"
    content = yaml.safe_load(description.read_text())
    if damage == "missing":
        shutil.rmtree(path)
    elif damage == "flip":
        (path / "encode.onnx").write_bytes(b"x")
    elif damage == "yaml":
        description.write_text("[1")
    else:
        description.write_text(yaml.safe_dump({**content, damage: [1, 2] if damage == "size" else "x"}))
    with pytest.raises(VssError, match="vss calibrate --model tiny --size 64x96 --frames"):
        int8_files.find(path, card, (64, 96))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_calibrate_makes_a_model_that_runs_in_int8(tiny_card, tmp_path, backend, capsys):
    models = tmp_path / "models"
    shutil.copytree(tiny_card.parent, models)
    card, frames = models / tiny_card.name, tmp_path / "frames"
    frames.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        blurred = cv2.GaussianBlur(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8), (0, 0), 5)
        cv2.imwrite(str(frames / f"{i}.png"), cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX))
    options = ["--model", str(card), "--frames", str(frames), "--clips", "2", "--interval", "3"]
    out = tmp_path / "out"
    assert cli.main(["calibrate", *options, "--backend", backend, "--out", str(out), "--write-card"]) == 0
    report = yaml.safe_load((out / "calibration.yaml").read_text())
    assert {"fusion.folded conv", "head.folded conv"} < {*report["loss_by_group"]}
    assert report["agreement"] >= report["all_int8"]["agreement"] - 0.01 and report["agreement"] > 0.9
    assert read_card(card)[0].metrics["int8"]["sha256"] == report["sha256"]
    assert "pixels that change" in capsys.readouterr().out
    kinds = [n.op_type for n in onnx.load(str(out / "propagate.onnx")).graph.node]
    assert "QuantizeLinear" in kinds
    stream = load_stream(card, backend=backend, precision="int8", calibration=str(out), interval=3)
    reference = load_stream(card, backend="torch", precision="f32", interval=3)
    pictures = [cv2.imread(str(frames / f"{i}.png"))[:, :, ::-1] for i in range(6)]
    same = [
        (
            stream(np.ascontiguousarray(x), i / 10).labels
            == reference(np.ascontiguousarray(x), i / 10).labels
        ).mean()
        for i, x in enumerate(pictures)
    ]
    assert np.mean(same) > 0.9


def test_too_few_frames_to_calibrate_with(tiny_card, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 96, 3), np.uint8))
    assert cli.main(["calibrate", "--model", str(tiny_card), "--frames", str(tmp_path)]) == 1
    assert "expected at least 10 frames, got 1" in capsys.readouterr().err


def test_bfloat16_is_not_measured_where_the_cpu_has_none(tiny_card, tmp_path, monkeypatch, capsys):
    # OpenVINO computes in float32 there: "100 %" went into the card, and made `auto` take bfloat16 elsewhere.
    card = tmp_path / tiny_card.name
    shutil.copytree(tiny_card.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("vss_ros.backends.onnx.cpu_has_bf16", lambda: False)
    line = ["calibrate", "--model", str(card), "--frames", "street:7", "--clips", "2", "--size", "64x96"]
    assert cli.main([*line, "--precision", "bf16", "--write-card"]) == 1
    assert "precision bf16: this CPU has no bfloat16" in capsys.readouterr().err
    assert read_card(card)[0].metrics == read_card(tiny_card)[0].metrics


def test_memories_move_as_on_the_robot(tiny_card, rng):
    image = Model(build("segformer", "mit_b0", 3), (64, 96))
    assert stream_on(make_backend(open_model(tiny_card), "torch"), 3, True).motion
    assert stream_on(make_backend(open_model(tiny_card), "torch"), 3, False).motion is None
    assert stream_on(make_backend(image, "torch"), 3, True).motion is None, "each of its frames is decoded"
    noise = (cv2.GaussianBlur(rng.integers(0, 256, (64, 96, 3), np.uint8), (0, 0), 5) for _ in "ab")
    picture, other = (cv2.normalize(each, None, 0, 255, cv2.NORM_MINMAX) for each in noise)
    stills = [(picture, None), (other, None)]
    video = [(picture, None), (np.roll(picture, 1, 1), None)]
    assert not is_video([stills, stills]) and is_video([stills, video])


def test_what_does_not_segment_is_not_calibrated(tmp_path, capsys):
    card = counting_card(tmp_path)
    assert cli.main(["calibrate", "--model", str(card), "--frames", "street:7", "--clips", "2"]) == 1
    assert "its task is counting; only segmentation can be calibrated" in capsys.readouterr().err


def test_int8_without_a_calibration_says_how_to_make_one(tiny_card, tmp_path, monkeypatch):
    monkeypatch.setenv("VSS_CACHE", str(tmp_path))
    with pytest.raises(VssError, match=r"precision int8 needs a calibration.*vss calibrate --model tiny"):
        load_stream(tiny_card, precision="int8")
