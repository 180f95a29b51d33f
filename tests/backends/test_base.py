"""Every runtime keeps the contract of `backends.base`; those on CUDA on stand-ins for it."""

from __future__ import annotations

import functools
import threading

import cv2
import numpy as np
import pytest
import torch
from fixtures.cuda import cuda, tensorrt
from fixtures.networks import lively
from vss_ros.backends.base import Backend
from vss_ros.backends.choose import make_backend
from vss_ros.backends.gpu import engines
from vss_ros.backends.gpu.build import engine_keys, jobs
from vss_ros.networks.cards.model import Model
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.stream import Stream

SIZE, FRAME = (64, 96), (96, 144)
RUNTIMES = ["torch", "openvino", "onnxruntime", "torch on CUDA", "tensorrt"]
NETWORK = lively("dcfm", "mobilenet_v1")


@functools.cache
def on_cpu(runtime: str, parts: int) -> Backend:
    return make_backend(Model(NETWORK, SIZE, parts=parts), runtime, precision="f32")


def opened(runtime: str, request: pytest.FixtureRequest, parts: int = 1) -> Backend:
    """Those on the CPU are opened once; the stand-ins for CUDA last for one test."""
    if runtime in RUNTIMES[:3]:
        return on_cpu(runtime, parts)
    model = Model(NETWORK, SIZE, parts=parts)
    if runtime == "torch on CUDA":
        request.getfixturevalue("cuda")
        return make_backend(model, "torch", precision="f32")
    if runtime == "tensorrt":
        request.getfixturevalue("tensorrt")
        keys = engine_keys(model, "f32")
        if not all(engines.file_of(key).exists() for key in keys.values()):
            for stage, job in jobs(model, "f32").items():
                engines.build(keys[stage], job.make)
    return make_backend(model, runtime, precision="f32")


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    return request.param


@pytest.fixture
def backend(runtime, request):
    return opened(runtime, request)


@pytest.fixture
def frames(rng):
    noise = rng.integers(0, 256, (4, *SIZE, 3), dtype=np.uint8)
    return [cv2.GaussianBlur(frame, (0, 0), 2) for frame in noise]


def array(tensor) -> np.ndarray:
    return np.asarray(tensor)


def test_attributes(backend, runtime):
    assert isinstance(backend, Backend)
    assert backend.name == runtime.split()[0] and backend.precision == "f32" and backend.size == SIZE
    assert (backend.keeps, backend.lookahead, backend.interval, backend.moves) == (1, 0, 5, True)
    assert backend.reads(3, [0]) == [(0,)] and backend.parts == 1 and len(backend.std) == 3


def test_stages_answer_like_torch(backend, frames):
    features = backend.encode(frames[0])
    memory = backend.remember(features)
    logits = backend.decode(backend.encode(frames[1]), [memory])
    assert np.allclose(array(logits), array(backend.propagate(frames[1], [memory])), atol=1e-4)
    truth = reference(frames[0], frames[1])
    assert array(logits).shape == truth.shape
    assert np.abs(array(logits) - truth).max() <= 1e-4 * np.abs(truth).max()


def reference(key: np.ndarray, frame: np.ndarray) -> np.ndarray:
    from vss_ros.backends.torch_cpu import TorchBackend

    backend = TorchBackend(Model(NETWORK, SIZE))
    return backend.propagate(frame, [backend.remember(backend.encode(key))]).numpy()


def test_answers_are_the_callers(backend, frames):
    first = backend.encode(frames[0])
    memory = backend.remember(first)
    logits = backend.propagate(frames[1], [memory])
    moved = backend.move(memory, np.ones((16, 24, 2), np.float32))
    kept = [array(x).copy() for x in (*first, *memory, logits, *moved)]
    other = backend.remember(backend.encode(frames[2]))
    backend.propagate(frames[3], [other])
    backend.move(other, np.zeros((16, 24, 2), np.float32))
    for before, now in zip(kept, (*first, *memory, logits, *moved), strict=True):
        assert np.array_equal(before, array(now))


@pytest.mark.parametrize("runtime", [*RUNTIMES[:-1], pytest.param("tensorrt", marks=pytest.mark.slow)])
def test_remember_in_parts_is_remember(runtime, request, frames):
    whole, cut = opened(runtime, request), opened(runtime, request, parts=2)
    assert cut.parts == 2
    state = cut.encode(frames[0])
    for part in range(2):
        state = cut.remember_part(part, state)
    expected = whole.remember(whole.encode(frames[0]))
    for ours, truth in zip(state, expected, strict=True):
        assert np.abs(array(ours) - array(truth)).max() <= (0 if runtime == "torch" else 1e-5)
    again = cut.remember(cut.encode(frames[0]))
    assert all(np.array_equal(array(a), array(b)) for a, b in zip(state, again, strict=True))


def test_moved_memory_is_what_opencv_moves(backend, frames, rng):
    memory = backend.remember(backend.encode(frames[0]))
    flow = cv2.GaussianBlur(rng.normal(0, 4, (16, 24, 2)).astype(np.float32), (0, 0), 2)
    (values,) = (array(x)[0] for x in memory)
    place = np.stack(np.meshgrid(np.arange(24), np.arange(16)), -1).astype(np.float32) + flow
    truth = cv2.remap(values, place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    (moved,) = backend.move(memory, flow)
    assert array(moved).shape == (1, *truth.shape)
    assert (
        np.abs(array(moved)[0] - truth).max() <= np.ptp(values) / 32
    )  # OpenCV's places are multiples of 1/32
    (same,) = backend.move(memory, np.zeros((16, 24, 2), np.float32))
    assert np.array_equal(array(same)[0], values)
    (far,) = backend.move(memory, np.full((16, 24, 2), 1e4, np.float32))
    assert np.allclose(array(far)[0], values[-1, -1])
    coarse = np.full((8, 12, 2), 1.0, np.float32)  # a cell of this grid is two of the memory's
    (by_two,) = backend.move(memory, coarse)
    assert np.allclose(array(by_two)[0, :-2, :-2], values[2:, 2:], atol=1e-6)


def test_labels_confidence_and_probabilities(backend, frames):
    memory = backend.remember(backend.encode(frames[0]))
    passes = [backend.propagate(frame, [memory]) for frame in frames[:2]]
    total = torch.from_numpy(sum(array(x) for x in passes))
    full = torch.nn.functional.interpolate(total, size=FRAME, mode="bilinear", align_corners=False)
    labels = backend.labels(passes, FRAME)
    assert labels.dtype == np.uint8 and (labels != full.argmax(1)[0].numpy()).mean() < 2e-3
    probabilities = backend.probabilities(passes)
    expected = (total / 2).softmax(1)[0].permute(1, 2, 0).numpy()
    assert probabilities.dtype == np.float32 and np.abs(probabilities - expected).max() < 1e-5
    sure = backend.confidence(passes, FRAME)
    greatest = cv2.resize(expected.max(2), FRAME[::-1], interpolation=cv2.INTER_LINEAR) * 255
    assert sure.dtype == np.uint8 and np.abs(sure - greatest).max() <= 1


def test_drift(backend, frames):
    first, second = backend.encode(frames[0]), backend.encode(frames[1])
    a, b = (np.concatenate([array(x).ravel() for x in features]) for features in (first, second))
    assert backend.drift(first, first) == 0.0
    assert backend.drift(second, first) == pytest.approx(np.abs(b - a).sum() / np.abs(a).sum(), rel=1e-3)


def test_streams_in_two_threads_share_a_backend(backend, rng):
    clips = rng.integers(0, 256, (2, 6, *SIZE, 3), dtype=np.uint8)

    def run(clip, out):
        stream = Stream(backend, FixedInterval(3))
        out += [stream(frame, i / 30).labels for i, frame in enumerate(clip)]

    alone: list[list] = [[], []]
    for clip, out in zip(clips, alone, strict=True):
        run(clip, out)
    together: list[list] = [[], []]
    threads = [threading.Thread(target=run, args=pair) for pair in zip(clips, together, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, truth in zip(together, alone, strict=True):
        assert len(ours) == 6 and all(np.array_equal(a, b) for a, b in zip(ours, truth, strict=True))


def test_times_of_stages_are_the_devices(backend, runtime, frames):
    """On CUDA a call returns when its work is launched; elsewhere the caller's clock is right."""
    stream = Stream(backend, FixedInterval(3))
    times = [stream(frame, i / 30).times for i, frame in enumerate(frames)]
    assert set(times[0]) >= {"encode", "remember", "decode", "label", "total"} and "propagate" in times[1]
    on_device = runtime in ("torch on CUDA", "tensorrt")
    assert (times[0]["encode"] == times[1]["propagate"] == 1.0) == on_device  # the stand-in's events say 1 ms
    assert not backend.stage_times or backend.stage_times() == {}
    assert backend.finite([backend.propagate(frames[0], [backend.remember(backend.encode(frames[0]))])])
