"""IOCFormer against its published size, and its matching, losses and parts against values by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from vss_ros.config import VssError
from vss_ros.networks import build
from vss_ros.networks.iocformer import sine_positions
from vss_ros.networks.matching import (
    count_loss,
    focal,
    match,
    matched_loss,
    matching_cost,
    place_loss,
    targets_of,
)

SMALL = {"queries": 20, "width": 32, "layers": 2, "feedforward": 64}


def small(**options) -> nn.Module:
    torch.manual_seed(0)
    return build("iocformer", "mobilenet_v1", 1, **{**SMALL, **options})


def padded(*images: list[tuple[float, float]]) -> torch.Tensor:
    points = torch.full((len(images), max(map(len, images), default=0) + 2, 2), math.nan)
    for i, image in enumerate(images):
        points[i, : len(image)] = torch.tensor(image).reshape(-1, 2)
    return points


@pytest.mark.parametrize(
    ("options", "millions"), [({}, "52.497"), ({"density": False, "output_stride": 32}, "43.498")]
)
def test_parameters_are_the_published_ones(options, millions):
    with torch.device("meta"):
        network = build("iocformer", "resnet50_plain", 1, **options)
    norms = sum(
        p.numel() for m in network.backbone.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
    )  # frozen: the authors' count has convolutions alone
    count = sum(parameter.numel() for parameter in network.parameters()) - norms
    assert f"{count / 1e6:.3f}" == millions


@pytest.mark.parametrize("side", [256, 512])
def test_shapes(side):
    with torch.device("meta"):
        network = build("iocformer", "resnet50_plain", 1).eval()
        feature = network.encode(torch.empty(1, 3, side, side))[0]
        scores, points, density = network.decode((feature,))
    assert feature.shape == (1, 2048, side // 16, side // 16)
    assert density.shape == (1, 1, side // 8, side // 8)
    assert scores.shape == (1, 700) and points.shape == (1, 700, 2)


def test_light_variant_fits_a_small_file():
    with torch.device("meta"):
        network = build("iocformer", "mobilenet_v1", 1, queries=100, width=128, layers=3, feedforward=512)
    assert sum(p.numel() for p in network.parameters()) * 2 < 20e6


def test_positions_of_a_2x3_map_by_hand():
    found = sine_positions(2, 3, 8, torch.zeros(1))
    rows, columns = (1 / 2, 1.0), (1 / 3, 2 / 3, 1.0)
    for i, (row, column) in enumerate(itertools.product(rows, columns)):
        a, b = 2 * math.pi * row, 2 * math.pi * column
        expected = [math.sin(a), math.cos(a), math.sin(a / 100), math.cos(a / 100)]
        expected += [math.sin(b), math.cos(b), math.sin(b / 100), math.cos(b / 100)]
        assert np.allclose(found[i], expected, atol=1e-5)


def test_matching_costs_by_hand_and_under_permutation():
    logits = torch.tensor([[0.0, 0.0], [0.0, 2.0], [5.0, -2.0]])
    located = torch.tensor([[0.1, 0.1, 0.0], [0.8, 0.8, 0.1], [0.2, 0.1, 0.0]])
    targets = torch.tensor([[0.8, 0.7, 0.1], [0.2, 0.1, 0.0]])
    costs = matching_cost(logits, located, targets)
    for q, k in itertools.product(range(3), range(2)):
        p = 1 / (1 + math.exp(-float(logits[q, 1])))
        yes, no = -0.25 * (1 - p) ** 2 * math.log(p), -0.75 * p**2 * math.log(1 - p)
        apart = sum(abs(float(a) - float(b)) for a, b in zip(located[q], targets[k], strict=True))
        assert float(costs[q, k]) == pytest.approx(2 * (yes - no) + 5 * apart, abs=1e-5)
    queries, chosen = match(logits, located, targets)
    pairs = dict(zip(queries.tolist(), chosen.tolist(), strict=True))
    best = min(itertools.permutations(range(3), 2), key=lambda p: costs[p[0], 0] + costs[p[1], 1])
    assert pairs == {best[0]: 0, best[1]: 1}
    order = torch.tensor([2, 0, 1])
    queries, chosen = match(logits[order], located[order], targets)
    assert {int(order[q]): int(k) for q, k in zip(queries, chosen, strict=True)} == pairs


def test_spread_queries_are_matched_by_where_they_begin():
    """However sure another query is that has moved onto the point."""
    begin = torch.tensor([[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]])
    logits, located = torch.tensor([[0.0, 9.0]] + [[0.0, -9.0]] * 3), torch.full((4, 3), 0.8)
    targets = torch.tensor([[0.8, 0.8, 0.1], [0.9, 0.9, 0.1]])
    queries, chosen = match(logits, located, targets, begin)
    assert queries[0] != 0 and dict(zip(queries.tolist(), chosen.tolist(), strict=True))[3] in (0, 1)
    assert set(match(logits, located, targets[:1], begin)[0].tolist()) == {3}
    assert set(match(logits, located, targets[:1])[0].tolist()) == {0}
    # and so is the loss of a spread network: of one point at the middle of its third cell, the third query's part
    network = small(spread=True, queries=4, dropout=0.0, density=False).eval()
    batch = {"frames": torch.randn(1, 1, 3, 64, 64), "points": padded([(16.0, 48.0)])}
    outputs, _ = network.answer(network.encode(batch["frames"][:, 0]), every=True)
    wanted = torch.tensor([0.75, 0.25, 0.0])
    expected = sum((located[0, 2] - wanted).abs().sum() for _, located in outputs[-1:])
    assert float(network.loss(batch)["locate"].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_focal_loss_by_hand_over_the_points_and_over_one_where_there_is_none():
    logits, located = (
        torch.tensor([[[0.0, 1.0], [0.0, -1.0]]]),
        torch.tensor([[[0.5, 0.5, 0], [0.1, 0.1, 0]]]),
    )
    p = 1 / (1 + math.exp(-1.0))
    half = 0.75 * 0.25 * math.log(2)  # a logit of 0, target 0
    none = 2 * half + 0.75 * (1 - p) ** 2 * -math.log(p) + 0.75 * p**2 * -math.log(1 - p)
    empty = [torch.zeros(0, 3)]
    assert float(matched_loss(logits, located, empty)[0]) == pytest.approx(none, abs=1e-6)
    assert float(matched_loss(logits, located, empty)[1]) == 0
    targets = [torch.tensor([[0.5, 0.5, 0.0]])]
    one = 2 * half + 0.25 * (1 - p) ** 2 * -math.log(p) + 0.75 * (1 - p) ** 2 * -math.log(p)
    assert float(matched_loss(logits, located, targets)[0]) == pytest.approx(one, abs=1e-6)
    twice = matched_loss(logits.repeat(2, 1, 1), located.repeat(2, 1, 1), targets * 2)
    assert float(twice[0]) == pytest.approx(one, abs=1e-6)  # two images, two points
    assert float(focal(torch.zeros(1, 2), torch.zeros(1, 2))) == pytest.approx(2 * half)


def test_neighbour_distances_of_up_to_four_points():
    line = [(0.0, 0.0), (8.0, 0.0), (24.0, 0.0), (0.0, 16.0)]  # column, row
    found = [targets_of(padded(line[:n]), (32, 32))[0] for n in range(5)]
    assert [len(f) for f in found] == [0, 1, 2, 3, 4]
    assert float(found[1][0, 2]) == 0
    assert found[2][:, 2].tolist() == [0.25, 0.25]
    assert found[3][:, 2].tolist() == pytest.approx([0.5, 0.375, 0.625])
    far = [math.hypot(8, 16), math.hypot(24, 16)]
    assert found[4][3, 2] == pytest.approx((16 + far[0] + far[1]) / 3 / 32)
    assert found[4][1, :2].tolist() == [0, 0.25]  # row first


def test_two_points_on_one_pixel_are_two():
    assert len(targets_of(padded([(3.0, 4.0), (3.0, 4.0)]), (32, 32))[0]) == 2


def test_gradient_of_the_count_is_one_over_the_batch():
    density = torch.rand(2, 1, 4, 4, requires_grad=True)
    count_loss(density, [torch.zeros(30, 3), torch.zeros(0, 3)]).backward()
    assert torch.equal(density.grad[0], torch.full((1, 4, 4), -0.5))
    assert torch.equal(density.grad[1], torch.full((1, 4, 4), 0.5))


def test_where_the_density_belongs_by_hand():
    targets = [torch.tensor([[0.5, 0.5, 0.0]]), torch.zeros(0, 3)]
    none = torch.zeros(2, 1, 16, 16)
    assert float(place_loss(none[:1], targets[:1])) == pytest.approx(1, abs=0.01)
    assert float(place_loss(none, targets)) == pytest.approx(0.5, abs=0.01)  # the other has no point
    bell = torch.tensor(
        [[math.exp(-((y - 7.5) ** 2 + (x - 7.5) ** 2) / 2) for x in range(16)] for y in range(16)]
    )
    assert float(place_loss(bell[None, None] / bell.sum(), targets[:1])) == pytest.approx(0, abs=1e-6)
    # a point at the border is one, too: the best density sums to it
    density = torch.zeros(1, 1, 8, 8, requires_grad=True)
    place_loss(density, [torch.tensor([[0.0, 0.5, 0.0]])]).backward()
    assert float(-density.grad.sum()) == pytest.approx(2 * 4 * math.pi, rel=1e-4)


def test_fine_reads_the_map_of_stride_8_and_answers_the_same_shapes():
    network = small(fine=True, spread=True, queries=16).eval()
    deep, fine = network.encode(torch.randn(1, 3, 64, 64))
    assert deep.shape == (1, 512, 4, 4) and fine.shape == (1, 256, 8, 8)
    with torch.no_grad():
        before, changed = network.decode((deep, fine)), network.decode((deep, fine + 1))
    assert [x.shape for x in before] == [(1, 16), (1, 16, 2), (1, 1, 8, 8)]
    assert not torch.allclose(before[2], changed[2]) and not torch.allclose(before[0], changed[0])


def test_spread_queries_begin_with_what_lies_there():
    """Of one bright spot only the query whose cell holds it starts otherwise than in a dark picture."""
    network = small(spread=True, queries=16, density=False, layers=1).eval()
    network.dete.forward = lambda x, hint, positions: x.flatten(2).transpose(1, 2)
    starts = []
    network.decoder.register_forward_pre_hook(lambda module, given: starts.append(given[3]))
    dark = torch.zeros(1, 512, 4, 4)
    bright = dark.clone()
    bright[..., 1, 2] = 1
    with torch.no_grad():
        for feature in (dark, bright):
            network.decode((feature,))
    changed = (starts[0] - starts[1]).abs().sum(-1)[0].view(4, 4)
    assert changed[1, 2] > 0 and changed.sum() == changed[1, 2]
    assert network.decoder.reference.sigmoid().view(4, 4, 2)[1, 2].tolist() == pytest.approx([0.375, 0.625])


def test_what_is_fine_weighs_as_much_as_tokens_where_spread_queries_begin():
    network = small(spread=True, fine=True, queries=16, layers=1).eval()
    starts = []
    network.decoder.register_forward_pre_hook(lambda module, given: starts.append(given[3]))
    features = network.encode(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        network.decode(features)
        network.start.weight.zero_()
        network.decode(features)
    fine, tokens = starts[0] - starts[1], starts[1]
    assert 0.5 < float(fine.std() / tokens.std()) < 2


def test_without_density_features_the_encoder_is_a_plain_one():
    network = small().eval()
    for merge in network.dete.merges:
        for parameter in merge.parameters():
            nn.init.zeros_(parameter)
    x, hint = torch.randn(1, 32, 4, 4), torch.zeros(1, 32, 4, 4)
    positions = sine_positions(4, 4, 32, x)
    with torch.no_grad():
        found, plain = (network.dete(x, h, positions) for h in (hint, None))
    assert torch.allclose(found, plain, atol=1e-6)


def test_merging_as_the_text_has_it():
    """Positions once, the density's feature before each layer, no norm; one merge less, since the input has it."""
    network = small(merge_before=True, layers=3).eval()
    dete = network.dete
    assert len(dete.merges) == 2 and dete.norm is None
    x, hint = torch.randn(2, 1, 32, 4, 4)
    positions = sine_positions(4, 4, 32, x)
    with torch.no_grad():
        found = dete(x, hint, positions)
        tokens = dete.layers[0](x.flatten(2).transpose(1, 2) + positions, 0)
        for layer, merge in zip(dete.layers[1:], dete.merges, strict=True):
            hint = merge(hint)
            tokens = layer(tokens + hint.flatten(2).transpose(1, 2), 0)
        assert torch.allclose(found, tokens)
    with pytest.raises(VssError, match="expected the density branch"):
        small(merge_before=True, density=False)


def test_encoder_layer_is_torchs_own_with_positions_on_queries_and_keys():
    layer = small().dete.layers[0].eval()
    theirs = nn.MultiheadAttention(32, 8, batch_first=True).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.q.weight, layer.k.weight, layer.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([layer.q.bias, layer.k.bias, layer.v.bias]))
        theirs.out_proj.load_state_dict(layer.attention.out.state_dict())
        x, positions = torch.randn(2, 9, 32), torch.randn(9, 32)
        y = layer.norm(x + theirs(x + positions, x + positions, x)[0])
        assert torch.allclose(layer(x, positions), layer.feed(y), atol=1e-5)


def test_every_decoder_layer_is_matched_and_weighs_as_much():
    torch.manual_seed(0)
    network = small(dropout=0.0)
    batch = {"frames": torch.randn(1, 1, 3, 64, 64), "points": padded([(10.0, 20.0), (50.0, 40.0)])}
    losses = network.loss(batch)
    targets = targets_of(batch["points"], (64, 64))
    network.backbone.eval()
    outputs, density = network.answer(network.encode(batch["frames"][:, 0]), every=True)
    parts = [matched_loss(*output, targets) for output in outputs]
    assert len(parts) == 2
    found = network.loss(batch)["loss"]
    expected = sum(2 * a + 5 * b for a, b in parts) + 0.5 * count_loss(density.relu(), targets)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert set(losses) == {"loss", "classify", "locate", "density"}


def test_frozen_parts_of_a_resnet_stay_as_they_are():
    network = build("iocformer", "resnet18", 1, **SMALL)
    before = {k: v.clone() for k, v in network.backbone.state_dict().items()}
    network.train()
    loss = network.loss({"frames": torch.randn(1, 1, 3, 64, 64), "points": padded([(10.0, 20.0)])})["loss"]
    loss.backward()
    assert all(p.grad is None for p in network.backbone.layer1.parameters())
    assert network.backbone.layer4[0].conv1.weight.grad is not None
    after = network.backbone.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if "running" in k)


def test_wrong_uses_are_refused():
    with pytest.raises(VssError, match="one class of objects"):
        build("iocformer", "mobilenet_v1", 3)
    with pytest.raises(VssError, match="expected a backbone"):
        build("iocformer", "mit_b0", 1)
    with pytest.raises(VssError, match="square number of queries, got 20"):
        small(spread=True)


def dots(rng: np.random.Generator, side: int = 64) -> tuple[np.ndarray, list[tuple[float, float]]]:
    image = rng.normal(0, 0.3, (3, side, side)).astype(np.float32)
    points = []
    for _ in range(int(rng.integers(1, 8))):
        x, y = (int(v) for v in rng.integers(4, side - 4, 2))
        image[:, y - 2 : y + 3, x - 2 : x + 3] += 2.0
        points.append((x + 0.5, y + 0.5))
    return image, points


@pytest.mark.slow
def test_density_learns_to_count_new_dots():
    rng = np.random.default_rng(0)
    network = small(queries=20, dropout=0.0)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    for step in range(250):
        images, points = zip(*(dots(rng) for _ in range(8)), strict=True)
        batch = {"frames": torch.from_numpy(np.stack(images))[:, None], "points": padded(*points)}
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (1 - step / 250)
        train_step(network, optimiser, batch)
    network.eval()
    errors, truth = [], []
    with torch.no_grad():
        for _ in range(40):
            image, points = dots(rng)
            density = network.decode(network.encode(torch.from_numpy(image)[None]))[2]
            errors.append(abs(float(density.sum()) - len(points)))
            truth.append(len(points))
    assert np.mean(errors) < np.mean(truth) / 3


@pytest.mark.slow
@pytest.mark.parametrize("spread", [False, True])
def test_points_of_few_images_are_learnt_by_heart(spread):
    rng = np.random.default_rng(0)
    network = small(queries=16, width=64, dropout=0.0, spread=spread)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    images, points = zip(*(dots(rng) for _ in range(4)), strict=True)
    batch = {"frames": torch.from_numpy(np.stack(images))[:, None], "points": padded(*points)}
    for _ in range(120):
        train_step(network, optimiser, batch)
    with torch.no_grad():
        scores, located, _ = network.decode(network.encode(batch["frames"][:, 0]))
    for score, place, truth in zip(scores, located, points, strict=True):
        found = place[score >= 0.35].flip(1) * 64
        assert len(found) == len(truth)
        assert torch.cdist(found, torch.tensor(truth)).min(1).values.mean() < 10  # stride 16


def train_step(network: nn.Module, optimiser: torch.optim.Optimizer, batch: dict) -> None:
    optimiser.zero_grad()
    network.loss(batch)["loss"].backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
