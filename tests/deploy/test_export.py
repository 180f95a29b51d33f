"""`vss export`: a bundle that says what it holds, whose files answer like torch, and whose check notices when not."""

from __future__ import annotations

import onnx
import pytest
import torch
import yaml
from vss_ros import cli
from vss_ros.backends.onnx_export import to_onnx
from vss_ros.deploy import export

SMALL = ["--backbone", "mit_b0", "--classes", "5", "--size", "64x96"]
FAST = ["--backbone", "mobilenet_v1", *SMALL[2:]]


def run(out, *options, network="dcfm", small=SMALL):
    return cli.main(["export", "--network", network, *small, "--out", str(out), *options])


@pytest.mark.slow
def test_a_bundle_of_fresh_weights_passes_its_check(tmp_path, capsys):
    assert run(tmp_path, "--target", "onnx", "--check") == 0
    bundle = yaml.safe_load((tmp_path / "bundle.yaml").read_text())
    assert {name: stage["file"] for name, stage in bundle["stages"].items()} == {
        name: f"{name}.onnx" for name in ("encode", "remember", "decode", "propagate")
    }
    assert bundle["stages"]["encode"]["inputs"] == [
        {"name": "in0", "shape": [1, 64, 96, 3], "dtype": "uint8"}
    ]
    assert [item["shape"] for item in bundle["stages"]["propagate"]["outputs"]] == [[1, 5, 16, 24]]
    model = onnx.load(tmp_path / "decode.onnx")
    assert {item.domain: item.version for item in model.opset_import} == {"": 18}
    text = (tmp_path / "README.md").read_text()
    assert "JetPack 6.1 and 6.2" in text and "trtexec --onnx=$s.onnx" in text
    assert "FAIL" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_bundle_of_a_model_holds_its_card(tmp_path, tiny_card):
    options = ["--target", "exported-program", "--precision", "f16", "--check", "--out", str(tmp_path)]
    assert cli.main(["export", "--model", str(tiny_card), *options]) == 0
    assert yaml.safe_load((tmp_path / "model.yaml").read_text())["classes"] == ["road", "car", "sky"]
    assert torch.export.load(tmp_path / "propagate.pt2")


def sabotaged(module, inputs, opset):
    """The stage's ONNX with the rows of its largest weight in another order."""
    model = onnx.load_from_string(to_onnx(module, inputs, opset))
    weight = max(model.graph.initializer, key=lambda item: len(item.raw_data))
    array = onnx.numpy_helper.to_array(weight)[::-1].copy()
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    return model.SerializeToString()


def test_a_wrong_file_fails_the_check(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "to_onnx", sabotaged)
    assert run(tmp_path, "--check", network="segformer") == 1
    captured = capsys.readouterr()
    assert "FAIL frame: differs from torch" in captured.out and "must not be used" in captured.err


def test_a_damaged_or_invalid_file_fails_the_check(tmp_path, monkeypatch, capsys):
    write = export.write

    def damaged(args, *rest):
        write(args, *rest)
        path = args.out / "propagate.pt2"
        path.write_bytes(path.read_bytes()[:-1])

    monkeypatch.setattr(export, "write", damaged)
    assert run(tmp_path, "--target", "exported-program", "--check", network="segformer", small=FAST) == 1
    assert "FAIL propagate: sha256" in capsys.readouterr().out


def test_copies_of_a_weight_are_found():
    array = onnx.numpy_helper.from_array
    weights = [array(torch.ones(4).numpy(), name) for name in ("a", "b")]
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"])
    output = onnx.helper.make_tensor_value_info("c", 1, [4])
    graph = onnx.helper.make_graph([node], "g", [], [output], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    assert ("x: 1 duplicate initialisers", True) in list(export.check_onnx("x", model.SerializeToString()))


def test_wrong_options_are_refused(tmp_path, capsys):
    assert cli.main(["export", "--network", "dcfm", "--out", str(tmp_path)]) == 1
    assert cli.main(["export", "--out", str(tmp_path)]) == 1
    assert run(tmp_path / "file" / "x", small=["--size", "big"]) == 1
    err = capsys.readouterr().err
    assert "needs --size" in err and "either --model" in err and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "backbone", "precision"),
    [
        ("cffm", "mit_b0", "f32"),
        ("mrcfa", "mit_b0", "f16"),
        ("msaf", "resnet18", "f32"),
        ("stf", "resnet18", "f16"),
        ("mar+dcfm", "mit_b0", "f32"),
    ],
)
def test_every_network_passes_the_check(tmp_path, network, backbone, precision):
    small = ["--backbone", backbone, "--classes", "5", "--size", "64x96"]
    assert run(tmp_path, "--precision", precision, "--check", network=network, small=small) == 0
