"""Pictures of a training run's curves and of an evaluation's accuracy against its time, as PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from vss_ros.data.figures import heading
from vss_ros.media.files import write_atomic


def draw_curves(run: Path) -> Path:
    """Losses, validation mIoU, learning rate and busy share of a run → `<run>/curves.png`.

    The points are read from TensorBoard's files, so that those of a resumed run are one curve.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    names = events.Tags()["scalars"]
    panels = {
        "loss": [name for name in names if name.startswith("loss/")],
        "validation mIoU": [name for name in names if name == "val/mIoU"],
        "learning rate of the backbone": [name for name in names if name == "lr"],
        "share of a step not spent waiting for data": [name for name in names if name == "busy"],
    }
    figure = new_figure((10, 6))
    for place, (title, curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(2, 2, place)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        for name in curves:
            points = sorted({event.step: event.value for event in events.Scalars(name)}.items())
            axes.plot(
                *zip(*points, strict=True), label=name.split("/")[-1], marker="." if len(points) < 30 else ""
            )
        if len(curves) > 1:
            axes.set_yscale("log")
            axes.legend(fontsize=8)
        if place > 2:
            axes.set_xlabel("step", fontsize=9)
    return write(figure, run / "curves.png")


def draw_tradeoff(reports: list[dict[str, Any]], path: Path) -> Path:
    """mIoU and, for videos, mVC_8 against ms a frame: a curve a (model, policy, mode), a point a setting.

    reports: as `vss evaluate` writes them, of one data set.
    """
    columns = [name for name in ("mIoU", "mVC_8") if reports[0]["rows"][0].get(name) is not None]
    figure = new_figure((5.5 * len(columns), 4.2))
    for place, column in enumerate(columns, 1):
        axes = figure.add_subplot(1, len(columns), place)
        axes.set_xlabel("ms a frame")
        axes.set_ylabel(heading(column))
        axes.grid(alpha=0.3)
        for report in reports:
            curves: dict[str, list] = {}
            for row in report["rows"]:
                curves.setdefault(f"{report['model']}, {row['policy']}, {row['mode']}", []).append(row)
            for name, rows in curves.items():
                x, y = [row["ms"] for row in rows], [100 * row[column] for row in rows]
                axes.plot(x, y, marker="o", label=name)
                for row, *point in zip(rows, x, y, strict=True):
                    axes.annotate(
                        row["setting"], point, textcoords="offset points", xytext=(4, 4), fontsize=7
                    )
        axes.legend(fontsize=7)
    figure.suptitle(reports[0]["data"], fontsize=10)
    return write(figure, path)


def new_figure(size: tuple[float, float]) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained", dpi=110)


def write(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
    return path
