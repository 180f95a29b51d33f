"""Parameters and multiply-accumulates (MACs) are those measured on the authors' own networks.

Parameters: less the layer `conv_seg` that the authors' heads create and never use.

MACs: of the published graph, counted as the authors' were: convolutions and linear layers, without attention's matrix
products unless said so. Our stages compute the same with fewer, so what they save is put back in: the all-MLP head
runs as published (projection, upsampling, concatenation, 1×1 fusion), CFFM and MRCFA encode all four frames and run
the training-only classifier on each, DCFM's non-key frames fuse the whole common feature.
"""

from __future__ import annotations

import pytest
import torch
from fixtures.networks import unfolded_head
from torch.utils.flop_counter import FlopCounterMode
from vss_ros.deploy.bench.costs import costs
from vss_ros.networks import build
from vss_ros.networks.heads import AllMLP
from vss_ros.networks.mar import MemoryRefinement
from vss_ros.networks.stf import Fusion

LAYERS = ("convolution", "addmm", "mm")


@pytest.mark.parametrize(
    ("name", "backbone", "classes", "options", "millions", "unused"),
    [
        ("dcfm", "mit_b1", 19, {}, "13.83", 19),
        ("dcfm", "mit_b2", 124, {}, "24.831", 19),
        ("dcfm", "mit_b5", 124, {}, "82.078", 19),
        ("dcfm", "resnet18", 19, {}, "11.99", 0),
        ("dcfm", "resnet50", 19, {}, "36.54", 0),
        ("dcfm", "resnet101", 19, {}, "55.54", 0),
        ("cffm", "mit_b0", 124, {}, "4.673", 124),
        ("cffm", "mit_b1", 124, {}, "15.483", 124),
        ("cffm", "mit_b2", 124, {}, "26.527", 124),
        ("cffm", "mit_b5", 124, {}, "85.468", 124),
        ("cffm", "mit_b0", 19, {}, "4.578", 19),
        ("cffm", "mit_b1", 19, {}, "15.388", 19),
        ("cffm", "mit_b1", 124, {"depth": 1}, "14.64", 124),
        ("cffm", "mit_b1", 124, {"depth": 3}, "16.33", 124),
        ("cffm", "mit_b1", 124, {"depth": 4}, "17.18", 124),
        ("mrcfa", "mit_b0", 124, {}, "5.298", 124),
        ("mrcfa", "mit_b1", 124, {}, "16.338", 124),
        ("mrcfa", "mit_b2", 124, {}, "27.382", 124),
        ("mrcfa", "mit_b5", 124, {}, "84.629", 124),
    ],
)
def test_parameters(name, backbone, classes, options, millions, unused):
    with torch.device("meta"):
        network = build(name, backbone, classes, **options)
    count = sum(parameter.numel() for parameter in network.parameters()) + unused * 129
    assert f"{count / 1e6:.{len(millions.split('.')[1])}f}" == millions


def test_parameters_of_stf_and_mar():
    with torch.device("meta"):
        fusion, refinement = Fusion(512, (32, 64), target=1), MemoryRefinement(512, 19)
    fusion, refinement = (sum(p.numel() for p in module.parameters()) for module in (fusion, refinement))
    assert f"{fusion / 1e6:.2f}" == "11.03"
    assert f"{(fusion - 4 * 512 * 32 * 64) / 1e6:.1f}" == "6.8", "without the positions"
    assert f"{refinement / 1e6:.2f}" == "1.97"


def giga(stage, attention=False):
    """GMACs of a call, on meta tensors."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        stage()
    counts = {str(op).split(".")[1]: flops for op, flops in counter.get_flop_counts()["Global"].items()}
    return sum(flops for op, flops in counts.items() if attention or op in LAYERS) / 2e9


@pytest.mark.parametrize(
    ("name", "backbone", "expected"),
    [
        ("cffm", "mit_b1", 98.4),
        ("cffm", "mit_b2", 148.95),
        ("mrcfa", "mit_b1", 91.3),
        ("mrcfa", "mit_b2", 141.5),
    ],
)
def test_macs_over_four_frames(name, backbone, expected, monkeypatch):
    monkeypatch.setattr(AllMLP, "forward", unfolded_head)
    with torch.device("meta"), torch.no_grad():
        network, frame = build(name, backbone, 124).eval(), torch.empty(1, 3, 480, 864)
        features = network.encode(frame)
        memory = network.remember(features)
    encode, remember = giga(lambda: network.encode(frame)), giga(lambda: network.remember(features))
    decode = giga(lambda: network.decode(features, memory, memory, memory))
    classify = giga(lambda: network.linear_pred(torch.empty(1, 256, 120, 216)))
    assert 4 * encode + 3 * remember + decode + 4 * classify == pytest.approx(expected, rel=0.02)


def test_macs_of_dcfm(monkeypatch):
    monkeypatch.setattr(AllMLP, "forward", unfolded_head)
    with torch.device("meta"):
        network, frame = build("dcfm", "mit_b2", 124).eval(), torch.empty(1, 3, 480, 853)
    memory = (torch.empty(1, 120, 214, 256, device="meta"),)
    common = torch.nn.Conv2d(256, 256, 1, device="meta")

    def key():
        features = network.encode(frame)
        network.decode(features, network.remember(features))

    def nonkey(passes):
        features = network.encode(frame)
        for _ in range(passes):
            common(torch.empty(1, 256, 120, 214))  # its share of the fusion, which we remember
            network.decode(features, memory)

    assert giga(lambda: network.encode(frame)) == pytest.approx(1.46, rel=0.02)
    assert giga(key) == pytest.approx(36.0, rel=0.02)
    assert giga(lambda: nonkey(1)) == pytest.approx(4.17, rel=0.02)
    assert giga(lambda: nonkey(2)) == pytest.approx(6.88, rel=0.02)
    assert giga(key, attention=True) == pytest.approx(45.4, rel=0.02)
    assert giga(lambda: nonkey(2), attention=True) == pytest.approx(8.2, rel=0.02)


def test_macs_of_stf_and_mar():
    """At 1/8 of 1024×2048, attention included."""
    with torch.device("meta"):
        fusion, refinement = Fusion(512, (128, 256), target=1).eval(), MemoryRefinement(512, 19).eval()
        feature = torch.empty(1, 512, 128, 256)
    assert giga(lambda: fusion([feature] * 3), attention=True) == pytest.approx(563, rel=0.02)
    assert giga(lambda: refinement(feature), attention=True) == pytest.approx(31.3, rel=0.02)


def test_what_streaming_saves():
    """A streamed CFFM-B1 frame costs about a third of the published call over four frames."""
    cost = costs("cffm", "mit_b1", 124, (480, 864))
    assert cost["encode"] + cost["remember"] + cost["decode"] < 118.8e9 / 3
    windows = 9 * 16  # a 60×108 map in 7×7 windows
    assert cost["memory"] == 2 * 4 * 512 * windows * (1 + 4 + 9), "two blocks, three roles, keys and values"


@pytest.mark.parametrize(
    ("name", "backbone"), [("pspnet", "resnet18"), ("mar+stf", "resnet18"), ("msaf", "resnet18")]
)
def test_costs_of_other_networks(name, backbone):
    cost = costs(name, backbone, 19, (64, 128))
    assert cost["parameters"] > 10e6 and cost["encode"] > 1e9
    assert (cost["memory"] > 0) == (name != "pspnet")
