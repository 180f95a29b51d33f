"""FLOPs, bytes and rates behind `vss bench --roofline`, against sums by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from vss_ros.deploy.bench.roofline import Rates, cost, measure_rates, stage_rows


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
    rates = measure_rates(cpu)
    assert rates.flops > 1e8 and rates.bytes > 1e7
    rows = stage_rows({"conv": (torch.nn.Conv2d(8, 8, 3), (torch.zeros(1, 8, 32, 32),))}, cpu, rates, 3)
    row = rows["conv"]
    assert row["ms"] > 0 and row["reached"] == row["least ms"] / row["ms"]
    assert row["GFLOP"] == 2 * 8 * 8 * 9 * 30 * 30 / 1e9


def test_what_is_changed_in_place_is_read_and_written():
    x = torch.zeros(10)
    assert cost(lambda x: (x + 1).relu_(), (x,)).operators == [(0, 80), (0, 80)]


def test_layouts_are_those_of_the_device():
    """On a GPU a convolution whose input or weight has its channels last answers in that order."""
    conv, x = (torch.nn.Conv2d(4, 8, 1, device="meta"), torch.empty(1, 6, 5, 4, device="meta"))
    found = cost(lambda x: conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous(), (x,))
    assert len(found.operators) == 1
