"""SegFormer of Hugging Face's layout: a folder alone makes a card that answers as transformers does."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from vss_ros import cli
from vss_ros.config import VssError
from vss_ros.data.published.cityscapes import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE
from vss_ros.networks import build
from vss_ros.networks.cards.card import load_model, read_card
from vss_ros.networks.cards.hugging_face import find_folder, read_backbone, read_pretrained, read_weights
from vss_ros.train.checkpoints import load_initial

transformers = pytest.importorskip("transformers", reason="compares with transformers (extra: test)")
B2 = {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512]}


def save(folder, kind="SemanticSegmentation", **config):
    """A network with random weights and statistics, as `save_pretrained` writes it."""
    torch.manual_seed(0)
    network = getattr(transformers, f"SegformerFor{kind}")(transformers.SegformerConfig(**config)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    network.save_pretrained(folder)
    return network


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """(folder, network) of three classes, at 64×96, normalised in its own way."""
    folder = tmp_path_factory.mktemp("hub") / "mine"
    names = {0: "wall", 1: "floor", 2: "ball"}
    network = save(folder, id2label=names, decoder_hidden_size=64)
    size = {"height": 64, "width": 96}
    values = {"size": size, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder, network


@pytest.fixture
def copy(pretrained, tmp_path):
    import shutil

    return shutil.copytree(pretrained[0], tmp_path / "copy")


def answers(card, frame):
    network, _ = load_model(card)
    with torch.inference_mode():
        return network.decode(network.encode(frame))


def agree(found, expected):
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_folder_becomes_a_card_that_answers_as_transformers(pretrained, copy, tmp_path, kind):
    if kind == "bin":
        (copy / "model.safetensors").unlink()
        torch.save(load_file(pretrained[0] / "model.safetensors"), copy / "pytorch_model.bin")
    out = tmp_path / "out" / "mine.yaml"
    assert cli.main(["convert", str(copy), "--out", str(out)]) == 0
    card, _ = read_card(out)
    assert (card.network, card.backbone, card.options) == ("segformer", "mit_b0", {"width": 64})
    assert card.classes == ["wall", "floor", "ball"] and card.size == [64, 96]
    assert card.mean == pytest.approx([0.5, 0.4, 0.3]) and card.std == pytest.approx([0.2, 0.3, 0.4])
    frame = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        agree(answers(out, frame), pretrained[1](frame).logits)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "float16"])
def test_weights_in_several_files_or_of_half_precision(pretrained, copy, tmp_path, kind):
    folder, network = pretrained
    state = load_file(folder / "model.safetensors")
    (copy / "model.safetensors").unlink()
    if kind == "float16":
        save_file({name: tensor.half() for name, tensor in state.items()}, copy / "model.safetensors")
    else:
        name = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
        parts = {key: f"part{i % 3}.{kind}" for i, key in enumerate(state)}
        for part in set(parts.values()):
            tensors = {key: state[key] for key in state if parts[key] == part}
            (save_file if kind == "safetensors" else torch.save)(tensors, copy / part)
        (copy / f"{name}.index.json").write_text(json.dumps({"weight_map": parts}))
    assert cli.main(["convert", str(copy), "--out", str(tmp_path / "x.yaml")]) == 0
    frame = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = network(frame).logits
    found = answers(tmp_path / "x.yaml", frame)
    assert float((found - expected).abs().max()) <= (1e-2 if kind == "float16" else 1e-4) * float(
        expected.abs().max()
    )


@pytest.mark.parametrize(
    ("part", "said"),
    [("../model.safetensors", "expected a file of this folder"), ("gone.safetensors", "gone.safetensors: ")],
)
def test_parts_of_weights_lie_in_the_folder(copy, part, said):
    (copy / "model.safetensors").rename(copy.parent / "model.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": part}}))
    with pytest.raises(VssError, match=said):
        read_weights(copy)


def test_a_pointer_of_git_lfs_is_named(copy):
    (copy / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    with pytest.raises(VssError, match="is a pointer of Git LFS, not the file: run `git lfs pull`"):
        read_weights(copy)


def test_deeper_ones_too(tmp_path):
    network = save(tmp_path / "b2", num_labels=19, decoder_hidden_size=768, **B2)
    assert cli.main(["convert", str(tmp_path / "b2"), "--out", str(tmp_path / "b2.yaml")]) == 0
    frame = torch.randn(1, 3, 96, 160)
    with torch.inference_mode():
        agree(answers(tmp_path / "b2.yaml", frame), network(frame).logits)


def test_classes_and_palette_are_the_configs(copy, tmp_path):
    names = {str(i): name for i, name in enumerate(CITYSCAPES_CLASSES)}
    edit(copy / "config.json", id2label=names)
    assert read_pretrained(copy).classes == list(CITYSCAPES_CLASSES)
    assert cli.main(["convert", str(copy), "--out", str(tmp_path / "x.yaml")]) == 1, "weights of 3 classes"
    edit(copy / "config.json", id2label={"0": "door", "1": "door", "2": "ball"}, palette=[[1, 2, 3]] * 3)
    assert cli.main(["convert", str(copy), "--out", str(tmp_path / "x.yaml")]) == 0
    card, _ = read_card(tmp_path / "x.yaml")
    assert card.classes == ["door", "door 1", "ball"] and card.palette == [[1, 2, 3]] * 3


def test_cityscapes_classes_get_cityscapes_colours(tmp_path):
    save(tmp_path / "city", id2label=dict(enumerate(CITYSCAPES_CLASSES)))
    assert cli.main(["convert", str(tmp_path / "city"), "--out", str(tmp_path / "city.yaml")]) == 0
    card, _ = read_card(tmp_path / "city.yaml")
    assert card.palette == CITYSCAPES_PALETTE.tolist() and card.size == [512, 512]


@pytest.mark.parametrize(
    ("fields", "mean", "std"),
    [
        ({}, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ({"do_normalize": False}, [0, 0, 0], [1, 1, 1]),
        ({"do_rescale": False, "image_mean": [51] * 3, "image_std": [102] * 3}, [0.2] * 3, [0.4] * 3),
        (
            {"rescale_factor": 1 / 127.5, "image_mean": [1] * 3, "image_std": [1] * 3},
            [0.5] * 3,
            [0.5] * 3,
        ),
    ],
)
def test_normalisation_of_every_kind(copy, fields, mean, std):
    (copy / "preprocessor_config.json").write_text(json.dumps({"size": 128, **fields}))
    found = read_pretrained(copy)
    assert found.mean == pytest.approx(mean) and found.std == pytest.approx(std) and found.size == (128, 128)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "mask2former"}, "expected model_type segformer, got 'mask2former'; another network"),
        ({"depths": [1, 1, 1, 1]}, "hidden_sizes, depths: expected those of MiT-B0…B5"),
        ({"sr_ratios": [4, 4, 2, 1]}, "sr_ratios: expected (8, 4, 2, 1)"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label: expected names of the ids 0, 1, 2"),
        ({"id2label": {}}, "id2label: expected names of the ids 0, 1, 2"),
        ({"palette": [[1, 2, 3]]}, "palette: expected [r, g, b] a class"),
        ({"decoder_hidden_size": "x"}, "decoder_hidden_size: expected a number"),
    ],
)
def test_what_is_no_segformer_is_refused(copy, fields, said):
    edit(copy / "config.json", **fields)
    with pytest.raises(VssError, match=re.escape(said)):
        read_pretrained(copy)


def test_no_code_is_run(copy, tmp_path, capsys):
    class Malicious:
        def __reduce__(self):
            return print, ("code ran",)

    (copy / "modeling_segformer.py").write_text("print('code ran')")
    edit(copy / "config.json", auto_map={"AutoModel": "modeling_segformer.Other"})
    (copy / "model.safetensors").unlink()
    torch.save({"x": Malicious()}, copy / "pytorch_model.bin")
    assert cli.main(["convert", str(copy), "--out", str(tmp_path / "x.yaml")]) == 1
    captured = capsys.readouterr()
    assert "code ran" not in captured.out and "holds objects" in captured.err


def test_missing_weights_and_options_are_named(copy, tmp_path, capsys):
    (copy / "model.safetensors").unlink()
    assert cli.main(["convert", str(copy), "--out", str(tmp_path / "x.yaml")]) == 1
    assert "expected model.safetensors or pytorch_model.bin" in capsys.readouterr().err
    assert cli.main(["convert", "a.pth", "--network", "dcfm", "--out", str(tmp_path / "x.yaml")]) == 1
    assert "expected --backbone, --classes beside .pth files" in capsys.readouterr().err
    assert cli.main(["convert", str(tmp_path / "none"), "--out", str(tmp_path / "x.yaml")]) == 1
    assert "expected a folder with config.json, or a hub's id" in capsys.readouterr().err


def test_a_hubs_id_is_fetched(pretrained, monkeypatch):
    import huggingface_hub

    asked = []

    def fetch(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(pretrained[0])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert find_folder("owner/name") == pretrained[0]
    assert asked == [("owner/name", ["*config.json", "model.safetensors"])], "no code, no pickle"

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(VssError, match=r"owner/name is no folder, and cannot be fetched .* no network"):
        find_folder("owner/name")


@pytest.mark.parametrize("kind", ["ImageClassification", "SemanticSegmentation"])
def test_its_backbone_starts_a_training(tmp_path, kind, capsys):
    save(tmp_path / "mit", kind)
    network = build("dcfm", "mit_b0", 3)
    load_initial(network, f"imagenet:{tmp_path / 'mit'}")
    for name, value in read_backbone(tmp_path / "mit").items():
        assert torch.equal(network.backbone.state_dict()[name], value)
    with pytest.raises(VssError, match="init: the tensors do not fit"):
        load_initial(build("dcfm", "mit_b1", 3), f"imagenet:{tmp_path / 'mit'}")
    if kind == "ImageClassification":
        assert cli.main(["convert", str(tmp_path / "mit"), "--out", str(tmp_path / "x.yaml")]) == 1
        assert "no segmentation; it can start a training" in capsys.readouterr().err
