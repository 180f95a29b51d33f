"""What a stage's hash depends on, and how `remember` is cut into parts of like cost."""

from __future__ import annotations

import itertools

import pytest
import torch
from fixtures.networks import lively
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from vss_ros.backends.gpu.fused import PointwiseReLU
from vss_ros.backends.stages import (
    cuts,
    fingerprint,
    flat_stages,
    fold_batch_norms,
    remember_parts,
    sources,
    stage_names,
    step_costs,
)
from vss_ros.backends.typed import Typed
from vss_ros.networks import build
from vss_ros.networks.backbones.mit import Block
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


class OfWeights(TorchDispatchMode):
    """Operators that read nothing but weights, or what was computed from them alone."""

    def __init__(self, module):
        super().__init__()
        self.constant = {x.untyped_storage()._cdata for x in (*module.parameters(), *module.buffers())}
        self.found = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        answer = operator(*args, **(kwargs or {}))
        read, made = (
            {x.untyped_storage()._cdata for x in tree_leaves(tree) if isinstance(x, torch.Tensor)}
            for tree in ((args, kwargs), answer)
        )
        if read and read <= self.constant and not made <= read:
            self.constant |= made
            self.found.append(str(operator))
        return answer


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("dcfm", "mit_b0"),
        ("dcfm", "resnet18"),
        ("segformer", "mit_b0"),
        ("msaf", "resnet18"),
    ],
)
def test_no_frame_computes_weights(name, backbone, fused):
    for module, inputs in flat_stages(Model(lively(name, backbone), (64, 96)), "f16", fused).values():
        with torch.no_grad(), OfWeights(module) as work:
            module(*inputs)
        assert not work.found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lengths_in_16_bits_divide_whatever_comes(dtype):
    x = torch.randn(1, 16, 2, 3).to(dtype)
    x[:, :, 0, 0], x[:, :, 0, 1], x[:, :, 1, 1] = 0, 1e-7, 6e4
    with Typed(dtype, fused=True):
        found = torch.nn.functional.normalize(x)
        last = torch.nn.functional.normalize(x.movedim(1, -1), dim=-1)
        half = x[:, :8] / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-12)
    assert found.dtype == dtype and found.isfinite().all() and torch.equal(found[:, :8], half)
    assert torch.equal(last.movedim(-1, 1), found) and not found[:, :, 0, 0].any()
    usual = [(0, 2), (1, 0), (1, 2)]
    expected = torch.nn.functional.normalize(x.float())
    for row, column in usual:
        assert torch.allclose(
            found[:, :, row, column].float(), expected[:, :, row, column], rtol=0.01, atol=1e-3
        )


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_pointwise_convolution_takes_its_relu_along(layout):
    conv, x = torch.nn.Conv2d(12, 7, 1), torch.randn(2, 12, 5, 6).to(memory_format=layout)
    with torch.no_grad():
        assert torch.allclose(PointwiseReLU(conv)(x), conv(x).relu(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_head_needs_no_layer_of_queries_and_outputs(dtype):
    """The folded block is the block, and runs two layers less; blocks of several heads stay as they are."""
    torch.manual_seed(0)
    block, other = Block(64, 1, 8, 0.0).eval(), Block(64, 2, 4, 0.0).eval()
    for tensor in block.parameters():
        tensor.data.normal_(0, 0.2 if tensor.dim() > 1 else 0.5)
    x = 3 * torch.randn(1, 17 * 26, 64) + 1  # sides that the reduction does not divide
    folded = fold_batch_norms(block)
    with torch.no_grad():
        expected, found = block(x, 17, 26), folded.to(dtype)(x.to(dtype), 17, 26).float()
    within = 1e-5 if dtype is torch.float32 else 1e-2
    assert (found - expected).abs().max() <= within * expected.abs().max()
    assert isinstance(folded.attn.q, torch.nn.Identity) and isinstance(folded.attn.proj, torch.nn.Identity)
    assert isinstance(fold_batch_norms(other).attn.q, torch.nn.Linear)
