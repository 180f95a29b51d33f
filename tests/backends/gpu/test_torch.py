"""Torch on a GPU against torch on the CPU; the only tests of it, so run them where a GPU is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from vss_ros.backends.torch_cpu import TorchBackend
from vss_ros.config import VssError
from vss_ros.networks.cards.model import open_model
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.stream import Stream

SIZE = (360, 480)


def test_precisions_that_a_cpu_lacks_are_refused():
    with pytest.raises(VssError, match="f16 needs CUDA"):
        TorchBackend(open_model("street"), "f16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("precision", "share"), [("f32", 0.999), ("f16", 0.995), ("bf16", 0.99)])
def test_labels_on_a_gpu_equal_those_of_the_cpu(precision, share, compiled, rng):
    from vss_ros.backends.gpu.torch import TorchCudaBackend
    from vss_ros.data.street.street import Street

    street = Street(seed=0, size=SIZE)
    frames = [street.frame(i)[0] for i in range(7)]
    frames += [cv2.resize(frame, (640, 480)) for frame in frames]  # resized on the GPU
    answers = []
    for make in ("cpu", "cuda"):
        model = open_model("street", SIZE)
        backend = TorchBackend(model) if make == "cpu" else TorchCudaBackend(model, precision, compiled)
        stream = Stream(backend, FixedInterval(3))
        answers.append([result.labels for result in stream.run((frame, 0.0) for frame in frames)])
    same = [np.mean(a == b) for a, b in zip(*answers, strict=True)]
    assert min(same) >= share
