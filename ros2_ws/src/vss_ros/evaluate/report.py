"""The results of a folder as one HTML page that needs nothing else: no network, no server, no other file.

The page is web/report.html with uPlot and the figures put in. Any figure that a run has gets a plot; the table
`figures.FIGURES` says how the known ones are shown.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import VssError, brief, fits
from vss_ros.data import metrics
from vss_ros.data.figures import FIGURES, figure, heading, shown
from vss_ros.media.files import write_atomic
from vss_ros.media.page import content_policy, load_page
from vss_ros.options import progress

VALUES, POINTS = 150_000, (100, 1500)
"""Numbers in all plots together, and the least and most points of one: the page must stay small."""
MATRIX = 40
"""Classes beyond which a confusion matrix is too large to read."""
PICTURES = 80
"""Embedded pictures, of about 20 kB each, in the whole page."""


FIRST = ("mIoU", "mIoU_in_force")
"""Columns that must be in sight."""
COLUMNS = ("frames", "dropped", "keyframes", "p50", "p99", "key", "nonkey")
"""Of the headline table before the figures."""
TIMES = ("total_ms", "delay_ms", "stale_ms")
"""Plotted as the figures are."""


def write_report(out: Path, problems: Sequence[str] = ()) -> tuple[str, Path]:
    """Write report.html and report.json from all results in `out`; → (headline table as text, page)."""
    files = sorted(out.glob("*/*/result.json"))
    runs, problems = [], list(problems)
    for path in progress(files, "report", unit="run", leave=False):
        try:
            run = load_run(path.parent, len(files))
            json.dumps(run, allow_nan=False)
            runs.append(run)
        except (
            VssError,
            OSError,
            ValueError,
            TypeError,
            LookupError,
            ArithmeticError,
            AttributeError,
        ) as error:
            problems.append(f"{path} is damaged or not ours: {brief(repr(error))}")
    data = {
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, vss_ros {version()}",
        "problems": problems,
        "figures": {
            name: {**asdict(figure(name)), "head": heading(name)} for name in (*COLUMNS, *figures_of(runs))
        },
        "columns": columns_of(runs),
        "runs": runs,
    }
    page = load_page("report.html")
    page = page.replace('content=""', f'content="{content_policy(page)}"', 1)
    # "<" could end the script that holds the data, or open a comment in it that hides the rest.
    page = page.replace("/* data */", json.dumps(data, allow_nan=False).replace("<", "\\u003c"))
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "report.html", page.encode())
    kept = ("input", "run", "model", "backend", "size", "seconds", "headline", "notes")
    summary = {**data, "runs": [{name: run[name] for name in kept} for run in runs]}
    write_atomic(out / "report.json", json.dumps(summary, indent=1, allow_nan=False).encode())
    return table(data), out / "report.html"


def version() -> str:
    try:
        return importlib.metadata.version("vss_ros")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def load_run(folder: Path, runs: int) -> dict[str, Any]:
    """What the page shows of one run: the figures of the whole, and those of its frames thinned out."""
    result = json.loads((folder / "result.json").read_text())
    check(result)
    with (folder / "frames.jsonl").open() as lines:
        rows = [numbers(json.loads(line)) for line in lines]
    start = rows[0]["stamp"]
    wide = len({name for row in rows for name in row if is_plotted(name) or name.startswith("area/")})
    points = max(POINTS[0], min(POINTS[1], VALUES // (runs * wide)))
    every = math.ceil(len(rows) / points)
    bins = [rows[i : i + every] for i in range(0, len(rows), every)]
    chosen = choose(result["pictures"], max(PICTURES // runs, 1))
    return {
        "input": folder.parent.name,
        "run": result["run"],
        "model": result["model"],
        "backend": result["backend"],
        "size": result["size"],
        "seconds": result["seconds"],
        "notes": result.get("notes", []),
        "headline": headline(result),
        "stages": {
            name.removesuffix("_ms"): short(value)
            for name, value in result["figures"].items()
            if name.endswith("_ms") and name not in FIGURES
        },
        "classes": result["classes"],
        "palette": result["palette"],
        "every": every,
        "t": [short((group[0]["stamp"] - start) / 1e9, 7) for group in bins],
        "series": series(bins),
        "areas": [
            [short(sum(row.get(f"area/{name}", 0.0) for row in group) / len(group)) for group in bins]
            for name in result["classes"]
        ],
        **accuracy_of(result),
        "keyframes": [short((row["stamp"] - start) / 1e9, 7) for row in rows if row.get("keyframe")],
        "pictures": [picture(folder, rows, item) for item in chosen],
    }


OPTIONAL: dict[str, Any] = {"dropped": 0, "keyframes": 0, "notes": []}


def check(result: dict[str, Any]) -> None:
    """ValueError unless what the page puts into its markup is of the right kind."""
    kinds: dict[str, Any] = dict.fromkeys(("run", "model", "backend"), str)
    kinds |= dict.fromkeys(("frames", "dropped", "keyframes"), int)
    kinds |= dict.fromkeys(("times", "accuracy", "figures"), dict[str, float])
    kinds |= {"classes": list[str], "palette": list[list[int]], "size": list[int], "seconds": float}
    kinds |= {"notes": list[str], "pictures": list[dict[str, Any]]}
    wrong = [name for name, kind in kinds.items() if not fits(result.get(name, OPTIONAL.get(name)), kind)]
    wrong += ["pictures"] * any(type(item["index"]) is not int for item in result["pictures"])
    if wrong or len(result["palette"]) != len(result["classes"]):
        raise ValueError(f"{', '.join(wrong) or 'palette'}: of another kind than vss evaluate writes")


def accuracy_of(result: dict[str, Any]) -> dict[str, Any]:
    """IoU of each class (None: never met), and the confusion matrix as shares of each true class's pixels."""
    counts = np.array(result.get("confusion", []), dtype=np.int64)
    classes = len(result["classes"])
    if counts.shape != (classes, classes + 1):
        return {"iou": [], "confusion": []}
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    iou = [short(value) if value == value else None for value in metrics.iou(counts).tolist()]
    matrix = [[short(value, 3) for value in row] for row in shares.tolist()]
    return {"iou": iou, "confusion": matrix if classes <= MATRIX else []}


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """What can be plotted; the name of a class, for one, cannot."""
    return {name: value for name, value in row.items() if not isinstance(value, str)}


def headline(result: dict[str, Any]) -> dict[str, float]:
    """The run in numbers; what is known by the truth of all frames stands for the frames' mean of that name."""
    counts = {name: result[name] for name in ("frames", "dropped", "keyframes") if name in result}
    times = {
        name: result["times"][name] for name in ("p50", "p99", "key", "nonkey") if name in result["times"]
    }
    known = ("total_ms", "keyframe_age")  # by the columns before
    means = {n: value for n, value in result["figures"].items() if is_plotted(n) and n not in known}
    return {**counts, **times, **means, **result["accuracy"]}


def figures_of(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Every figure that some run has, the known ones first and in their order."""
    names = {name: None for run in runs for name in (*run["series"], *run["headline"])}
    known = [name for name in FIGURES if name in names]
    return [name for name in dict.fromkeys((*known, *names)) if name not in COLUMNS]


def columns_of(runs: Sequence[dict[str, Any]]) -> list[str]:
    names = {name for run in runs for name in run["headline"]}
    return [name for name in dict.fromkeys((*FIRST, *COLUMNS, *figures_of(runs))) if name in names]


def series(bins: list[list[dict[str, Any]]]) -> dict[str, list[float | None]]:
    """Each figure's worst value in each bin of frames."""
    names = {name: None for group in bins for row in group for name in row if is_plotted(name)}
    result = {}
    for name in names:
        worst = min if figure(name).worse < 0 else max
        values = ([row[name] for row in group if name in row] for group in bins)
        result[name] = [short(worst(found)) if found else None for found in values]
    return result


def is_plotted(name: str) -> bool:
    """Not what is shown otherwise, nor the times of the stages, which frames.jsonl has."""
    return name in TIMES or not (
        name in ("index", "stamp", "keyframe") or name.endswith("_ms") or "/" in name
    )


def short(value: float, digits: int = 4) -> float:
    """Rounded, since every digit is a byte of the page."""
    return float(f"{value:.{digits}g}")


def choose(pictures: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The worst moments first, then those spread over the whole, in order of time."""
    ranked = sorted(pictures, key=lambda item: not item["worst"])
    if len(ranked) > most:
        worst = [item for item in ranked if item["worst"]]
        rest = ranked[len(worst) :]
        share = most // 2 if rest else most
        ranked = thin(worst, share) + thin(rest, most - min(share, len(worst)))
    return sorted(ranked, key=lambda item: item["index"])


def thin(items: list[Any], most: int) -> list[Any]:
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def picture(folder: Path, rows: list[dict[str, Any]], item: dict[str, Any]) -> dict[str, Any]:
    row = rows[item["index"]]
    jpeg = (folder / "pictures" / f"{item['index']:06}.jpg").read_bytes()
    return {
        **item,
        "t": short((row["stamp"] - rows[0]["stamp"]) / 1e9, 7),
        "truth": any(name in row for name in FIRST),
        "figures": {name: short(value) for name, value in row.items() if is_plotted(name)},
        "jpeg": base64.b64encode(jpeg).decode(),
    }


def table(data: dict[str, Any]) -> str:
    """The headline as Markdown, then what is to be known of the runs."""
    columns = [name for name in data["columns"] if any(name in run["headline"] for run in data["runs"])]
    lines = ["| input | run | " + " | ".join(map(heading, columns)) + " |"]
    lines.append("| --- " * (len(columns) + 2) + "|")
    for run in data["runs"]:
        cells = [shown(name, run["headline"].get(name)) for name in columns]
        lines.append(f"| {run['input']} | {run['run']} | {' | '.join(cells)} |")
    notes = [f"- {run['input']}, {run['run']}: {note}" for run in data["runs"] for note in run["notes"]]
    lines += ["", *notes] if notes else []
    return "\n".join(lines)
