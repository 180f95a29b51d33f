"""`vss ablate` trains every row with every seed once, and writes a table with mean and spread."""

import argparse
import dataclasses
import inspect
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from fixtures.paths import ROOT
from vss_ros.config import VssError
from vss_ros.networks import build
from vss_ros.networks.cards.card import read_card
from vss_ros.train import ablate, chain, loop, mar_memory
from vss_ros.train.augment import Augmentation
from vss_ros.train.recipe import check_clip, on_data, read_recipe

TABLES = sorted(path.stem for path in (ROOT / "config" / "ablate").glob("*.yaml"))


def arguments(*line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    ablate.add_arguments(parser)
    return parser.parse_args(list(line))


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_the_installed_tables_are_recipes_that_the_networks_take(name):
    table = ablate.read_table(name)
    assert len(table.rows) >= 1 and table.evaluate
    for changes in table.rows.values():
        if "model" in changes:
            continue
        recipe = ablate.variant(table, changes, 1, arguments(name, "--steps", "3", "--data", "camvid"))
        assert (recipe.steps, recipe.data, recipe.seed) == (3, "camvid", 1)
        long = ablate.variant(table, changes, 1, arguments(name, "--steps", "2400"))
        assert long.save_every <= 1000  # what is stopped has not lost all of it
        network = build(recipe.network, recipe.backbone, 11, **recipe.options)
        check_clip(network, recipe)
        assert set(recipe.loss) <= set(inspect.signature(network.loss).parameters)
        Augmentation(recipe.crop, **recipe.augment)


def test_each_run_is_made_once_and_the_table_says_mean_and_spread(tmp_path, monkeypatch):
    calls = []

    def run(*line: str) -> None:
        calls.append(line)
        out = Path(line[line.index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        if line[0] == "train":
            recipe = read_recipe(line[1])
            assert read_recipe(str(tmp_path / f"{recipe.after}.yaml")).network == "segformer"
            (out / f"{out.name}.yaml").write_text(f"{recipe.seed} {recipe.loss}")
            return
        model = Path(line[line.index("--model") + 1]).read_text()
        score = 0.5 + 0.02 * int(model.split()[0]) + 0.1 * ("1.0" in model)
        rows = [{"setting": f"K = {k}", "mode": "P", "mIoU": score / k, "mVC_8": None} for k in (1, 2)]
        (out / "report.json").write_text(json.dumps({"rows": rows}))

    monkeypatch.setattr(ablate, "vss", run)
    table = {"title": "Two", "base": "small_dcfm", "evaluate": "--k 1,2"}
    rows = {"none": {"loss": {"nonkey": 0.0}}, "one": {"loss": {"nonkey": 1.0}}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({**table, "rows": rows}))
    line = (str(tmp_path / "two.yaml"), "--out", str(tmp_path), "--seeds", "2")
    for _ in range(2):
        assert ablate.main(arguments(*line)) == 0
    assert [call[0] for call in calls] == ["train", "evaluate"] * 4
    text = (tmp_path / "table.md").read_text()
    assert "`vss ablate two --seeds 2`" in text and "over 2 seeds" in text
    assert "| none | 51.0 ± 1.4 | 25.5 ± 0.7 |" in text and "| one | 61.0 ± 1.4 | 30.5 ± 0.7 |" in text
    assert "mVC_8" not in text  # no run has it
    assert ablate.main(arguments(*line, "--limit", "3")) == 0  # asks for other figures of the same runs
    assert [call[0] for call in calls[8:]] == ["evaluate"] * 4
    for other in (["--steps", "3"], ["--recipe", "small_pspnet"]):
        with pytest.raises(VssError, match="holds none_0 as another recipe, or on other data"):
            ablate.main(arguments(*line, *other))
    assert len(calls) == 12


def test_what_a_recipe_says_of_its_own_classes_is_left_out_on_other_data(tmp_path):
    table = ablate.Table("Keep", {"a": {}, "b": {"augment": {"keep": [0.5, 1.0]}}}, base="small_dcfm")
    own = ablate.variant(table, {}, 0, arguments("t", "--data", "street"))
    assert own.augment["keep"] == read_recipe("small_dcfm").augment["keep"]
    for changes, shares in ((table.rows["a"], None), (table.rows["b"], [0.5, 1.0])):
        recipe = ablate.variant(table, changes, 0, arguments("t", "--data", "other.yaml"))
        assert recipe.augment.get("keep") == shares and recipe.augment["scale"] == own.augment["scale"]
    ablate.write_recipes(recipe, "b_0", "small_dcfm", arguments("t", "--data", "other.yaml"), tmp_path)
    first = read_recipe(str(tmp_path / "small_mit_b0.yaml"))
    assert first.data == "other.yaml" and "keep" not in first.augment
    assert on_data(read_recipe("street"), "camvid").prior == 0 < read_recipe("street").prior


def test_stages_of_recipes_of_ones_own_lie_beside_them(tmp_path, monkeypatch):
    trained = []

    def run(*line: str) -> None:
        trained.append(line[1])
        raise VssError("stopped")

    monkeypatch.setattr(ablate, "vss", run)
    common = {"network": "dcfm", "backbone": "mit_b0", "data": "street", "size": [64, 96], "crop": [64, 96]}
    common |= {"batch": 2, "steps": 4, "lr": 1e-3, "neighbours": []}
    mine = tmp_path / "mine"
    mine.mkdir()
    for name, after in (("last", "middle"), ("middle", "first"), ("first", "")):
        (mine / f"{name}.yaml").write_text(yaml.safe_dump({**common, "after": after, "licence": name}))
    out, table = tmp_path / "out", {"title": "T", "evaluate": "--k 1"}
    recipe = str(mine / "last.yaml")
    for i, (base, line) in enumerate(
        (({"base": recipe}, []), ({}, ["--recipe", recipe]), ({"rows": {"a": {"recipe": recipe}}}, []))
    ):
        (tmp_path / "t.yaml").write_text(yaml.safe_dump({**table, "rows": {"a": {}}, **base}))
        with pytest.raises(VssError, match="stopped"):
            ablate.main(arguments(str(tmp_path / "t.yaml"), *line, "--out", str(out / str(i))))
        assert trained[-1] == str(out / str(i) / "a_0.yaml")
        for name in ("middle", "first"):
            assert read_recipe(str(out / str(i) / f"{name}.yaml")).licence == name
    (mine / "first.yaml").write_text(yaml.safe_dump({**common, "after": "middle"}))
    with pytest.raises(VssError, match=r"first\.yaml: its stages go round in a circle: middle"):
        ablate.main(arguments(str(tmp_path / "t.yaml"), "--out", str(tmp_path / "circle")))
    assert len(trained) == 3


def test_a_row_of_an_installed_model_is_only_measured_by_its_own_arguments_too(tmp_path, monkeypatch):
    asked = {}

    def run(*line: str) -> None:
        out = Path(line[line.index("--out") + 1])
        out.mkdir(parents=True)
        asked[out.name] = line
        (out / "report.json").write_text(
            json.dumps({"rows": [{"setting": "≥ 0.2", "mode": "P", "mIoU": 0.5}]})
        )

    monkeypatch.setattr(ablate, "vss", run)
    assert ablate.main(arguments("aks", "--out", str(tmp_path), "--seeds", "3")) == 0
    assert list(asked) == ["at_least_1_0", "at_least_2_0"] and {line[0] for line in asked.values()} == {
        "evaluate"
    }
    assert ["--min-interval" in line for line in asked.values()] == [False, True]


def test_a_model_of_ones_own_is_measured_on_data_of_ones_own(tmp_path, monkeypatch, tiny_card):
    asked = []

    def run(*line: str) -> None:
        asked.append(line[line.index("--model") + 1])
        out = Path(line[line.index("--out") + 1])
        out.mkdir(parents=True)
        (out / "report.json").write_text(json.dumps({"rows": [{"setting": "", "mode": "P", "mIoU": 0.5}]}))

    monkeypatch.setattr(ablate, "vss", run)
    names = read_card(tiny_card)[0].classes
    mask = np.zeros((64, 96), np.uint8)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        cv2.imwrite(str(tmp_path / part / "0.png"), mask)
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"classes": names, "test": {"images": "images", "labels": "labels"}})
    )
    line = ["--data", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "out")]
    for table in ("aks", "both_sides", "schedules"):
        with pytest.raises(VssError, match=r"street has other classes than mine test: give --model"):
            ablate.main(arguments(table, *line))
        assert not asked
        assert ablate.main(arguments(table, *line, "--model", str(tiny_card))) == 0
        assert set(asked) == {str(tiny_card)}
        asked.clear()
        for path in (tmp_path / "out" / "reports").iterdir():
            shutil.rmtree(path)


@pytest.mark.parametrize(
    ("line", "rows", "said"),
    [
        (["--recipe", "street"], {"a": {"recipe": "small_dcfm"}}, "--recipe: every row"),
        (["--model", "street"], {"a": {}}, "--model: every row"),
        ([], {"a": {"recipe": "small_dcfm"}, "b": {"batch": "many"}}, "b: batch: expected int, got 'many'"),
        ([], {"a": {}, "b": {"prior": 2}}, "b: prior: expected 0 to 1, got 2"),
        ([], {"a": {}, "b": {"augment": {"scales": 2}}}, "b: augment: unknown"),
        ([], {"a": {}, "b": {"neighbours": [-1], "network": "segformer", "moved": True}}, "b: moved"),
        ([], {"a": {}, "b": {"lr": {"a": 1}}}, "b: lr: expected float"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_trained(
    tmp_path, monkeypatch, line, rows, said
):
    monkeypatch.setattr(ablate, "vss", lambda *line: pytest.fail("trained"))
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"title": "T", "base": "small_dcfm", "rows": rows}))
    with pytest.raises(VssError, match=re.escape(said)):
        ablate.main(arguments(str(tmp_path / "t.yaml"), *line, "--out", str(tmp_path / "out")))


def test_a_table_stopped_in_an_earlier_stage_goes_on(tmp_path, monkeypatch):
    """The stage's checkpoint is continued, though the row's own run has none yet."""
    asked: list[tuple[str, ...]] = []

    def run(command: str, *line: str) -> bool:
        asked.append((command, *line))
        return False  # stopped again

    monkeypatch.setattr(chain, "succeeds", run)
    monkeypatch.setattr(ablate, "vss", lambda command, *line: train(line))
    (tmp_path / "small_mit_b0").mkdir()
    (tmp_path / "small_mit_b0" / "last.ckpt").touch()

    def train(line):
        parser = argparse.ArgumentParser()
        loop.add_arguments(parser)
        loop.main(parser.parse_args(line))

    with pytest.raises(VssError, match="goes on from there"):
        ablate.main(arguments("dcfm_losses", "--steps", "2", "--out", str(tmp_path)))
    assert asked[0][0] == "train" and "--resume" in asked[0]


def test_a_data_set_without_the_split_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(ablate, "vss", lambda *line: pytest.fail("trained"))
    (tmp_path / "mine.yaml").write_text("classes: [a, b]\ntrain: {images: images, labels: labels}\n")
    (tmp_path / "images").mkdir()
    for data in (str(tmp_path / "mine.yaml"), "nothing"):
        with pytest.raises(VssError, match=r"test|nothing"):
            ablate.main(arguments("dcfm_losses", "--data", data, "--out", str(tmp_path / "out")))


def test_every_stage_is_given_the_data_set_that_was_asked_for(tmp_path, monkeypatch):
    """Which the command of the stage takes, MAR's memory included."""
    asked = []

    def run(command: str, *line: str) -> bool:
        parser = argparse.ArgumentParser()
        {"train": loop, "memory": mar_memory}[command].add_arguments(parser)
        asked.append((command, parser.parse_args(line).data))
        return True

    monkeypatch.setattr(chain, "succeeds", run)
    parser = argparse.ArgumentParser()
    loop.add_arguments(parser)
    args = parser.parse_args(["small_mar_stf", "--data", "mine.yaml"])
    chain.run_earlier(read_recipe("small_mar_stf"), args, tmp_path / "small_mar_stf")
    assert asked == [(command, "mine.yaml") for command in ("train", "train", "memory")]


@pytest.mark.slow
def test_a_table_is_trained_and_measured(tmp_path):
    root = tmp_path / "data"
    for split in ("train", "val", "test"):
        for part in (split, f"{split}annot"):
            (root / part).mkdir(parents=True)
        for i in range(3):
            labels = np.full((64, 96), 3, np.uint8)
            labels[: 20 + i] = 0
            cv2.imwrite(
                str(root / split / f"0001TP_{30 * i:06d}.png"), np.repeat(labels[..., None] * 60, 3, -1)
            )
            cv2.imwrite(str(root / f"{split}annot" / f"0001TP_{30 * i:06d}.png"), labels)
    recipe = dataclasses.replace(
        read_recipe("small_dcfm"), after="", size=(64, 96), crop=(64, 64), batch=2, neighbours=(0,)
    )
    values = json.loads(json.dumps(dataclasses.asdict(recipe)))
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(values))
    table = {"title": "Real", "base": str(tmp_path / "base.yaml"), "evaluate": "--k 1 --backend torch"}
    rows = {"a": {}, "b": {"loss": {"nonkey": 0.0}}}
    (tmp_path / "real.yaml").write_text(yaml.safe_dump({**table, "columns": ["mIoU", "ms"], "rows": rows}))
    line = ["--data", "camvid", "--root", str(root), "--steps", "2", "--out", str(tmp_path / "out")]
    assert ablate.main(arguments(str(tmp_path / "real.yaml"), *line)) == 0
    results = json.loads((tmp_path / "out" / "table.json").read_text())
    assert set(results) == {"a", "b"} and all(0 <= runs[0][0]["mIoU"] <= 1 for runs in results.values())
    assert "K = 1: mIoU % | K = 1: mean ms |" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"title": "x", "rows": {"a": {"rate": 1}}}, "a: unknown .'rate'."),
        ({"rows": {}}, "missing .*title"),
        ({"title": "x", "rows": {}}, "bad.*rows: expected changes"),
        ({"title": "x", "rows": {"a": [1]}}, "rows: expected changes"),
        ({"title": 3, "rows": {"a": {}}}, "title: expected str, got 3"),
        ({"title": "x", "base": 3, "rows": {"a": {}}}, "base: expected str, got 3"),
        ({"title": "x", "columns": "mIoU", "rows": {"a": {}}}, "columns: expected"),
        ({"title": "x", "columns": ["mIOU"], "rows": {"a": {}}}, "columns: unknown .*did you mean mIoU"),
        ({"title": "x", "evaluate": "--k '1", "rows": {"a": {}}}, "a: evaluate: expected arguments"),
        ({"title": "x", "rows": {"K = 1": {}, "k: 1": {}}}, "k: 1 and K = 1 name the same files"),
        ({"title": "x", "rows": {"–": {}}}, "take other letters"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, content, message):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(VssError, match=message):
        ablate.read_table(str(tmp_path / "bad.yaml"))
    with pytest.raises(VssError, match=r"one of .*dcfm_losses"):
        ablate.read_table("nothing")
