"""Schedule auto is chosen anew, once, by the rate at which images come."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures.ros import client, image, latest, start, values
from fixtures.segment import messages
from vss_ros.config import StreamConfig
from vss_ros.nodes.segment.health import Health
from vss_ros.nodes.segment.rate import Rate
from vss_ros.stream.schedule import Auto, Costs

pytestmark = pytest.mark.ros

COSTS = Costs(38, 12, 14, 2)


def rate_of(periods, auto, problem=""):
    """Cameras whose images come with these periods, and what is asked to open."""
    opened = []
    cameras = []
    for _ in periods:
        stream = SimpleNamespace(auto=auto, policy=None, schedule=auto.schedule)
        cameras.append(SimpleNamespace(stream=stream, health=Health()))
    start = SimpleNamespace(problem=problem, reschedule=opened.append, config=StreamConfig())
    return Rate(cameras, start), cameras, opened


def seconds(cameras, periods, begin, spent=(), is_keyframe=True):
    """A second of images with these stamps, as the node counts them."""
    for camera, period in zip(cameras, periods, strict=True):
        stamps = [begin + i * period for i in range(round(1 / period))] if period else []
        camera.health.received += len(stamps)
        camera.health.rhythm.take(stamps)
    answers = [SimpleNamespace(spent=ms, is_keyframe=is_keyframe) for ms in spent]
    return [SimpleNamespace(answers=answers)]


@pytest.mark.parametrize(
    ("hz", "chosen", "expected"),
    [
        ([15], "parts", "at_once"),
        ([30], "parts", "parts"),
        ([60], "parts", "beside"),
        ([30], "at_once", "parts"),
        ([15, 15], "at_once", "parts"),
        ([20, 40], "parts", "beside"),
        ([30, 0], "beside", "parts"),  # a camera that sends nothing takes no time
    ],
)
def test_by_the_stamps_of_the_first_seconds(hz, chosen, expected):
    periods = [1 / x if x else 0 for x in hz]
    rate, cameras, opened = rate_of(periods, Auto(chosen, "assumed", COSTS))
    said = [rate.look(seconds(cameras, periods, 100 + t)) for t in range(6)]
    assert said[0] == "" and sum(map(bool, said)) == 1, "once, after enough stamps"
    assert f"images come at {sum(hz):.1f} Hz" in "".join(said)
    if expected == chosen:
        assert not opened and f"schedule {chosen} stays" in "".join(said)
        assert "images come at" in cameras[0].health.schedule_reason
    else:
        assert [auto.schedule for auto in opened] == [expected]
        assert f"schedule {expected} instead of {chosen}" in "".join(said)


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        ([15, 0], [15, 15], "parts"),
        ([15, 0], [15, 60], "beside"),
        ([30, 0, 0], [30, 30, 0], "beside"),
        ([5, 0], [5, 5], "at_once"),
    ],
)
def test_a_camera_that_begins_later_counts_from_then_on(first, then, expected):
    rate, cameras, opened = rate_of(first, Auto("at_once", "assumed", COSTS))
    for begin, hz in ((100, first), (106, then)):
        periods = [1 / x if x else 0 for x in hz]
        said = [rate.look(seconds(cameras, periods, begin + t)) for t in range(6)]
        assert sum(map(bool, said)) == 1 and f"images come at {sum(hz):.1f} Hz" in "".join(said)
        for camera in cameras if opened else ():
            camera.stream.schedule = opened[-1].schedule
    assert rate.auto.schedule == expected and len(opened) <= 2


def test_nothing_is_chosen_while_a_choice_is_being_opened():
    rate, cameras, opened = rate_of([1, 1], Auto("at_once", "assumed", COSTS))
    for begin, periods in ((100, [1 / 30, 0]), (106, [1 / 30, 1 / 30])):
        for t in range(6):
            rate.look(seconds(cameras, periods, begin + t))
    assert [auto.schedule for auto in opened] == ["parts"]


@pytest.mark.parametrize(
    ("chosen", "spent", "expected"),
    [("at_once", 20, "at_once"), ("at_once", 35, "parts"), ("parts", 5, "at_once"), ("parts", 24, "beside")],
)
def test_answers_that_take_longer_than_measured_count(chosen, spent, expected):
    """Other processes may take the machine's time: a keyframe of 20 ms, another frame of 6, parts of 7."""
    rate, cameras, opened = rate_of([1 / 30], Auto(chosen, "assumed", Costs(20, 6, 7, 2)))
    for t in range(6):
        rate.look(seconds(cameras, [1 / 30], 100 + t, [spent] * 6, chosen == "at_once"))
    assert [auto.schedule for auto in opened] == ([expected] if expected != chosen else [])


@pytest.mark.parametrize(
    ("auto", "problem"), [(Auto("at_once", "", None), ""), (Auto("at_once", "", COSTS), "runs on openvino")]
)
def test_nothing_to_choose(auto, problem):
    rate, cameras, opened = rate_of([1 / 60], auto, problem)
    assert not any(rate.look(seconds(cameras, [1 / 60], 100 + t)) for t in range(6)) and not opened


# Costs that this machine does not have, so that the choice is the same everywhere.
MEASURED = """
from vss_ros.stream import load, schedule
load.measure = lambda stream: schedule.Costs(60.0, 10.0, 60.0, 1)
schedule.Costs.cut = lambda costs, backend, rounds=4: costs
"""


def test_a_node_takes_over_another_schedule(start, client, messages, tiny_card):
    """Assumed are 30 images a second; those of this camera have stamps 0.2 s apart."""
    node = start(patch=MEASURED, model=str(tiny_card), backend="torch", schedule="auto", autostart=True)
    consistency = client.collect(messages.DiagnosticArray, "/segment/consistency")
    reports = client.collect(messages.DiagnosticArray, "/diagnostics")
    publisher = client.publisher(messages.Image)
    client.settle(publisher)
    assert node.logged("schedule beside: a keyframe takes 60 ms")
    sent = iter(range(10**6))

    def came(schedule):
        publisher.publish(image(np.full((64, 96, 3), 90, np.uint8), stamp=1000 + next(sent) / 5))
        client.spin(0.05)
        return bool(consistency) and values(consistency[-1].status[0])["schedule"] == schedule

    assert client.until(lambda: came("beside"), 60.0), node.text()
    assert client.until(lambda: came("at_once"), 60.0), node.text()
    assert "schedule at_once instead of beside: images come at 5.0 Hz" in node.text()
    assert node.logged("schedule at_once takes over")
    assert client.until(lambda: "5.0 Hz" in values(latest(reports, "network")).get("schedule_reason", ""))
    assert node.stop() == 0 and "Traceback" not in node.text()


def test_beside_answers_on_the_network_that_is_there_while_another_is_opened():
    from fixtures.motion import SIZE, Colours
    from vss_ros.media.motion import Motion
    from vss_ros.nodes.segment.network import Start
    from vss_ros.stream.keyframes import FixedInterval
    from vss_ros.stream.stream import Stream

    gate = threading.Event()

    def make(config, auto=None):
        schedule = auto.schedule if auto else "at_once"
        assert auto is None or gate.wait(60)
        first = Stream(Colours(1), FixedInterval(5), motion=Motion(SIZE), schedule=schedule)
        return [first, first.another()]

    start = Start(StreamConfig(schedule="auto"), make)
    auto = Auto("beside", "images come at 60 Hz", COSTS)
    backends = [start.streams[0].backend]
    for _ in range(2):
        start.reschedule(auto)
        deadline = time.monotonic() + 60
        while not start.successor and time.monotonic() < deadline:
            time.sleep(1e-3)
        first, second = start.take()
        assert {first.schedule, second.schedule} == {"beside"} and first.auto is auto
        assert first.backend is second.backend is backends[-1] and first.beside.worker is second.beside.worker
        assert start.news == "schedule beside takes over"
        gate.set()
        while not start.successor and time.monotonic() < deadline:
            time.sleep(1e-3)
        backends.append(start.take()[0].backend)
        assert backends[-1] is not backends[-2] and "a core" in start.news
        gate.clear()
