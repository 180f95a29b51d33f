"""Streaming equals running the whole clip at once, for every policy; and a stream knows when to start anew."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import vss_ros
from fixtures.paths import run_python
from vss_ros.backends.base import Backend
from vss_ros.backends.choose import make_backend
from vss_ros.backends.labels import confidence, labels
from vss_ros.config import IMAGENET_MEAN, IMAGENET_STD, StreamConfig, VssError
from vss_ros.networks import build
from vss_ros.networks.cards.model import Model
from vss_ros.stream.keyframes import (
    Adaptive,
    FixedInterval,
    LabelDrift,
    label_drift,
    make_policy,
)
from vss_ros.stream.stream import Stream

SIZE = (64, 96)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build("dcfm", "mit_b0", 5).eval()


@pytest.fixture
def clip(rng):
    """13 frames that drift, with a cut before frame 6."""
    base = rng.integers(0, 256, (2, *SIZE, 3))
    return [np.clip(base[int(t >= 6)] + 3 * t, 0, 255).astype(np.uint8) for t in range(13)]


def make_stream(network, policy, **options):
    backend = make_backend(Model(network, SIZE), "torch")
    return Stream(backend, policy, **options)


def normalise(frames):
    x = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((x - mean) / std).float()


def keyframes_of(policy, x):
    """Keyframes of a clip of normalised frames, as section III-D of the paper states the schedule."""
    keys = [0]
    for t in range(1, len(x)):
        age, score = t - keys[-1], float((x[t] - x[keys[-1]]).abs().mean())
        if isinstance(policy, FixedInterval):
            due = age == policy.longest
        else:
            due = age >= policy.shortest and (score >= policy.threshold or age == policy.longest)
        if due:
            keys.append(t)
    return keys


def whole_clip(network, frames, policy, both_sides):
    """Labels and keyframes of a clip, all frames in one batch."""
    x = normalise(frames)
    keys = keyframes_of(policy, x)
    with torch.no_grad():
        (features,) = network.encode(x)
        (memory,) = network.remember((features[keys],))
        answers = []
        for t in range(len(frames)):
            last = max(i for i, k in enumerate(keys) if k <= t)
            sides = [last]
            if both_sides and t not in keys and last + 1 < len(keys):
                sides.append(last + 1)
            logits = sum(network.decode((features[t : t + 1],), (memory[i : i + 1],)) for i in sides)
            full = torch.nn.functional.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False)
            answers.append(full.argmax(1)[0].numpy())
    return answers, keys


@pytest.mark.parametrize("both_sides", [False, True])
@pytest.mark.parametrize(
    "policy", [FixedInterval(1), FixedInterval(2), FixedInterval(5), Adaptive(0.3, 1, 6), Adaptive(0.1, 2, 4)]
)
def test_streaming_equals_the_whole_clip(network, clip, policy, both_sides):
    stream = make_stream(network, policy, both_sides=both_sides)
    results = list(stream.run((frame, t / 30) for t, frame in enumerate(clip)))
    expected, keys = whole_clip(network, clip, policy, both_sides)
    assert [r.index for r in results] == list(range(len(clip)))
    assert [r.index for r in results if r.is_keyframe] == keys
    for result, truth in zip(results, expected, strict=True):
        # batch and single frame may round differently where two classes tie
        assert (result.labels != truth).mean() < 1e-3


def test_adaptive_policy_sees_the_cut(network, clip):
    stream = make_stream(network, Adaptive(0.5, 1, 100))
    keys = [r.index for r in stream.run((f, t / 30) for t, f in enumerate(clip)) if r.is_keyframe]
    assert keys == [0, 6]


def test_consistency_policy_refreshes_after_the_labels_drifted(network, clip):
    frames = [(f, t / 30) for t, f in enumerate(clip)]
    unrefreshed = [
        r.label_drift for r in make_stream(network, FixedInterval(100), measure_drift=True).run(frames)
    ]
    threshold = max(unrefreshed) / 2
    results = list(make_stream(network, LabelDrift(threshold, 1, 100)).run(frames))
    keys = [r.index for r in results if r.is_keyframe]
    assert 1 < len(keys) < len(clip)
    for before, result in pairwise(results):
        assert result.is_keyframe == (before.label_drift >= threshold)


@pytest.mark.parametrize(
    ("policy", "keys"), [(LabelDrift(0.0, 3, 5), [0, 3, 6, 9, 12]), (LabelDrift(1.0, 1, 4), [0, 4, 8, 12])]
)
def test_consistency_policy_keeps_its_bounds(network, clip, policy, keys):
    stream = make_stream(network, policy)
    still = [clip[0]] * 13
    assert [r.index for r in stream.run((f, t / 30) for t, f in enumerate(still)) if r.is_keyframe] == keys


def test_consistency_policy_cannot_wait_for_both_sides(network, clip):
    stream = make_stream(network, LabelDrift(0.1, 1, 4), both_sides=True)
    with pytest.raises(VssError, match="use fixed or adaptive"):
        stream.feed(clip[0], 0.0)


@pytest.mark.parametrize("both_sides", [False, True])
def test_drift_is_measured_against_the_keyframe(network, clip, both_sides):
    stream = make_stream(network, FixedInterval(4), both_sides=both_sides, measure_drift=True)
    results = list(stream.run((f, t / 30) for t, f in enumerate(clip)))
    plain = make_stream(network, FixedInterval(4), both_sides=both_sides)
    x = normalise(clip)
    features = network.encode(x)[0].detach()
    for t, (result, other) in enumerate(
        zip(results, plain.run((f, t / 30) for t, f in enumerate(clip)), strict=True)
    ):
        key = t - t % 4
        assert np.array_equal(result.labels, other.labels) and other.feature_drift is None
        assert result.label_drift == label_drift(result.labels, results[key].labels)
        assert result.keyframe_age_ms == pytest.approx((t % 4) * 1e3 / 30)
        assert result.input_drift == pytest.approx(float((x[t] - x[key]).abs().mean()), rel=1e-4, abs=1e-6)
        moved = (features[t] - features[key]).abs().sum() / features[key].abs().sum()
        assert result.feature_drift == pytest.approx(float(moved), rel=1e-3, abs=1e-5)


def test_input_change_is_the_mean_difference_of_normalised_frames(clip):
    a, b = normalise(clip[:2])
    found = Backend.input_change(SimpleNamespace(std=IMAGENET_STD), clip[1], clip[0])
    assert found == pytest.approx(float((a - b).abs().mean()), rel=1e-5)


def test_answers_wait_only_as_long_as_they_must(network, clip):
    stream = make_stream(network, FixedInterval(3), both_sides=True)
    assert stream.lookahead == 2
    counts = [len(stream.feed(frame, t / 30)) for t, frame in enumerate(clip[:5])]
    assert counts == [0, 0, 1, 1, 1]
    assert [r.source for r in stream.feed(clip[5], 5 / 30, "the fifth")] == [None]
    assert [(r.index, r.source) for r in stream.flush()] == [(4, None), (5, "the fifth")]
    with pytest.raises(VssError, match="waits for later frames"):
        stream(clip[6], 1.0)


def test_stream_starts_anew_when_memory_no_longer_fits(network, clip):
    stream = make_stream(network, FixedInterval(100), max_gap=1.0)
    assert stream(clip[0], 10.0).reset == "first frame"
    assert stream(clip[1], 10.1).reset == ""
    assert stream(clip[2], 10.1).reset == ""  # equal stamps are a slow clock, not a jump
    [backwards] = stream.feed(clip[3], 9.0)  # a recording that begins again; a call would refuse it
    assert "backwards" in backwards.reset and backwards.is_keyframe and backwards.index == 0
    assert "gap of 2" in stream(clip[4], 11.5).reset
    resized = stream(np.ascontiguousarray(clip[5][:, :80]), 11.6)
    assert "size changed" in resized.reset and resized.labels.shape == (64, 80)
    assert len(stream.memories.kept) == 1


def test_frames_that_wait_are_answered_before_a_reset(network, clip):
    stream = make_stream(network, FixedInterval(4), both_sides=True)
    for t in range(2):
        stream.feed(clip[t], t / 30)
    results = stream.feed(clip[2], 99.0)
    assert [r.stamp for r in results] == [0, 1 / 30]


def test_policy_may_change_between_frames(network, clip):
    stream = make_stream(network, FixedInterval(100))
    ages = []
    for t, frame in enumerate(clip[:6]):
        if t == 3:
            stream.policy = FixedInterval(2)
        ages.append(stream(frame, t / 30).keyframe_age)
    assert ages == [0, 1, 2, 0, 1, 0]


def test_memory_does_not_grow(network, clip):
    stream = make_stream(network, FixedInterval(2), both_sides=True)
    for t in range(40):
        stream.feed(clip[t % 13], t / 30)
        assert len(stream.memories.kept) <= 3 and len(stream.pending) <= 2


def test_the_caller_may_reuse_its_array(network, clip):
    stream = make_stream(network, Adaptive(0.5, 1, 100))
    buffer = clip[0].copy()
    stream(buffer, 0.0)
    buffer[:] = clip[7]
    assert stream(buffer, 0.1).is_keyframe


def test_image_networks_need_no_memory(clip):
    stream = make_stream(build("segformer", "mit_b0", 5), FixedInterval(5))
    results = [stream(frame, t / 30) for t, frame in enumerate(clip[:3])]
    assert all(r.is_keyframe for r in results) and not stream.memories.kept


@pytest.mark.parametrize(
    "frame",
    [np.zeros((64, 96), np.uint8), np.zeros((64, 96, 3), np.float32), np.zeros((0, 96, 3), np.uint8), None],
)
def test_wrong_frames_are_refused_and_change_nothing(network, clip, frame):
    stream = make_stream(network, FixedInterval(5))
    stream(clip[0], 0.0)
    with pytest.raises(VssError, match=r"expected an \(H, W, 3\) uint8"):
        stream(frame, 0.1)
    assert stream(clip[1], 0.2).keyframe_age == 1


def test_labels_equal_upsampled_argmax_in_torch(rng):
    logits = [rng.standard_normal((1, 7, 16, 24)).astype(np.float32) for _ in range(2)]
    full = torch.nn.functional.interpolate(
        torch.from_numpy(logits[0] + logits[1]), size=(61, 90), mode="bilinear", align_corners=False
    )
    assert (labels(logits, (61, 90)) != full.argmax(1)[0].numpy()).mean() < 1e-3


def test_equal_logits_give_the_first_class():
    assert np.all(labels([np.ones((1, 4, 8, 8), np.float32)], (8, 8)) == 0)


def test_confidence_of_a_known_distribution():
    logits = np.zeros((1, 4, 2, 2), np.float32)
    assert np.all(confidence([logits], (4, 4)) == 64)
    logits[:, 2] = 100
    assert np.all(confidence([logits], (4, 4)) == 255)


def test_three_lines_of_the_public_interface(tiny_card, rng):
    stream = vss_ros.load_stream(model=tiny_card, backend="torch", keyframe_interval=5)
    result = stream(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8), 1.5)
    assert result.labels.shape == (120, 160) and result.labels.dtype == np.uint8
    assert result.is_keyframe and result.stamp == 1.5 and result.times["total"] > 0
    assert result.confidence().shape == (120, 160)


def test_unknown_options_are_refused(tiny_card):
    with pytest.raises(VssError, match="unknown option speed"):
        vss_ros.load_stream(model=tiny_card, speed=3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"interval": -1}, r"interval: expected a value in \[0, 1000\], got -1"),
        ({"policy": "often"}, "policy: expected one of every, fixed, adaptive, consistency"),
        ({"threshold": "low"}, "threshold: expected float"),
        ({"threshold": float("nan")}, "threshold: expected a value"),
        ({"min_interval": 9}, "min_interval: expected at most max_interval"),
        ({"height": 64}, "height, width: expected both or neither"),
    ],
)
def test_wrong_options_are_refused(options, text):
    with pytest.raises(VssError, match=text):
        StreamConfig(**options)


def test_policies_of_the_options():
    assert make_policy(StreamConfig(), own=5) == FixedInterval(5)
    assert make_policy(StreamConfig(policy="every", interval=7), own=5) == FixedInterval(1)
    assert make_policy(StreamConfig(policy="fixed", interval=7), own=5) == FixedInterval(7)
    assert make_policy(StreamConfig(policy="adaptive"), own=5) == Adaptive(0.3, 1, 6)
    assert make_policy(StreamConfig(policy="consistency"), own=5) == LabelDrift(0.06, 1, 6)


def test_importing_the_package_imports_no_runtime_and_no_ros():
    code = (
        "import sys, vss_ros, vss_ros.cli, vss_ros.config\n"
        "heavy = {'torch', 'rclpy', 'openvino', 'onnxruntime', 'tensorrt', 'lightning'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import vss_ros.stream.stream\n"
        "heavy = {'rclpy', 'openvino', 'onnxruntime', 'tensorrt', 'lightning'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr
