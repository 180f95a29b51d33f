"""Model cards and weights: what is missing, damaged or foreign is refused with its reason."""

from __future__ import annotations

import os
import re
import shutil
from itertools import pairwise

import pytest
import torch
import yaml
from vss_ros import cli
from vss_ros.config import VssError, share_dir
from vss_ros.networks import build
from vss_ros.networks.cards.card import find_models, load_model, read_card, save_model


@pytest.fixture
def card(tiny_card, tmp_path):
    """A copy that a test may break."""
    for path in tiny_card.parent.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / tiny_card.name


def edit(card, **changes):
    content = yaml.safe_load(card.read_text())
    content.update(changes)
    card.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))


def test_saved_model_loads(card):
    network, found = load_model(card)
    assert found.classes == ["road", "car", "sky"] and not network.training


def test_installed_models_load():
    for name in find_models():
        network, card = load_model(name)
        assert card.metrics and card.training
        if card.task == "segmentation":
            assert len(card.classes) == network.classifier[-1].out_channels


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stret", ": did you mean street?"),
        ("own.onnx", "; `vss import` makes"),
        ("", "; `vss convert` makes"),
    ],
)
def test_what_is_no_card_yet_is_told_the_way(tmp_path, name, hint):
    with pytest.raises(VssError, match=re.escape(hint)):
        read_card(name if name == "stret" else tmp_path / name)


def test_weights_of_another_card_are_refused(card):
    weights = card.parent / "tiny.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(VssError, match=r"do not belong to the card .* expected sha256"):
        load_model(card)


def test_missing_weights_are_named(card):
    (card.parent / "tiny.safetensors").unlink()
    with pytest.raises(VssError, match=r"weights .*tiny.safetensors: cannot be read: No such file"):
        load_model(card)


def test_file_that_is_no_safetensors_is_refused(card):
    import hashlib

    (card.parent / "tiny.safetensors").write_bytes(b"not weights")
    edit(card, sha256=hashlib.sha256(b"not weights").hexdigest())
    with pytest.raises(VssError, match=r"cannot be read as \.safetensors"):
        load_model(card)


def test_weights_of_another_network_are_refused(card):
    edit(card, backbone="mit_b1")
    with pytest.raises(VssError, match="do not fit dcfm-mit_b1"):
        load_model(card)


BOMB = "a: &a [x, x, x, x]\n" + "".join(
    f"{n}: &{n} [*{p}, *{p}, *{p}, *{p}]\n" for p, n in pairwise("abcdefghijkl")
)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"network": None}, r"missing \['network'\]"),
        ({"colour": 3}, r"unknown \['colour'\]"),
        ({"palette": [[1, 2, 3]]}, "palette: expected one \\[r, g, b\\]"),
        ({"palette": [[1, 2, 3], [1, 2, 3], [1, 2, 256]]}, "palette: expected one"),
        ({"palette": 3}, "palette: expected"),
        ({"palette": [[1.5, 2, 3]]}, "palette: expected"),
        ({"size": [64]}, "size: expected"),
        ({"size": [64, 10**9]}, "size: expected"),
        ({"size": [64, True]}, "size: expected"),
        ({"size": "64x96"}, "size: expected"),
        ({"std": [0.0, 1.0, 1.0]}, "at least 1e-6"),
        ({"std": [1e-300, 1.0, 1.0]}, "at least 1e-6"),
        ({"std": [float("nan"), 1.0, 1.0]}, "std: expected"),
        ({"mean": [float("inf"), 1.0, 1.0]}, "mean: expected"),
        ({"mean": [1.0]}, "mean: expected"),
        ({"classes": ["road", 3, "sky"]}, "classes: expected"),
        ({"classes": ["road", "road", "sky"]}, "classes: expected"),
        ({"classes": ["road", "\x1b[2J", "sky"]}, "classes: expected"),
        ({"classes": []}, "classes: expected"),
        ({"name": "../../x"}, "name: expected a plain file name"),
        ({"name": ""}, "name: expected a plain file name"),
        ({"name": 5}, "name: expected"),
        ({"weights": "../../../etc/passwd"}, "weights: expected a plain file name"),
        ({"weights": "/dev/zero"}, "weights: expected a plain file name"),
        ({"weights": ".."}, "weights: expected a plain file name"),
        ({"weights": "a\0b"}, "weights: expected"),
        ({"weights": ["a"]}, "weights: expected"),
        ({"sha256": 0}, "sha256: expected"),
        ({"sha256": "abc"}, "sha256: expected 64"),
        ({"licence": ["a"]}, "licence: expected"),
        ({"task": "flying"}, "task: expected segmentation or counting"),
        ({"network": {"a": 1}}, "network: expected"),
        ({"options": [1]}, "options: expected"),
        ({"options": {"width": 10**12}}, "options: expected numbers up to"),
        ({"options": {"width": {"a": 1}}}, "options: expected"),
        ({"options": {1: 2}}, "options: expected"),
        ({"training": 1}, "training: expected"),
        ({"metrics": "good"}, "metrics: expected"),
        ({"metrics": {"test": 3}}, "metrics.test: expected"),
        ({"metrics": {"bf16": {"agreement": "all"}}}, "metrics.bf16: expected"),
    ],
)
def test_wrong_cards_are_refused(card, changes, text):
    edit(card, **changes)
    with pytest.raises(VssError, match=text) as caught:
        read_card(card)
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"network": "nothing"}, "unknown network"),
        ({"backbone": "nothing"}, "unknown backbone"),
        ({"options": {"colour": 1}}, "cannot be made with options"),
        ({"options": {"dropout": "half"}}, "cannot be made with options"),
        ({"options": {"hidden": False}}, "do not fit"),
        ({"network": "cffm", "options": {"width": 4096, "depth": 64}}, "do not fit"),
    ],
)
def test_networks_that_do_not_exist_or_fit_are_refused_before_they_take_memory(card, changes, text):
    edit(card, **changes)
    with pytest.raises(VssError, match=text):
        load_model(card)


def test_weights_that_are_no_plain_file_do_not_hang(card):
    (card.parent / "tiny.safetensors").unlink()
    (card.parent / "tiny.safetensors").symlink_to("/dev/zero")
    with pytest.raises(VssError, match="no plain file"):
        load_model(card)
    os.mkfifo(card.parent / "pipe")
    edit(card, weights="pipe")
    with pytest.raises(VssError, match="no plain file"):
        load_model(card)
    link = card.parent / "zero.yaml"
    link.symlink_to("/dev/zero")
    with pytest.raises(VssError, match="no plain file"):
        read_card(link)


@pytest.mark.parametrize(
    "content",
    [
        "[1, 2]",
        "a: [",
        "\x00",
        "",
        "[" * 100_000,
        "a: &a [*a]",
        BOMB,
        "a: 2001-99-99",
        "a: !!int x",
        "0x" + "f" * 9999,
        "#" * (2 << 20),
    ],
)
def test_files_that_are_no_cards_are_refused(card, content):
    card.write_text(content)
    with pytest.raises(VssError, match="model card"):
        read_card(card)


@pytest.mark.parametrize("option", ["name", "backbone", "classes", "self", "nothing"])
def test_options_that_the_network_has_not_are_refused(card, option):
    edit(card, options={option: 3})
    with pytest.raises(VssError, match="cannot be made with options"):
        load_model(card)


def test_unknown_model_lists_those_installed():
    with pytest.raises(VssError, match="model 'nothing': expected the path of a card"):
        read_card("nothing")


def test_share_dir_holds_what_nodes_need():
    for name in ("models", "launch", "config", "rviz"):
        assert (share_dir() / name).is_dir()


def authors_files(folder):
    """DCFM's two checkpoints as its authors save them."""
    names = {"backbone.": "encoder.backbone.encoder.", "head.": "encoder.backbone.decoder."}
    names |= {"fusion.": "decoder.ffm.convblk.", "classifier.": "decoder.final."}
    parts: dict = {"encoder": {}, "decoder": {}}
    for key, value in build("dcfm", "mit_b0", 4).state_dict().items():
        ours = next(prefix for prefix in names if key.startswith(prefix))
        part, rest = (names[ours] + key[len(ours) :]).split(".", 1)
        parts[part][f"module.{rest}"] = value
    for part, tensors in parts.items():
        torch.save(tensors, folder / f"{part}_epoch_1.pth")
    return [str(folder / f"{part}_epoch_1.pth") for part in parts]


def test_convert_makes_a_model_of_the_authors_checkpoints(tmp_path):
    options = ["--network", "dcfm", "--backbone", "mit_b0", "--classes", "4", "--size", "64x96"]
    out = tmp_path / "out" / "vspw.yaml"
    assert cli.main(["convert", *authors_files(tmp_path), *options, "--out", str(out)]) == 0
    _, card = load_model(out)
    assert card.size == [64, 96] and len(card.classes) == 4


class Malicious:
    def __reduce__(self):
        return print, ("code ran",)


def convert(tmp_path, name):
    line = ["convert", str(tmp_path / name), "--network", "dcfm", "--backbone", "mit_b0", "--classes", "4"]
    return cli.main([*line, "--out", str(tmp_path / "x.yaml")])


def test_convert_never_runs_a_pickled_object(tmp_path, capsys):
    torch.save({"state_dict": {"x": Malicious()}}, tmp_path / "bad.pth")
    assert convert(tmp_path, "bad.pth") == 1
    captured = capsys.readouterr()
    assert "code ran" not in captured.out and "damaged or holds objects" in captured.err
    assert not (tmp_path / "x.yaml").exists()


def test_command_line_errors_have_no_traceback(capsys, tmp_path):
    assert convert(tmp_path, "none.pth") == 1
    assert "none.pth: cannot be read: No such file" in capsys.readouterr().err


def test_models_are_listed_with_their_accuracy(capsys):
    assert cli.main(["models"]) == 0
    listed = capsys.readouterr().out
    for name, path in find_models().items():
        card, _ = read_card(path)
        assert f"{name}: {card.network}-{card.backbone}" in listed
        test = card.metrics["test"]
        counts = card.task == "counting"
        assert (f"MAE {test['points']['MAE']:.2f}" if counts else f"mIoU {test['mIoU']:.1%} on") in listed


def test_values_that_half_precision_cannot_hold_stay_in_float32(tmp_path, tiny_card):
    from safetensors.torch import load_file

    network, card = load_model(tiny_card)
    network.fusion["norm"].running_var[0] = 7e4
    found, _ = load_model(save_model(network, card, tmp_path))
    assert float(found.fusion["norm"].running_var[0]) == 7e4
    kinds = {name: t.dtype for name, t in load_file(tmp_path / card.weights).items() if t.is_floating_point()}
    assert [name for name, kind in kinds.items() if kind == torch.float32] == ["fusion.norm.running_var"]
