"""Recipes with hostile values end in one line that names the field."""

from typing import get_type_hints

import pytest
import yaml
from vss_ros.config import VssError
from vss_ros.train import loop
from vss_ros.train.augment import Augmentation
from vss_ros.train.recipe import PRECISIONS, RANGES, Recipe, find_recipes, first_there, read_recipe

RECIPE = {"network": "dcfm", "backbone": "mit_b0", "data": "camvid", "batch": 2, "steps": 4, "lr": 1e-3}
RECIPE |= {"size": [64, 96], "crop": [64, 64]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", float("inf")),
        ("seed", -1),
        ("seed", 10**400),
        ("seed", True),
        ("steps", float("nan")),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", 10**400),
        ("lr", [1]),
        ("size", "64"),
        ("size", [64.5, 96]),
        ("size", [64, 10**9]),
        ("crop", [64, float("inf")]),
        ("offsets", [float("inf")]),
        ("offsets", 3),
        ("trains", [1]),
        ("network", 3),
        ("network", "a\x1b[2Jb"),
        ("options", [1]),
        ("options", {1: 2}),
        ("loss", {"a": "much"}),
        ("prior", 1.0),  # without augment.keep
        ("loss", {"a": float("nan")}),
        ("loss", {"nonkey": -0.1}),
        ("loss", {"nonkey": "dice"}),
        ("loss", {"criterion": "l1"}),
        ("loss", {"criterion": 1.0}),
        ("loss", {"distance": ["l1"]}),
        ("augment", {"scale": 3}),
        ("augment", {"scale": [0.5, float("inf")]}),
        ("augment", {"rotation": "left"}),
        ("augment", {"keep": "all"}),
        ("augment", {"flip": 1}),
        ("augment", {"crop": [64, 64]}),
        ("options", {"width": 10**9}),
        ("augment", {"scale": [1e-300, 1]}),
        ("augment", {"hue": -1}),
        ("after", "../../x"),
        ("frozen", "("),
        ("frozen", "(" * 5000),
        ("frozen", "a{99999999999}"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_field(tmp_path, name, value):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, name: value}))
    with pytest.raises(VssError, match=rf"recipe .*a\.yaml: .*{name}") as caught:
        read_recipe(str(path))
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()


@pytest.mark.parametrize("keep", [1, 0.5, "all", {"road": 1}, [None], ["x"], [[1]], [float("nan")], [-1]])
def test_shares_that_prior_cannot_count_on_are_refused(tmp_path, keep):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "prior": 1.0, "augment": {"keep": keep}}))
    with pytest.raises(VssError, match=r"recipe .*a\.yaml: augment: .*keep"):
        read_recipe(str(path))


def test_every_number_has_a_range_and_a_word_beyond_it_is_refused(tmp_path):
    """Before anything takes memory: a batch of 100,000,000 clips would."""
    path = tmp_path / "a.yaml"
    numbers = (int, float, tuple[int, ...], tuple[int, int])
    assert {name for name, kind in get_type_hints(Recipe).items() if kind in numbers} == RANGES.keys()
    for name, (low, high) in RANGES.items():
        for bound in (low - 1, high + 1):
            value = [bound, bound] if isinstance(getattr(read_recipe("camvid"), name), tuple) else bound
            path.write_text(yaml.safe_dump({**RECIPE, name: value}))
            with pytest.raises(VssError, match=rf"{name}: expected {low} to {high}, got"):
                read_recipe(str(path))


def test_numbers_may_be_written_as_yaml_wants_them(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(RECIPE).replace("lr: 0.001", "lr: 1e-3") + "clip_norm: 1\n")
    recipe = read_recipe(str(path))
    assert recipe.lr == 1e-3 and type(recipe.clip_norm) is float and recipe.crop == (64, 64)
    fields = (
        "{scale: [5e-1, 2], hue: 1e-1, motion: 5e-2, colour: first}\nloss: {nonkey: 4e-1, criterion: dice}\n"
    )
    path.write_text(yaml.safe_dump(RECIPE) + f"augment: {fields}")
    recipe = read_recipe(str(path))
    assert recipe.loss == {"nonkey": 0.4, "criterion": "dice"}
    augment = Augmentation(recipe.crop, **recipe.augment)
    assert (augment.hue, augment.motion, *augment.scale) == (0.1, 0.05, 0.5, 2)
    assert all(read_recipe(name) for name in find_recipes())


def test_of_several_weights_the_first_that_is_there_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("VSS_DATA", str(tmp_path))
    assert read_recipe("street_image").init == "backbone:street", "as on a fresh clone"
    file = "weights/mobilenet_v1_1.0_imagenet_features_fp16.pth"
    (tmp_path / "weights").mkdir()
    (tmp_path / file).touch()
    assert read_recipe("street_image").init == f"imagenet:$VSS_DATA/{file}"
    assert first_there("imagenet:/none | backbone:no_model") == "imagenet:/none", "which the error then names"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("has_bf16", [True, False, None])
def test_a_cpu_without_bfloat16_trains_in_float32(monkeypatch, precision, has_bf16):
    # It would emulate 16 bits and take 6 to 14 times as long. None: OpenVINO, which is asked, is not there.
    class Core:
        def get_property(self, *_):
            return ["FP32", *(["BF16"] if has_bf16 else [])]

    def asked():
        if has_bf16 is None:
            raise ModuleNotFoundError("openvino")
        return Core()

    monkeypatch.setattr("vss_ros.backends.cpu.openvino_core", asked)
    expected = precision if has_bf16 else "32-true"
    assert loop.arithmetic(precision, "cpu") == expected
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert loop.arithmetic(precision, "auto") == expected
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert loop.arithmetic(precision, "auto") == loop.arithmetic(precision, "cuda") == precision
