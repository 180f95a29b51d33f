"""MCIS: its size, co-attention, contrast and losses against values by hand; maps stay where their thing is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from vss_ros.config import VssError
from vss_ros.networks import build
from vss_ros.networks.cards.authors import load_imagenet
from vss_ros.networks.mcis import MAPS, MCIS, agreed, localise, merge, tag_loss


def tiny(classes: int = 3, width: int = 8, **options) -> MCIS:
    torch.manual_seed(0)
    return build("mcis", "mobilenet_v1", classes, width=width, **options)


def identity(network: MCIS, gain: float = 1.0) -> MCIS:
    """Affinity of features themselves."""
    nn.init.eye_(network.affinity.weight)
    network.affinity.weight.data *= gain
    return network


@pytest.mark.parametrize(("options", "millions"), [({}, "22.077"), ({"shared_head": True}, "22.067")])
def test_parameters(options, millions):
    with torch.device("meta"):
        network = build("mcis", "vgg16", 20, **options)
    assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.3f}" == millions


def test_stride_is_eight():
    with torch.device("meta"):
        network = build("mcis", "vgg16", 20).eval()
        feature = network.encode(torch.empty(1, 3, 256, 256))
        assert feature[0].shape == (1, 512, 32, 32)
        assert network.decode(feature).shape == (1, 20, 32, 32)


def test_vgg_takes_torchvisions_weights():
    network = build("mcis", "vgg16", 2, width=8)
    theirs = {k: torch.randn_like(v) for k, v in network.backbone.state_dict().items()}
    load_imagenet(network, {**theirs, "classifier.0.weight": torch.zeros(2, 2)})
    assert torch.equal(network.backbone.features[28].weight, theirs["features.28.weight"])


def test_coattention_of_two_places_by_hand():
    network = identity(tiny(width=2))
    m = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).view(1, 2, 1, 2)  # places (1, 0) and (0, 2)
    n = torch.tensor([[1.0, 0.5], [0.0, 1.0]]).view(1, 2, 1, 2)  # places (1, 0) and (0.5, 1)
    alike = np.array([[1.0, 0.5], [0.0, 2.0]])  # of m's places with n's
    over_m = np.exp(alike) / np.exp(alike).sum(0)
    over_n = (np.exp(alike) / np.exp(alike).sum(1, keepdims=True)).T
    assert np.allclose(over_m.sum(0), 1) and np.allclose(over_n.sum(0), 1)
    in_m, in_n = network.coattend(m, n)
    assert np.allclose(in_n[0, :, 0].detach(), m[0, :, 0].numpy() @ over_m, atol=1e-6)
    assert np.allclose(in_m[0, :, 0].detach(), n[0, :, 0].numpy() @ over_n, atol=1e-6)


def test_cosines_do_not_know_how_great_a_feature_is():
    network = tiny(width=4, temperature=0.1)
    m, n = torch.randn(2, 4, 2, 3), torch.randn(2, 4, 4, 2)
    alike = torch.einsum("bdhw,bdxy->bhwxy", *(x / x.norm(dim=1, keepdim=True) for x in (m, n))) / 0.1
    over_n = alike.flatten(3).softmax(3).unflatten(3, (4, 2))
    in_m = network.coattend(m, n)[0]
    assert torch.allclose(in_m, torch.einsum("bhwxy,bdxy->bdhw", over_n, n), atol=1e-5)
    assert torch.allclose(network.coattend(9 * m, n)[0], in_m, atol=1e-5)
    with pytest.raises(VssError, match="temperature of 0 or more"):
        tiny(temperature=-1.0)


def test_exchanged_images_exchange_the_answers_of_a_symmetric_affinity():
    network = identity(tiny())
    m, n = torch.randn(2, 8, 2, 3), torch.randn(2, 8, 4, 2)
    first, second = network.coattend(m, n), network.coattend(n, m)
    assert first[0].shape == m.shape and first[1].shape == n.shape
    assert torch.allclose(first[0], second[1], atol=1e-6) and torch.allclose(first[1], second[0], atol=1e-6)


def test_an_image_finds_itself_in_itself():
    network = identity(tiny(width=4), gain=100.0)
    f = torch.eye(4).view(1, 4, 2, 2)
    in_m, in_n = network.coattend(f, f)
    assert torch.allclose(in_m, f, atol=1e-6) and torch.allclose(in_n, f, atol=1e-6)


def test_nothing_is_left_where_everything_is_common():
    network = tiny()
    nn.init.constant_(network.gate.weight, 1e4)
    feature = torch.rand(1, 8, 2, 2)
    assert float(network.rest_maps(feature, torch.ones(1, 8, 2, 2)).detach().abs().max()) == 0


def test_loss_of_tags_by_hand():
    maps = torch.tensor([[1.0, -2.0, 0.0]]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2)) + math.log(2)) / 3
    assert float(tag_loss(maps, torch.tensor([[1.0, 0.0, 0.0]]))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second"), [((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (1, 1, 0)), ((1, 1, 0), (0, 1, 1))]
)
@pytest.mark.parametrize("epoch", [1, 2])
def test_losses_of_disjoint_equal_and_overlapping_tags(first, second, epoch):
    network = tiny().eval()
    a, b = torch.tensor([first]).float(), torch.tensor([second]).float()
    frames = torch.randn(1, 2, 3, 32, 48)
    batch = {"frames": frames, "tags": torch.stack([a, b], 1), "epoch": torch.tensor(epoch)}
    with torch.no_grad():
        losses = network.loss(batch, copies=0.0)
        f, g = (network.encode(frames[:, i])[0] for i in (0, 1))
        in_f, in_g = network.coattend(f, g)
        expected = tag_loss(network.classifier(f), a) + tag_loss(network.classifier(g), b)
        assert float(losses["basic"]) == pytest.approx(float(expected))
        common = tag_loss(network.common(in_f), a * b) + tag_loss(network.common(in_g), a * b)
        assert float(losses["common"]) == pytest.approx(float(common))
        rest = [(f, in_f, a - a * b), (g, in_g, b - a * b)]
        parts = [tag_loss(network.rest_maps(x, y), tags) for x, y, tags in rest if tags.any()]
        contrast = float(sum(parts)) if epoch >= 2 else 0.0
    assert float(losses["contrast"]) == pytest.approx(contrast)
    assert (contrast == 0) == (epoch < 2 or first == second)
    assert float(losses["loss"]) == pytest.approx(float(expected + common) + contrast)


def test_copies_are_three_more_pairs():
    network = tiny().eval()
    batch = {"frames": torch.randn(1, 2, 3, 64, 64), "tags": torch.ones(1, 2, 3), "epoch": torch.tensor(0)}
    with torch.no_grad():
        plain, more = network.loss(batch, copies=0.0), network.loss(batch)
    assert float(more["basic"]) > float(plain["basic"]) and float(more["common"]) > float(plain["common"])


def test_without_pairs_it_is_a_plain_classifier():
    network = tiny().eval()
    batch = {"frames": torch.randn(1, 2, 3, 32, 32), "tags": torch.eye(3)[None, :2], "epoch": torch.tensor(9)}
    with torch.no_grad():
        losses = network.loss(batch, copies=0.0, pairs=0.0)
        assert float(losses["loss"]) == float(losses["basic"]) and float(losses["common"]) > 0
        frame = batch["frames"][0, 0]
        own = network.classifier(network.encode(frame[None])[0])[0, 1].clamp(min=0)
        found = localise(network, frame, [frame], 1, "classifier")
    assert torch.allclose(found, own / own.max().clamp(min=1e-6))


def test_maps_are_scaled_each_and_those_against_the_class_are_left_out():
    up, down = torch.tensor([[4.0, -1.0], [2.0, 0.0]]), torch.full((2, 2), -9.0)
    assert merge([up]).tolist() == [[1.0, 0.0], [0.5, 0.0]]
    down[0, 0] = 1.0  # sigmoid of its mean is below 0.1
    assert merge([up, down]).tolist() == [[0.5, 0.0], [0.25, 0.0]]
    assert merge([down, up])[0, 0] == 1.0  # the first one always counts


def test_related_images_say_where_a_thing_is_by_places_that_look_alike():
    class Red(MCIS):
        """Class maps are red, places are compared by green."""

        def look(self, frame):
            red, green = nn.functional.avg_pool2d(frame[:, :2], 8).split(1, 1)
            return torch.cat([green, 1 - green], 1), red

    network = Red("mobilenet_v1", 1, width=1).eval()
    network.classifier.weight.data[:] = 1.0
    frame, other = torch.zeros(2, 3, 32, 32)
    frame[1, :8, 8:16], other[:2, 16:, 16:] = 1, 1
    expected = torch.zeros(4, 4)
    expected[0, 1] = 1
    with torch.no_grad():
        details = network.look(frame[None])[0]
        found = agreed(network, details, [other], 0, torch.ones(2, 2))
    assert torch.allclose(found, expected, atol=0.01)
    own = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert float(agreed(network, details, [other], 0, own)[0, 0].detach()) == 0.0  # both must say so
    assert torch.equal(localise(network, other, [], 0), localise(network, other, [], 0, "classifier"))


@pytest.mark.parametrize("maps", MAPS)
def test_a_marker_in_a_corner_stays_there(maps):
    class Bright(MCIS):
        """A feature that is the picture's own brightness at stride 16."""

        def look(self, frame):
            pooled = nn.functional.avg_pool2d(frame, 16).mean(1, keepdim=True)
            feature = torch.cat([pooled, 1 - pooled], 1)
            return feature, feature

    network = Bright("mobilenet_v1", 1, width=2).eval()
    identity(network, gain=50.0)
    network.common.weight.data[:] = torch.tensor([4.0, -1.0]).view(1, 2, 1, 1)
    network.classifier.weight.data[:] = network.common.weight.data
    frame = torch.zeros(3, 64, 96)
    frame[:, :16, :16] = 1
    found = localise(network, frame, [frame.flip(-1), frame.flip(-2)], 0, maps)
    assert found.shape == (4, 6)
    assert found.argmax() == 0 and float(found[0, 0]) > 0.5
    assert float(found[0, -1]) < 0.1 and float(found[-1, -1]) < 0.1


def test_another_backbone_is_refused():
    with pytest.raises(VssError, match="expected a backbone of vgg16"):
        build("mcis", "resnet50", 3)
