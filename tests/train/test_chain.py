"""Stages of training: weights handed on, what stays frozen, MAR's memory against an oracle, all as one command."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from vss_ros.config import VssError
from vss_ros.data.clips import Clip, Video
from vss_ros.data.metrics import confusion, mean_iou
from vss_ros.networks import build, reads_of
from vss_ros.networks.cards.card import load_model
from vss_ros.networks.cards.model import Model
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.stream import Stream
from vss_ros.train import chain, checkpoints
from vss_ros.train.mar_memory import MEMORY_FILE, Extremes, about_memory, build_memory, clip_of, is_current
from vss_ros.train.recipe import check_clip, find_recipes, read_recipe
from vss_ros.train.samples import Samples, make_loader
from vss_ros.train.validate import normalise, segment

SIZE = (64, 96)
SMALL = [
    ("dcfm", "mit_b0", {}, (0,)),
    ("cffm", "mit_b0", {}, (-9, -6, -3)),
    pytest.param("segformer", "mit_b0", {}, (), marks=pytest.mark.slow),
    pytest.param("mrcfa", "mit_b0", {}, (-9, -6, -3), marks=pytest.mark.slow),
    pytest.param("msaf", "resnet18", {}, (-2, -1), marks=pytest.mark.slow),
    pytest.param("stf", "resnet18", {"grid": (8, 12)}, (-1, 1), marks=pytest.mark.slow),
    pytest.param("stf", "resnet18", {"grid": (8, 12), "causal": True}, (-2, -1), marks=pytest.mark.slow),
    pytest.param("mar+pspnet", "resnet18", {}, (), marks=pytest.mark.slow),
]


class Noise:
    """A video of random blocks whose labels follow their colours."""

    name, fps = "noise train", 30.0
    classes = ("a", "b", "c")
    palette = np.eye(3, dtype=np.uint8) * 255

    def __init__(self, frames: int = 12):
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 3, (frames, 4, 6)).astype(np.uint8)
        self.labels = coarse.repeat(SIZE[0] // 4, 1).repeat(SIZE[1] // 6, 2)
        noise = rng.integers(0, 60, (frames, *SIZE, 3))
        self.images = (self.palette[self.labels] * 0.7 + noise).astype(np.uint8)

    def __len__(self):
        return len(self.labels)

    def clip(self, i, offsets=(0,)):
        places = [min(max(i + offset, 0), len(self) - 1) for offset in offsets]
        return Clip([self.images[p] for p in places], [self.labels[p] for p in places], 0, "noise", i)

    def videos(self):
        yield Video("noise", iter(()), range(len(self)), moves=False, dense=False)


@pytest.mark.parametrize(("name", "backbone", "options", "reads"), SMALL)
def test_validation_labels_as_the_stream_does(name, backbone, options, reads):
    """Also at the ends of the video, where frames stand in for those that lack."""
    from vss_ros.backends.choose import make_backend

    torch.manual_seed(0)
    network, data = build(name, backbone, 3, **options).eval(), Noise()
    assert reads_of(network) == reads
    chosen = [0, 1, 5, 11]
    stream = Stream(make_backend(Model(network, SIZE), "torch"), FixedInterval(1))
    answers = list(stream.run((image, t / 30) for t, image in enumerate(data.images)))
    for i in chosen:
        _, truth, labels = segment(network, data, i, SIZE)
        assert np.mean(labels == answers[i].labels) > 0.999  # rounding of the normalisation may tip a pixel
        assert np.array_equal(truth, data.labels[i])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backbone", "k"), [("cffm", "mit_b0", 1), ("stf", "resnet18", 1), ("msaf", "resnet18", 2)]
)
def test_sparse_labels_are_answered_as_in_the_whole_video(name, backbone, k):
    """`vss evaluate` starts as many frames earlier as the network reads; pooled over all ages for k > 1."""
    from vss_ros.backends.choose import make_backend
    from vss_ros.evaluate.dataset import evaluate

    torch.manual_seed(0)
    network = build(name, backbone, 3, **({"grid": (8, 12)} if name == "stf" else {})).eval()
    backend = make_backend(Model(network, SIZE), "torch")
    data = Noise()
    found = evaluate(Stream(backend, FixedInterval(k)), data)["mIoU"]
    counts = np.zeros((3, 4), np.int64)
    for first in range(k):  # keyframes at first, first + k, …
        stream = Stream(backend, FixedInterval(k))
        lead = [0] * ((-first) % k) if first else []
        places = [*lead, *range(len(data))]
        answers = list(stream.run((data.images[p], t / 30) for t, p in enumerate(places)))
        for place, answer in list(zip(places, answers, strict=True))[len(lead) :]:
            counts += confusion(data.labels[place], answer.labels, 3)
    assert found == pytest.approx(mean_iou(counts), abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in find_recipes() if name.startswith("small_")])
def test_every_small_recipe_feeds_its_network(name):
    """A clip as the recipe says goes through the loss in bfloat16, as `vss train` does it."""
    recipe = dataclasses.replace(read_recipe(name), batch=2, crop=SIZE)
    torch.manual_seed(0)
    network = build(recipe.network, recipe.backbone, 3, **recipe.options)
    check_clip(network, recipe)
    checkpoints.freeze(network, recipe.trains)
    frames, labels = next(make_loader(Samples(Noise(), recipe), recipe, 0, workers=0))
    with torch.autocast("cpu", torch.bfloat16):
        losses = network.loss({"frames": normalise(frames), "labels": labels.long()}, **recipe.loss)
    losses["loss"].backward()
    grown = {n for n, p in network.named_parameters() if p.grad is not None}
    assert torch.isfinite(losses["loss"])
    # No trained parameter is left out, which training on several devices would not forgive.
    assert grown == {n for n, _ in network.named_parameters() if n.startswith(recipe.trains or "")}


@pytest.mark.parametrize(
    ("network", "offsets", "neighbours"),
    [
        ("cffm", [0], []),
        ("cffm", [-9, -6, -3, 0], [-1, 1]),
        ("msaf", [0, -1, -2], []),
        ("stf", [-2, -1, 0], []),
        ("dcfm", [-1, 0], []),
    ],
)
def test_clips_that_a_network_cannot_take_are_refused(tmp_path, network, offsets, neighbours):
    backbone = "mit_b0" if network in ("cffm", "dcfm") else "resnet18"
    path = tmp_path / "a.yaml"
    values = {"network": network, "backbone": backbone, "data": "street", "size": SIZE, "crop": SIZE}
    path.write_text(
        yaml.safe_dump(
            {**values, "size": [64, 96], "crop": [64, 96], "batch": 1, "steps": 1, "lr": 1.0}
            | {"offsets": offsets, "neighbours": neighbours}
        )
    )
    options = {"grid": (8, 12)} if network == "stf" else {}
    with pytest.raises(VssError, match=r"expected offsets"):
        check_clip(build(network, backbone, 3, **options), read_recipe(str(path)))


def test_other_frame_rates_are_allowed():
    recipe = dataclasses.replace(read_recipe("cffm_mit_b1_vspw"), offsets=(-3, -2, -1, 0))
    check_clip(build("cffm", "mit_b0", 3), recipe)


def test_what_an_image_network_learnt_is_handed_on(tmp_path):
    path = tmp_path / "image.safetensors"
    image = build("pspnet", "resnet18", 3)
    save_file(image.state_dict(), path)
    msaf = build("msaf", "resnet18", 3)
    checkpoints.start_from(msaf, path, ())
    stf = build("stf", "resnet18", 3, grid=(8, 12))
    fresh = stf.pspnet.classifier.weight.clone()
    checkpoints.start_from(stf, path, ("stf.", "pspnet.classifier."))
    weights = image.backbone.layer4[0].conv1.weight
    assert torch.equal(msaf.backbone.layer4[0].conv1.weight, weights)
    assert torch.equal(stf.pspnet.backbone.layer4[0].conv1.weight, weights)
    assert torch.equal(stf.pspnet.classifier.weight, fresh)  # what is trained starts afresh
    with pytest.raises(VssError, match=r"does not fit .* lacks backbone"):
        checkpoints.start_from(build("segformer", "mit_b0", 3), path, ())


def test_frozen_parts_do_not_move():
    network = build("stf", "resnet18", 3, grid=(8, 12))
    trained = ("stf.", "pspnet.classifier.")
    checkpoints.freeze(network, trained)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.SGD(network.parameters(), 0.1, weight_decay=0.1)
    batch = {"frames": torch.randn(1, 3, 3, 32, 32), "labels": torch.randint(0, 3, (1, 3, 32, 32))}
    network.loss(batch)["loss"].backward()
    optimiser.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(trained) for name in moved)


def brute_force(features, scores, labels, classes, count):
    """Keys and values by sorting everything."""
    keys, values = [], []
    for c in range(classes):
        mine = labels == c
        f, s = features[mine], scores[mine]
        if len(f) == 0:
            keys += [torch.zeros(count, features.shape[1])]
            values += [torch.zeros(count, features.shape[1])]
            continue
        low = s.argsort(stable=True)[:count]
        high = s.argsort(stable=True, descending=True)[:count]
        keys.append(f[low][torch.arange(count) % len(low)])
        values.append(f[high].mean(0).expand(count, -1))
    return torch.cat(keys)[None], torch.cat(values)[None]


def test_extremes_are_exact_in_any_portions():
    torch.manual_seed(0)
    features, labels = torch.randn(500, 4), torch.randint(0, 4, (500,))
    scores = (torch.rand(500) * 20).round() / 20  # with ties
    labels[labels == 3] = 0  # one class never comes
    labels[(labels == 2).nonzero()[3:]] = 1  # and one has only three pixels
    best = Extremes(4, 4)
    for part in torch.arange(500).split(37):
        best.add(features[part], scores[part], labels[part])
    for ours, theirs in zip(best.memory(), brute_force(features, scores, labels, 4, 10), strict=True):
        assert torch.allclose(ours, theirs)
    assert best.found().tolist() == [10, 10, 3, 0]


class Dies(Noise):
    """The power fails at clip `at`."""

    at = 7

    def clip(self, i, offsets=(0,)):
        if i == self.at:
            raise KeyboardInterrupt
        return super().clip(i, offsets)


def test_memory_of_a_training_set_equals_the_oracle_even_after_a_kill(tmp_path):
    torch.manual_seed(0)
    network, data = build("pspnet", "resnet18", 3).eval(), Noise()
    recipe = dataclasses.replace(read_recipe("small_mar_pspnet"), size=SIZE, memory_clips=0)
    path = tmp_path / MEMORY_FILE
    with pytest.raises(KeyboardInterrupt):
        build_memory(network, Dies(), recipe, path, "abc", save_every=3)
    assert not path.exists() and path.with_suffix(".part").exists()

    seen = []
    data.clip = lambda i, offsets: seen.append(i) or Noise.clip(data, i, offsets)
    build_memory(network, data, recipe, path, "abc", save_every=3)
    assert seen == list(range(6, 12)) and not path.with_suffix(".part").exists()
    assert about_memory(path)["clips"] == "12"

    pixels = [[], [], []]
    with torch.no_grad():
        for i in range(len(data)):
            feature, labels = network.target(clip_of(data, i, recipe))
            probability = network.classify(feature).softmax(1)[0].flatten(1)
            truth = F.interpolate(labels[:, None].float(), size=feature.shape[-2:])[0, 0].flatten().long()
            right = probability.argmax(0) == truth
            pixels[0].append(feature[0].flatten(1).T[right])
            pixels[1].append(probability.amax(0)[right])
            pixels[2].append(truth[right])
    features, scores, labels = (torch.cat(part) for part in pixels)
    assert len(features) > 100
    expected = brute_force(features, scores, labels, 3, 10)
    found = load_file(path)
    assert torch.allclose(found["key"], expected[0]) and torch.allclose(found["value"], expected[1])


def test_a_saved_state_of_other_weights_is_not_continued(tmp_path):
    network, recipe = build("pspnet", "resnet18", 3), read_recipe("small_mar_pspnet")
    recipe = dataclasses.replace(recipe, size=SIZE, memory_clips=4)
    path = tmp_path / MEMORY_FILE
    with pytest.raises(KeyboardInterrupt):
        build_memory(network, Dies(), recipe, path, "abc", save_every=1)
    data, seen = Noise(), []
    data.clip = lambda i, offsets: seen.append(i) or Noise.clip(data, i, offsets)
    build_memory(network, data, recipe, path, "other", save_every=1)
    assert seen == [0, 3, 7, 11]
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"not the weights that it was built from")
    assert not is_current(path, weights)
    with pytest.raises(VssError, match="run `vss memory`"):
        checkpoints.load_memory(build("mar+pspnet", "resnet18", 3), path, weights)


STREET = {"data": "street", "size": [32, 48], "crop": [32, 32], "batch": 2, "lr": 1e-3, "neighbours": []}


@pytest.mark.slow
def test_three_stages_are_one_command_that_goes_on_where_it_was(tmp_path):
    base = {"network": "pspnet", "backbone": "resnet18", **STREET, "steps": 2, "validate_every": 2}
    last = {**base, "network": "mar+pspnet", "after": "base", "memory_clips": 3}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "last.yaml").write_text(yaml.safe_dump({**last, "trains": ["mar.", "network.classifier."]}))
    line = [sys.executable, "-m", "vss_ros.cli", "train", str(tmp_path / "last.yaml"), "--resume"]
    line += ["--out", str(tmp_path / "runs" / "last"), "--accelerator", "cpu", "--precision", "32-true"]
    line += ["--workers", "0", "--validate-frames", "2", "--card-frames", "2"]
    first = subprocess.run(line, capture_output=True, text=True, env=dict(os.environ), timeout=300)
    assert first.returncode == 0, first.stderr
    for text in ("stage 1 of 3: vss train", "stage 2 of 3: vss memory", "stage 3 of 3: vss train"):
        assert text in first.stderr
    network, card = load_model(tmp_path / "runs" / "last" / "last.yaml")
    before = load_file(tmp_path / "runs" / "base" / "base.safetensors")
    frozen = network.network.backbone.layer4[0].conv1.weight
    assert torch.allclose(frozen, before["backbone.layer4.0.conv1.weight"].float(), atol=1e-3)
    assert card.training["memory"]["clips"] == "3" and card.training["start"] == "base"
    assert card.training["start_training"]["steps"] == 2

    again = subprocess.run(line, capture_output=True, text=True, env=dict(os.environ), timeout=300)
    assert again.returncode == 0 and "stage 1 of 3" in again.stderr
    assert again.stderr.count(": done") == 2, again.stderr


def test_stages_in_a_circle_and_wrong_recipes_are_refused(tmp_path, monkeypatch):
    values = {"network": "pspnet", "backbone": "resnet18", **STREET, "steps": 1}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({**values, "after": "b"}))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({**values, "after": "a"}))
    source = str(tmp_path / "a.yaml")
    with pytest.raises(VssError, match="circle"):
        chain.run_earlier(read_recipe(source), type("Args", (), {"recipe": source}), Path("runs/a"))
    for wrong, message in (
        ({"trains": ["classifier."]}, "expected `after`"),
        ({"after": "b", "init": "x.pth"}, "not both"),
        ({"reverse": 2}, "reverse"),
        ({"trains": "classifier."}, "trains: expected"),
    ):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**values, **wrong}))
        with pytest.raises(VssError, match=message):
            read_recipe(str(tmp_path / "c.yaml"))


def test_frozen_modules_keep_weights_and_statistics():
    network = build("dcfm", "mobilenet_v1", 3)
    checkpoints.freeze_matching(network, r"backbone\.conv(1|_.w_[12])(_bn)?")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    batch = {"frames": torch.randn(2, 1, 3, 64, 96), "labels": torch.zeros(2, 1, 64, 96, dtype=torch.long)}
    network.loss(batch)["loss"].backward()
    optimiser.step()
    same = {
        key.split(".")[1]
        for key, v in network.state_dict().items()
        if torch.equal(v, before[key]) and "conv" in key
    }
    kinds = [f"conv_{kind}_{i}{norm}" for kind in ("dw", "pw") for i in (1, 2) for norm in ("", "_bn")]
    assert {"conv1", "conv1_bn", *kinds} <= same and "conv_pw_3" not in same and "conv_dw_3_bn" not in same
    with pytest.raises(VssError, match="frozen: no module"):
        checkpoints.freeze_matching(network, "nothing")
