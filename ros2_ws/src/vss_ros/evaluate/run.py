"""One input through one stream: masks as a bag, the figures of every frame, and pictures of the worst moments.

A finished run is a folder:

    result.json    what was run, and the figures over all frames
    frames.jsonl   a line a frame: index, stamp (ns), and its figures by name
    pictures/      <index>.jpg: camera, labels, what changed since the frame before
    bag/           mcap: masks, overlay (JPEG), consistency and the classes, on the node's topics

It gets its name only when it is complete. Everything but the times is the same to the bit on every run with the
same number of threads.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import MAX_PIXELS, VssError
from vss_ros.data import metrics
from vss_ros.data.recordings import Footage, Frame, fingerprint, open_footage
from vss_ros.evaluate.report import version
from vss_ros.evaluate.worst import Pictures, strip
from vss_ros.media.bags import COMPRESSED, IMAGE, BagWriter, typestore
from vss_ros.media.draw import jpeg, overlay
from vss_ros.media.files import new_folder
from vss_ros.networks.cards.card import read_card
from vss_ros.stream.consistency import Consistency
from vss_ros.stream.groups import Groups
from vss_ros.stream.load import load_stream
from vss_ros.stream.result import Result
from vss_ros.stream.stream import Stream

WINDOWS = (8, 16)
STRING, DIAGNOSTICS = "std_msgs/msg/String", "diagnostic_msgs/msg/DiagnosticArray"


@dataclass(frozen=True)
class Task:
    """An input and how it is answered: all that decides the masks."""

    input: str
    run: str
    """Name of the way it is answered, such as "street K=5"."""
    folder: str
    stream: dict[str, Any]
    """Options of StreamConfig."""
    both_sides: bool = False
    topic: str = ""
    truth: str = ""
    fps: float = 0.0
    limit: int = 0
    overlay: bool = True
    root: str = ""
    max_pixels: int = MAX_PIXELS

    def open(self) -> Footage:
        return open_footage(self.input, self.topic, self.truth, self.fps, self.root, self.max_pixels)

    def identity(self) -> dict[str, Any]:
        """Equal for tasks that give the same answer: an earlier result may stand for this one.

        Without the number of threads, which at most rounds differently: who goes on with more processes keeps
        what is done.
        """
        card, _ = read_card(self.stream["model"])
        made_of = {"weights": card.sha256, "files": fingerprint(self.input), "masks": fingerprint(self.truth)}
        made_of["groups"] = fingerprint(self.stream.get("groups", ""))
        stream = {name: value for name, value in self.stream.items() if name != "threads"}
        return {**asdict(self), "folder": "", "stream": stream, "version": version(), **made_of}


def is_done(task: Task) -> bool:
    """Whether the folder holds this very task's result; VssError if it holds that of another input."""
    try:
        old = json.loads((Path(task.folder) / "result.json").read_text())["task"]
    except (OSError, ValueError, KeyError):
        return False
    if old["input"] != task.input:
        raise VssError(f"{task.folder} holds the result of {old['input']}; choose another --out")
    return old == task.identity()


def evaluate_run(task: Task, progress: Callable[[int], None] = lambda done: None) -> None:
    """Answer all frames and write the run's folder. progress: called with the number of frames done."""
    footage = task.open()
    stream = load_stream(**task.stream, both_sides=task.both_sides, measure_drift=True)
    card: Any = stream.card
    model_card: Any = stream.model_card
    notes = []
    if footage.classes is not None and list(footage.classes) != list(model_card.classes):
        footage = unlabelled(footage)
        notes.append("the input's labels are of other classes than the model's: no accuracy")
    warm_up(stream)
    with new_folder(Path(task.folder)) as folder:
        with Record(folder, card, footage.fps, task.overlay) as record:
            for frame in islice(in_groups(footage, stream.groups), task.limit or None):
                for answer in stream.feed(frame[0], frame[2] / 1e9, source=frame):
                    record.add(answer.source, answer)
                progress(record.frames)
            for answer in stream.flush():
                record.add(answer.source, answer)
            progress(record.frames)
            if not record.frames:
                raise VssError(f"{task.input}: expected at least one frame, got none")
        result = {
            "task": task.identity(),
            "run": task.run,
            "notes": notes,
            "model": card.name,
            "backend": f"{stream.backend.name} {stream.backend.precision}",
            "classes": list(card.classes),
            "palette": [list(map(int, colour)) for colour in card.palette],
            **record.summary(),
        }
        (folder / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False))


def unlabelled(footage: Footage) -> Footage:
    """The same frames without labels, whose ids mean other classes than the model's."""
    return Footage(lambda: ((rgb, None, t) for rgb, _, t in footage.frames()), footage.fps, footage.length)


def in_groups(footage: Footage, groups: Groups | None) -> Iterator[tuple[Any, Any, int]]:
    """The frames, their true labels joined as the model's classes are."""
    for rgb, truth, stamp in footage.frames():
        yield rgb, groups(truth) if groups and truth is not None else truth, stamp


def warm_up(stream: Stream) -> None:
    """Runtimes allocate with the first key and non-key frame: those must not count."""
    blank = np.zeros((*stream.backend.size, 3), np.uint8)
    for _ in stream.run((blank, number / 10) for number in range(2)):
        pass
    stream.reset()


class Record:
    """Takes the answers one by one and keeps only sums of them; close it by leaving its `with`."""

    def __init__(self, folder: Path, card: Any, fps: float, with_overlay: bool) -> None:
        self.folder, self.card, self.fps, self.with_overlay = folder, card, fps, with_overlay
        self.frames = self.keyframes = self.resets = 0
        self.first_stamp: int | None = None
        self.last_stamp = 0
        self.size = (0, 0)
        self.digest = hashlib.sha256()
        self.means = Means()
        self.total_ms: dict[bool, array] = {True: array("d"), False: array("d")}
        self.scores = Scores(len(card.classes))
        self.pictures = Pictures()
        self.meter = Consistency(card.classes)
        self.before: np.ndarray | None = None

    def __enter__(self) -> Record:
        self.lines = (self.folder / "frames.jsonl").open("w")
        self.bag = BagWriter(self.folder / "bag")
        return self

    def __exit__(self, failed: Any, *_: Any) -> None:
        self.lines.close()
        if failed:
            self.bag.abort()
        else:
            self.bag.close()
            self.pictures.write(self.folder / "pictures")

    def add(self, frame: Frame, result: Result) -> None:
        (rgb, truth, stamp), labels = frame, result.labels
        if result.reset:
            self.before = None
            self.resets += 1
        # Here nothing lies before or after the stream, which is all of a frame's latency, and of its way in the node.
        total = result.times["node"] = result.times["total"]
        figures = self.meter(result) | {"latency_ms": total} | self.scores.add(rgb, truth, labels)
        row = {"index": self.frames, "stamp": stamp, **figures}
        self.lines.write(json.dumps(row, allow_nan=False) + "\n")
        self.means.add(figures)
        self.total_ms[result.is_keyframe].append(result.times["total"])
        self.digest.update(labels.tobytes())
        shown = overlay(rgb, labels, self.card.palette)
        known = overlay(rgb, truth, self.card.palette) if truth is not None and "mIoU" in figures else None
        self.pictures.offer(self.frames, figures, lambda: strip(rgb, shown, labels, self.before, known))
        self.write_messages(stamp, labels, shown, figures)
        self.first_stamp = stamp if self.first_stamp is None else self.first_stamp
        self.last_stamp, self.size = stamp, labels.shape
        self.frames += 1
        self.keyframes += result.is_keyframe
        self.before = labels

    def write_messages(
        self, stamp: int, labels: np.ndarray, shown: np.ndarray, figures: dict[str, Any]
    ) -> None:
        if not self.frames:
            classes = zip(self.card.classes, self.card.palette, strict=True)
            entries = [
                {"id": i, "name": name, "color": list(map(int, c))} for i, (name, c) in enumerate(classes)
            ]
            text = json.dumps({"model": self.card.name, "classes": entries, "unlabelled": 255})
            label_info = typestore().types[STRING](text)
            self.bag.write("/segmentation/label_info_json", STRING, label_info, stamp, latched=True)
        self.bag.write("/segmentation/mask", IMAGE, mask_message(stamp, labels), stamp)
        if self.with_overlay:
            name = "/segmentation/overlay/compressed"
            self.bag.write(name, COMPRESSED, jpeg_message(stamp, shown), stamp)
        self.bag.write("/segmentation/consistency", DIAGNOSTICS, diagnostics(stamp, figures), stamp)

    def summary(self) -> dict[str, Any]:
        """The figures over all frames."""
        times = percentiles([*self.total_ms[True], *self.total_ms[False]])
        for key, name in ((True, "key"), (False, "nonkey")):
            if self.total_ms[key]:
                times[name] = round(float(np.median(self.total_ms[key])), 3)
        return {
            "frames": self.frames,
            "seconds": (self.last_stamp - (self.first_stamp or 0)) / 1e9,
            "size": [self.size[1], self.size[0]],
            "fps": self.fps,
            "keyframes": self.keyframes,
            "resets": self.resets - 1,  # the first frame is no interruption
            "times": times,
            "figures": self.means.values(),
            "accuracy": self.scores.summary(),
            "confusion": self.scores.counts.tolist() if self.scores.counts.any() else [],
            "masks_sha256": self.digest.hexdigest(),
            "pictures": self.pictures.listing(),
        }


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


def percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    found = {"p50": p50, "p95": p95, "p99": p99, "mean": np.mean(values)}
    return {name: round(float(value), 3) for name, value in found.items()}


class Scores:
    """Accuracy against the truth, as far as there is one: mIoU, wIoU, VC_8, VC_16, TC (see `metrics`)."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = np.zeros((classes, classes + 1), np.int64)
        self.flow_counts = np.zeros_like(self.counts)
        self.windows: dict[int, list[float]] = {n: [] for n in WINDOWS}
        self.dense = True
        self.start_windows()

    def start_windows(self) -> None:
        self.maps: deque[np.ndarray] = deque()
        maps = self.maps
        self.stays, self.same = (metrics.runs(maps.popleft() for _ in count()) for _ in range(2))
        self.last: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, rgb: np.ndarray, truth: np.ndarray | None, labels: np.ndarray) -> dict[str, float]:
        """The frame's own figures."""
        if truth is None:
            self.dense = False  # consistency over time needs the truth of every frame
            return {}
        if self.last and self.last[1].shape != truth.shape:  # a camera that changes its size starts anew
            self.start_windows()
        counts = metrics.confusion(truth, labels, self.classes)
        self.counts += counts
        if self.dense:
            self.follow(rgb, truth, labels)
        value = metrics.mean_iou(counts)
        return {"mIoU": value} if value == value else {}

    def follow(self, rgb: np.ndarray, truth: np.ndarray, labels: np.ndarray) -> None:
        self.maps.append(truth)
        stays = next(iter(self.stays))
        self.maps.append(labels)
        same = next(iter(self.same))
        for n, values in self.windows.items():
            constant = stays >= n
            values.append(float((same >= n)[constant].mean()) if constant.any() else float("nan"))
        if self.last:
            flow = metrics.dis_flow(self.last[0], rgb)
            self.flow_counts += metrics.flow_confusion(self.last[1], labels, flow, self.classes)
        self.last = (rgb, labels)

    def summary(self) -> dict[str, float]:
        if not self.counts.sum():
            return {}
        values = {
            "mIoU": metrics.mean_iou(self.counts),
            "wIoU": metrics.weighted_iou(self.counts),
            "accuracy": metrics.pixel_accuracy(self.counts),
        }
        if self.dense:
            for n, windows in self.windows.items():
                # The authors' script leaves out the last window.
                values[f"mVC_{n}"] = metrics.mean_video_consistency([windows[n - 1 : -1]])
            values["TC"] = metrics.mean_iou(self.flow_counts)
        return {name: value for name, value in values.items() if value == value}


def header(stamp: int) -> Any:
    types = typestore().types
    time = types["builtin_interfaces/msg/Time"](*divmod(stamp, 10**9))
    return types["std_msgs/msg/Header"](time, "camera")


def mask_message(stamp: int, labels: np.ndarray) -> Any:
    height, width = labels.shape
    pixels = np.ascontiguousarray(labels).ravel()
    return typestore().types[IMAGE](header(stamp), height, width, "mono8", 0, width, pixels)


def jpeg_message(stamp: int, rgb: np.ndarray) -> Any:
    return typestore().types[COMPRESSED](header(stamp), "jpeg", np.frombuffer(jpeg(rgb), np.uint8))


def diagnostics(stamp: int, values: dict[str, Any]) -> Any:
    types = typestore().types
    pairs = [
        types["diagnostic_msgs/msg/KeyValue"](key, f"{value:.6g}" if isinstance(value, float) else str(value))
        for key, value in values.items()
    ]
    status = types["diagnostic_msgs/msg/DiagnosticStatus"](0, "/segment: consistency", "", "", pairs)
    return types[DIAGNOSTICS](header(stamp), [status])
