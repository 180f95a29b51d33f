"""An answer that is not a number never becomes a mask."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import vss_ros
from fixtures.motion import CELLS, SIZE, Colours, texture, window
from vss_ros.backends.base import Backend
from vss_ros.media.motion import Motion
from vss_ros.stream.frame import NotFinite, check_finite
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.stream import Stream


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_one_bad_value_of_any_runtime_is_found(bad, dtype):
    logits = np.full((1, 3, 4, 5), 60000, dtype)  # whose sum is beyond float16
    assert Backend.finite(None, [logits, torch.from_numpy(logits)])
    logits[0, 1, 2, 3] = bad
    for found in ([logits], [torch.from_numpy(logits)], [np.zeros(2), logits]):
        assert not Backend.finite(None, found)
        with pytest.raises(NotFinite, match="precision to f32"):
            check_finite(SimpleNamespace(finite=lambda logits: Backend.finite(None, logits)), found)


def test_a_memory_that_turns_to_nan_is_noticed_at_its_keyframe_and_thrown_away(tiny_card, rng):
    stream = vss_ros.load_stream(tiny_card, backend="torch", keyframe_interval=3)
    frames = rng.integers(0, 256, (8, 64, 96, 3), dtype=np.uint8)
    good = [result.labels for result in stream.run((rgb, t / 10) for t, rgb in enumerate(frames[:4]))]
    remember, broken = stream.backend.remember, True

    def poisoned(features):
        memory = remember(features)
        return tuple(x * float("nan") for x in memory) if broken else memory

    stream.backend.remember = poisoned
    stream.reset()
    with pytest.raises(NotFinite):
        stream(frames[0], 0.0)
    broken = False
    stream.reset()
    assert np.array_equal(stream(frames[0], 0.0).labels, good[0]), "nothing of it is left"


@pytest.mark.parametrize("stage", ["remember", "remember_part", "propagate", "decode"])
@pytest.mark.parametrize("call", range(4))
@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "at_once"},
        {"schedule": "parts"},
        {"schedule": "beside", "delay": 1},
        {"between": "answer"},
        {"both_sides": True},
    ],
)
def test_a_broken_run_costs_its_frame_and_no_other(options, call, stage):
    """Of any frame: neither a memory that is read later nor the filter hands it on."""
    backend, picture, calls = Colours(1, parts=2), texture(), []
    sound = getattr(backend, stage)

    def broken(*given):
        calls.append(stage)
        found = sound(*given)
        factor = np.float32(np.nan if len(calls) == call + 1 else 1)
        return tuple(x * factor for x in found) if isinstance(found, tuple) else found * factor

    stream = Stream(backend, FixedInterval(4), motion=Motion(SIZE), steady=0.7, **options)
    setattr(backend, stage, broken)
    wrong, failed = [], 0
    pixels = 0 if "both_sides" in options else 4  # a frame, where memories move
    for t in range(24):
        try:
            done = stream.feed(window(picture, pixels * t), t / 10)
        except NotFinite:
            failed += 1
            continue
        for result in done:
            there = window(picture, pixels * round(10 * result.stamp))
            truth = Colours().labels([Colours(cells=CELLS).propagate(there, [])], SIZE)
            wrong.append(float((result.labels != truth)[8:-8, 8:-28].mean()))
    assert failed == (len(calls) > call) and max(wrong) < 0.15
    assert len(wrong) >= 24 - failed - 2 * stream.lookahead
