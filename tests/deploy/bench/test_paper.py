"""`vss bench --paper`: counts that anyone can check, and what it refuses."""

from __future__ import annotations

import pytest
from vss_ros import cli
from vss_ros.deploy.bench.costs import costs
from vss_ros.deploy.bench.paper import DEVICES, PAUSE, count, frames
from vss_ros.deploy.bench.roofline import Cost, Rates

SIZE = (128, 256)


def test_counts_agree_with_those_of_the_network_itself():
    stages, own = count("dcfm", "mit_b0", 19, SIZE), costs("dcfm", "mit_b0", 19, SIZE)
    for name in ("encode", "remember", "decode"):
        assert stages[name].flops == pytest.approx(2 * own[name], rel=0.02)
    weights = 2 * own["parameters"]  # f16
    assert weights < stages["encode"].bytes + stages["remember"].bytes + stages["decode"].bytes < 4 * weights


def test_a_nonkey_frame_moves_no_more_than_it_did():
    """Of B5: 44 kernels and 726 MB with weights computed by every frame and lengths in float32 maps."""
    found = frames(count("dcfm", "mit_b5", 19, (512, 1024)), DEVICES["h100"])
    assert found["non-key"].kernels <= 30 and found["non-key"].megabytes < 430
    assert found["non-key"].operators / found["key"].operators < 0.071


def test_frames_are_sums_of_their_stages():
    rates = Rates(flops=1e12, bytes=1e9)
    names = ("encode", "remember", "decode", "propagate")
    found = frames({name: Cost(10**9, 10**6, [(10**9, 0), (0, 10**6)]) for name in names}, rates)
    assert found["key"].roof == pytest.approx(3.0) and found["non-key"].roof == pytest.approx(1.0)
    assert found["key"].kernels == 6
    assert found["non-key"].operators == pytest.approx(2.0 + 2 * PAUSE * 1e3)


@pytest.mark.parametrize("device", list(DEVICES))
def test_a_table_for_each_device(device, capsys):
    options = ["--device", device, "--sizes", "128x256", "--against", "segformer"]
    assert cli.main(["bench", "--paper", *options]) == 0
    out = capsys.readouterr().out
    assert f"on paper: {device}" in out and "segformer-mit_b0" in out and "non-key" in out


def test_paper_needs_a_device_it_knows(capsys):
    assert cli.main(["bench", "--paper"]) == 1
    assert cli.main(["bench", "--device", "orin"]) == 1
    assert "expected --paper with --device h100, orin, 4090" in capsys.readouterr().err
