"""Every network runs through the segment node: 50 frames each, in one node that is cleaned up in between."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures.ros import client, image, latest, start, values
from vss_ros.networks import build
from vss_ros.networks.cards.card import ModelCard, save_model
from vss_ros.stream.load import load_stream

pytestmark = [pytest.mark.ros, pytest.mark.slow]

FRAMES = 50
COMPARED = 12  # past the longest warm-up
SIZE = (48, 64)
SMALL_GRID = {"grid": (6, 8)}  # of STF's learned positions
MODELS = [
    ("dcfm", "mit_b0", {}),
    ("msaf", "resnet18", {}),
    ("cffm", "mit_b0", {}),
    ("mrcfa", "mit_b0", {}),
    ("stf", "resnet18", SMALL_GRID),
    ("stf", "resnet18", {**SMALL_GRID, "causal": True}),
    ("mar+pspnet", "resnet18", {}),
    ("mar+dcfm", "mit_b0", {}),
    ("mar+stf", "resnet18", SMALL_GRID),
    ("segformer", "mit_b0", {}),
    ("pspnet", "resnet18", {}),
]


def card_of(network, backbone, options, folder):
    """Card of fresh random weights, five classes."""
    torch.manual_seed(0)
    card = ModelCard(
        name="causal" if options.get("causal") else network,
        network=network,
        backbone=backbone,
        options=options,
        classes=list("abcde"),
        palette=[[i, i, i] for i in range(5)],
        size=list(SIZE),
        weights=f"{network}.safetensors",
        sha256="",
        licence="Apache-2.0",
    )
    return save_model(build(network, backbone, 5, **options), card, folder)


def greet(client, message, masks):
    """Publish until a mask comes: DDS loses what is sent before both sides have found each other."""
    masks.clear()
    assert client.until(lambda: client.publish(message) or client.spin(0.2) or masks)
    client.spin(1.0)


def test_every_network_answers_fifty_frames(start, client, rng, tmp_path):
    from diagnostic_msgs.msg import DiagnosticArray
    from sensor_msgs.msg import Image

    # noise has no motion: with it every frame would be a cut
    node = start("segment", backend="torch", schedule="at_once", motion=False)
    masks = client.collect(Image, "/segment/mask")
    consistency = client.collect(DiagnosticArray, "/segment/consistency")
    clip = rng.integers(0, 256, (FRAMES, *SIZE, 3), dtype=np.uint8)
    for number, (network, backbone, options) in enumerate(MODELS):
        model = str(card_of(network, backbone, options, tmp_path / str(number)))
        stream = load_stream(model, backend="torch", motion=False)
        assert client.set(model=model) == ""
        assert client.change("configure") and client.change("activate"), node.text()
        greet(client, image(clip[0], frame="hello"), masks)
        masks.clear(), consistency.clear()
        sent = [image(frame, stamp=10 + t / 30, frame=f"{network}_{t}") for t, frame in enumerate(clip)]
        for t, message in enumerate(sent):
            client.publish(message)  # where a network looks ahead, the first one completes the greeting
            assert client.until(lambda n=t: min(len(masks), len(consistency)) > n), (
                f"{network} {t} {node.text()}"
            )
        masks[:] = masks[stream.lookahead :]
        consistency[:] = consistency[stream.lookahead :]
        answered = FRAMES - stream.lookahead
        headers = [m.header for m in sent[:answered]]
        assert [m.header for m in masks] == [m.header for m in consistency] == headers, network
        seen = [values(latest([m], "consistency")) for m in consistency]
        assert seen[-1]["dropped"] == seen[0]["dropped"], "none of them was dropped"
        keys = [t for t, v in enumerate(seen) if v["keyframe"] == "1"]
        assert keys == list(range(0, answered, 5 if "dcfm" in network else 1)), network
        expected = list(stream.run((frame, 10 + t / 30) for t, frame in enumerate(clip[: COMPARED + 1])))
        for mask, result in zip(masks[:COMPARED], expected, strict=False):
            labels = np.frombuffer(mask.data, np.uint8).reshape(SIZE)
            assert (labels != result.labels).mean() < 1e-2, network
        assert client.change("deactivate") and client.change("cleanup")
    assert "Traceback" not in node.text() and "failed" not in node.text(), node.text()
    assert node.stop() == 0
