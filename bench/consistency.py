"""How well the online consistency figures stand for the true ones, and what keyframe policies make of them.

Runs the shipped models through `Stream` and `Consistency`, as the node does, on videos whose every frame is labelled,
and writes bench/consistency_tables.md and the plot docs/policies.svg:

    VSS_DATA=… python bench/consistency.py [--quick]

Needs the extras [cpu,train,test]; about four minutes of one core.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from scipy.stats import spearmanr
from vss_ros.data import metrics
from vss_ros.data.open import open_dataset
from vss_ros.data.street.street import Street
from vss_ros.stream.consistency import Consistency
from vss_ros.stream.keyframes import Adaptive, FixedInterval, LabelDrift
from vss_ros.stream.load import load_stream
from vss_ros.stream.stream import Stream

matplotlib.use("svg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
SIZE = (360, 480)
INTERVALS = (1, 2, 3, 5, 8)
WINDOW = 8
LONGEST = 12  # frames that adaptive policies may keep a keyframe
POLICIES = {
    "fixed K": [FixedInterval(k) for k in (1, 2, 3, 4, 5, 6, 8)],
    "AKS (adaptive)": [Adaptive(x, 1, LONGEST) for x in (0.15, 0.25, 0.35, 0.45, 0.6)],
    "consistency": [LabelDrift(x, 1, LONGEST) for x in (0.005, 0.015, 0.03, 0.05, 0.08)],
}
ONLINE = (
    *("label_change", "motion_label_change", "flicker", "window_consistency_8", "window_consistency_16"),
    *("area_jump", "refresh_jump", "keyframe_age", "label_drift", "input_drift", "feature_drift"),
)
TRUE = ("VC_8", "VC_16", "TC", "mIoU drop")

Video = list[tuple[np.ndarray, np.ndarray]]


class Answer(NamedTuple):
    """What a frame got: labels, the online figures, whether it was a keyframe."""

    labels: np.ndarray
    figures: dict[str, Any]
    is_keyframe: bool


# Videos


def camvid() -> Iterator[Video]:
    """The dense CamVid val video: 101 frames at 15 Hz."""
    for video in open_dataset("camvid", "val").videos():
        yield [(np.ascontiguousarray(image), labels) for image, labels, _ in video.frames]


def rendered(seeds: int, length: int, speeds: tuple[int, ...] = (8,)) -> Iterator[Video]:
    """Streets of unseen seeds at 30 Hz; the camera changes its speed (eighths of the usual) every 24 frames."""
    for seed in range(300_000, 300_000 + seeds):
        street = Street(seed=seed, size=SIZE, fps=240.0)
        steps = [speeds[t // 24 % len(speeds)] for t in range(length)]
        yield [street.frame(int(t)) for t in np.cumsum(steps)]


# Running


def run(stream: Stream, video: Video, policy: Any, fps: float, figures: bool) -> list[Answer]:
    stream.reset()
    stream.policy, stream.measure_drift = policy, figures
    meter = Consistency(stream.card.classes)
    answers = []
    for t, (image, _) in enumerate(video):
        result = stream(image, t / fps)
        answers.append(Answer(result.labels, meter(result) if figures else {}, result.is_keyframe))
    return answers


# The true figures


def frame_scores(video: Video, answers: list[Answer], classes: int) -> list[float]:
    """mIoU of each frame on its own."""
    pairs = zip(video, answers, strict=True)
    return [metrics.mean_iou(metrics.confusion(truth, a.labels, classes)) for (_, truth), a in pairs]


def truth_of(
    video: Video, runs: dict[int, list[Answer]], flows: list, classes: int
) -> dict[int, dict[str, list]]:
    """By interval: VC of the window that ends with each frame, TC of each frame with the one before, mIoU drop."""
    scores = {k: frame_scores(video, answers, classes) for k, answers in runs.items()}
    best = [max(values) for values in zip(*scores.values(), strict=True)]
    truths = [truth for _, truth in video]
    table = {}
    for k, answers in runs.items():
        labels = [a.labels for a in answers]
        columns: dict[str, list] = {
            f"VC_{n}": [None] * (n - 1) + metrics.video_consistency(truths, labels, n, "paper")
            for n in (8, 16)
        }
        columns["TC"] = [None] + [
            metrics.mean_iou(metrics.flow_confusion(a, b, flow, classes))
            for (a, b), flow in zip(itertools.pairwise(labels), flows, strict=True)
        ]
        columns["mIoU drop"] = [top - own for top, own in zip(best, scores[k], strict=True)]
        table[k] = columns
    return table


# The study


def study(model: str, videos: list[Video], fps: float) -> list[dict[str, Any]]:
    """A row a frame, video and interval: online figures and true ones, each also as mean over the last WINDOW."""
    stream = load_stream(model, backend="openvino", threads=1, schedule="at_once")
    names = list(stream.card.classes)
    rows = []
    for number, video in enumerate(videos):
        runs = {k: run(stream, video, FixedInterval(k), fps, True) for k in INTERVALS}
        flows = [metrics.dis_flow(a[0], b[0]) for a, b in itertools.pairwise(video)]
        for k, columns in truth_of(video, runs, flows, len(names)).items():
            for name in ONLINE:
                columns[name] = [answer.figures.get(name) for answer in runs[k]]
            for t in range(len(video)):
                now = {name: values[t] for name, values in columns.items()}
                last = {
                    name: mean(values[max(0, t - WINDOW + 1) : t + 1]) for name, values in columns.items()
                }
                last["VC_8"], last["VC_16"] = now["VC_8"], now["VC_16"]  # windows already
                last["window_consistency_8"] = now["window_consistency_8"]
                last["window_consistency_16"] = now["window_consistency_16"]
                if t >= WINDOW:
                    rows.append({"video": number, "K": k, "frame": now, "window": last})
    return rows


def mean(values: list) -> float | None:
    known = [value for value in values if value is not None and value == value]
    return float(np.mean(known)) if known else None


def correlation(rows: list[dict], scope: str, online: str, true: str) -> tuple[float, int]:
    """Spearman's rank correlation and the number of pairs; NaN below 20 pairs or for a constant."""
    pairs = [(r[scope][online], r[scope][true]) for r in rows]
    pairs = [p for p in pairs if None not in p and p[0] == p[0] and p[1] == p[1]]
    if len(pairs) < 20 or any(len(set(column)) == 1 for column in zip(*pairs, strict=True)):
        return float("nan"), len(pairs)
    return float(spearmanr(pairs).statistic), len(pairs)


def correlations(rows: list[dict], scope: str) -> str:
    """Markdown table: every online figure against every true one, all K pooled, and the mean over each K alone."""
    reused = [r for r in rows if r["K"] > 1]
    lines = ["| online figure | " + " | ".join(TRUE) + " |", "| --- " * (len(TRUE) + 1) + "|"]
    for online in ONLINE:
        cells = []
        for true in TRUE:
            # K = 1 has no drop worth the name: it nearly is each frame's best.
            of = reused if true == "mIoU drop" else rows
            pooled, _ = correlation(of, scope, online, true)
            alone = [correlation([r for r in of if r["K"] == k], scope, online, true)[0] for k in INTERVALS]
            alone = [value for value in alone if value == value]
            cells.append(f"{number(pooled)} ({number(np.mean(alone)) if alone else '–'})")
        lines.append(f"| {online} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def number(value: float) -> str:
    if value != value:
        return "–"
    return f"**{value:+.2f}**" if abs(value) >= 0.7 else f"{value:+.2f}"


# Policies


def compare(model: str, videos: list[Video], fps: float) -> dict[str, list[dict[str, float]]]:
    """By policy, a point a setting: average interval, mIoU, mVC_8, all in one confusion matrix."""
    stream = load_stream(model, backend="openvino", threads=1, schedule="at_once")
    names = list(stream.card.classes)
    points: dict[str, list[dict[str, Any]]] = {
        kind: [{"setting": p, "frames": 0, "keys": 0, "counts": 0, "vc": []} for p in settings]
        for kind, settings in POLICIES.items()
    }
    for video in videos:
        for point in itertools.chain(*points.values()):
            answers = run(stream, video, point["setting"], fps, False)
            labels = [a.labels for a in answers]
            truths = [truth for _, truth in video]
            point["frames"] += len(video)
            point["keys"] += sum(a.is_keyframe for a in answers)
            for truth, found in zip(truths, labels, strict=True):
                point["counts"] = point["counts"] + metrics.confusion(truth, found, len(names))
            point["vc"].append(metrics.video_consistency(truths, labels, 8))
    return {
        kind: [
            {
                "interval": p["frames"] / p["keys"],
                "mIoU": metrics.mean_iou(p["counts"]),
                "VC_8": metrics.mean_video_consistency(p["vc"]),
            }
            for p in of
        ]
        for kind, of in points.items()
    }


def at_interval(points: list[dict[str, float]], interval: float, name: str) -> float:
    """A policy's figure at an average interval, interpolated between its settings; NaN outside of them."""
    order = sorted(points, key=lambda p: p["interval"])
    x = [p["interval"] for p in order]
    return float(np.interp(interval, x, [p[name] for p in order], left=np.nan, right=np.nan))


def policy_table(curves: dict[str, list[dict[str, float]]]) -> str:
    kinds = list(curves)
    heads = [f"{name} %, {kind}" for name in ("mIoU", "VC_8") for kind in kinds]
    lines = ["| average interval | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    for interval in (2, 3, 4, 5, 6):
        cells = [at_interval(curves[kind], interval, name) for name in ("mIoU", "VC_8") for kind in kinds]
        lines.append(
            f"| {interval} | " + " | ".join(f"{100 * c:.2f}" if c == c else "–" for c in cells) + " |"
        )
    return "\n".join(lines)


def plot(curves: dict[str, dict[str, list]], path: Path) -> None:
    figure, axes = plt.subplots(2, len(curves), figsize=(4.2 * len(curves), 6), sharex=True, squeeze=False)
    for column, (title, of) in enumerate(curves.items()):
        for row, name in enumerate(("mIoU", "VC_8")):
            axis = axes[row][column]
            for kind, points in of.items():
                order = sorted((p for p in points if p["interval"] <= 8.5), key=lambda p: p["interval"])
                axis.plot([p["interval"] for p in order], [100 * p[name] for p in order], ".-", label=kind)
            axis.set_ylabel(f"{name} %")
            axis.grid(alpha=0.3)
        axes[0][column].set_title(title, fontsize=10)
        axes[1][column].set_xlabel("average keyframe interval, frames")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    plt.rcParams["svg.hashsalt"] = "vss_ros"  # the same file from the same figures
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the rendered frames, to see that it runs"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "consistency_tables.md")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "policies.svg")
    args = parser.parse_args()
    seeds, length = (1, 12) if args.quick else (3, 48)
    sets = {
        "camvid on the dense CamVid val video": ("camvid", list(camvid()), 15.0),
        "street on rendered streets": ("street", list(rendered(seeds, length)), 30.0),
        "street on rendered streets, changing speed": (
            "street",
            list(rendered(seeds, length, (8, 1, 16))),
            30.0,
        ),
    }
    sections, curves, pooled = ["# Tables of bench/consistency.py, read in consistency.md\n"], {}, []
    for title, (model, videos, fps) in sets.items():
        frames = sum(len(video) for video in videos)
        print(f"{title}: {frames} frames", flush=True)
        rows = study(model, videos, fps)
        pooled += rows
        curves[title] = compare(model, videos, fps)
        sections.append(f"## {title}, {frames} frames\n\nPer frame:\n\n{correlations(rows, 'frame')}\n")
        sections.append(f"Per window of {WINDOW} frames:\n\n{correlations(rows, 'window')}\n")
        sections.append(f"Policies:\n\n{policy_table(curves[title])}\n")
    sections.append(f"## All three together\n\nPer frame:\n\n{correlations(pooled, 'frame')}\n")
    sections.append(f"Per window of {WINDOW} frames:\n\n{correlations(pooled, 'window')}\n")
    args.out.write_text("\n".join(sections))
    plot(curves, args.plot)
    print("\n".join(sections))


if __name__ == "__main__":
    main()
