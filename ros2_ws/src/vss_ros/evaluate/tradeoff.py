"""A picture of an evaluation's accuracy against its time, as PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from vss_ros.data.figures import heading
from vss_ros.media.files import write_atomic


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
