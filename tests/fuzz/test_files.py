"""Mutated cards, recipes, calibrations and results: taken or refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from fixtures.fuzz import COUNT, mutate_bytes, mutate_values, mutate_yaml, survives
from vss_ros.backends import int8_files
from vss_ros.config import share_dir
from vss_ros.evaluate import report
from vss_ros.media.camera_info import Rectifier, read_camera_info
from vss_ros.networks.cards.card import find_models, read_card
from vss_ros.stream.groups import Groups
from vss_ros.train.ablate import read_table
from vss_ros.train.recipe import find_recipes, read_recipe

pytestmark = pytest.mark.slow


def test_model_cards(tmp_path):
    path = tmp_path / "a.yaml"
    content = yaml.safe_load(find_models()["street"].read_text())
    content["metrics"] = {"test": {"mIoU": 0.5}, "bf16": {"agreement": 0.9}}
    content["training"] = {"data": "street"}

    def read(rng):
        path.write_bytes(mutate_yaml(rng, content))
        card, _ = read_card(path)
        assert (
            card.weights == (tmp_path / card.weights).name
            and f"{card.metrics.get('test', {}).get('mIoU', 0):.1%}"
        )

    assert survives("cards", read) < COUNT


def test_recipes(tmp_path):
    path = tmp_path / "a.yaml"
    contents = [
        yaml.safe_load(find_recipes()[name].read_text()) for name in ("street", "camvid", "small_stf")
    ]

    def read(rng):
        path.write_bytes(mutate_yaml(rng, contents[int(rng.integers(len(contents)))]))
        recipe = read_recipe(str(path))
        assert recipe.seed >= 0 and recipe.lr > 0

    assert survives("recipes", read) < COUNT


def test_groups_of_classes(tmp_path, tiny_card):
    card, _ = read_card(tiny_card)
    path = tmp_path / "a.yaml"
    content = {"ground": ["road"], "rest": ["*"], "colours": {"ground": [1, 2, 3]}}

    def read(rng):
        path.write_bytes(mutate_yaml(rng, content))
        groups = Groups(card, path)
        assert groups(np.zeros((2, 2), np.uint8)).shape == (2, 2) and groups.card.classes

    assert survives("groups", read) < COUNT


def test_tables_of_variants(tmp_path):
    path = tmp_path / "a.yaml"
    contents = [
        yaml.safe_load(item.read_text())
        for item in sorted((share_dir() / "config" / "ablate").glob("*.yaml"))
    ]

    def read(rng):
        path.write_bytes(mutate_yaml(rng, contents[int(rng.integers(len(contents)))]))
        read_table(str(path))

    assert survives("tables", read) < COUNT


def test_calibrations_of_cameras(tmp_path):
    path = tmp_path / "a.yaml"
    content = yaml.safe_load((share_dir() / "calibration" / "street.yaml").read_text())

    def read(rng):
        path.write_bytes(mutate_yaml(rng, content))
        info = read_camera_info(path)
        if info["width"] * info["height"] <= 1 << 20:
            Rectifier(info)

    assert survives("camera info", read) < COUNT


def test_calibrations_of_networks(tmp_path, tiny_card):
    card, _ = read_card(tiny_card)
    int8_files.write(tmp_path, {"encode": b"1", "decode": b"2"}, card, (64, 96), {"agreement": 0.9})
    path = tmp_path / int8_files.CARD
    content = yaml.safe_load(path.read_text())

    def read(rng):
        path.write_bytes(mutate_yaml(rng, content))
        int8_files.find(tmp_path, card, (64, 96))

    assert survives("calibrations", read) < COUNT


def test_results_of_evaluations(tmp_path):
    folder = tmp_path / "drive" / "a"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "000000.jpg").write_bytes(b"jpeg")
    rows = [{"index": i, "stamp": 10**9 * i, "keyframe": i % 2, "mIoU": 0.5, "area/a": 0.5} for i in range(4)]
    result = {
        "run": "a",
        "model": "a",
        "backend": "torch",
        "classes": ["a", "b"],
        "palette": [[0, 0, 0], [9, 9, 9]],
    }
    result |= {"size": [64, 48], "seconds": 3.0, "frames": 4, "times": {"p50": 1.0}, "figures": {"mIoU": 0.5}}
    result |= {
        "accuracy": {"mIoU": 0.5},
        "confusion": [[1, 0, 0], [0, 1, 0]],
        "pictures": [{"index": 0, "worst": []}],
    }

    def read(rng):
        values, lines = (
            (result, mutate_values(rng, rows)) if rng.random() < 0.3 else (mutate_values(rng, result), rows)
        )
        text = json.dumps(values, default=str).encode()
        (folder / "result.json").write_bytes(mutate_bytes(rng, text) if rng.random() < 0.3 else text)
        lines = lines if isinstance(lines, list) else [lines]
        (folder / "frames.jsonl").write_text(
            "\n".join(json.dumps(line, default=str) for line in lines) + "\n"
        )
        report.write_report(tmp_path)
        json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))

    assert survives("results", read) == COUNT, "a damaged result never ends the report"
