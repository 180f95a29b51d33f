"""How well a model counts, through the same stream as the `count` node's: MAE, MSE, NAE and a scatter plot."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import VssError
from vss_ros.data.counts import count_figures
from vss_ros.data.figures import heading
from vss_ros.data.open import open_dataset
from vss_ros.data.points import PointFiles, StreetPoints
from vss_ros.evaluate.tradeoff import new_figure, write
from vss_ros.media.draw import contact_sheet, draw_points
from vss_ros.media.files import write_atomic
from vss_ros.stream.count import CountStream, load_counter

log = logging.getLogger(__name__)
KINDS = ("points", "density")
WORST = 6  # pictures
FIGURES = ("MAE", "MSE", "NAE")


def main(args: argparse.Namespace, card: Any) -> int:
    data = open_dataset(args.data, args.split, args.root)
    if not isinstance(data, (PointFiles, StreetPoints)):
        raise VssError(f"--data {args.data}: {card.name} counts; expected street_points, points or iocfish5k")
    stream = load_counter(
        args.model, backend=args.backend, precision=args.precision, threads=args.threads, max_gap=0.0
    )
    report, pictures = evaluate(stream, data, args.limit)
    chosen = str(card.training.get("data", ""))
    notes = [
        f"patches of {card.size[0]} with {stream.config.overlap} shared, scores from {stream.config.score}"
    ]
    notes += [f"only the first {args.limit} images were used"] if args.limit else []
    if chosen.startswith(args.data) and args.split != "test":
        used = "trained on" if args.split == "train" else "used to choose the checkpoint"
        notes.append(f"{args.data} {args.split} was {used}: the figures flatter the model")
    report = {
        "model": card.name,
        "data": f"{args.data} {args.split}",
        "backend": f"{stream.backend.name} {stream.backend.precision}",
        "remarks": notes,
        **report,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"{card.name}_{args.data}_{args.split}"
    write_atomic(stem.with_suffix(".json"), json.dumps(report, indent=2, allow_nan=False).encode())
    table = format_table(report)
    write_atomic(stem.with_suffix(".md"), table.encode())
    draw_scatter(report, stem.with_suffix(".png"))
    worst = Path(f"{stem}_worst.png")
    write_atomic(worst, cv2.imencode(".png", contact_sheet(pictures, 2)[:, :, ::-1])[1].tobytes())
    log.info("\n%s\nwrote %s and .json, .png, %s", table, stem.with_suffix(".md"), worst.name)
    return 0


def evaluate(stream: CountStream, data: Any, limit: int = 0) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Counts of every image and the figures over all; pictures of the worst: truth beside what was found."""
    counts: dict[str, list[float]] = {"truth": [], **{kind: [] for kind in KINDS}}
    worst: list[tuple[float, int, np.ndarray]] = []
    spent = []
    for i in range(min(limit or len(data), len(data))):
        image, truth = data.read(i)
        stream.reset()
        began = time.perf_counter()
        result = stream(image, 0.0)
        spent.append(time.perf_counter() - began)
        for name, value in zip(counts, (len(truth), result.count, result.by_density), strict=True):
            counts[name].append(round(float(value), 3))
        off = abs(result.count - len(truth))
        picture = np.hstack([draw_points(image, truth, (60, 220, 60)), draw_points(image, result.points)])
        worst = sorted([*worst, (-off, i, picture)], key=lambda item: item[:2])[:WORST]
    figures = {kind: count_figures(counts["truth"], counts[kind]) for kind in KINDS}
    report = {
        "images": len(spent),
        "objects": float(np.mean(counts["truth"])),
        "ms": float(np.median(spent)) * 1e3,
        "figures": figures,
        "counts": counts,
    }
    return report, [picture for *_, picture in worst]


def format_table(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"# {report['model']} on {report['data']} ({report['images']} images of {report['objects']:.1f} objects, "
        f"{report['backend']}, {report['ms']:.0f} ms an image)",
        "",
        f"| count by | {' | '.join(map(heading, FIGURES))} |",
        "| --- | --- | --- | --- |",
    ]
    for kind, figures in report["figures"].items():
        lines.append(f"| {kind} | {' | '.join(f'{figures[name]:.3f}' for name in FIGURES)} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in report["remarks"]), ""])


def draw_scatter(report: dict[str, Any], path: Path) -> Path:
    """Counts against true counts, an image a dot."""
    figure = new_figure((9, 4.5))
    counts: dict[str, Sequence[float]] = report["counts"]
    most = max(max(values, default=1) for values in counts.values()) * 1.05 + 1
    for place, kind in enumerate(KINDS, 1):
        axes = figure.add_subplot(1, 2, place)
        axes.plot([0, most], [0, most], color="0.6", linewidth=1)
        axes.scatter(counts["truth"], counts[kind], s=14, alpha=0.6)
        axes.set(
            xlim=(0, most), ylim=(0, most), xlabel="true count", ylabel=f"count by {kind}", aspect="equal"
        )
        axes.set_title(f"{kind}: MAE {report['figures'][kind]['MAE']:.2f}", fontsize=10)
        axes.grid(alpha=0.3)
    return write(figure, path)
