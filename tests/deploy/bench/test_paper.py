"""`vss bench --paper`: counts that anyone can check, and what it refuses."""

from __future__ import annotations

import functools

import pytest
import torch
from vss_ros import cli
from vss_ros.deploy.bench.costs import costs
from vss_ros.deploy.bench.paper import DEVICES, PAUSE, count, frames
from vss_ros.deploy.bench.roofline import Cost, Rates, Traffic

SIZE = (128, 256)
counted = functools.cache(count)


def test_counts_agree_with_those_of_the_network_itself():
    stages, own = count("dcfm", "mit_b0", 19, SIZE), costs("dcfm", "mit_b0", 19, SIZE)
    for name in ("encode", "remember", "decode"):
        # a tensor core pads the classes
        assert stages[name].flops == pytest.approx(2 * own[name], rel=0.05 if name == "decode" else 0.02)
    weights = 2 * own["parameters"]  # f16
    assert weights < stages["encode"].bytes + stages["remember"].bytes + stages["decode"].bytes < 4 * weights


@pytest.mark.parametrize(("device", "share"), [("h100", 0.038), ("orin", 0.05), ("4090", 0.05)])
def test_a_nonkey_frame_is_a_small_part_of_a_key_frame(device, share):
    """Of B5: 30 kernels, 429 MB and 0.07 to 0.09 operator by operator, where a key frame had 763 and 4331 MB."""
    found = frames(counted("dcfm", "mit_b5", 19, (512, 1024)), DEVICES[device])
    key, other = found["key"], found["non-key"]
    assert other.kernels <= 15 and other.megabytes < 176
    assert key.kernels <= 693 and key.megabytes < 3450
    assert other.operators / key.operators < share


def test_only_what_a_kernel_does_is_counted():
    """A tensor that is made is no kernel, and one that is written over is not read."""
    with Traffic() as traffic:
        x = torch.empty(4, dtype=torch.float16)
        torch.add(torch.ones(4), 1, out=x)
    assert traffic.operators[-1] == (0, 4 * 4 + 4 * 2) and len(traffic.operators) == 2  # ones, add


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
