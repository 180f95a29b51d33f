"""DCFM's losses one by one, as in Table VI of its paper, at a small scale on the rendered streets.

    python bench/ablation.py --init runs/street_image/street_image.safetensors --out runs/ablation

Three runs from the same weights, on the same clips, for the same number of steps; then mIoU and VC_8 on rendered
streets of unseen seeds at each keyframe interval. `vss train street_image` makes the weights to start from.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import yaml
from vss_ros.train.recipe import read_recipe

LOSSES = {
    "key": {"nonkey": 0.0, "consistency": 0.0},
    "key + non-key": {"nonkey": 0.4, "consistency": 0.0},
    "key + non-key + consistency": {"nonkey": 0.4, "consistency": 10.0},
}
INTERVALS = "1,2,3,5"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    args = parser.parse_args()
    changes = {
        "crop": (160, 224),
        "steps": args.steps,
        "validate_every": args.steps,
        "save_every": args.steps,
    }
    base = dataclasses.replace(read_recipe("street"), init=str(args.init), **changes)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (title, loss) in enumerate(LOSSES.items(), 1):
        name = f"ablation_{number}"
        recipe, card = args.out / f"{name}.yaml", args.out / name / f"{name}.yaml"
        values = dataclasses.asdict(dataclasses.replace(base, loss=loss))
        recipe.write_text(yaml.safe_dump(json.loads(json.dumps(values))))
        if not card.exists():
            vss("train", str(recipe), "--out", str(card.parent), "--cache", str(args.cache), "--workers", "1")
        vss("evaluate", "--model", str(card), "--data", "street", "--k", INTERVALS, "--out", str(args.out))
        report = json.loads((args.out / f"{name}_street_test.json").read_text())
        rows.append([title] + [f"{100 * r['mIoU']:.1f} / {100 * r['mVC_8']:.1f}" for r in report["rows"]])
    header = ["losses", *(f"K = {k}: mIoU / VC_8 %" for k in INTERVALS.split(","))]
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")


def vss(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "vss_ros.cli", *arguments], check=True)


if __name__ == "__main__":
    main()
