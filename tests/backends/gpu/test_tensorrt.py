"""What of the TensorRT backend runs without a GPU: versions, the typed graphs, resizing and labels, engines' order."""

from __future__ import annotations

import operator

import cv2
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from fixtures.networks import lively
from torch import nn
from vss_ros.backends import labels
from vss_ros.backends.choose import make_backend
from vss_ros.backends.gpu import build as tensorrt_build
from vss_ros.backends.gpu.build import bindings, compile_options, exported, job_of, pack, unpack
from vss_ros.backends.gpu.small import Confidence, Label, Resize
from vss_ros.backends.gpu.versions import PAIRS, Versions, advice, builder, jetson_linux
from vss_ros.backends.stages import flat_stages
from vss_ros.backends.typed import Typed
from vss_ros.config import VssError
from vss_ros.networks.cards.model import Calibration, Model
from vss_ros.stream.frame import fit

SIZE = (64, 96)
GPU = "NVIDIA H100 sm_90"
ORIN = {"l4t": "36.4.3", "gpu": "Orin sm_87"}
THOR = {"l4t": "38.2.1", "gpu": "Thor sm_110"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Versions("2.8.0", "2.8.0", "10.12.0.36", gpu=GPU), "torch-tensorrt"),
        (Versions("2.8.0", "2.8.0", "10.3.0", **ORIN), "torch-tensorrt"),
        (Versions("2.9.0+cu130", "2.9.0", "10.13.3.9", **THOR), "torch-tensorrt"),
        (Versions("2.12.1+cu130", "2.12.1", "10.16.1.11", gpu=GPU), "torch-tensorrt"),
        (Versions("2.13.0+cu130", "2.13.0", "11.0.0.114", gpu=GPU), "torch-tensorrt"),
        (Versions("2.14.0+cu132", "2.14.0", "11.1.0.1", gpu=GPU), "torch-tensorrt"),
        (Versions("2.14.0+cu132", "", "11.4.1", l4t="39.1", gpu="Orin sm_87"), "onnx"),
        (Versions("2.12.0+cu130", "2.12.0", "10.16.0.72", l4t="39.0", gpu="Thor sm_110"), "torch-tensorrt"),
        (Versions("2.13.0+cu130", "", "10.16.0.72", l4t="39.0", gpu="Orin sm_87"), "onnx"),
        (Versions("2.13.0+cu130", "", "RTX 1.3.0.35", gpu="NVIDIA GeForce RTX 4090 sm_89"), "onnx"),
    ],
)
def test_releases_that_go_together(found, expected):
    assert builder(found) == expected


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Versions("2.13.0"), "needs an NVIDIA GPU"),
        (
            Versions("2.13.0+cu130", gpu=GPU),
            r"pip install torch-tensorrt==2.13.\* \(it brings TensorRT 11.0\)",
        ),
        (Versions("2.7.1", "2.7.0", "10.9.0", gpu=GPU), "torch-tensorrt 2.7 is untested"),
        (
            Versions("2.13.0+cu130", "2.12.0", "10.16.1", gpu=GPU),
            r"do not go together.*torch-tensorrt==2.13.\*",
        ),
        (Versions("2.8.0", "2.8.0", "10.3.0", gpu=GPU), "needs TensorRT 10.12, found 10.3.0"),
        (Versions("2.8.0", "2.8.0", "10.12.0", **ORIN), "needs TensorRT 10.3, found 10.12.0"),
        (Versions("2.9.0", "2.9.0", "10.13.0", **{**ORIN, "l4t": "39.1"}), ""),
        (
            Versions("2.13.0", "2.12.0", "10.3.0", **ORIN),
            "JetPack 6.1 and 6.2 .* needs torch 2.8, torch-tensorrt 2.8",
        ),
        (
            Versions("2.14.0", "2.14.0", "11.4.1", l4t="39.1", gpu="Orin"),
            "no torch-tensorrt matches the TensorRT of",
        ),
        (
            Versions("2.13.0", "2.13.0", "10.16.0", l4t="39.0", gpu="Thor sm_110"),
            "JetPack 7.2 and later .* needs torch 2.12, torch-tensorrt 2.12",
        ),
        (Versions("2.8.0", "", "8.5.2", l4t="35.4.1", gpu="Orin"), "too old.*flash JetPack 6.2"),
    ],
)
def test_impossible_releases_name_those_that_work(found, message):
    if not message:
        assert "leave it out" in advice(found)
        return
    with pytest.raises(VssError, match=message):
        builder(found)


def test_release_of_jetson_linux(tmp_path):
    file = tmp_path / "nv_tegra_release"
    file.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
    assert jetson_linux(file) == "36.4.3" and jetson_linux(tmp_path / "none") == ""


def test_only_old_releases_are_told_that_graphs_are_typed():
    for release, tensorrt in PAIRS.items():
        options = compile_options(Versions(f"{release}.0", f"{release}.0", tensorrt, gpu=GPU))
        assert options["require_full_compilation"]
        if release in ("2.13", "2.14"):
            assert not {"use_explicit_typing", "enabled_precisions"} & set(options)
        else:
            assert options["use_explicit_typing"] and options["enabled_precisions"] == {torch.float32}


def test_without_a_gpu_the_backend_says_so():
    with pytest.raises(VssError, match="NVIDIA GPU"):
        make_backend(Model(lively("segformer", "mit_b0"), SIZE), "tensorrt")


@pytest.mark.parametrize(
    ("name", "backbone", "precision"),
    [("dcfm", "resnet18", "f16"), pytest.param("dcfm", "mit_b0", "bf16", marks=pytest.mark.slow)],
)
def test_matrix_products_are_narrow_and_normalisations_and_softmax_wide(name, backbone, precision):
    narrow = {"f16": torch.float16, "bf16": torch.bfloat16}[precision]
    programs = exported(Model(lively(name, backbone), SIZE), precision)
    seen = set()
    for program, _ in programs.values():
        for node in program.graph.nodes:
            kind = node.target.__name__.split(".")[0] if node.op == "call_function" else ""
            types = {
                n.meta["val"].dtype for n in node.all_input_nodes if isinstance(n.meta["val"], torch.Tensor)
            }
            if kind in ("linear", "conv2d", "matmul"):
                assert types == {narrow}, node
            elif kind in ("layer_norm", "softmax", "linalg_vector_norm"):
                assert types == {torch.float32}, node
            seen.add(kind)
    assert {"conv2d", "linalg_vector_norm"} <= seen
    assert backbone != "mit_b0" or {"linear", "matmul", "layer_norm", "softmax"} <= seen


def test_narrow_graphs_agree_with_torch():
    network = lively("dcfm", "mit_b0")
    frame = torch.randint(0, 256, (1, *SIZE, 3), dtype=torch.uint8)
    answers = {}
    for precision in ("f32", "f16", "bf16"):
        stages = flat_stages(Model(network, SIZE), precision)
        with torch.no_grad():
            features = stages["encode"][0](frame)
            memory = stages["remember"][0](*features)
            answers[precision] = stages["decode"][0](*features, *memory).float()
    for precision, tolerance in (("f16", 5e-3), ("bf16", 5e-2)):
        error = (answers[precision] - answers["f32"]).abs().max() / answers["f32"].abs().max()
        assert error < tolerance


def test_attention_written_out_equals_torchs():
    torch.manual_seed(0)
    q, k, v, mask = (
        torch.randn(2, 3, 5, 8),
        torch.randn(2, 3, 7, 8),
        torch.randn(2, 3, 7, 8),
        torch.randn(3, 5, 7),
    )
    module = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    with torch.no_grad():
        expected = [F.scaled_dot_product_attention(q, k, v, attn_mask=mask), module(q[0], k[0], v[0])[0]]
        with Typed(torch.float32):
            found = [F.scaled_dot_product_attention(q, k, v, attn_mask=mask), module(q[0], k[0], v[0])[0]]
    for ours, truth in zip(found, expected, strict=True):
        assert torch.allclose(ours, truth, atol=1e-6)


@pytest.mark.parametrize(
    ("before", "after"), [((120, 160), SIZE), ((48, 80), SIZE), ((120, 80), SIZE), ((65, 97), SIZE)]
)
def test_resizing_in_a_graph_is_resizing_by_opencv(before, after, rng):
    frame = cv2.GaussianBlur(rng.integers(0, 256, (*before, 3), dtype=np.uint8), (5, 5), 1)
    found = Resize(before, after)(torch.from_numpy(frame)[None])
    assert found.dtype == torch.uint8 and found.shape == (1, *after, 3)
    assert np.abs(found[0].numpy().astype(int) - fit(frame, after)).max() <= 1


def test_labels_of_a_graph_are_those_of_the_cpu(rng):
    logits = [rng.normal(size=(1, 5, 16, 24)).astype(np.float32) for _ in range(2)]
    tensors = [torch.from_numpy(x) for x in logits]
    found = Label((120, 160))(*tensors)
    assert found.dtype == torch.uint8
    assert (found.numpy() != labels.labels(logits, (120, 160))).mean() < 1e-3
    sure = Confidence((120, 160))(*tensors).numpy().astype(int)
    assert np.abs(sure - labels.confidence(logits, (120, 160))).max() <= 1


class Engine(nn.Module):
    """Stands in for torch-tensorrt's module."""

    input_binding_names = ("b", "a")
    output_binding_names = ("out0", "out1")
    serialized_engine = bytearray(b"plan\n\x00")


def compiled(build):
    graph = torch.fx.Graph()
    given = [graph.placeholder(name) for name in ("a", "unused", "b")]
    graph.output(build(graph, given))
    return torch.fx.GraphModule({"engine": Engine(), "second": Engine()}, graph)


def test_inputs_and_outputs_of_an_engine_are_told_apart_by_name():
    def swapped(graph, given):
        call = graph.call_module("engine", (given[2], given[0]))
        return tuple(graph.call_function(operator.getitem, (call, i)) for i in (1, 0))

    found = bindings(compiled(swapped))
    assert found == (["a", "", "b"], ["out1", "out0"], b"plan\n\x00")
    assert unpack(pack(*found)) == found
    single = compiled(lambda graph, given: (graph.call_module("engine", (given[2], given[0])),))
    assert bindings(single)[1] == ["out0"]


def test_a_stage_that_hands_its_inputs_through_has_no_engine():
    assert bindings(compiled(lambda _, given: (given[2], given[0]))) == (
        ["a", "unused", "b"],
        ["b", "a"],
        b"",
    )


def test_a_stage_in_several_engines_is_refused():
    def twice(graph, given):
        return (graph.call_module("second", (graph.call_module("engine", (given[2], given[0])), given[0])),)

    with pytest.raises(VssError, match="in 2 parts"):
        bindings(compiled(twice))


def test_memory_of_a_build_counts_the_weights():
    program, _ = exported(Model(lively("segformer", "mit_b0"), SIZE), "f32")["propagate"]
    job = job_of(program, bytes)
    assert job.operators > 100 and job.memory > (1 << 30) + 3 * 3.7e6 * 4


def test_int8_engines_are_made_of_the_calibrations_files(tmp_path, monkeypatch):
    node = onnx.helper.make_node("Relu", ["in0"], ["out0"])
    ends = [onnx.helper.make_tensor_value_info(name, 1, [4]) for name in ("in0", "out0")]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    content = onnx.helper.make_model(graph).SerializeToString()
    (tmp_path / "encode.onnx").write_bytes(content)
    calibration = Calibration({"encode": tmp_path / "encode.onnx"}, "hash")
    model = Model(lively("segformer", "mit_b0"), SIZE, calibration=calibration)
    with pytest.raises(VssError, match="NVIDIA GPU"):
        tensorrt_build.jobs(model, "int8")
    monkeypatch.setattr(tensorrt_build, "probe", lambda: Versions("2.14.0", "", "11.4.1", gpu=GPU))
    monkeypatch.setattr(tensorrt_build, "parsed", lambda content, found: content)
    job = tensorrt_build.jobs(model, "int8")["encode"]
    assert job.operators == 1 and job.make() == content
