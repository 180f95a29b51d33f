"""bench/roofline.py: FLOPs, bytes and rates against sums by hand, and what is counted for a GPU not at hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fixtures.paths import study
from vss_ros.deploy.bench.costs import costs

roofline = study("roofline")
Cost, Rates, cost = roofline.Cost, roofline.Rates, roofline.cost
SIZE = (128, 256)


def test_cost_of_a_convolution_equals_a_sum_by_hand():
    conv = torch.nn.Conv2d(8, 16, 3, padding=1)
    found = cost(conv, (torch.zeros(1, 8, 20, 30),))
    assert found.flops == 2 * 16 * 8 * 9 * 20 * 30
    moved = 4 * (8 * 600 + 16 * 600 + 16 * 8 * 9 + 16)
    assert found.bytes == moved and found.eager_bytes == moved


def test_attention_counts_both_products():
    q = torch.zeros(1, 2, 50, 16)
    found = cost(F.scaled_dot_product_attention, (q, q.clone(), q.clone()))
    assert found.flops == 2 * (2 * 2 * 50 * 50 * 16)


def test_views_are_free_and_intermediate_results_need_not_be_moved():
    x = torch.ones(100)
    found = cost(lambda t: ((t + 1).view(10, 10).T * 2).reshape(-1), (x,))
    assert found.bytes == 800, "in once, out once"
    assert found.eager_bytes > found.bytes


def test_least_time_is_the_slower_of_arithmetic_and_memory():
    found = cost(torch.nn.Linear(10, 10, bias=False), (torch.zeros(4, 10),))
    assert found.flops == 800 and found.bytes == 400 + 160 + 160
    assert found.least_ms(Rates(flops=800, bytes=7200)) == 1000
    assert found.least_ms(Rates(flops=8000, bytes=720)) == 1000


def test_rows_of_stages_on_this_machine():
    cpu = torch.device("cpu")
    rates = roofline.measure_rates(cpu)
    assert rates.flops > 1e8 and rates.bytes > 1e7
    rows = roofline.stage_rows(
        {"conv": (torch.nn.Conv2d(8, 8, 3), (torch.zeros(1, 8, 32, 32),))}, cpu, rates, 3
    )
    row = rows["conv"]
    assert row["ms"] > 0 and row["reached"] == row["least ms"] / row["ms"]
    assert row["GFLOP"] == 2 * 8 * 8 * 9 * 30 * 30 / 1e9


def test_counts_agree_with_those_of_the_network_itself():
    stages, own = roofline.count("dcfm", "mit_b0", 19, SIZE), costs("dcfm", "mit_b0", 19, SIZE)
    for name in ("encode", "remember", "decode"):
        assert stages[name].flops == pytest.approx(2 * own[name], rel=0.02)
    weights = 2 * own["parameters"]  # f16
    assert weights < stages["encode"].bytes + stages["remember"].bytes + stages["decode"].bytes < 4 * weights


def test_frames_are_sums_of_their_stages():
    rates = Rates(flops=1e12, bytes=1e9)
    names = ("encode", "remember", "decode", "propagate")
    found = roofline.frames({name: Cost(10**9, 10**6, [(10**9, 0), (0, 10**6)]) for name in names}, rates)
    assert found["key"].roof == pytest.approx(3.0) and found["non-key"].roof == pytest.approx(1.0)
    assert found["key"].kernels == 6
    assert found["non-key"].operators == pytest.approx(2.0 + 2 * roofline.PAUSE * 1e3)


@pytest.mark.parametrize("device", list(roofline.DEVICES))
def test_a_table_for_each_device(device, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["roofline.py", device, "--sizes", "128x256", "--network", "segformer"])
    roofline.main()
    out = capsys.readouterr().out
    assert f"segformer-mit_b0, 19 classes, 128x256, {device}" in out and "roof ms" in out and "key" in out


def test_stages_are_measured_and_counted_by_different_code(monkeypatch, capsys):
    line = ["roofline.py", "cpu", "--sizes", "64x96", "--classes", "3"]
    monkeypatch.setattr("sys.argv", line)
    monkeypatch.setattr(roofline, "measure_rates", lambda *_: Rates(1e12, 1e10))
    roofline.main()
    table = [row.split() for row in capsys.readouterr().out.splitlines()]
    found = {
        row[0]: float(row[2]) for row in table if len(row) == 7 and row[0] in ("encode", "remember", "decode")
    }
    own = costs("dcfm", "mit_b0", 3, (64, 96))
    for stage, gflop in found.items():
        assert gflop * 1e9 == pytest.approx(2 * own[stage], rel=0.01), "a product is two FLOPs"
    assert len(found) == 3
