"""ONNX Runtime on CUDA, by stand-ins: its provider is taken where it is there; one that does not load is named."""

import logging

import numpy as np
import onnxruntime
import pytest
from fixtures.networks import lively
from vss_ros.backends import choose
from vss_ros.backends.choose import make_backend
from vss_ros.backends.gpu import present
from vss_ros.networks.cards.model import Model

SIZE = (64, 96)


@pytest.fixture
def cuda(monkeypatch):
    """onnxruntime-gpu beside a driver, without torch on CUDA; returns the providers that each session was asked for."""
    asked, make = [], onnxruntime.InferenceSession

    class Session:
        loads = True

        def __init__(self, path, options, providers):
            asked.append(list(providers))
            self.session = make(path, options, providers=["CPUExecutionProvider"])
            self.get_inputs, self.run = self.session.get_inputs, self.session.run

        def get_providers(self):
            return [present.CUDA] * self.loads + ["CPUExecutionProvider"]

    found = [present.CUDA, "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: found)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(present, "has_driver", lambda: True)
    monkeypatch.setattr(choose, "has_cuda", lambda: False)
    return asked, Session, found


def test_auto_takes_onnx_runtime_where_it_alone_has_the_gpu(cuda, caplog, rng):
    asked, _, _ = cuda
    network = lively("segformer", "mobilenet_v1")
    with caplog.at_level(logging.WARNING):
        backend = make_backend(Model(network, SIZE), "auto")
    assert backend.name == "onnxruntime" and not caplog.records
    assert asked and all(providers[0][0] == present.CUDA for providers in asked)
    frame = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    truth = np.asarray(make_backend(Model(network, SIZE), "torch").propagate(frame, []))
    assert np.abs(np.asarray(backend.propagate(frame, [])) - truth).max() <= 1e-4 * np.abs(truth).max()


def test_a_provider_that_does_not_load_is_asked_for_and_said_once(cuda, caplog, monkeypatch):
    asked, session, _ = cuda
    monkeypatch.setattr(session, "loads", False)
    backend = make_backend(Model(lively("dcfm", "mobilenet_v1"), SIZE), "onnxruntime")
    said = [record for record in caplog.records if "does not load, the CPU computes" in record.getMessage()]
    assert len(backend.stages) == len(asked) == 4 and len(said) == 1
    assert [len(providers) for providers in asked] == [2, 1, 1, 1]


def test_without_its_build_for_cuda_or_a_driver_the_cpu_computes(cuda, monkeypatch):
    asked, _, found = cuda
    model = Model(lively("segformer", "mobilenet_v1"), SIZE)
    found.remove(present.CUDA)
    make_backend(model, "onnxruntime")
    found.append(present.CUDA)
    monkeypatch.setattr(present, "has_driver", lambda: False)
    make_backend(model, "onnxruntime")
    assert {tuple(providers) for providers in asked} == {("CPUExecutionProvider",)}
    assert choose.fastest() == "openvino"


def test_what_replaces_a_gpu_is_the_cpu(cuda):
    assert (choose.fastest(), choose.fastest(cpu=True)) == ("onnxruntime", "openvino")
