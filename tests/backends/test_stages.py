"""What a stage's hash depends on, and how `remember` is cut into parts of like cost."""

from __future__ import annotations

import itertools

import pytest
import torch
from fixtures.networks import lively
from vss_ros.backends.stages import cuts, fingerprint, remember_parts, sources, stage_names, step_costs
from vss_ros.networks import build
from vss_ros.networks.cards.model import Model


@pytest.mark.parametrize(
    ("name", "backbone", "own"),
    [
        ("segformer", "mit_b0", {"segformer"}),
        ("dcfm", "mit_b0", {"dcfm"}),
        ("msaf", "resnet18", {"msaf"}),
        ("mar+dcfm", "mit_b0", {"mar", "dcfm"}),
    ],
)
def test_a_hash_depends_on_the_sources_of_its_network_alone(name, backbone, own):
    with torch.device("meta"):
        found = {path.stem for path in sources(build(name, backbone, 3))}
    others = {"segformer", "dcfm", "msaf", "mar", "cffm", "mrcfa", "stf", "pspnet"} - own
    assert own <= found and not found & others


def test_a_hash_changes_with_weights_normalisation_and_code(monkeypatch, tmp_path):
    network = lively("segformer", "mobilenet_v1")
    first = fingerprint(Model(network, (64, 96)))
    assert fingerprint(Model(network, (32, 32))) == first
    changed = tmp_path / "segformer.py"
    changed.write_text("# another")
    with monkeypatch.context() as patch:
        patch.setattr("vss_ros.backends.stages.sources", lambda _: [changed])
        assert fingerprint(Model(network, (64, 96))) != first
    with torch.no_grad():
        network.linear_pred.bias += 1
    assert fingerprint(Model(network, (64, 96))) != first


@pytest.mark.parametrize(
    ("costs", "count", "expected"),
    [
        ([1, 1, 1, 1], 2, [2, 4]),
        ([5, 1, 1, 1, 1, 1], 2, [1, 6]),
        ([1, 2, 3], 3, [1, 2, 3]),
        ([1, 1, 10], 2, [2, 3]),
    ],
)
def test_cuts_make_the_dearest_part_as_cheap_as_can_be(costs, count, expected):
    assert cuts(costs, count) == expected


@pytest.mark.parametrize("backbone", ["mit_b0", "mit_b5"])
def test_parts_of_dcfm_cost_alike(backbone):
    with torch.device("meta"):
        model = Model(build("dcfm", backbone, 19).eval(), (512, 1024), parts=4)
    costs = step_costs(model)
    ends = [0, *cuts(costs, 4)]
    parts = [sum(costs[a:b]) for a, b in itertools.pairwise(ends)]
    assert max(parts) < 1.2 * sum(costs) / 4


@pytest.mark.parametrize(
    ("name", "backbone"), [("dcfm", "resnet18"), ("dcfm", "mit_b0"), ("mar+dcfm", "mobilenet_v1")]
)
def test_the_parts_are_remember_to_the_bit(name, backbone):
    network = lively(name, backbone)
    model = Model(network, (64, 96), parts=3)
    assert [n for n in stage_names(model) if "remember" in n] == [
        "remember1of3",
        "remember2of3",
        "remember3of3",
    ]
    with torch.no_grad():
        state = features = network.encode(torch.rand(1, 3, 64, 96))
        for part in remember_parts(model, network):
            state = part(*state)
        expected = network.remember(features)
    assert len(state) == len(expected) and all(
        torch.equal(a, b) for a, b in zip(state, expected, strict=True)
    )


def test_networks_without_steps_stay_whole():
    model = Model(lively("segformer", "mobilenet_v1"), (64, 96), parts=4)
    assert stage_names(model) == ("propagate",)
