"""Several streams on one backend, and gaps where a node leaves frames out on purpose."""

from __future__ import annotations

import numpy as np
import pytest
import vss_ros
from fixtures.motion import texture, window
from vss_ros.config import StreamConfig, replace


@pytest.fixture(scope="module")
def stream(tiny_card):
    return vss_ros.load_stream(tiny_card, backend="torch", keyframe_interval=4)


@pytest.fixture
def clips():
    """Two clips of nine frames that have nothing in common."""
    return np.stack([[window(texture(seed), 3 * t, size=(64, 96)) for t in range(9)] for seed in range(2)])


def test_streams_on_one_backend_do_not_hear_of_each_other(stream, clips):
    alone = [
        [result.labels for result in stream.run((rgb, t / 10) for t, rgb in enumerate(clip))]
        for clip in clips
    ]
    stream.reset()
    other = stream.another()
    for t, frames in enumerate(zip(*clips, strict=True)):
        for each, rgb, expected in zip((stream, other), frames, alone, strict=True):
            assert np.array_equal(each(rgb, t / 10).labels, expected[t])
    assert other.backend is stream.backend


def test_a_phase_brings_only_the_second_keyframe_forward(stream, clips):
    shifted = stream.another()
    shifted.phase = 3
    keys = [shifted(rgb, t / 10).is_keyframe for t, rgb in enumerate(clips[0])]
    assert [t for t, key in enumerate(keys) if key] == [0, 1, 5]


def test_frames_left_out_on_purpose_are_no_gap(stream, clips):
    stream.reset()
    assert stream.feed(clips[0, 0], 10.0)[0].reset == "first frame"
    assert stream.feed(clips[0, 1], 12.5, gap=0.1)[0].reset == "", "the camera went on meanwhile"
    assert "gap of 1.5" in stream.feed(clips[0, 2], 14.1, gap=1.5)[0].reset
    assert "gap of 3" in stream.feed(clips[0, 3], 17.1)[0].reset, "without a word the stamps tell"


def test_options_are_taken_over_between_two_frames(stream, clips):
    other = stream.another()
    other.configure(replace(StreamConfig(), interval=2, max_gap=5.0))
    keys = [other(rgb, 4.0 * t).is_keyframe for t, rgb in enumerate(clips[0])]
    assert keys == [t % 2 == 0 for t in range(9)]
    other.configure(replace(StreamConfig(), policy="every", max_gap=5.0))
    assert all(other(rgb, 40 + 4.0 * t).is_keyframe for t, rgb in enumerate(clips[0]))
