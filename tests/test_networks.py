"""What every network promises: three pure stages, a loss that training lowers, sizes that need not be round."""

from __future__ import annotations

import pytest
import torch
from vss_ros.networks import build

EVERY = [("dcfm", "mit_b0"), ("dcfm", "resnet18"), ("segformer", "mit_b0"), ("pspnet", "resnet18")]


def answer(network, frames, keys):
    """Logits of the last frame: all frames encoded, those in `keys` remembered."""
    features = [network.encode(frame[None]) for frame in frames]
    memories = {k: network.remember(features[k]) for k in keys}
    t = len(frames) - 1
    return sum(network.decode(features[t], *(memories[i] for i in reads)) for reads in network.reads(t, keys))


@pytest.mark.parametrize(("name", "backbone"), EVERY)
@pytest.mark.parametrize("size", [(64, 96), (90, 70)])
def test_stages_give_logits_of_the_frame(name, backbone, size):
    network = build(name, backbone, 5).eval()
    with torch.no_grad():
        logits = answer(network, torch.randn(2, 3, *size), [0])
    stride = 8 if "resnet" in backbone else 4
    assert logits.shape == (1, 5, -(-size[0] // stride), -(-size[1] // stride))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("name", "backbone"), EVERY)
def test_a_few_steps_lower_the_loss(name, backbone):
    torch.manual_seed(0)
    network = build(name, backbone, 3)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    frames = torch.randn(2, 2, 3, 32, 32)
    labels = torch.randint(0, 3, (2, 2, 4, 4)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    labels[:, 1] = 255
    losses = []
    for _ in range(5):
        loss = network.loss({"frames": frames, "labels": labels})["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_loss_of_a_batch_without_labels_is_zero_and_finite():
    network = build("segformer", "mit_b0", 3)
    frames = torch.randn(1, 1, 3, 64, 64)
    loss = network.loss({"frames": frames, "labels": torch.full((1, 1, 64, 64), 255)})["loss"]
    assert float(loss.detach()) == 0


def test_dcfm_loss_is_the_sum_of_its_parts():
    network = build("dcfm", "mit_b0", 3)
    labels = torch.randint(0, 3, (1, 2, 64, 64))
    parts = network.loss(
        {"frames": torch.randn(1, 2, 3, 64, 64), "labels": labels}, nonkey=0.2, consistency=5.0
    )
    expected = parts["key"] + 0.2 * parts["nonkey"] + 5 * parts["consistency"]
    assert torch.allclose(parts["loss"], expected)


@pytest.mark.parametrize(
    ("t", "keys", "passes"),
    [
        (3, [0], [(0,)]),
        (3, [0, 3], [(3,)]),
        (3, [0, 5], [(0,), (5,)]),
        (3, [5], [(5,)]),
        (5, [0, 5, 9], [(5,)]),
    ],
)
def test_dcfm_reads_the_last_key_and_looking_ahead_the_next(t, keys, passes):
    assert build("dcfm", "mit_b0", 3).reads(t, keys) == passes
