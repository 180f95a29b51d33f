"""Beside a slow network: what cuts do to its answers and to its turns."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from fixtures.motion import CELLS, SIZE, ByHand, Colours, texture, window
from vss_ros.config import IGNORE, VssError
from vss_ros.media.motion import Motion
from vss_ros.stream.beside import Worker
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.schedule import follow
from vss_ros.stream.stream import Stream

PICTURE = texture()


def make(backend, interval=5, **options):
    return Stream(backend, FixedInterval(interval), motion=Motion(SIZE), schedule="beside", **options)


def at_once(backend, **options):
    return Stream(backend, FixedInterval(5), motion=Motion(SIZE), **options)


def wrong(result, rgb):
    """Share of wrong labels where the motion did not bring anything new into sight."""
    truth = Colours().labels([Colours(cells=CELLS).propagate(rgb, [])], SIZE)
    return float((result.labels != truth)[8:-8, 8:-28].mean())


CLIP = [(window(PICTURE, 4 * t), t / 10) for t in range(12)]
FRAMES = [(window(PICTURE, 4 * t), t / 10) for t in range(3)]
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


def test_a_stream_that_does_not_wait_has_no_labels_until_the_network_answers():
    hand = ByHand()
    stream = make(Colours(1), worker=hand, steady=0.7)
    for begin in (0, 10):
        stream.beside.waits = False
        empty = [stream(window(PICTURE, 4 * t), begin + t / 10) for t in range(3)]
        assert all((r.labels == IGNORE).all() and not r.confidence().any() for r in empty)
        assert not any(r.is_keyframe for r in empty)
        assert [r.network_age_ms for r in empty] == pytest.approx([0, 100, 200])
        hand.turn()
        frame = window(PICTURE, 12)
        first = stream(frame, begin + 0.3)
        assert first.is_keyframe and wrong(first, frame) < 0.06 and first.confidence().any()
        stream.reset()


@pytest.mark.parametrize("keeps", [0, 1])
def test_an_answer_joins_between_frames_and_changes_nothing(keeps):
    """Whoever waits for a frame takes it over meanwhile; else the next frame does. The labels are the same bits."""
    hands = ByHand(), ByHand()
    early, late = (make(Colours(keeps), worker=hand, steady=0.5) for hand in hands)
    for t in range(12):
        frame = window(PICTURE, 4 * t), t / 10
        (first,), (second,) = early.feed(*frame), late.feed(*frame)
        assert np.array_equal(first.labels, second.labels) and first.is_keyframe == second.is_keyframe
        assert first.network_age_ms == second.network_age_ms == pytest.approx(100 if t else 0)
        for stream, hand in zip((early, late), hands, strict=True):
            stream.after()
            hand.turn()
        before = early.newest
        early.join()
        assert early.newest.index == t and (t == 0 or before.index == t - 1)
        early.join()
        assert early.newest.index == t, "once"


def test_joining_counts_as_time_of_the_answer_that_waited_for_it():
    """Called once more where nothing is owed, as `feed` does, `after` leaves the network's answer to the next frame."""
    hand = ByHand()
    stream = make(Colours(1), worker=hand, steady=0.5)
    stream(*FRAMES[0])
    seen, hand_over = [], stream.beside.join
    stream.beside.join = lambda *given: seen.append(1) or time.sleep(0.02) or hand_over(*given)
    hand.turn()
    stream.after()
    assert not seen
    (result,) = stream.feed(*FRAMES[1])
    assert seen and result.times["join"] >= 20 and result.times["total"] >= 20


def test_the_network_tells_when_it_has_answered():
    told = threading.Event()
    with make(Colours(1)) as stream:
        stream.beside.worker.told = told.set
        stream(*FRAMES[0])
        assert told.wait(60)
        for _ in range(10_000):
            stream.join()
            if stream.newest.index == 0 and stream.beside.job is None:
                break
            time.sleep(1e-3)
        (result,) = stream.feed(*FRAMES[1])
        assert result.network_age_ms == pytest.approx(100)


@pytest.mark.parametrize(
    ("keeps", "before"), [(0, "at_once"), (0, "beside"), (1, "at_once"), (1, "parts"), (1, "beside")]
)
def test_beside_follows_another_stream_without_waiting(keeps, before):
    """On the backend that is there, and then on another: no frame waits for the network, none lacks labels."""
    hand, backend = ByHand(), Colours(keeps, parts=2)
    stream = at_once(backend, schedule=before, steady=0.5, worker=ByHand())
    for turn, successor in enumerate([stream.another("beside"), make(Colours(keeps))]):
        successor.beside.worker = hand
        for rgb, stamp in CLIP[6 * turn : 6 * turn + 5]:
            stream(rgb, stamp)
        follow(successor, stream)
        backend.calls.clear()
        stream, backend = successor, successor.backend
        rgb, stamp = CLIP[6 * turn + 5]
        (result,) = stream.feed(rgb, stamp)
        assert not backend.calls and not result.reset and wrong(result, rgb) < 0.1
        stream.after()
        hand.turn()
        stream.join()
        assert stream.newest.index == 6 * turn + 5 and (not keeps or "remember" in backend.calls)


@pytest.mark.parametrize("steady", [0.0, 0.5])
def test_where_nothing_can_be_followed_a_stream_begins_anew(steady):
    backend = Colours(1)
    fresh, old = at_once(backend, steady=steady), at_once(backend, steady=steady)
    for stream, successor in ((old, at_once(backend)), (old, make(backend, delay=1))):
        follow(successor, stream)
        assert successor(*CLIP[0]).reset == "first frame"
    old(*CLIP[0])
    follow(fresh, old)
    assert fresh(*CLIP[1]).reset == "first frame", "at once it remembers what no other may read"


def test_all_that_the_network_does_is_in_one_thread():
    """Runtimes prepare memory for each thread that calls them."""
    seen = set()

    class Watched(Colours):
        def propagate(self, frame, memories):
            seen.add(threading.get_ident())
            return super().propagate(frame, memories)

    with make(Watched()) as stream:
        for t in range(3):
            stream(SCENES[t], t / 10)
        stream.close()
        stream.reset()
        with pytest.raises(VssError, match="closed"):
            stream(SCENES[0], 1.0)
    assert len(seen) == 1 and threading.get_ident() not in seen


def test_a_waiting_job_gives_way_to_a_newer_one_and_every_stream_has_its_turn():
    order, armed, gate = [], threading.Event(), threading.Event()

    class Slow(Colours):
        def __init__(self, name):
            super().__init__()
            self.label = name

        def propagate(self, frame, memories):
            if armed.is_set():
                order.append(self.label)
                gate.wait(60)
            return super().propagate(frame, memories)

    worker = Worker()
    streams = {n: make(Slow(n), interval=1, worker=worker) for n in "abc"}

    def feed(until):
        for _ in range(10_000):
            for stream in streams.values():
                stream(*FRAMES[1])
            if until():
                return
            time.sleep(1e-3)
        pytest.fail(f"{order}, {worker.waiting}")

    for stream in streams.values():
        stream(*FRAMES[0])
    armed.set()
    feed(lambda: order and len(worker.waiting) == 2)
    assert len(order) == 1, "one at a time"
    gate.set()
    feed(lambda: set(order) == set("abc"))
    worker.close()


def test_what_the_network_raises_reaches_the_caller():
    class Broken(Colours):
        def propagate(self, frame, memories):
            if not works:
                raise RuntimeError("the network broke")
            return super().propagate(frame, memories)

    works = True
    with make(Broken(), interval=1) as stream:
        stream(*FRAMES[0])
        works = False
        with pytest.raises(RuntimeError, match="the network broke"):
            for _ in range(200):
                stream(*FRAMES[1])
        assert stream(*FRAMES[2]).labels.shape == SIZE, "it lives on"
