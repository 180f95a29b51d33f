"""`vss bench --peers`: every schedule stands beside what users have today."""

from __future__ import annotations

import pytest
from fixtures.motion import SIZE, Colours, texture, window
from vss_ros import cli
from vss_ros.deploy.bench import peers
from vss_ros.media.motion import Motion
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.stream import Stream


def test_a_thread_beside_rests_before_the_next_has_its_turn():
    with Stream(Colours(1), FixedInterval(1), motion=Motion(SIZE), schedule="beside") as stream:
        for t in range(4):
            stream(window(texture(), 4 * t), t / 30)
        job = stream.beside.job
        peers.come_to_rest(stream)
        assert stream.beside.job is None and (job is None or job.finished or not job.started)
    peers.come_to_rest(lambda rgb, stamp: None)


@pytest.mark.slow
def test_every_contestant_is_in_the_table(capsys):
    pytest.importorskip("openvino")
    assert cli.main(["bench", "--peers", "--sizes", "64x96", "--classes", "3", "--rounds", "1"]) == 0
    table = capsys.readouterr().out
    assert "ours, torch eager, K = 1" in table
    for kind, *_ in peers.SCHEDULES:
        assert f"ours, OpenVINO f32, {kind}" in table
        assert f"ours, DCFM-MobileNetV1, OpenVINO f32, {kind}" in table
