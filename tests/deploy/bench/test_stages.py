"""`vss bench`: the networks and stages that it measures, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from vss_ros import cli
from vss_ros.deploy.bench import stages as bench


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bench.bench_consistency, "cost", lambda: [["64×96", "1.0", "2.0"]])
    monkeypatch.setattr(bench.schedules, "cost", lambda: [["64×96", "1", "1", "1", "1", "3"]])
    monkeypatch.setattr(bench, "PAUSE", 0.0)
    return ["bench", "--classes", "3", "--sizes", "64x96", "--backends", "torch", "--rounds", "1", "--no-ros"]


def test_against_an_image_network_and_the_roofline(quick, tmp_path, capsys):
    out = tmp_path / "figures.json"
    assert (
        cli.main([*quick, "--against", "segformer", "--roofline", "--intervals", "1,5", "--out", str(out)])
        == 0
    )
    figures = json.loads(out.read_text())
    rows = figures["sizes"]["64x96"]
    assert set(rows) == {"torch", "segformer: torch"}
    text = capsys.readouterr().out
    gain = rows["segformer: torch"]["key"] / bench.average(rows["torch"], 5)
    assert f"{gain:.2f}×" in text.split("faster than")[1]
    roof = figures["roofline"]["64x96 f32"]
    assert set(roof["stages"]) == {"encode", "remember", "decode", "propagate"}
    for stage in ("encode", "remember", "decode"):  # counted twice, by different code: a product is two FLOPs
        assert roof["stages"][stage]["GFLOP"] * 1e9 == pytest.approx(
            2 * figures["costs"]["64x96"][stage], rel=0.01
        )
    assert all(row["least ms"] > 0 for row in roof["stages"].values()) and roof["rates"]["flops"] > 1e8


def test_a_card_is_measured_at_its_size(quick, tiny_card, tmp_path, capsys):
    line = [quick[0], *quick[5:]]  # without classes and sizes
    assert cli.main([*line, "--model", str(tiny_card)]) == 0
    assert "dcfm-mit_b0, 3 classes, 96×64" in capsys.readouterr().out
    from fixtures.imported import write_model

    line[line.index("torch")] = "torch,onnxruntime"
    out = tmp_path / "bench.json"
    assert cli.main([*line, "--model", str(write_model(tmp_path)), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found["sizes"]["32x48"]) == ["onnxruntime"] and not found["costs"]
    assert "torch left out: backend torch: a network of an ONNX file" in capsys.readouterr().err


def test_devices_and_backends_that_are_not_there(quick, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main([*quick, "--device", "cuda"]) == 1
    assert "--device cuda: torch finds no CUDA device" in capsys.readouterr().err
    assert cli.main([*quick[:-1], "--backends", "torch+f16+compile", "--no-ros"]) == 1
    assert "torch+f16+compile left out: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "backbone"),
    [("cffm", "mit_b0"), ("stf", "resnet18"), ("pspnet", "resnet18")],
)
def test_any_network_is_measured(quick, network, backbone, tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert cli.main([*quick, "--network", network, "--backbone", backbone, "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    cost, times = figures["costs"]["64x96"], figures["sizes"]["64x96"]["torch"]
    assert times["key"] > 0 and times["nonkey"] > 0
    assert (cost["memory"] > 0) == (network != "pspnet")
    text = capsys.readouterr().out
    assert f"{cost['memory'] / 2**20:.1f} MiB a remembered frame" in text
    assert f"{cost['parameters'] / 1e6:.2f} M parameters" in text
