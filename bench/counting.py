"""How well is counted on rendered streets? The counting model, by points and by density, against what needs none:
always the mean of the training frames, and the connected regions of the shipped segmentation model's masks.

    python bench/counting.py > bench/counting.md

A region counts from LEAST pixels on, the figure of 25, 50, 100 and 200 that is best on the val frames.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import vss_ros
from vss_ros.data.metrics import count_figures
from vss_ros.data.open import open_dataset
from vss_ros.stream.count import load_counter
from vss_ros.train.counting import read_points

ROAD_USERS = ("car", "pedestrian", "bicyclist")
LEAST = 25
TRAIN = 200  # frames, one of each seed, of which the mean is taken


def regions(labels: np.ndarray, ids: list[int], least: int) -> int:
    """Connected regions of at least so many pixels of each of the classes in a label map (H, W)."""
    found = 0
    for label in ids:
        areas = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
        found += int((areas >= least).sum())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="street_count")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--least", type=int, default=LEAST, help="pixels of a region of the masks")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--cache", type=Path, help="folder for the frames as rendered")
    args = parser.parse_args()
    train, data = (open_dataset("street_points", split) for split in ("train", args.split))
    mean = np.mean([len(read_points(train, i * len(train) // TRAIN, args.cache)[1]) for i in range(TRAIN)])
    stream = vss_ros.load_stream(model="street", backend=args.backend)
    counter = load_counter(args.model, backend=args.backend, max_gap=0.0)
    ids = [stream.card.classes.index(name) for name in ROAD_USERS]
    counts: dict[str, list[float]] = {"truth": [], "points": [], "density": [], "regions": []}
    for i in range(len(data)):
        image, truth = read_points(data, i, args.cache)
        stream.reset()
        counter.reset()
        result = counter(image, 0.0)
        labels = stream(image, 0.0).labels
        counts["truth"].append(len(truth))
        counts["points"].append(result.count)
        counts["density"].append(result.by_density)
        counts["regions"].append(regions(labels, ids, args.least))
    rows = {
        f"`{args.model}`, points": counts["points"],
        f"`{args.model}`, density": counts["density"],
        f"regions of `street`'s masks of {args.least} pixels or more": counts["regions"],
        f"always {mean:.1f}, the mean of {TRAIN} training frames": [mean] * len(data),
    }
    more = f" --split {args.split}" if args.split != "test" else ""
    objects = np.mean(counts["truth"])
    print(f"# Counting on rendered streets\n\n`python bench/counting.py{more}`\n")
    print(
        f"{len(data)} frames of {data.seeds} seeds of their own, with {objects:.1f} road users on average.\n"
    )
    print("| count | MAE | root of the MSE | NAE |\n| --- | --- | --- | --- |")
    for name, found in rows.items():
        figures = count_figures(counts["truth"], found)
        print(f"| {name} | {figures['MAE']:.2f} | {figures['MSE']:.2f} | {figures['NAE']:.3f} |")


if __name__ == "__main__":
    main()
