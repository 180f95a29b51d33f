"""At once, in parts, beside: what each answers, when the deep layers run, and what a late answer is worth."""

from __future__ import annotations

import numpy as np
import pytest
import vss_ros
from fixtures.motion import CELLS, SIZE, ByHand, Colours, texture, window
from vss_ros.config import IGNORE, StreamConfig, VssError
from vss_ros.media.motion import Motion
from vss_ros.stream import load
from vss_ros.stream.keyframes import FixedInterval, LabelDrift
from vss_ros.stream.load import open_stream
from vss_ros.stream.schedule import Auto, Costs, measure
from vss_ros.stream.stream import Stream

PICTURE = texture()
SHIFTS = range(0, 60, 4)  # a cell a frame


def make(backend, interval=5, motion=True, **options):
    return Stream(backend, FixedInterval(interval), motion=Motion(SIZE) if motion else None, **options)


def frames(shifts=SHIFTS):
    return [(window(PICTURE, x), t / 10) for t, x in enumerate(shifts)]


def wrong(result, rgb, cells=CELLS):
    """Share of wrong labels where the motion did not bring anything new into sight."""
    truth = Colours().labels([Colours(cells=cells).propagate(rgb, [])], SIZE)
    return float((result.labels != truth)[8:-8, 8:-28].mean())


@pytest.mark.parametrize("keeps", [0, 1])
def test_what_is_remembered_moves_to_its_frame(keeps):
    errors = {}
    for motion in (True, False):
        results = make(Colours(keeps), motion=motion).run(frames())
        errors[motion] = [wrong(r, rgb) for r, (rgb, _) in zip(results, frames(), strict=True)]
    assert max(errors[True]) < 0.06
    if keeps:
        assert errors[False][4] > 0.3 > errors[False][5] == 0, "as is, until the next keyframe"


@pytest.mark.parametrize("keeps", [0, 1])
@pytest.mark.parametrize("schedule", ["at_once", "beside"])
@pytest.mark.parametrize("cells", [(12, 16), (48, 64), SIZE])
def test_networks_answer_at_any_stride(keeps, schedule, cells):
    stream = make(Colours(keeps, cells=cells), schedule=schedule, delay=1, steady=0.3)
    errors = [wrong(r, rgb, cells) for r, (rgb, _) in zip(stream.run(frames()), frames(), strict=True)]
    assert np.mean(errors) < 0.12


@pytest.mark.parametrize("keeps", [0, 1])
def test_keyframes_of_networks_with_and_without_memory(keeps):
    backend = Colours(keeps)
    results = list(make(backend, interval=4).run(frames()))
    assert [r.is_keyframe for r in results] == [t % 4 == 0 for t in range(len(results))]
    assert [r.keyframe_age for r in results] == [t % 4 for t in range(len(results))]
    if keeps:
        assert all(r.network_age_ms == 0 for r in results), "its shallow layers see every frame"
    else:
        assert [r.network_age_ms for r in results] == pytest.approx([100 * (t % 4) for t in range(15)])
        assert backend.calls.count("propagate") == 4


def test_a_keyframes_labels_are_followed_only_where_drift_is_read():
    stream = make(Colours(1), interval=4)
    for t, (rgb, stamp) in enumerate(frames()[:9]):
        stream.measure_drift = read = 3 <= t < 6
        assert (stream(rgb, stamp).label_drift is not None) == read
        assert len(stream.motion.tracks) == 1 + read


@pytest.mark.parametrize("asked", [False, True])
def test_where_a_memory_does_not_move_the_answer_does(asked):
    """Decoding such a network costs as much between keyframes as at them; any other does so where it is told to."""
    backend = Colours(keeps=2)
    backend.moves = asked
    stream = make(backend, interval=4, measure_drift=True, between="answer" if asked else "memory")
    results = list(stream.run(frames()))
    assert [r.is_keyframe for r in results] == [t % 4 == 0 for t in range(len(results))]
    assert [r.network_age_ms for r in results] == pytest.approx([100 * (t % 4) for t in range(len(results))])
    assert max(wrong(r, rgb) for r, (rgb, _) in zip(results, frames(), strict=True)) < 0.06
    assert backend.calls == ["remember"] * 4, "nothing of the network runs between keyframes"


def test_without_motion_a_network_without_memory_answers_every_frame():
    backend = Colours()
    assert all(r.is_keyframe for r in make(backend, motion=False).run(frames()))
    assert backend.calls.count("propagate") == len(SHIFTS)


@pytest.mark.parametrize("schedule", ["at_once", "parts", "beside"])
def test_a_cut_makes_a_keyframe_and_nothing_old_is_moved(schedule):
    other = texture(1)
    backend = Colours(1, parts=3)
    stream = make(backend, interval=100, schedule=schedule, delay=1)
    cut = [(window(PICTURE, 4 * t), t / 10) for t in range(6)]
    cut += [(window(other, 4 * t), t / 10) for t in range(6, 10)]
    results = list(stream.run(cut))
    assert not results[6].step.trusted and all(r.step.trusted for r in results[1:6] + results[7:])
    if schedule == "beside":
        assert not results[6].confidence().any(), "it shows what no network has seen"
        assert results[7].is_keyframe and wrong(results[7], cut[7][0]) < 0.06
    else:
        assert results[6].is_keyframe and wrong(results[6], cut[6][0]) == 0


def test_parts_run_after_the_answers_and_give_the_whole_memory():
    backend = Colours(1, parts=3)
    stream = make(backend, interval=5, schedule="parts")
    log = []
    for rgb, stamp in frames():
        before = len(backend.calls)
        (result,) = stream.feed(rgb, stamp)
        assert not any(call.startswith("part") for call in backend.calls[before:])
        before = len(backend.calls)
        stream.after()
        log.append((result.is_keyframe, result.keyframe_age, backend.calls[before:]))
        assert "part" not in result.times or result.times["part"] >= 0
        assert wrong(result, rgb) < 0.08
    assert backend.calls[0] == "remember", "the first frame has no older memory to answer from"
    work = [calls for _, _, calls in log]
    assert work[5:8] == [["part 0"], ["part 1"], ["part 2"]] and work[8:10] == [[], []]
    assert [age for _, age, _ in log[:11]] == [0, 1, 2, 3, 4, 5, 6, 7, 3, 4, 5]
    assert [t for t, (is_key, _, _) in enumerate(log) if is_key] == [0, 8, 13]


@pytest.mark.parametrize(("count", "ages"), [(2, [2, 3]), (3, [3, 4, 5])])
def test_without_an_interval_a_keyframe_follows_the_next(count, ages):
    stream = make(Colours(1, parts=count), schedule="parts")
    stream.configure(StreamConfig(schedule="parts"))
    results = list(stream.run(frames()[:12]))
    assert [r.keyframe_age for r in results[6:12]] == (ages * 6)[:6]
    other = stream.another()
    assert [r.keyframe_age for r in other.run(frames()[:12])] == [r.keyframe_age for r in results]


def test_parts_give_the_whole_memory_to_the_bit():
    whole, parts = Colours(1), Colours(1, parts=1)
    parts.parts = 2
    parts.remember_part = lambda i, state: state if i == 0 else whole.remember(state)
    stream = make(parts, interval=4, schedule="parts")
    for rgb, stamp in frames():
        stream(rgb, stamp)
    index, memory = max(stream.memories.kept.items())
    expected = whole.remember(whole.encode(frames()[index][0]))
    assert index == 12 and np.array_equal(memory.values[0], expected[0])


@pytest.mark.parametrize("keeps", [0, 1])
@pytest.mark.parametrize("delay", [1, 3])
def test_beside_answers_every_frame_by_what_the_network_saw_last(keeps, delay):
    backend = Colours(keeps)
    results = list(make(backend, interval=1, schedule="beside", delay=delay).run(frames()))
    ages = [round(r.network_age_ms) for r in results]
    assert ages[0] == 0 and results[0].is_keyframe
    joins = [t for t, r in enumerate(results) if r.is_keyframe]
    assert joins == [0, *range(delay, len(results), delay)][: len(joins)]
    assert max(ages) == 100 * (2 * delay - 1) and min(ages[delay:]) == 100 * delay
    assert all(wrong(r, rgb) < 0.15 for r, (rgb, _) in zip(results, frames(), strict=True))


def test_live_equals_simulated_when_the_thread_is_driven_by_hand():
    simulated = make(Colours(1), interval=2, schedule="beside", delay=2, steady=0.5)
    hand = ByHand()
    live = make(Colours(1), interval=2, schedule="beside", steady=0.5, worker=hand)
    for t, (rgb, stamp) in enumerate(frames()):
        expected = simulated(rgb, stamp)
        if t % 2 == 0:
            hand.turn()
        (found,) = live.feed(rgb, stamp)
        assert np.array_equal(found.labels, expected.labels), t
        assert found.network_age_ms == expected.network_age_ms
        if t % 2 == 0:
            live.after()
        else:
            live.owed = None  # the network is busy


def test_what_nobody_has_seen_is_named():
    options = {"interval": 100, "schedule": "beside", "delay": 50}
    shown = list(make(Colours(), **options).run(frames()))[4]
    hidden = list(make(Colours(), **options, hide_unseen=True).run(frames()))[4]
    new = slice(-12, None)  # the camera turned right by 16 pixels
    assert (hidden.labels[8:-8, new] == IGNORE).mean() > 0.9 and not (shown.labels == IGNORE).any()
    assert (hidden.labels[8:-8, 8:-32] == IGNORE).mean() < 0.1
    assert shown.confidence()[8:-8, new].mean() < 0.3 * shown.confidence()[8:-8, 8:-32].mean()


def test_consistency_policy_counts_what_motion_does_not_explain():
    moved = make(Colours(1))
    moved.policy = LabelDrift(0.2, 1, 100)
    results = list(moved.run(frames()))
    assert [r.is_keyframe for r in results].count(True) == 1
    assert max(r.label_drift for r in results) < 0.15
    as_is = make(Colours(1), motion=False)
    as_is.policy = LabelDrift(0.2, 1, 100)
    drifts = [r.label_drift for r in as_is.run(frames())]
    assert max(drifts) == 0, "a memory that stays where it lies answers the same for ever"


def test_a_gap_is_what_the_caller_says():
    stream = make(Colours(1), max_gap=0.5)
    stream.feed(window(PICTURE, 0), 0.0)
    assert stream.feed(window(PICTURE, 4), 2.0, gap=0.1)[0].reset == "", (
        "frames between were left out on purpose"
    )
    assert "gap of 0.600 s" in stream.feed(window(PICTURE, 8), 2.1, gap=0.6)[0].reset


def test_keyframes_of_several_cameras_do_not_coincide():
    backend = Colours(1)
    keys = []
    for phase in (0, 2):
        stream = make(backend, interval=4)
        stream.phase = phase
        keys.append([t for t, r in enumerate(stream.run(frames())) if r.is_keyframe])
    assert keys == [[0, 4, 8, 12], [0, 2, 6, 10, 14]]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"schedule": "beside", "motion": False}, "schedule beside: needs motion"),
        ({"schedule": "parts"}, "needs a network whose memory moves"),
        ({"schedule": "parts", "keeps": 1, "between": "answer"}, "and between: memory"),
        ({"schedule": "parts", "keeps": 1, "both_sides": True}, "answers wait for later frames"),
        ({"schedule": "beside", "both_sides": True, "interval": 1}, "answers wait for later frames"),
    ],
)
def test_schedules_that_do_not_go_are_refused(options, text):
    with pytest.raises(VssError, match=text):
        make(Colours(options.pop("keeps", 0), parts=2), **options)


@pytest.mark.parametrize(
    ("key_ms", "parts", "expected"), [(8, 1, "at_once"), (50, 2, "parts"), (50, 1, "beside")]
)
def test_auto_takes_what_keeps_up(key_ms, parts, expected, monkeypatch):
    backend, now = Colours(1, parts), [0.0]
    monkeypatch.setattr("vss_ros.stream.schedule.time.perf_counter", lambda: now[0])
    cost = lambda ms, run: lambda *a: (now.__setitem__(0, now[0] + ms / 1e3), run(*a))[1]  # noqa: E731
    backend.remember_part = cost(key_ms / parts, backend.remember_part)
    backend.remember = cost(key_ms, backend.remember)
    costs = measure(make(backend, steady=0.5))
    assert costs.key == pytest.approx(key_ms) and costs.nonkey == pytest.approx(0)
    auto = costs.choose(0, 1 / 30)
    assert auto.schedule == expected and f"{key_ms} ms" in auto.why


@pytest.mark.parametrize(
    ("costs", "interval", "hz", "expected"),
    [
        (Costs(20, 8, 6, 2), 5, 30, "at_once"),
        (Costs(20, 8, 6, 2), 5, 60, "beside"),  # 14 ms of 16.7 leave nothing for the rest of the node
        (Costs(38, 12, 14, 2), 0, 30, "parts"),
        (Costs(38, 12, 14, 2), 2, 30, "parts"),
        (
            Costs(38, 12, 14, 2),
            5,
            30,
            "beside",
        ),  # the memory would be 2 to 6 frames old, an answer beside 2 to 3
        (Costs(38, 12, 8, 4), 0, 30, "beside"),  # the parts fit, but are late
        (Costs(110, 1, 25, 4), 0, 30, "parts"),  # so is an answer beside
        (Costs(38, 12, 26), 0, 30, "beside"),
        (Costs(40, 12, 10, 2), 5, 15, "at_once"),
        (Costs(400, 1), 1, 15, "beside"),
    ],
)
def test_auto_by_costs_and_the_cameras_rate(costs, interval, hz, expected):
    auto = costs.choose(interval, 1 / hz)
    assert auto.schedule == expected and auto.costs is costs
    assert costs.times(100).choose(interval, 100 / hz).schedule == expected


@pytest.mark.parametrize("options", [{"motion": False}, {"both_sides": True}])
def test_auto_takes_only_what_the_other_options_allow(options, tiny_card, monkeypatch):
    """However slow the network is: a node whose schedule was refused would not start."""
    monkeypatch.setattr("vss_ros.stream.load.measure", lambda _: Costs(1e6))
    stream = vss_ros.load_stream(tiny_card, backend="torch", schedule="auto", **options)
    assert stream.schedule == "at_once" and "late" in stream.auto.why


def test_auto_cuts_no_network_whose_answer_moves(tiny_card, monkeypatch):
    monkeypatch.setattr("vss_ros.stream.load.measure", lambda _: Costs(38, 12))
    with vss_ros.load_stream(tiny_card, backend="torch", schedule="auto", between="answer") as stream:
        assert stream.schedule == "beside" and stream.backend.parts == 1
    costs = measure(make(Colours(1, parts=2), between="answer"))
    assert costs.parts == 1


@pytest.mark.parametrize(
    ("costs", "expected", "opened"),
    [
        (Costs(20, 8), "at_once", [1]),
        (Costs(38, 12), "parts", [1, 2]),
        (Costs(300, 20), "beside", [1, 2, 1]),
    ],
)
def test_auto_cuts_a_network_only_where_it_is_too_slow_as_a_whole(
    costs, expected, opened, tiny_card, monkeypatch
):
    """A cut costs time and memory."""
    seen = []
    make = load.open_backend
    monkeypatch.setattr(
        load, "open_backend", lambda model, config: (seen.append(model.parts), make(model, config))[1]
    )
    monkeypatch.setattr(load, "measure", lambda _: costs)
    monkeypatch.setattr(load, "has_cuda", lambda: False)
    monkeypatch.setattr("vss_ros.stream.schedule.longest_part", lambda _: 9.0)
    with vss_ros.load_stream(tiny_card, backend="torch", schedule="auto", parts=2) as stream:
        assert (stream.schedule, seen) == (expected, opened) and stream.backend.parts == opened[-1]


def test_a_schedule_chosen_before_is_not_measured_again(tiny_card, monkeypatch):
    monkeypatch.setattr("vss_ros.stream.load.measure", lambda _: pytest.fail("measured"))
    config = StreamConfig(model=str(tiny_card), backend="torch", schedule="auto")
    for schedule in ("at_once", "parts", "beside"):
        with open_stream(config, auto=Auto(schedule, "as told")) as stream:
            assert (stream.schedule, stream.auto.why) == (schedule, "as told")


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["at_once", "parts", "beside"])
def test_nothing_grows(schedule):
    import psutil

    stream = make(Colours(1, parts=3), schedule=schedule, steady=0.7)
    process = psutil.Process()
    for t in range(6000):
        stream(window(PICTURE, 4 * (t % 20)), t / 30)
        if t == 1000:
            before = process.memory_info().rss
    assert process.memory_info().rss - before < 20e6
    assert len(stream.memories.kept) <= 2 and len(stream.motion.tracks) <= 6
    stream.close()
    assert stream.motion.cells == CELLS
