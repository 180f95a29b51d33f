"""An ONNX file of one's own goes the way of every model: card, evaluation, INT8, bfloat16, bench, TensorRT."""

from __future__ import annotations

import logging
import re

import cv2
import numpy as np
import onnx
import pytest
import yaml
from fixtures.cuda import cuda, tensorrt
from fixtures.imported import SIZE, write_model
from onnx import TensorProto, helper, numpy_helper
from vss_ros import cli
from vss_ros.backends.choose import make_backend
from vss_ros.backends.cpu import cpu_has_bf16
from vss_ros.backends.gpu.build import jobs
from vss_ros.config import IMAGENET_MEAN, IMAGENET_STD, VssError
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
        (["--classes", "a,b,c", "--size", "64x64"], "--size HEIGHTxWIDTH is 32x48 in the graph"),
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


def test_it_is_not_exported_once_more(own, capsys):
    assert cli.main(["export", "--model", str(own / "own.yaml"), "--out", str(own / "files")]) == 1
    assert "a network of an ONNX file has no stages in torch: its file lies beside" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_nothing_is_measured_without_labels(own, command, capsys):
    for path in (own / "labels").iterdir():
        path.unlink()
    line = [command, "--model", str(own / "own.yaml"), "--data", str(own / "mine.yaml")]
    more = {"evaluate": ["--split", "val"], "calibrate": ["--frames", str(own / "images"), "--interval", "2"]}
    line[-1] += ":val" if command == "calibrate" else ""
    assert cli.main([*line, *more[command]]) == 1
    assert "mine val: expected labelled frames, found none" in capsys.readouterr().err


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


def test_int8_of_float16_is_refused(own, capsys):
    model = onnx.load(own / "own.onnx")
    weights = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float16)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    for item in (*model.graph.input, *model.graph.output):
        item.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, own / "half.onnx")
    line = ["import", str(own / "half.onnx"), "--classes", "a,b,c", "--image", str(own / "images")]
    assert cli.main([*line, "--out", str(own / "own.yaml")]) == 0
    assert calibrate(own) == 1
    assert "int8: expected weights of float32, got float16" in capsys.readouterr().err


@pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU has no bfloat16")
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


def altered(folder, kind):
    """own.onnx as other tools write it; → what `import` needs beside the classes."""
    model = onnx.load(folder / "own.onnx")
    graph, more = model.graph, []

    def after(op, *inputs, shape=(1, None, None, None), dtype=TensorProto.FLOAT, **attributes):
        graph.node.append(helper.make_node(op, [graph.output[0].name, *inputs], ["end"], **attributes))
        graph.output[0].CopyFrom(helper.make_tensor_value_info("end", dtype, shape))

    def constant(name, values):
        graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    if kind == "uint8":  # its normalisation is inside
        graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
        mean, std = (
            constant(name, np.float32(255 * np.array(values)).reshape(1, 3, 1, 1))
            for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
        )
        nodes = [
            helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["float", mean], ["centred"]),
            helper.make_node("Div", ["centred", std], ["scaled"]),
        ]
        graph.node[0].input[0] = "scaled"
        nodes += list(graph.node)
        del graph.node[:]
        graph.node.extend(nodes)
    elif kind == "free size":
        for dim in graph.input[0].type.tensor_type.shape.dim[2:]:
            dim.dim_param = "n"
        more = ["--size", "32x48"]
    elif kind == "names of ours":
        graph.input[0].name = graph.node[0].input[0] = "in0"
        graph.initializer[0].name = graph.node[0].input[1] = "vss_scale"
    elif kind == "weights of before IR 4":
        model.ir_version, model.opset_import[0].version = 3, 9
        graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 3, 1, 1]))
    elif kind == "no batch axis":
        after("Squeeze", constant("axis", [0]), shape=(3, None, None))
    elif kind == "labels without batch axis":
        after("ArgMax", axis=1, keepdims=0, dtype=TensorProto.INT64)
        graph.output[0].name = graph.node[-1].output[0] = "ids"
        after("Squeeze", constant("axis", [0]), shape=(None, None), dtype=TensorProto.INT64)
    elif kind == "float labels with a channel":
        after("ArgMax", axis=1, dtype=TensorProto.INT64)
        graph.output[0].name = graph.node[-1].output[0] = "ids"
        after("Cast", to=TensorProto.FLOAT)
    onnx.save(model, folder / "own.onnx")
    if kind == "weights beside it":
        onnx.save(model, folder / "own.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    return more


@pytest.mark.parametrize(
    "kind",
    [
        "uint8",
        "free size",
        "names of ours",
        "weights of before IR 4",
        "weights beside it",
        "no batch axis",
        "labels without batch axis",
        "float labels with a channel",
    ],
)
def test_graphs_of_every_tool_give_the_same_labels(own, kind):
    frame = cv2.imread(str(own / "images" / "0.png"))
    truth = load_stream(own / "own.yaml", backend="onnxruntime", motion=False)(frame).labels
    more = altered(own, kind)
    line = ["import", str(own / "own.onnx"), "--classes", "a,b,c", "--out", str(own / "cards" / "new.yaml")]
    assert cli.main([*line, "--image", str(own / "images"), *more]) == 0
    (own / "own.onnx").unlink()  # the card's folder is complete
    for backend in ("openvino", "onnxruntime"):
        stream = load_stream(own / "cards" / "new.yaml", backend=backend, precision="f32", motion=False)
        assert (stream(frame).labels == truth).mean() > (0.85 if "labels" in kind else 0.999)


@pytest.mark.parametrize("end", ["logit", "probability"])
def test_one_map_is_of_the_second_of_two_classes(own, end, capsys):
    model = onnx.load(own / "own.onnx")
    weights = np.array(numpy_helper.to_array(model.graph.initializer[0]))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights[1:2] - weights[:1], "w"))
    frame = cv2.imread(str(own / "images" / "0.png"))
    if end == "probability":
        model.graph.node.append(helper.make_node("Sigmoid", ["y"], ["p"]))
        model.graph.output[0].name = "p"
    onnx.save(model, own / "own.onnx")
    line = ["import", str(own / "own.onnx"), "--out", str(own / "new.yaml"), "--image", str(own / "images")]
    assert cli.main([*line, "--classes", "ball"]) == 1
    assert "name two --classes, the rest first; got 1" in capsys.readouterr().err
    assert cli.main([*line, "--classes", "rest,ball"]) == 0
    assert read_card(own / "new.yaml")[0].options["output"] == end
    found = [
        load_stream(own / "new.yaml", backend=backend, precision="f32", motion=False, steady=0)(frame)
        for backend in ("openvino", "onnxruntime")
    ]
    pixels = (frame / 255 - IMAGENET_MEAN) / IMAGENET_STD
    truth = pixels @ (weights[1] - weights[0]).ravel() > 0
    for result in found:
        assert (result.labels == truth).mean() > 0.9
        assert result.confidence().min() >= 127, "of two classes the label has at least a half"


@pytest.mark.parametrize("op", ["Magic", "Relu"])
def test_what_does_not_run_is_refused_and_leaves_nothing(own, op, capsys):
    model = onnx.load(own / "own.onnx")
    domain, extra = ("mine", []) if op == "Magic" else ("", ["more"])
    model.graph.node[0].output[0] = "z"
    model.graph.node.append(helper.make_node(op, ["z"], ["y"], domain=domain))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    for name in extra:  # a second image
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]))
        model.graph.node.append(helper.make_node("Relu", [name], ["unused"]))
    onnx.save(model, own / "own.onnx")
    line = ["import", str(own / "own.onnx"), "--classes", "a,b,c", "--out", str(own / "cards" / "new.yaml")]
    assert cli.main([*line, *(["--input", "x"] if extra else [])]) == 1
    assert "own.onnx: does not run on an image of 32x48" in capsys.readouterr().err
    assert not (own / "cards").exists()
