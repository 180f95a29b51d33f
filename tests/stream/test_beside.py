"""Beside a slow network: what cuts do to its answers and to its turns."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures.motion import CELLS, SIZE, ByHand, Colours, texture, window
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.motion import Motion
from vss_ros.stream.stream import Stream

PICTURE = texture()


def make(backend, interval=5, **options):
    return Stream(backend, FixedInterval(interval), motion=Motion(SIZE), schedule="beside", **options)


def wrong(result, rgb):
    """Share of wrong labels where the motion did not bring anything new into sight."""
    truth = Colours().labels([Colours(cells=CELLS).propagate(rgb, [])], SIZE)
    return float((result.labels != truth)[8:-8, 8:-28].mean())


SCENES = [window(texture(seed), 0) for seed in range(8)]


@pytest.mark.parametrize("keeps", [0, 1])
@pytest.mark.parametrize("delay", [1, 3, 6])
def test_cuts_that_come_faster_than_the_network_starve_no_answer(keeps, delay):
    """Strobe light, noise at night, one image in two seconds: nothing fits, but the newest answer is shown."""
    stream = make(Colours(keeps), delay=delay)
    results = [stream(SCENES[t % 8], t / 10) for t in range(40)]
    assert not any(r.step.trusted for r in results[1:])
    assert max(r.network_age_ms for r in results) <= 100 * 2 * delay + 1
    assert stream.keyframe.index >= 38 - delay, "and every frame that the network takes is a keyframe"
    calm = [stream(window(PICTURE, 4 * t), 4 + t / 10) for t in range(3 * delay)]
    assert wrong(calm[-1], window(PICTURE, 4 * (3 * delay - 1))) < 0.15


def test_a_keyframe_that_never_had_its_turn_passes_it_on():
    hand, backend = ByHand(), Colours(1)
    stream = make(backend, interval=100, worker=hand)
    stream(window(PICTURE, 0), 0.0)
    hand.turn()
    for t in range(
        4
    ):  # another scene: the first frame of it is a keyframe, and the network is busy until the fourth
        stream(window(texture(1), 4 * t), 1 + t / 10)
    backend.calls.clear()
    hand.turn()
    assert backend.calls == ["remember"]
    after = window(texture(1), 16)
    assert wrong(stream(after, 1.4), after) < 0.06
