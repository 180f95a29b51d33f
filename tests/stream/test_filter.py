"""The filter along the motion, in a stream."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from fixtures.motion import SIZE, Colours, texture, window
from vss_ros.media.motion import Motion
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.stream import Stream

PICTURE = texture()


def filtered(keeps, strength):
    return Stream(Colours(keeps), FixedInterval(1), motion=Motion(SIZE), steady=strength)


def test_the_filter_holds_what_flickers():
    """Noise that would flip labels between two frames of a scene that stands."""
    rng = np.random.default_rng(0)
    scene = window(PICTURE, 0).astype(int)
    noisy = [np.clip(scene + rng.integers(-25, 26, scene.shape), 0, 255).astype(np.uint8) for _ in range(12)]
    changes = {}
    for strength in (0.0, 0.7):
        stream = filtered(0, strength)
        results = list(stream.run((rgb, t / 10) for t, rgb in enumerate(noisy)))
        changes[strength] = np.mean([(a.labels != b.labels).mean() for a, b in pairwise(results[5:])])
    assert changes[0.7] < 0.6 * changes[0.0]


def test_the_filter_forgets_while_it_is_off():
    """Turned on again, it must not hold on to what it held before the pause."""
    stream, plain = (filtered(1, 0.0) for _ in range(2))
    for t, (x, strength) in enumerate([(0, 0.9), (2, 0.9), (10, 0.0), (18, 0.0), (26, 0.9), (28, 0.9)]):
        stream.steady = strength
        found, expected = (each(window(PICTURE, x), t / 10).confidence() for each in (stream, plain))
        assert np.array_equal(found, expected) == (t not in (1, 5))


@pytest.mark.parametrize("between", ["memory", "answer"])
def test_what_no_frame_came_before_is_labelled_as_without_the_filter(between):
    """A still, the first frame, the frame after a cut: the network's own labels to the bit."""
    options = {"motion": Motion(SIZE), "between": between}
    on = Stream(Colours(1), FixedInterval(3), steady=0.7, **options)
    off = Stream(Colours(1), FixedInterval(3))
    for t, seed in enumerate((0, 1, 2)):
        still = window(texture(seed), 0)
        assert np.array_equal(on(still, t / 10).labels, off(still, t / 10).labels)
        off.reset()


def test_the_filter_counts_frames_not_answers():
    """An answer every third frame is drawn to the one before as far as three answers in a row would be: g³."""
    soft = []
    backend = Colours(0)
    backend.probabilities = lambda logits: soft.append(Colours.probabilities(backend, logits)) or soft[-1]
    stream = Stream(backend, FixedInterval(3), motion=Motion(SIZE), steady=0.6)
    scene = window(PICTURE, 0)
    brighter = cv2.add(scene, (2, 0, 0, 0))
    for t, rgb in enumerate((scene, scene, scene, brighter)):
        stream(rgb, t / 10)
    found = stream.newest.values
    assert len(soft) == 2
    kept, whole = (np.abs(x - soft[1])[4:-4, 4:-4].mean() for x in (found, soft[0]))
    assert 0.8 * 0.6**3 < kept / whole < 1.1 * 0.6**3
