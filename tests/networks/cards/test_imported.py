"""An ONNX file of one's own answers as its runtime does, whatever its layout, channels and kind of output."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import vss_ros
import yaml
from fixtures.imported import SIZE, WEIGHTS, write_model
from onnx import TensorProto, helper, numpy_helper
from vss_ros.config import VssError


def expected(rgb):
    x = (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return np.argmax(x[::2, ::2] @ WEIGHTS.T, -1)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("output", ["logits", "probabilities", "labels"])
@pytest.mark.parametrize(("layout", "channels"), [("nchw", "rgb"), ("nhwc", "bgr")])
def test_answers_are_the_files(tmp_path, backend, output, layout, channels):
    blocks = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    rgb = np.kron(blocks, np.ones((8, 8, 1), np.uint8))
    path = write_model(tmp_path, output, layout, channels)
    with vss_ros.load_stream(path, backend=backend, precision="f32", motion=False) as stream:
        result = stream(rgb, 0.0)
    inner = np.zeros(SIZE, bool)
    inner.reshape(4, 8, 6, 8)[:, 2:6, :, 2:6] = (
        True  # bilinear upsampling mixes classes at the blocks' borders
    )
    want = np.repeat(np.repeat(expected(rgb), 2, 0), 2, 1)
    assert (result.labels[inner] == want[inner]).all() and len(np.unique(want)) > 1
    assert result.confidence().min() > 80


def test_any_image_network_becomes_a_video_network(tmp_path):
    from fixtures.motion import texture

    path = write_model(tmp_path)
    frame = np.ascontiguousarray(texture()[:32, :48])
    stream = vss_ros.load_stream(path, backend="onnxruntime", interval=4)
    answers = [stream(frame, i / 30) for i in range(5)]
    assert [answer.is_keyframe for answer in answers] == [True, False, False, False, True]
    assert (answers[1].labels == answers[0].labels).mean() > 0.9, "the first one at the network's own stride"
    assert all((a.labels == b.labels).mean() > 0.95 for a, b in pairwise(answers[1:]))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"options": {"output": "scores"}}, "output: expected logits or probabilities or labels"),
        ({"options": {"input": "y"}}, "input: expected one of x, got 'y'"),
        ({"options": {"depth": 3}}, "unknown options"),
        ({"sha256": "0" * 64}, "do not belong to the card"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, fields, said):
    with pytest.raises(VssError, match=said):
        vss_ros.load_stream(write_model(tmp_path, **fields), backend="onnxruntime")


def test_torch_is_refused(tmp_path):
    with pytest.raises(VssError, match="runs on openvino, onnxruntime or tensorrt"):
        vss_ros.load_stream(write_model(tmp_path), backend="torch")
