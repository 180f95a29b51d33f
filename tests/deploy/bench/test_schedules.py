"""`vss bench --schedules` and the cost of motion: every frame is counted, at the rate that is asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fixtures.motion import SIZE, Colours
from vss_ros import cli
from vss_ros.deploy.bench import schedules
from vss_ros.media.motion import Motion
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.stream import Stream


def test_cost_of_motion(monkeypatch):
    monkeypatch.setattr(schedules, "SIZES", ((64, 96, 3),))
    (row,) = schedules.cost(rounds=2)
    figures = dict(zip(schedules.COSTS, row, strict=True))
    assert figures["image"] == "96×64" and all(float(ms) >= 0 for ms in row[1:])
    parts = sum(float(figures[name]) for name in ("flow", "move", "filter"))
    assert float(figures["flow + move + filter"]) == pytest.approx(parts, abs=0.02)


@pytest.mark.parametrize(
    ("parts", "names"), [(1, ["at_once", "beside"]), (3, ["at_once", "parts", "beside"])]
)
def test_latency_of_every_schedule_that_the_network_allows(parts, names):
    rows = schedules.latency(lambda _: Colours(1, parts), frames=10, rate=200.0)
    assert [row[0] for row in rows] == [*names, "none"]
    for _, hz, p50, p99, ratio, _ in rows:
        assert hz == "200" and 0 < float(p50) <= float(p99) and float(ratio) >= 1


def test_latency_counts_from_when_a_frame_is_due(monkeypatch):
    """A network of 30 ms at 50 images a second: the queue grows by 10 ms a frame, and none is left out."""
    now = [0.0]
    monkeypatch.setattr(schedules.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(schedules.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))

    class Slow(Colours):
        def propagate(self, frame, memories):
            now[0] += 0.03
            return super().propagate(frame, memories)

    stream = Stream(Slow(), FixedInterval(1), motion=Motion(SIZE))
    clip = [np.full((*SIZE, 3), 90, np.uint8)] * 2
    late, waited = schedules.paced([stream], clip, frames=5, hz=50.0)
    assert np.diff(late) == pytest.approx([10.0] * 4) and waited == 1.0
    late, waited = schedules.paced([stream], clip, frames=5, hz=10.0)
    assert late == pytest.approx([30.0] * 5) and waited == 0.0


def test_cameras_of_one_process_take_turns():
    backend = Colours(1)
    rate, p50, p99 = schedules.throughput(backend, cameras=3, frames=30)
    assert rate > 0 and 0 < p50 <= p99
    assert backend.calls.count("remember") >= 3, "a keyframe of each"


@pytest.mark.slow
def test_one_process_against_as_many(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(schedules, "COUNTS", (1, 2))
    out = tmp_path / "figures.json"
    options = ["--sizes", "64x96", "--classes", "3", "--backends", "torch+f32", "--frames", "20"]
    assert cli.main(["bench", "--schedules", *options, "--out", str(out)]) == 0
    (latency, cameras) = json.loads(out.read_text())["sizes"]["64x96"].values()
    assert [row[0] for row in latency[1]] == ["at_once", "parts", "beside", "none"]
    assert [row[0] for row in cameras[1]] == ["1", "2"]
    assert all(float(x.rstrip("%")) > 0 for row in cameras[1] for x in row)
    assert "p99 ÷ p50" in capsys.readouterr().out
