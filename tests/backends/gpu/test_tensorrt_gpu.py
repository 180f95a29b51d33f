"""TensorRT itself, on a machine that has it and a GPU: engines are built, cached, and answer like torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures.networks import lively
from vss_ros.backends.choose import make_backend
from vss_ros.backends.gpu import engines
from vss_ros.backends.gpu.build import engine_keys, jobs
from vss_ros.backends.gpu.versions import builder, probe
from vss_ros.config import VssError
from vss_ros.networks.cards.model import Model
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.stream import Stream

SIZE = (128, 192)
NETWORKS = [("dcfm", "mit_b0"), ("dcfm", "resnet18"), ("segformer", "mit_b0"), ("pspnet", "resnet18")]
NETWORKS += [("cffm", "mit_b0"), ("mrcfa", "mit_b0"), ("msaf", "resnet18"), ("stf", "resnet18")]
TOLERANCE = {"f32": 1e-2, "f16": 2e-2, "bf16": 1e-1}  # TensorRT's float32 is TF32


def why_not():
    try:
        builder(probe())
    except VssError as error:
        return str(error)
    return ""


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VSS_CACHE", str(tmp_path / "cache"))


def opened(network, precision, backend="tensorrt"):
    return make_backend(Model(network, SIZE), backend, precision=precision)


def built(network, precision):
    keys = engine_keys(Model(network, SIZE), precision)
    for stage, job in jobs(Model(network, SIZE), precision).items():
        engines.build(keys[stage], job.make)
    return opened(network, precision)


@pytest.mark.parametrize("precision", list(TOLERANCE))
@pytest.mark.parametrize(("name", "backbone"), NETWORKS)
def test_engines_answer_like_torch(name, backbone, precision, rng):
    network = lively(name, backbone)
    frames = rng.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    with pytest.raises(engines.NoEngine):
        opened(network, precision)
    backend = built(network, precision)
    found = [tensor.float().cpu() for tensor in two_on_gpu(backend, frames)]
    expected = [tensor.float().cpu() for tensor in two_on_gpu(opened(network, "f32", "torch"), frames)]
    for ours, truth in zip(found, expected, strict=True):
        assert (ours - truth).abs().max() <= TOLERANCE[precision] * truth.abs().max()


def two_on_gpu(backend, frames):
    """Logits of two frames that read the same memories, each memory another; by stages, then propagated."""
    if not backend.keeps:
        answers = [backend.propagate(frame, []) for frame in frames]
    else:
        features = [backend.encode(frame) for frame in frames]
        memories = [backend.remember(f) for f in features]
        reads = [memories[i % 2] for i in range(len(backend.reads(0, [0])[0]))]
        answers = [backend.decode(f, reads) for f in features]
        answers += [backend.propagate(frame, reads) for frame in frames]
    torch.cuda.synchronize()
    return answers


def test_a_stream_of_camera_frames_gets_the_masks_of_torch(rng):
    """Frames larger than the network's input, resized, remembered and labelled on the GPU; twice through the stream."""
    network = lively("dcfm", "mit_b0")
    clip = rng.integers(0, 256, (12, 256, 384, 3), dtype=np.uint8)
    streams = [Stream(b, FixedInterval(3)) for b in (built(network, "f16"), opened(network, "f32", "torch"))]
    for stamp, frame in enumerate(clip):
        ours, truth = (stream(frame, stamp / 30).labels for stream in streams)
        assert ours.shape == truth.shape and (ours == truth).mean() >= 0.98
