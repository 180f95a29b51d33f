"""The losses that DCFM's paper compares (Table VII), and the weights of its own (Table VI)."""

import pytest
import torch
from torch import nn
from vss_ros.config import IGNORE, VssError
from vss_ros.networks import build, encoder_of
from vss_ros.networks.losses import CRITERIA, cross_entropy, dice, ohem


@pytest.fixture
def labels() -> torch.Tensor:
    labels = torch.zeros(2, 16, 16, dtype=torch.long)
    labels[:, 8:] = 1
    labels[:, :, :2] = IGNORE
    return labels


def logits_of(labels: torch.Tensor, sure: float) -> torch.Tensor:
    right = nn.functional.one_hot(labels.clamp(max=1), 3).movedim(-1, 1).float()
    return sure * right


@pytest.mark.parametrize("name", CRITERIA)
def test_a_better_answer_costs_less_and_unlabelled_pixels_nothing(name, labels):
    loss = CRITERIA[name]
    values = [loss(logits_of(labels, sure), labels).item() for sure in (0.0, 2.0, 8.0)]
    assert values[0] > values[1] > values[2] >= 0
    changed = logits_of(labels, 2.0)
    changed[:, :, :, :2] = torch.randn(2, 3, 16, 2)
    assert loss(changed, labels).item() == pytest.approx(values[1])
    empty = torch.full_like(labels, IGNORE)
    none = loss(logits_of(labels, 2.0).requires_grad_(), empty)
    none.backward()
    assert none.item() == 0


def test_ohem_is_the_mean_of_the_hard_pixels(labels):
    logits = logits_of(labels, 8.0)
    logits[:, :, 0] = 0  # one of the sixteen rows is undecided
    assert ohem(logits, labels).item() == pytest.approx(torch.tensor(3.0).log().item(), rel=1e-4)
    assert ohem(logits, labels) > 10 * cross_entropy(logits, labels)


def test_dice_by_hand():
    labels = torch.tensor([[[0, 1]]])
    logits = torch.tensor([[[[50.0, 50.0]], [[0.0, 0.0]]]])  # both pixels called 0
    assert dice(logits, labels).item() == pytest.approx(1 - (2 / 3 + 0) / 2, abs=1e-5)


def test_dcfm_takes_each_by_name_and_weight(labels):
    torch.manual_seed(0)
    network = build("dcfm", "mobilenet_v1", 3, dropout=0.0)
    batch = {"frames": torch.randn(2, 2, 3, 64, 64), "labels": torch.zeros(2, 2, 64, 64, dtype=torch.long)}
    whole = network.loss(batch, key=0.5, nonkey=0.3, consistency=20.0, criterion="ohem", distance="l1")
    parts = (whole["key"], whole["nonkey"], whole["consistency"])
    expected = sum(w * part for w, part in zip((0.5, 0.3, 20.0), parts, strict=True))
    assert whole["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(VssError, match="criterion: expected one of cross_entropy, ohem, dice, got 'focal'"):
        network.loss(batch, criterion="focal")


@pytest.mark.parametrize(
    ("name", "backbone", "slow", "fast"),
    [
        ("dcfm", "mit_b0", ("backbone", "head"), ("fusion", "classifier")),
        ("dcfm", "resnet18", ("backbone", "ppm"), ("fusion", "classifier", "reduce")),
        ("segformer", "mit_b0", ("backbone",), ("head", "linear_pred")),
        ("mar+dcfm", "resnet18", ("network.backbone", "network.ppm"), ("mar", "network.classifier")),
        ("stf", "resnet18", ("pspnet.backbone",), ("stf", "pspnet.ppm")),
    ],
)
def test_what_learns_at_the_encoders_rate(name, backbone, slow, fast):
    """DCFM's authors count the whole common feature to the encoder: their head is ten times slower than the rest."""
    from vss_ros.train.loop import make_optimiser
    from vss_ros.train.recipe import Recipe

    network = build(name, backbone, 3)
    assert encoder_of(network)
    recipe = Recipe(name, backbone, "street", (64, 64), (64, 64), 2, 1, lr=1.0, lr_head=10.0)
    groups = {
        id(p): group["lr"] for group in make_optimiser(network, recipe).param_groups for p in group["params"]
    }
    for expected, prefixes in ((1.0, slow), (10.0, fast)):
        for prefix in prefixes:
            found = [groups[id(p)] for n, p in network.named_parameters() if n.startswith(f"{prefix}.")]
            assert found and set(found) == {expected}, prefix
