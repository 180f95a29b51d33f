"""How good are masks from tags? Rendered scenes of three kinds of things of which only tags are known, some seeds:

pseudo labels of the plain classifier and of the full method (pairs of images) against the true masks of the training
images, and SegFormer trained on them against one on true masks, measured on scenes of their own. "classifier" learnt
without pairs, "pairs" with the published co-attention, "cosine" with ours; "own" and "both" after it: `--maps
classifier` and `--maps both`. "salient" is the background by saliency maps, as published, here of an oracle: the true
things, blurred.

    python bench/tags.py --out runs/tags [--seeds 3] > bench/tags.md

Finished parts are not made again, so the command may be stopped and given once more.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import yaml
from vss_ros import cli

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fixtures.tagged import KINDS, write_tagged

SIDE, TRAIN, TEST = 160, 240, 80
LOW, HIGH = 0.4, 0.6  # best for the plain classifier on the scenes of seed 0, which are in no figure here
SETTINGS = {
    **{
        "backbone": "mobilenet_v1",
        "size": [SIDE, SIDE],
        "crop": [SIDE, SIDE],
        "neighbours": [],
        "warmup": 20,
    },
    **{"average": 0.95, "clip_norm": 1.0, "precision": "32-true", "licence": "Apache-2.0", "power": 0.9},
}
COLOURS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}


def write_scenes(folder: Path, seed: int) -> None:
    """images/, truth/, tags.csv of the training scenes; true.yaml names their true masks, and those of test/."""
    if (folder / "true.yaml").is_file():
        return
    rng = np.random.default_rng(1000 + seed)
    write_tagged(folder, TRAIN, rng, SIDE)
    write_tagged(folder / "test", TEST, rng, SIDE)
    colours = [[0, 0, 0], [230, 60, 50], [60, 210, 70], [50, 80, 235]]
    names = ("background", *KINDS)
    test = {"images": "test/images", "labels": "test/truth"}
    about = {
        "classes": [{"name": n, "id": i, "colour": colours[i]} for i, n in enumerate(names)],
        "train": {"images": "images", "labels": "truth"},
        "val": test,
        "test": test,
    }
    (folder / "true.yaml").write_text(yaml.safe_dump(about))


def write_saliency(folder: Path) -> None:
    """salient/: maps as of a network that knows all things, but not their kinds."""
    (folder / "salient").mkdir(exist_ok=True)
    for file in (folder / "truth").glob("*.png"):
        things = cv2.imread(str(file), cv2.IMREAD_UNCHANGED) > 0
        cv2.imwrite(str(folder / "salient" / file.name), cv2.GaussianBlur(things * np.uint8(255), (0, 0), 2))


def vss(*words: object) -> str:
    """A command in this process; what it wrote to stdout."""
    said = StringIO()
    with redirect_stdout(said):
        code = cli.main([str(word) for word in words])
    if code:
        raise SystemExit(f"vss {' '.join(map(str, words))}: exit code {code}")
    return said.getvalue()


def train(name: str, folder: Path, fields: dict, *words: object) -> Path:
    """The card of a recipe, trained unless it is there."""
    run = folder / name
    recipe, card = folder / f"{name}.yaml", run / f"{name}.yaml"
    recipe.write_text(
        yaml.safe_dump({**SETTINGS, **fields, "validate_every": fields["steps"], "save_every": 100})
    )
    if not card.is_file():
        resume = ["--resume"] if (run / "last.ckpt").exists() else []
        vss("train", recipe, "--out", run, "--accelerator", "cpu", "--workers", 0, *words, *resume)
    return card


def pseudo(folder: Path, recipe: str, run: str, maps: str, *more: object) -> dict[str, float]:
    """Agreement with the true masks of the training scenes, of pseudo labels in a folder `run` beside the recipe's."""
    if run != recipe:
        (folder / run).mkdir(exist_ok=True)
        for suffix in (".yaml", ".safetensors"):
            shutil.copy(folder / recipe / f"{recipe}{suffix}", folder / run)
    words = ["--out", folder / run, "--root", folder, "--maps", maps, "--truth", folder / "truth"]
    said = vss("pseudo", folder / f"{recipe}.yaml", *words, "--low", LOW, "--high", HIGH, *more)
    scores = re.search(r"train: mIoU ([\d.]+) .* over the ([\d.]+)%", said)
    assert scores, said
    return {f"labels of {run}": 100 * float(scores[1]), f"pixels that {run} labels": float(scores[2])}


def one_seed(folder: Path, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """mIoU in %: of the pseudo labels on the training scenes, and of SegFormer on the test scenes."""
    write_scenes(folder, seed)
    write_saliency(folder)
    found = {}
    start = {"init": f"imagenet:{args.weights}", "seed": seed}
    tags = {**start, "network": "mcis", "data": "tags", "batch": 8}
    tags |= {"frozen": "backbone"}  # a third of the time
    tags |= {"steps": args.steps, "lr": 2e-4, "lr_head": 1e-3, "augment": COLOURS}
    masks = {**start, "network": "segformer", "batch": 8, "steps": args.second, "lr": 4e-4, "lr_head": 1.2e-3}
    masks |= {"frozen": r"backbone\.(conv1|conv_[dp]w_[1-5])(_bn)?"}
    masks |= {"augment": {"scale": [0.8, 1.25], **COLOURS}}
    labels = {"true": folder / "true.yaml"}
    salient = ("--background", "saliency", "--saliency", folder / "salient")
    variants = {
        "classifier": ({"copies": 0.0, "pairs": 0.0}, {}, {"": "classifier", "_both": "both"}),
        "pairs": ({"copies": 0.0}, {}, {"": "pairs", "_own": "classifier"}),
        "cosine": (
            {"copies": 0.0},
            {"temperature": 0.1},
            {"": "pairs", "_own": "classifier", "_both": "both"},
        ),
    }
    for name, (loss, options, kinds) in variants.items():
        options = {"width": args.width, **options}
        train(name, folder, {**tags, "loss": loss, "options": options}, "--root", folder)
        for suffix, maps in kinds.items():
            run = f"{name}{suffix}"
            found |= pseudo(folder, name, run, maps)
            labels[run] = folder / run / "pseudo" / "data.yaml"
        found |= pseudo(folder, name, f"{name}_salient", kinds[""], *salient)
    for name, data in labels.items():
        card = train(f"second_{name}", folder, {**masks, "data": str(data)})
        report = folder / "reports" / name
        if not list(report.glob("*.json")):
            words = ["--k", 1, "--no-motion", "--out", report, "--backend", "torch", "--precision", "f32"]
            vss("evaluate", "--model", card, "--data", folder / "true.yaml", "--split", "test", *words)
        rows = json.loads(next(report.glob("*.json")).read_text())["rows"]
        found[f"SegFormer on {name}"] = 100 * rows[0]["mIoU"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/tags"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120, help="of the classifiers")
    parser.add_argument("--second", type=int, default=80, help="of SegFormer")
    parser.add_argument("--width", type=int, default=128, help="channels of MCIS")
    parser.add_argument(
        "--weights",
        default=f"{os.environ.get('VSS_DATA', 'data')}/weights/mobilenet_v1_1.0_imagenet_features_fp16.pth",
        help="of the backbones, trained on ImageNet",
    )
    args = parser.parse_args()
    began, runs = time.monotonic(), []
    for seed in range(1, args.seeds + 1):
        runs.append(one_seed(args.out / str(seed), seed, args))
        sys.stderr.write(f"seed {seed}: {runs[-1]}, {(time.monotonic() - began) / 60:.1f} minutes\n")
    seeds = " | ".join(f"seed {i}" for i in range(1, len(runs) + 1))
    lines = [f"| mIoU % | {seeds} | mean ± deviation |", f"| --- |{' --- |' * (len(runs) + 1)}"]
    for name in runs[0]:
        values = [run[name] for run in runs]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        shown = " | ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {name} | {shown} | {statistics.mean(values):.1f}{spread} |")
    print(
        f"`python bench/tags.py --seeds {args.seeds}`: {TRAIN} scenes of {SIDE}x{SIDE} with tags, {TEST} to test\n"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
