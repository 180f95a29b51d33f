"""Our networks answer what the authors' own answer, for weights and inputs that anyone can rebuild."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures.networks import assert_agrees, rebuilt, unfolded_head
from fixtures.paths import find_data, find_parity
from vss_ros.config import IMAGENET_MEAN, IMAGENET_STD, VssError
from vss_ros.networks import build
from vss_ros.networks.backbones.espnet import Pyramid
from vss_ros.networks.cards.authors import from_authors, load_imagenet, load_renamed
from vss_ros.networks.cards.weights import read_state
from vss_ros.networks.heads import AllMLP
from vss_ros.networks.mar import MemoryRefinement
from vss_ros.networks.stf import Fusion


def load(file: str):
    content = np.load(find_parity(file))
    meta = json.loads(str(content["meta"]))
    tensors = {name: rebuilt(name, shape) for name, shape in json.loads(str(content["tensors"]))}
    return content, meta, tensors


@pytest.mark.parametrize("file", ["dcfm_mit_b0_96x160.npz", "dcfm_resnet18_96x160.npz"])
def test_dcfm_answers_like_the_authors(file):
    content, meta, tensors = load(file)
    network = from_authors(meta["network"], meta["backbone"], meta["classes"], tensors)
    clip = np.random.default_rng(0).standard_normal((1, 3, 3, 96, 160), dtype=np.float32)[0]

    def upsampled(logits):
        full = F.interpolate(logits, size=(96, 160), mode="bilinear", align_corners=False)
        return full[:, :, ::4, ::4]

    with torch.no_grad():
        key, frame, after = (network.encode(torch.from_numpy(x)[None]) for x in clip)
        first, last = network.remember(key), network.remember(after)
        assert_agrees(frame[0], content["shallow"])
        assert_agrees(upsampled(network.decode(key, first)), content["key"])
        assert_agrees(upsampled(network.decode(frame, first)), content["nonkey_P"])
        both = upsampled(network.decode(frame, first)) + upsampled(network.decode(frame, last))
        assert_agrees(both, content["nonkey_B"])


@pytest.mark.parametrize("file", ["cffm_mit_b0_96x160.npz", "mrcfa_mit_b0_96x160.npz"])
def test_networks_over_four_frames_answer_like_the_authors(file):
    content, meta, tensors = load(file)
    network = from_authors(meta["network"], meta["backbone"], meta["classes"], tensors)
    clip = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 4, 3, 96, 160), dtype=np.float32))[0]
    with torch.no_grad():
        features = [network.encode(frame[None]) for frame in clip]
        memories = [network.remember(earlier) for earlier in features[:3]]
        assert_agrees(network.decode(features[3], *memories), content["logits"])


def test_stf_and_mar_answer_like_the_authors():
    content, _, tensors = load("stf_mar_32x64.npz")
    fusion = Fusion(512, (32, 64), target=1).eval()
    refinement = MemoryRefinement(512, 19).eval()
    load_renamed(fusion, tensors, [("STF.", ""), ("MAR.", None)])
    load_renamed(refinement, tensors, [("MAR.", ""), ("STF.", None)])
    clip = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 512, 3, 32, 64), dtype=np.float32))
    with torch.no_grad():
        fused = fusion(list(clip.unbind(2)))
        assert_agrees(fused[..., ::4, ::4], content["stf"])
        assert_agrees(refinement(fused)[..., ::4, ::4], content["mar"])


def test_tensors_that_do_not_fit_are_listed_by_the_authors_names():
    _, meta, tensors = load("dcfm_mit_b0_96x160.npz")
    del tensors["decoder.ffm.convblk.conv.bias"]
    tensors["decoder.extra"] = np.zeros(3)
    tensors["encoder.backbone.encoder.norm1.weight"] = np.zeros(7)
    with pytest.raises(VssError) as error:
        from_authors("dcfm", meta["backbone"], meta["classes"], tensors)
    text = str(error.value)
    assert "missing (1): decoder.ffm.convblk.conv.bias" in text
    assert "unexpected (1): decoder.extra" in text
    assert "misshapen (1): encoder.backbone.encoder.norm1.weight: expected (32,), got (7,)" in text


def test_buffers_that_follow_from_the_code_are_ignored():
    _, meta, tensors = load("cffm_mit_b0_96x160.npz")
    block = "decode_head.decoder_focal.blocks.0.attn."
    tensors[f"{block}relative_position_index"] = np.zeros((49, 49), np.int64)
    tensors[f"{block}valid_ind_rolled"] = np.zeros(132, np.int64)
    tensors["decode_head.linear_fuse.bn.num_batches_tracked"] = np.array(7)
    from_authors("cffm", meta["backbone"], meta["classes"], tensors)


def test_prefix_of_distributed_training_is_ignored():
    _, meta, tensors = load("dcfm_mit_b0_96x160.npz")
    wrapped = {f"module.{name}": value for name, value in tensors.items()}
    network = from_authors("dcfm", meta["backbone"], meta["classes"], wrapped)
    assert torch.equal(
        network.backbone.norm1.weight, torch.from_numpy(tensors["encoder.backbone.encoder.norm1.weight"])
    )


@pytest.mark.parametrize("training", [False, True])
def test_folded_head_equals_the_published_graph(training):
    torch.manual_seed(0)
    head = AllMLP((32, 64, 160, 256))
    for norm in (head.linear_fuse.bn,):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    maps = [torch.randn(2, c, 32 >> i, 48 >> i) for i, c in enumerate((32, 64, 160, 256))]
    head.train(training)
    with torch.no_grad():
        expected = unfolded_head(head, maps)
        assert torch.allclose(head(maps), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("backbone", ["mit_b0", "resnet18"])
def test_split_fusion_equals_the_published_graph(backbone):
    """Remembering the common feature's share of the fusion convolution changes nothing."""
    torch.manual_seed(0)
    network = build("dcfm", backbone, 19)
    norm = network.fusion["norm"]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    network.eval()
    key, frame = torch.randn(2, 1, 3, 64, 96)
    with torch.no_grad():
        features = network.encode(frame)
        common = F.normalize(network.summarise(network.backbone.deep(network.encode(key)[0])))
        independent = F.normalize(features[0])[:, : network.independent]
        independent = F.interpolate(independent, size=common.shape[-2:], mode="bilinear", align_corners=False)
        fused = F.normalize(F.relu(norm(network.fusion["conv"](torch.cat([common, independent], 1)))))
        expected = network.classifier(fused)
        found = network.decode(features, network.remember(network.encode(key)))
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_imagenet_weights_load_into_mit():
    donor = build("segformer", "mit_b0", 3)
    tensors = {**donor.backbone.state_dict(), "head.weight": torch.zeros(1000, 256)}
    network = build("dcfm", "mit_b0", 3)
    load_imagenet(network, tensors)
    assert torch.equal(network.backbone.patch_embed1.proj.weight, donor.backbone.patch_embed1.proj.weight)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet50_plain"])
def test_imagenet_weights_load_into_resnet(backbone):
    """torchvision's (plain stem) and semseg's (deep stem) names."""
    network = build("dcfm", backbone, 3)
    names = {
        f"layer0.{i}": name for i, name in enumerate(("conv1", "bn1", "", "conv2", "bn2", "", "conv3", "bn3"))
    }
    tensors = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    for key, value in network.backbone.state_dict().items():
        stem = ".".join(key.split(".")[:2])
        tensors[key.replace(stem, names[stem]) if stem in names else key] = torch.full_like(value, 2)
    load_imagenet(network, tensors)
    assert network.backbone.layer0[0].weight.detach().max() == 2
    assert network.backbone.layer4[0].conv1.weight.detach().min() == 2


def test_imagenet_weights_of_mobilenet_keep_their_meaning():
    """Google's weights, on RGB / 127.5 - 1 padded as TensorFlow does, against ours on normalised RGB."""
    file = find_data("weights", "mobilenet_v1_1.0_imagenet_features_fp16.pth")
    tensors = torch.load(file, weights_only=True)
    network = build("dcfm", "mobilenet_v1", 3).eval()
    load_imagenet(network, tensors)
    rgb = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        found = network.backbone.shallow((rgb - mean) / std)
        x = 2 * rgb - 1
        for name in ("conv1", *(f"conv_{kind}_{i}" for i in (1, 2, 3) for kind in ("dw", "pw"))):
            weight = tensors[f"{name}.weight"].float()
            stride = 2 if name in ("conv1", "conv_dw_2") else 1
            if weight.shape[-1] == 3:
                x = F.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
            x = F.conv2d(x, weight, stride=stride, groups=weight.shape[0] if weight.shape[1] == 1 else 1)
            norm = [
                tensors[f"{name}_bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
            ]
            x = F.relu6(F.batch_norm(x, *(part.float() for part in norm), eps=1e-3))
    inside = (..., slice(4, -4), slice(4, -4))  # both pad with zeros, which mean another colour
    assert torch.allclose(found[inside], x[inside], atol=1e-4) and x[inside].std() > 0.1


def test_cityscapes_weights_of_espnet_answer_as_in_their_authors_code():
    """Mean of |x| and deviation of each map, by EdgeNets' code (commit 2b232d3) on the same input."""
    tensors = read_state(find_data("weights", "espnetv2_s_2.0_city_1024x512.pth"))
    network = build("dcfm", "espnetv2", 3).eval()
    load_imagenet(network, tensors)
    x = torch.linspace(-2, 2, 3 * 64 * 96).view(1, 3, 64, 96).sin()
    with torch.no_grad():
        found = [(float(part.abs().mean()), float(part.std())) for part in network.backbone(x)]
    expected = [(0.24711, 0.38586), (0.36558, 0.43855), (0.35063, 0.42305), (0.32122, 0.3648)]
    assert np.allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(("height", "width"), [(50, 84), (23, 30), (7, 5), (64, 96)])
def test_espnet_pools_in_inference_as_in_training(height, width):
    pool = Pyramid(16, 8).eval()
    x = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    for after in ((5, 9), (height, width), (-(-height // 2), -(-width // 2))):
        assert torch.allclose(pool.pooled(x, after), F.adaptive_avg_pool2d(x, after), atol=1e-6)


def test_weights_of_the_wrong_stem_are_refused():
    plain = build("dcfm", "resnet50_plain", 3)
    tensors = {
        k.replace("layer0.0", "conv1").replace("layer0.1", "bn1"): v
        for k, v in plain.backbone.state_dict().items()
    }
    with pytest.raises(VssError, match="misshapen"):
        load_imagenet(build("dcfm", "resnet50", 3), tensors)


BACKBONES = {"mit_b0": "dcfm", "mobilenet_v1": "dcfm", "espnetv2": "dcfm", "resnet18": "stf", "vgg16": "mcis"}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_weights_of_another_backbone_are_refused_in_words(backbone):
    network = build(BACKBONES[backbone], backbone, 3)
    for other in BACKBONES.keys() - {backbone}:
        held = build(BACKBONES[other], other, 3)
        tensors = getattr(held, "pspnet", held).backbone.state_dict()
        with pytest.raises(VssError, match="do not fit the network"):
            load_imagenet(network, tensors)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nothing", "mit_b0", 3), "unknown network 'nothing'"),
        (("dcfm", "vgg", 3), "unknown backbone 'vgg'"),
        (("segformer", "resnet18", 3), "expected a backbone of mit_b0"),
        (("dcfm", "mit_b0", 256), "classes: expected 1 to 255"),
    ],
)
def test_impossible_networks_are_refused(arguments, text):
    with pytest.raises(VssError, match=text):
        build(*arguments)
