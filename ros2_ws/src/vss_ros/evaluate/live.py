"""What a running node answered to a replayed recording, against the offline answer: drops, delays, their cost.

A robot acts on the newest mask that has arrived, and that shows the world when its image was taken. So each frame is
scored twice: by its own mask, if that came at all, and by the mask in force when the frame was published (streaming
accuracy; Li et al., "Towards Streaming Perception", ECCV 2020).
"""

from __future__ import annotations

import json
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import VssError
from vss_ros.data import metrics
from vss_ros.data.truth import masks_of_topic
from vss_ros.evaluate.run import Task
from vss_ros.evaluate.scores import Means, in_groups, percentiles
from vss_ros.evaluate.worst import Pictures, strip
from vss_ros.media.bags import BagReader
from vss_ros.media.decode import stamp_ns
from vss_ros.media.draw import overlay
from vss_ros.media.files import new_folder
from vss_ros.networks.cards.card import read_card
from vss_ros.stream.groups import Groups

MASK, CONSISTENCY = "/segmentation/mask", "/segmentation/consistency"


def stamp_file(recording: Path) -> Path:
    """Where `replay` noted the stamps under which it published the frames."""
    return recording.with_name(f"{recording.name}.stamps")


def evaluate_live(task: Task, recording: Path) -> None:
    """Score what `recorder` wrote while `replay` played the task's input, beside the task's own result.

    The result is a folder like that of `evaluate_run`, without a bag: `recording` has it. Raises VssError where
    the two do not belong together.
    """
    offline = Path(task.folder)
    result = json.loads((offline / "result.json").read_text())
    stamps = published_stamps(recording, result["frames"])
    footage = task.open()
    pictures = Pictures()
    with ExitStack() as stack:
        live = Live(stack.enter_context(BagReader(recording / "bag")), len(result["classes"]))
        answers = masks_of_topic(stack.enter_context(BagReader(offline / "bag")), MASK)
        folder = stack.enter_context(new_folder(offline.with_name(f"{offline.name}_live")))
        lines = stack.enter_context((folder / "frames.jsonl").open("w"))
        groups = (
            Groups(read_card(task.stream["model"])[0], path) if (path := task.stream.get("groups")) else None
        )
        frames = zip(islice(in_groups(footage.frames(), groups), len(stamps)), answers, stamps, strict=False)
        for index, ((rgb, truth, stamp), (_, expected, _), published) in enumerate(frames):
            figures, known = live.score(published, expected, truth)
            lines.write(json.dumps({"index": index, "stamp": stamp, **figures}, allow_nan=False) + "\n")
            if known is not None:
                shown = overlay(rgb, known, result["palette"])
                drawn = None
                if truth is not None and "mIoU_in_force" in figures:
                    drawn = overlay(rgb, truth, result["palette"])
                pictures.offer(index, figures, partial(strip, rgb, shown, known, expected, drawn))
        pictures.write(folder / "pictures")
        kept = {name: result[name] for name in ("model", "backend", "classes", "palette", "size", "fps")}
        summary = {
            **kept,
            "task": {**result["task"], "recording": str(recording)},
            "run": f"{task.run} live",
            "seconds": (stamps[-1] - stamps[0]) / 1e9,
            **live.summary(result),
            "pictures": pictures.listing(),
        }
        (folder / "result.json").write_text(json.dumps(summary, indent=1, allow_nan=False))


def published_stamps(recording: Path, frames: int) -> list[int]:
    try:
        stamps = [int(line) for line in stamp_file(recording).read_text().split()]
    except (OSError, ValueError) as error:
        raise VssError(f"{recording}: expected the stamp_file of replay beside it: {error}") from error
    if not 0 < len(stamps) <= frames:
        raise VssError(f"{recording}: {len(stamps)} frames were published, the input has {frames}: no loop?")
    return stamps


class Live:
    """The recorded masks, met frame by frame in the order of publication."""

    def __init__(self, bag: BagReader, classes: int) -> None:
        self.masks = (item for item in masks_of_topic(bag, MASK) if not isinstance(item[1], str))
        self.values = figures_of_topic(bag)
        self.next_mask = next(self.masks, None)
        self.next_values = next(self.values, None)
        self.passed: deque[tuple[int, np.ndarray, int]] = deque()
        self.counts = {n: np.zeros((classes, classes + 1), np.int64) for n in ("mIoU", "mIoU_in_force")}
        self.published = self.arrived = self.keyframes = 0
        self.means = Means()
        self.delays, self.total_ms = array("d"), array("d")

    def score(
        self, published: int, expected: np.ndarray, truth: np.ndarray | None
    ) -> tuple[dict[str, float], np.ndarray | None]:
        """A frame's figures, and the mask in force when it was published (None before the first arrives).

        published: the frame's stamp in the live run, ns; expected: its offline mask.
        """
        self.published += 1
        figures: dict[str, float] = {}
        while len(self.passed) > 1 and self.passed[1][2] <= published:
            self.passed.popleft()
        known = None
        if self.passed and self.passed[0][2] <= published:
            stamp, known, _ = self.passed[0]
            figures["stale_ms"] = (published - stamp) / 1e6
            figures |= self.compare("_in_force", known, expected, truth)
        while self.next_values and self.next_values[0] < published:
            self.next_values = next(self.values, None)
        while self.next_mask and self.next_mask[0] < published:
            self.next_mask = next(self.masks, None)
        if self.next_mask and self.next_mask[0] == published:
            _, labels, arrival = self.next_mask
            figures["delay_ms"] = (arrival - published) / 1e6
            figures |= self.compare("", labels, expected, truth)
            if self.next_values and self.next_values[0] == published:
                # the node's own count of drops grows from frame to frame: the summary counts anew
                figures = {n: value for n, value in self.next_values[1].items() if n != "dropped"} | figures
            self.passed.append(self.next_mask)
            self.delays.append(figures["delay_ms"])
            self.arrived += 1
        self.keyframes += int(figures.get("keyframe", 0))
        if "total_ms" in figures:
            self.total_ms.append(figures["total_ms"])
        self.means.add(figures)
        return figures, known

    def compare(
        self, suffix: str, labels: np.ndarray, expected: np.ndarray, truth: np.ndarray | None
    ) -> dict[str, float]:
        if labels.shape != expected.shape:
            raise VssError(
                f"the node answered with masks of {labels.shape}, offline they are {expected.shape}"
            )
        figures: dict[str, float] = {f"differs{suffix}": np.count_nonzero(labels != expected) / labels.size}
        if truth is not None:
            counts = metrics.confusion(truth, labels, len(self.counts["mIoU"]))
            self.counts[f"mIoU{suffix}"] += counts
            value = metrics.mean_iou(counts)
            if value == value:
                figures[f"mIoU{suffix}"] = value
        return figures

    def summary(self, offline: dict[str, Any]) -> dict[str, Any]:
        if not self.arrived:
            raise VssError("no mask of the replayed frames was recorded: see the log of the segment node")
        accuracy = {name: metrics.mean_iou(counts) for name, counts in self.counts.items() if counts.any()}
        means = self.means.values()
        delay = percentiles(self.delays)
        dropped = self.published - self.arrived
        notes = [
            f"{dropped} of {self.published} frames got no mask ({dropped / self.published:.1%})",
            f"a mask arrived {delay['p50']:.1f} ms after its image was published (median; p99 {delay['p99']:.1f} ms)",
            f"{means['differs']:.2%} of its labels differ from the offline answer of the same frame",
        ]
        if "stale_ms" in means:
            notes.append(
                f"the newest mask at hand was {means['stale_ms']:.0f} ms old when a frame was published; "
                f"{means['differs_in_force']:.2%} of its labels differ from the frame's offline answer"
            )
        if "mIoU_in_force" in accuracy and "mIoU" in offline["accuracy"]:
            values = (offline["accuracy"]["mIoU"], accuracy["mIoU"], accuracy["mIoU_in_force"])
            notes.append(
                "mIoU {:.1%} offline, {:.1%} of the masks that came, {:.1%} with drops and delays".format(
                    *values
                )
            )
        return {
            "confusion": self.counts["mIoU"].tolist() if self.counts["mIoU"].any() else [],
            "frames": self.published,
            "dropped": dropped,
            "keyframes": self.keyframes,
            "times": percentiles(self.total_ms) if self.total_ms else {},
            "delay_ms": delay,
            "figures": {**means, "drop_share": dropped / self.published},
            "accuracy": accuracy,
            "notes": notes,
        }


def figures_of_topic(bag: BagReader) -> Iterator[tuple[int, dict[str, float]]]:
    """(stamp in ns, numbers) of the node's ~/consistency."""
    topic = [CONSISTENCY] if CONSISTENCY in bag.topics else []
    for _, _, message in bag.messages(topic) if topic else ():
        figures = {}
        for item in message.status[0].values if message.status else ():
            try:
                figures[item.key] = float(item.value)
            except ValueError:  # such as the name of a class
                continue
        yield stamp_ns(message), figures
