"""`vss build` with stand-ins for TensorRT: what it builds is what a stream then opens, in f16 and in int8."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixtures.cuda import cuda, tensorrt
from fixtures.networks import lively
from vss_ros import cli
from vss_ros.backends import int8_files
from vss_ros.backends.choose import make_backend
from vss_ros.backends.gpu.build import timing_cache
from vss_ros.backends.gpu.engines import NoEngine
from vss_ros.backends.gpu.versions import Versions, builder, probe
from vss_ros.backends.onnx_export import export
from vss_ros.config import VssError
from vss_ros.networks.cards.card import read_card
from vss_ros.networks.cards.model import Model, open_model
from vss_ros.stream.load import load_stream

SIZE = (64, 96)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VSS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    from vss_ros.networks.cards.card import ModelCard, save_model

    found = ModelCard(
        name="small",
        network="segformer",
        backbone="mobilenet_v1",
        classes=[f"c{i}" for i in range(7)],
        palette=[[i, i, i] for i in range(7)],
        size=list(SIZE),
        weights="small.safetensors",
        sha256="",
        licence="Apache-2.0",
    )
    return save_model(lively("segformer", "mobilenet_v1"), found, tmp_path_factory.mktemp("small"))


def test_engines_that_were_built_are_opened(tensorrt, card, rng, capsys):
    with pytest.raises(NoEngine, match=f"vss build --model {card} --precision f16 --size 64x96"):
        load_stream(card, backend="tensorrt")
    assert cli.main(["build", "--model", str(card)]) == 0
    stream = load_stream(card, backend="tensorrt")
    assert (stream.backend.name, stream.backend.precision) == ("tensorrt", "f16")
    frame = rng.integers(0, 256, (96, 144, 3), dtype=np.uint8)
    truth = load_stream(card, backend="torch", precision="f32")(frame).labels
    assert (stream(frame).labels == truth).mean() > 0.98
    assert cli.main(["build", "--model", str(card)]) == 0
    assert "engines are built" in capsys.readouterr().out


def test_int8_engines_are_found_under_their_calibration(tensorrt, card, rng):
    """The stages of the "calibration" are not quantised: what counts is where their engines are looked for."""
    found, _ = read_card(card)
    options = {"backend": "tensorrt", "precision": "int8"}
    with pytest.raises(VssError, match="precision int8 needs a calibration"):
        load_stream(card, **options)
    models = export(open_model(card), opset=int8_files.OPSET)
    int8_files.write(int8_files.folder_of(found, SIZE), models, found, SIZE, {})
    with pytest.raises(NoEngine, match=r"vss build .* --precision int8 .* --calibration "):
        load_stream(card, **options)
    assert cli.main(["build", "--model", str(card), "--precision", "int8"]) == 0
    stream = load_stream(card, **options)
    frame = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    truth = load_stream(card, backend="torch", precision="f32")(frame).labels
    assert stream.backend.precision == "int8" and (stream(frame).labels == truth).mean() > 0.999
    int8_files.write(int8_files.folder_of(found, SIZE), {**models, "propagate": b"other"}, found, SIZE, {})
    with pytest.raises(NoEngine):
        load_stream(card, **options)


def test_auto_says_why_it_is_not_tensorrt_and_takes_f16(tensorrt, card, caplog, monkeypatch):
    with caplog.at_level(logging.WARNING):
        backend = make_backend(open_model(card), precision="auto")
    assert (backend.name, backend.precision) == ("torch", "f16")
    assert f"vss build --model {card} --precision f16" in caplog.text
    assert cli.main(["build", "--model", str(card)]) == 0
    caplog.clear()
    assert make_backend(open_model(card), precision="auto").name == "tensorrt"
    assert "backend auto: torch" not in caplog.text
    monkeypatch.setattr(tensorrt, "__version__", "10.3.0")  # an upgrade, or another board
    with caplog.at_level(logging.WARNING):
        assert make_backend(open_model(card), precision="auto").name == "torch"
    assert "torch in f16 on CUDA" in caplog.text and "vss build" in caplog.text
    monkeypatch.setattr(tensorrt, "__version__", "10.16.1.11")
    fewer = SimpleNamespace(multi_processor_count=8)  # a board of the same name
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_properties", lambda *_: fewer)
        assert make_backend(open_model(card), precision="auto").name == "torch"
    assert make_backend(open_model(card), precision="auto").name == "tensorrt"
    caplog.clear()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with caplog.at_level(logging.WARNING):
        assert make_backend(open_model(card), precision="auto").name == "torch"
    assert "TensorRT, which is not installed" in caplog.text


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "no memory left"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "no memory left"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "no memory left"),
        (
            RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp:838"),
            "no memory left",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), "install a torch built for this GPU"),
        (RuntimeError("FIND was unable to find an engine to execute this computation"), "docs/JETSON.md"),
        (
            RuntimeError("CUDA error: no kernel image is available for execution on the device"),
            "install a torch built for this GPU",
        ),
    ],
)
def test_what_cuda_says_while_a_network_is_opened_is_an_error_of_ours(
    cuda, card, monkeypatch, error, message
):
    def fail(*_):
        raise error

    monkeypatch.setattr("vss_ros.backends.gpu.torch.Graph", fail)
    monkeypatch.setattr(torch.cuda, "Stream", fail)
    with pytest.raises(VssError, match=message):
        make_backend(open_model(card), "torch", precision="f16")


def test_measurements_of_kernels_are_kept_apart_by_gpu(cache):
    places = {
        timing_cache(Versions("2.8.0", "", "10.3.0", gpu=gpu)) for gpu in ("Orin sm_87", "RTX 4090 sm_89")
    }
    assert len(places) == 2 and all("/engines/timing-10.3.0-" in str(place) for place in places)


def test_tensorrt_for_rtx_stands_in_where_tensorrt_is_not_installed(tensorrt, monkeypatch, rng):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", tensorrt)
    monkeypatch.setattr(tensorrt, "__name__", "tensorrt_rtx")
    monkeypatch.setattr(tensorrt, "__version__", "1.3.0.35")
    assert probe().tensorrt == "RTX 1.3.0.35" and builder(probe()) == "onnx"
