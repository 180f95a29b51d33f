"""How well a model counts, through the same stream as the `count` node's: MAE, MSE, NAE and a scatter plot."""

from __future__ import annotations

import argparse
import base64
import html
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import VssError
from vss_ros.data.figures import heading
from vss_ros.data.metrics import count_figures
from vss_ros.data.open import open_dataset
from vss_ros.data.points import PointFiles, StreetPoints
from vss_ros.evaluate.settings import flattery
from vss_ros.evaluate.tradeoff import new_figure, write
from vss_ros.media.draw import contact_sheet, draw_points, jpeg, write_image
from vss_ros.media.files import write_atomic
from vss_ros.media.page import content_policy
from vss_ros.options import progress
from vss_ros.stream.count import CountStream, load_counter

log = logging.getLogger(__name__)
KINDS = ("points", "density")
WORST = 6  # pictures
FIGURES = ("MAE", "MSE", "NAE")
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0 auto; max-width: 1100px; padding: 12px 16px; font: 14px/1.45 system-ui, sans-serif; }}
img {{ max-width: 100%; background: #fff; }}
td, th {{ padding: 3px 10px; text-align: right; border-bottom: 1px solid #8886; }}
td:first-child {{ text-align: left; }}
</style></head><body>
<h1>{title}</h1><p>{about}</p>
<table><tr><th></th>{heads}</tr>{rows}</table>
<h2>Counts against true counts, an image a dot</h2><img alt="scatter plot" src="data:image/png;base64,{scatter}">
<h2>The worst images: what is there (left), what was found (right)</h2>
<img alt="the worst images" src="data:image/jpeg;base64,{worst}">
<ul>{remarks}</ul></body></html>
"""


def main(args: argparse.Namespace, card: Any) -> int:
    data = open_dataset(args.data, args.split, args.root)
    if not isinstance(data, (PointFiles, StreetPoints)):
        raise VssError(f"--data {args.data}: {card.name} counts; expected street_points, points or iocfish5k")
    stream = load_counter(
        args.model, backend=args.backend, precision=args.precision, threads=args.threads, max_gap=0.0
    )
    report, pictures = evaluate(stream, data, args.limit)
    notes = [
        f"patches of {card.size[0]} with {stream.config.overlap} shared, scores from {stream.config.score}"
    ]
    truth = np.array(report["counts"]["truth"])
    always = count_figures(truth, np.full(len(truth), truth.mean()))["MAE"]
    notes.append(f"to say {truth.mean():.1f}, the mean of these images, always has an MAE of {always:.3f}")
    notes += [f"only the first {args.limit} images were used"] if args.limit else []
    notes += flattery(card, args.data, args.split)
    report = {
        "model": card.name,
        "data": f"{args.data} {args.split}",
        "backend": f"{stream.backend.name} {stream.backend.precision}",
        "remarks": notes,
        **report,
    }
    args.result = report
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"{card.name}_{args.data}_{args.split}"
    write_atomic(stem.with_suffix(".json"), json.dumps(report, indent=2, allow_nan=False).encode())
    table = format_table(report)
    write_atomic(stem.with_suffix(".md"), table.encode())
    scatter = draw_scatter(report, stem.with_suffix(".png"))
    sheet = contact_sheet(pictures, 2)
    worst = Path(f"{stem}_worst.png")
    write_image(worst, sheet[:, :, ::-1])
    page = stem.with_suffix(".html")
    write_atomic(page, make_page(report, scatter.read_bytes(), jpeg(sheet)).encode())
    log.info("\n%s\nwrote %s and .md, .json, .png, %s", table, page, worst.name)
    return 0


def evaluate(stream: CountStream, data: Any, limit: int = 0) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Counts of every image and the figures over all; pictures of the worst: truth beside what was found."""
    counts: dict[str, list[float]] = {"truth": [], **{kind: [] for kind in KINDS}}
    worst: list[tuple[float, int, np.ndarray]] = []
    spent = []
    for i in progress(range(min(limit or len(data), len(data))), unit="image"):
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


def make_page(report: dict[str, Any], scatter: bytes, worst: bytes) -> str:
    """All of it as one HTML page that needs nothing else. scatter: PNG; worst: JPEG."""
    figures = report["figures"].items()
    cells = {kind: "".join(f"<td>{values[name]:.3f}</td>" for name in FIGURES) for kind, values in figures}
    page = PAGE.format(
        title=html.escape(f"{report['model']} on {report['data']}"),
        about=html.escape(
            f"{report['images']} images of {report['objects']:.1f} objects, {report['backend']}, "
            f"{report['ms']:.0f} ms an image"
        ),
        heads="".join(f"<th>{html.escape(heading(name))}</th>" for name in FIGURES),
        rows="".join(f"<tr><td>by {kind}</td>{row}</tr>" for kind, row in cells.items()),
        scatter=base64.b64encode(scatter).decode(),
        worst=base64.b64encode(worst).decode(),
        remarks="".join(f"<li>{html.escape(note)}</li>" for note in report["remarks"]),
    )
    return page.replace('content=""', f'content="{content_policy(page)}"', 1)


def draw_scatter(report: dict[str, Any], path: Path) -> Path:
    """Counts against true counts, an image a dot."""
    figure = new_figure((9, 5))
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
