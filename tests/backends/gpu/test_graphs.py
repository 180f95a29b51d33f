"""CUDA graphs on stand-ins: every network in every precision, what cannot be captured, and what a failure leaves."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
import torch
from fixtures.counting import counting_card
from fixtures.cuda import Stream as CudaStream
from fixtures.cuda import cuda
from fixtures.networks import lively
from torch.utils._python_dispatch import TorchDispatchMode
from vss_ros.backends.gpu import graphs
from vss_ros.backends.gpu.graphs import Graph, NotCapturable, OnDevice
from vss_ros.backends.gpu.small import Label, Resize
from vss_ros.backends.gpu.torch import TorchCudaBackend
from vss_ros.backends.stages import flat_stages
from vss_ros.backends.torch_cpu import TorchBackend
from vss_ros.networks import build
from vss_ros.networks.cards.model import Model, open_model
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.stream import Stream

SIZE = (64, 96)
NETWORKS = [
    *[("dcfm", "mit_b0"), ("dcfm", "espnetv2"), ("segformer", "mobilenet_v1"), ("cffm", "mit_b0")],
    *[("mrcfa", "mit_b0"), ("msaf", "resnet18"), ("stf", "resnet18"), ("mar+pspnet", "resnet18")],
]
OTHERS = [
    *[
        ("iocformer", "resnet50_plain"),
        ("iocformer", "mobilenet_v1"),
        ("mcis", "vgg16"),
        ("mcis", "mobilenet_v1"),
    ],
    *[("pspnet", "resnet18"), ("dcfm", "mobilenet_v1"), ("dcfm", "resnet18")],
    ("mar+dcfm", "mit_b0"),
    ("mar+stf", "resnet18"),
]
TOLERANCE = {"f32": 1e-4, "f16": 2e-2, "bf16": 1e-1}
OPTIONS = {"stf": {"grid": (8, 16), "causal": True}, "mar+stf": {"grid": (8, 16)}}


def labels(backend, frames):
    stream = Stream(backend, FixedInterval(2))
    results = [r for i, frame in enumerate(frames) for r in stream.feed(frame, i / 30)] + stream.flush()
    return [result.labels for result in results]


@pytest.mark.parametrize(
    ("precision", "share"),
    [
        ("f32", 0.999),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("f16", 0.98), ("bf16", 0.9))),
    ],
)
@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_every_network_runs_as_graphs(cuda, caplog, rng, name, backbone, precision, share):
    network = lively(name, backbone)
    frames = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in [SIZE] * 3 + [(96, 144)] * 2]
    with caplog.at_level(logging.WARNING):
        backend = TorchCudaBackend(Model(network, SIZE), precision)
        found = labels(backend, frames)
    assert not caplog.messages and cuda.graphs >= len(backend.stages)
    assert all(isinstance(stage, Graph) for stage in backend.stages.values())
    truth = labels(TorchBackend(Model(network, SIZE)), frames[:3])
    for ours, expected in zip(found[: len(truth)], truth, strict=True):
        assert (ours == expected).mean() >= share


@pytest.mark.parametrize(
    ("name", "backbone", "precision"),
    [
        *[(*network, precision) for network in NETWORKS for precision in ("f32", "f16")],
        *[(*network, "f16") for network in OTHERS],
        *[pytest.param(*network, "f32", marks=pytest.mark.long) for network in OTHERS],
    ],
)
def test_no_forward_reads_the_hosts_memory(name, backbone, precision):
    """On meta tensors, whose device is not the host's: a second run must find there everything that it needs."""
    network = (
        build(name, backbone, 1 if name == "iocformer" else 7, **OPTIONS.get(name, {})).eval().to("meta")
    )
    stages = flat_stages(Model(network, SIZE), precision, fused=True)
    with torch.no_grad():
        first, inputs = stages.get("decode", stages["propagate"])  # the others' layers ran to find its inputs
        first(*inputs)
        for module, inputs in stages.values():
            with OnDevice(torch.device("meta")):
                module(*inputs)


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16"])
def test_counting_answers_as_on_a_cpu(cuda, rng, tmp_path, precision):
    """All its tensors: points, scores, density."""
    model = open_model(str(counting_card(tmp_path)))
    backend, reference = TorchCudaBackend(model, precision), TorchBackend(model)
    frame = rng.integers(0, 256, (*model.size, 3), dtype=np.uint8)
    ours, expected = (b.arrays(b.propagate(frame, [])) for b in (backend, reference))
    assert isinstance(backend.stages["propagate"], Graph) and len(ours) == len(expected) > 1
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == np.float32 and np.abs(a - b).max() <= TOLERANCE[precision] * max(1, np.abs(b).max())


def test_a_model_stays_where_it_was(cuda, monkeypatch):
    """A fallback on the CPU may open it next, and the GPU holds no second copy of its weights."""
    moved, to = [], torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda m, *a, **k: moved.append((m, a)) or to(m, *a, **k))
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda m, *a: moved.append((m, ("cuda",))) or m)
    model = Model(lively("dcfm", "mit_b0"), SIZE)
    TorchCudaBackend(model, "f16")
    gone = [m for m, place in moved if place and place[0] == "cuda"]
    assert any(type(m) is type(model.network) for m in gone) and all(m is not model.network for m in gone)


def test_host_memory_is_found_before_a_capture():
    with pytest.raises(NotCapturable, match="cpu memory"), OnDevice(torch.device("meta")):
        torch.zeros(2, device="meta") + torch.tensor([1.0, 2.0])


def test_what_waits_for_the_device_is_never_captured(cuda):
    with pytest.raises(NotCapturable, match="wait"):
        Graph(lambda x: x * x.sum().item(), (torch.ones(3),), CudaStream())
    assert cuda.graphs == 0 and not cuda.pools and not cuda.switched


def test_a_failed_capture_leaves_the_process_sound(cuda):
    calls = []

    def third_time(x):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return x + 1

    with pytest.raises(RuntimeError, match="not permitted"):
        Graph(third_time, (torch.ones(3),), CudaStream())
    assert not cuda.pools, "the allocator still captures"
    assert not cuda.switched, "the thread's stream is still another"
    assert Graph(lambda x: x + 1, (torch.ones(3),), CudaStream())(torch.ones(3)).tolist() == [2.0] * 3


def test_a_stage_that_cannot_be_captured_runs_without_a_graph(cuda, monkeypatch, caplog, rng):
    def refuse(*_):
        raise RuntimeError("capture failed")

    monkeypatch.setattr("vss_ros.backends.gpu.torch.Graph", refuse)
    network = lively("dcfm", "mobilenet_v1")
    frames = list(rng.integers(0, 256, (3, *SIZE, 3), dtype=np.uint8))
    with caplog.at_level(logging.WARNING):
        found = labels(TorchCudaBackend(Model(network, SIZE), "f32"), frames)
    assert "stage encode runs without a CUDA graph" in caplog.text
    truth = labels(TorchBackend(Model(network, SIZE)), frames)
    assert all((a == b).mean() > 0.999 for a, b in zip(found, truth, strict=True))


def test_captures_of_two_threads_take_turns(cuda):
    """The stand-in raises where one capture begins inside another."""
    wrong = []

    def make():
        try:
            for _ in range(20):
                Graph(lambda x: (x @ x).relu(), (torch.ones(64, 64),), CudaStream())
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and cuda.graphs == 40


def test_a_graph_sees_new_inputs_and_keeps_old_outputs_only_as_copies(cuda):
    graph = Graph(lambda x: (x + 1) * 2, (torch.zeros(2),), CudaStream())
    first = graph(torch.tensor([1.0, 2.0]))
    kept = first.clone()
    assert (
        graph(torch.tensor([5.0, 6.0])) is first
        and first.tolist() == [12.0, 14.0]
        and kept.tolist() == [4.0, 6.0]
    )


def test_label_and_resize_are_capturable(cuda, rng):
    logits = torch.randn(1, 5, 8, 12)
    assert torch.equal(Graph(Label((32, 48)), (logits,), CudaStream())(logits), Label((32, 48))(logits))
    frame = torch.from_numpy(rng.integers(0, 256, (1, 40, 60, 3), dtype=np.uint8))
    resize = Resize((40, 60), (20, 30))
    assert torch.equal(Graph(resize, (frame,), CudaStream())(frame), resize(frame))


class Casts(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += operator.overloadpacket is torch.ops.aten._to_copy
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize(("fused", "most"), [(False, 80), (True, 0)])
def test_no_frame_casts_weights(fused, most):
    """Of the 40 layers of this stage each would cast its weight and its input, were they not in 16 bits already."""
    module, inputs = flat_stages(Model(lively("dcfm", "mit_b0"), SIZE), "f16", fused)["remember"]
    with torch.no_grad(), Casts() as casts:
        module(*inputs)
    assert casts.count <= most
    layers = [m for m in module.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    assert all(layer.weight.dtype == torch.float16 for layer in layers)


def test_labels_by_strips_are_those_of_the_whole(monkeypatch):
    torch.manual_seed(0)
    passes = [torch.randn(1, 9, 17, 23) for _ in range(2)]
    full = torch.nn.functional.interpolate(sum(passes), size=(150, 201), mode="bilinear", align_corners=False)
    for strip in (1, 9 * 201 * 4 * 7, 1 << 30):
        monkeypatch.setattr("vss_ros.backends.gpu.small.STRIP", strip)
        assert (Label((150, 201))(*passes) != full.argmax(1)[0]).float().mean() < 1e-3


def test_frames_of_ever_new_sizes_fill_no_memory(cuda, rng, monkeypatch):
    monkeypatch.setattr(graphs, "MOST", 6)
    backend = TorchCudaBackend(Model(lively("dcfm", "mit_b0"), SIZE), "f32")
    reference = TorchBackend(Model(lively("dcfm", "mit_b0"), SIZE))
    for side in (*range(40, 60), 40):
        frame = rng.integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
        (ours,), (expected,) = labels(backend, [frame]), labels(reference, [frame])
        assert ours.shape == frame.shape[:2] and (ours == expected).mean() >= 0.99
    assert len(backend.small) <= 6 and len(backend.transfer.pinned) <= 6
