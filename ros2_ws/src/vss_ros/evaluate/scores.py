"""The loop of every evaluation: frames, with or without their truth, through a stream, and each answer's figures."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from vss_ros.data import metrics
from vss_ros.data.recordings import Frame
from vss_ros.stream.groups import Groups
from vss_ros.stream.result import Result
from vss_ros.stream.stream import Stream

WINDOWS = (8, 16)


def answers(
    stream: Stream, frames: Iterable[Frame], scores: Scores, moves: bool = True, whole: bool = False
) -> Iterator[tuple[Frame, Result, dict[str, float]]]:
    """(frame, its answer, the frame's own figures) of one video, which the stream begins anew; moves, whole: see
    `Scores.start`."""
    stream.reset()
    scores.start(moves, whole)
    for result in stream.run((frame[0], frame[2] / 1e9, frame) for frame in in_groups(frames, stream.groups)):
        rgb, truth, _ = frame = result.source
        yield frame, result, scores.add(rgb, truth, result.labels)


def in_groups(frames: Iterable[Frame], groups: Groups | None) -> Iterator[Frame]:
    """The frames, their true labels joined as the model's classes are."""
    for rgb, truth, stamp in frames:
        yield np.ascontiguousarray(rgb), groups(truth) if groups and truth is not None else truth, stamp


class Means:
    """Running means of named figures, each over the frames that have it."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, figures: dict[str, Any]) -> None:
        for name, value in figures.items():
            if not isinstance(value, str):
                total = self.sums.setdefault(name, [0.0, 0])
                total[0], total[1] = total[0] + value, total[1] + 1

    def values(self) -> dict[str, float]:
        return {name: total / number for name, (total, number) in self.sums.items()}


class Times:
    """Milliseconds of each frame, keyframes apart from others."""

    def __init__(self) -> None:
        self.key, self.nonkey = array("d"), array("d")

    def add(self, is_keyframe: bool, ms: float) -> None:
        (self.key if is_keyframe else self.nonkey).append(ms)

    def medians(self) -> dict[str, float]:
        """Of both kinds, as far as there were any."""
        both = {"key": self.key, "nonkey": self.nonkey}
        return {name: float(np.median(values)) for name, values in both.items() if values}

    def summary(self) -> dict[str, float]:
        medians = {name: round(value, 3) for name, value in self.medians().items()}
        return {**percentiles([*self.key, *self.nonkey]), **medians}


def percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    found = {"p50": p50, "p95": p95, "p99": p99, "mean": np.mean(values)}
    return {name: round(float(value), 3) for name, value in found.items()}


class Scores:
    """Accuracy against the truth, as far as there is one: mIoU, wIoU, VC_8, VC_16, TC (see `metrics`), over videos."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes + 1), np.int64)
        self.flow_counts = np.zeros_like(self.counts)
        self.windows: dict[int, list[list[float]]] = {n: [] for n in WINDOWS}  # of each video
        self.start()

    def start(self, moves: bool = True, whole: bool = False) -> None:
        """Another video. moves: its frames follow each other at a video's rate; whole: TC takes all of them, not only
        those with a truth."""
        self.moves, self.whole = moves, whole
        self.last: tuple[np.ndarray, np.ndarray] | None = None
        self.start_windows()

    def start_windows(self) -> None:
        self.maps: deque[np.ndarray] = deque()
        maps = self.maps
        self.stays, self.same = (metrics.runs(maps.popleft() for _ in count()) for _ in range(2))
        self.seen = 0
        for videos in self.windows.values():
            videos.append([])

    def add(self, rgb: np.ndarray, truth: np.ndarray | None, labels: np.ndarray) -> dict[str, float]:
        """The frame's own figures."""
        if self.last and self.last[1].shape != labels.shape:
            self.start(self.moves, self.whole)
        if self.moves and (self.whole or truth is not None):
            if self.last:
                flow = metrics.dis_flow(self.last[0], rgb)
                self.flow_counts += metrics.flow_confusion(self.last[1], labels, flow, len(self.counts))
            self.last = (rgb, labels)
        else:
            self.last = None
        if truth is None:
            if self.seen:
                self.start_windows()  # a window needs the truth of each of its frames
            return {}
        if self.moves:
            self.add_windows(truth, labels)
        counts = metrics.confusion(truth, labels, len(self.counts))
        self.counts += counts
        value = metrics.mean_iou(counts)
        return {"mIoU": value} if value == value else {}

    def add_windows(self, truth: np.ndarray, labels: np.ndarray) -> None:
        self.maps.append(truth)
        stays = next(iter(self.stays))
        self.maps.append(labels)
        same = next(iter(self.same))
        self.seen += 1
        for n, videos in self.windows.items():
            if self.seen >= n:
                constant = stays >= n
                videos[-1].append(float((same >= n)[constant].mean()) if constant.any() else float("nan"))

    def summary(self, all_classes: bool = False) -> dict[str, float]:
        """What is known; all_classes: the mIoU counts absent ones as 0."""
        if not self.counts.sum():
            return {}
        values = {
            "mIoU": metrics.mean_iou(self.counts, all_classes),
            "wIoU": metrics.weighted_iou(self.counts),
            "accuracy": metrics.pixel_accuracy(self.counts),
        }
        for n, videos in self.windows.items():
            # The authors' script leaves out the last window.
            values[f"mVC_{n}"] = metrics.mean_video_consistency([windows[:-1] for windows in videos])
        values["TC"] = metrics.mean_iou(self.flow_counts)
        return {name: value for name, value in values.items() if value == value}
