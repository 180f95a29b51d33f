"""Checkpoints of PSPNet, STF and MAR by mmsegmentation's names, against a plain reading of the published graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures.networks import assert_agrees, rebuilt
from vss_ros import cli
from vss_ros.config import VssError
from vss_ros.networks import build
from vss_ros.networks.cards.authors import authors_names, from_authors, unrename
from vss_ros.networks.cards.card import load_model

DEPTHS = {"resnet50_v1c": (3, 4, 6, 3), "resnet101_v1c": (3, 4, 23, 3)}


def authors_tensors(name, backbone, classes, **options):
    """Tensors with the names and shapes of the authors' checkpoint, filled by their names as the parity files are."""
    with torch.device("meta"):
        network = build(name, backbone, classes, **options)
    shapes = {unrename(key, authors_names(name)): list(t.shape) for key, t in network.state_dict().items()}
    return {key: rebuilt(key, shape) for key, shape in shapes.items() if "num_batches" not in key}


def plain_pspnet(tensors, x, depths, prefix="pspnet."):
    """mmsegmentation's PSPNet on ResNetV1c-d8 with contract_dilation, up to the bottleneck's output."""
    w = {key.removeprefix(prefix): torch.as_tensor(value) for key, value in tensors.items()}

    def conv_bn(x, conv, bn, stride=1, padding=0, dilation=1):
        x = F.conv2d(x, w[f"{conv}.weight"], None, stride, padding, dilation)
        stats = (w[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *stats)

    for conv, stride in ((0, 2), (3, 1), (6, 1)):
        x = conv_bn(x, f"backbone.stem.{conv}", f"backbone.stem.{conv + 1}", stride, 1).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    # of a stage's first block and of the others
    for layer, (stride, first, rest) in enumerate(((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)), 1):
        for block in range(depths[layer - 1]):
            name, step = f"backbone.layer{layer}.{block}", stride if block == 0 else 1
            spread = first if block == 0 else rest
            y = conv_bn(x, f"{name}.conv1", f"{name}.bn1").relu()
            y = conv_bn(y, f"{name}.conv2", f"{name}.bn2", step, spread, spread).relu()
            y = conv_bn(y, f"{name}.conv3", f"{name}.bn3")
            shortcut = x
            if block == 0:
                shortcut = conv_bn(x, f"{name}.downsample.0", f"{name}.downsample.1", step)
            x = (y + shortcut).relu()
    pyramid = [x]
    for i, bins in enumerate((1, 2, 3, 6)):
        name = f"decode_head.psp_modules.{i}.1"
        y = conv_bn(F.adaptive_avg_pool2d(x, bins), f"{name}.conv", f"{name}.bn").relu()
        pyramid.append(F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False))
    name = "decode_head.bottleneck"
    return conv_bn(torch.cat(pyramid, 1), f"{name}.conv", f"{name}.bn", padding=1).relu()


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("resnet50_v1c", (58, 50)), pytest.param("resnet101_v1c", (64, 96), marks=pytest.mark.slow)],
)
def test_pspnet_answers_like_mmsegmentation(backbone, size):
    tensors = authors_tensors("pspnet", backbone, 19)
    assert "pspnet.backbone.stem.0.weight" in tensors
    assert tensors["pspnet.decode_head.bottleneck.conv.weight"].shape == (512, 4096, 3, 3)
    bare = {key.removeprefix("pspnet."): value for key, value in tensors.items()}
    bare["auxiliary_head.conv_seg.weight"] = np.zeros((19, 256, 1, 1))
    frame = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, *size), dtype=np.float32))
    with torch.no_grad():
        feature = plain_pspnet(tensors, frame, DEPTHS[backbone])
        weight, bias = (
            torch.as_tensor(tensors[f"pspnet.decode_head.conv_seg.{part}"]) for part in ("weight", "bias")
        )
        for given in (tensors, bare):
            network = from_authors("pspnet", backbone, 19, given)
            assert_agrees(network.encode(frame)[0], feature.numpy())
            assert_agrees(network.decode(network.encode(frame)), F.conv2d(feature, weight, bias).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stf", "mar+pspnet", "mar+stf"])
def test_stf_and_mar_load_by_the_authors_names(name):
    """Parts that the parity files check, on features of the plain PSPNet above."""
    options = {"grid": (8, 12)} if "stf" in name else {}
    tensors = authors_tensors(name, "resnet50_v1c", 19, **options)
    assert ("STF.pe_enc" in tensors) == ("stf" in name)
    assert ("MAR.HEdecoder.attn.to_q.0.weight" in tensors) == name.startswith("mar+")
    network = from_authors(name, "resnet50_v1c", 19, tensors)
    inner = network.network if name.startswith("mar+") else network
    clip = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 1, 3, 64, 96), dtype=np.float32))
    with torch.no_grad():
        plain = [plain_pspnet(tensors, frame, DEPTHS["resnet50_v1c"]) for frame in clip]
        features = [network.encode(frame) for frame in clip]
        assert_agrees(features[1][0], plain[1].numpy())
        memories = [network.remember(f) for f in (features[0], features[2])] if "stf" in name else []
        fused = inner.stf(plain) if "stf" in name else plain[1]
        fused = network.mar(fused) if name.startswith("mar+") else fused
        weight, bias = (
            torch.as_tensor(tensors[f"pspnet.decode_head.conv_seg.{part}"]) for part in ("weight", "bias")
        )
        assert_agrees(network.decode(features[1], *memories), F.conv2d(fused, weight, bias).numpy())


@pytest.mark.slow
def test_convert_keeps_the_grid_of_the_positions(tmp_path):
    tensors = authors_tensors("mar+stf", "resnet50_v1c", 3, grid=(8, 12))
    torch.save({key: torch.as_tensor(value) for key, value in tensors.items()}, tmp_path / "authors.pth")
    out = tmp_path / "converted.yaml"
    options = ["--network", "mar+stf", "--backbone", "resnet50_v1c", "--classes", "3", "--size", "64x96"]
    assert cli.main(["convert", str(tmp_path / "authors.pth"), *options, "--out", str(out)]) == 0
    network, card = load_model(out)
    assert card.options == {"grid": [8, 12]} and network.lookahead == 1


@pytest.mark.parametrize("name", ["msaf", "mar+dcfm", "nothing"])
def test_networks_without_a_known_checkpoint_say_so(name):
    with pytest.raises(VssError, match=r"no checkpoint of its authors|unknown network"):
        from_authors(name, "resnet18", 3, {})
