"""Accuracy, steadiness and cost of every schedule: docs/schedules.svg and docs/refresh.jpg.

    VSS_DATA=… python bench/schedules.py

Model camvid on CamVid val (the sheet: street on a rendered street), in float32 on one thread. Costs are processor time
of all threads of this process over the same frames, so that other processes count little: for beside they hold the
network's runs as well, which no answer waits for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from vss_ros.data.open import open_dataset
from vss_ros.data.street.street import Street
from vss_ros.evaluate.dataset import evaluate
from vss_ros.media.draw import overlay
from vss_ros.stream.load import load_stream
from vss_ros.stream.stream import Stream

matplotlib.use("svg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
AS_IS = {"motion": False, "steady": 0.0}
FAMILIES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "as is": [(f"K = {k}", {"interval": k, **AS_IS}) for k in (1, 2, 5, 8)],
    "moved": [(f"K = {k}", {"interval": k, "steady": 0.0}) for k in (2, 5, 8)],
    "moved, steady": [(f"K = {k}", {"interval": k}) for k in (1, 2, 5, 8, 12)],
    "answer moved, steady": [(f"K = {k}", {"interval": k, "between": "answer"}) for k in (2, 3, 4, 5)],
    "in parts, steady": [("2 parts, K = 2", {"interval": 2, "schedule": "parts"})],
    "beside, steady": [(f"{d} late", {"schedule": "beside", "delay": d, "interval": 1}) for d in (1, 2, 3)],
}
BASELINE = {"mIoU": 0.7173, "mVC_8": 0.9577}
"""SegFormer-ESPNetv2 (`segformer_espnetv2_camvid`, seed 2) on the same frames, without the filter; its weights are not
shipped."""
TIMED = 60
"""Frames, a multiple of most intervals."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = open_dataset("camvid", "val", None, (360, 480))
    video = next(iter(data.videos()))
    frames = [np.ascontiguousarray(image) for image, *_ in itertools.islice(video.frames, TIMED)]
    rows = []
    for family, settings in FAMILIES.items():
        for name, options in settings:
            with load_stream("camvid", precision="f32", threads=1, max_gap=0.0, **options) as stream:
                row = evaluate(stream, data)
                rows.append({"family": family, "setting": name, "ms": milliseconds(stream, frames)})
                rows[-1] |= {figure: row[figure] for figure in ("mIoU", "mVC_8", "mVC_16", "TC")}
                print(json.dumps(rows[-1]), flush=True)
    plot(rows, args.out / "schedules.svg")
    sheet(args.out / "refresh.jpg")


def milliseconds(stream: Stream, frames: list[np.ndarray]) -> float:
    """Processor time a frame."""
    stream.reset()
    start = 0.0
    for t, rgb in enumerate([*frames[:5], *frames]):
        if t == 5:
            start = time.process_time()
        stream(rgb, t / 15)
    return (time.process_time() - start) * 1e3 / len(frames)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    plt.rcParams["svg.hashsalt"] = "vss_ros"  # the same file from the same figures
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6))
    for axis, kind, title in zip(axes, ("mIoU", "mVC_8"), ("mIoU, %", "VC_8, %"), strict=True):
        for family in FAMILIES:
            found = [row for row in rows if row["family"] == family]
            axis.plot([r["ms"] for r in found], [100 * r[kind] for r in found], "o-", ms=4, label=family)
            for row in found:
                place = (row["ms"], 100 * row[kind])
                axis.annotate(row["setting"], place, (4, 3), textcoords="offset points", fontsize=6)
        axis.axhline(100 * BASELINE[kind], color="grey", ls="--", lw=1, label="SegFormer-ESPNetv2")
        axis.set_xlabel("ms of one core a frame")
        axis.set_title(title)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def sheet(file: Path) -> None:
    """Where labels changed since the frame before, around keyframes of K = 5: as is above, moved, steady below."""
    street, rows = Street(size=(360, 480)), []
    frames = [street.frame(t)[0] for t in range(12)]
    for options in (AS_IS, {}):
        with load_stream("street", precision="f32", interval=5, max_gap=0.0, **options) as stream:
            results = [stream(rgb, t / 15) for t, rgb in enumerate(frames[:12])]
        cells = []
        for before, now, rgb in zip(results[3:-1], results[4:], frames[4:12], strict=True):
            changed = before.labels != now.labels
            shown = overlay(rgb, now.labels, stream.card.palette, 0.35)
            shown[changed] = (255, 0, 160)
            shown = cv2.resize(shown, (240, 180), interpolation=cv2.INTER_AREA)
            kind = "keyframe" if now.is_keyframe else f"age {now.keyframe_age}"
            text = f"{kind}: {changed.mean():.1%}"
            cv2.putText(
                shown, text, (5, 173), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA
            )
            cells.append(shown)
        rows.append(np.hstack(cells))
    cv2.imwrite(str(file), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])


if __name__ == "__main__":
    main()
