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
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import MAX_PIXELS, VssError
from vss_ros.data.recordings import Footage, Frame, fingerprint, open_footage
from vss_ros.evaluate.report import version
from vss_ros.evaluate.scores import Means, Scores, Times, answers
from vss_ros.evaluate.worst import Pictures, strip
from vss_ros.media.bags import COMPRESSED, IMAGE, BagWriter, typestore
from vss_ros.media.draw import jpeg, overlay
from vss_ros.media.files import new_folder
from vss_ros.networks.cards.card import read_card
from vss_ros.stream.consistency import Consistency
from vss_ros.stream.load import load_stream, warm_up
from vss_ros.stream.result import Result, classes_json
from vss_ros.stream.schedule import check_delay

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
    check_delay(stream)
    card: Any = stream.card
    model_card: Any = stream.model_card
    notes = []
    if footage.classes is not None and list(footage.classes) != list(model_card.classes):
        footage = unlabelled(footage)
        notes.append("the input's labels are of other classes than the model's: no accuracy")
    warm_up(stream)
    with new_folder(Path(task.folder)) as folder:
        with Record(folder, card, footage.fps, task.overlay) as record:
            frames = islice(footage.frames(), task.limit or None)
            for frame, answer, figures in answers(stream, frames, record.scores):
                record.add(frame, answer, figures)
                progress(record.frames)
            if not record.frames:
                raise VssError(f"{task.input}: expected at least one frame, got none")
        result = {
            "task": task.identity(),
            "run": task.run,
            "notes": [*notes, *footage.notes],
            "model": card.name,
            "backend": f"{stream.backend.name} {stream.backend.precision}",
            "classes": list(card.classes),
            "palette": [list(map(int, colour)) for colour in card.palette],
            **record.summary(),
        }
        (folder / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False))


def unlabelled(footage: Footage) -> Footage:
    """The same frames without labels, whose ids mean other classes than the model's."""
    unnamed = lambda: ((rgb, None, t) for rgb, _, t in footage.frames())  # noqa: E731
    return replace(footage, frames=unnamed, classes=None)


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
        self.times = Times()
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

    def add(self, frame: Frame, result: Result, accuracy: dict[str, float]) -> None:
        (rgb, truth, stamp), labels = frame, result.labels
        if result.reset:
            self.before = None
            self.resets += 1
        # Here nothing lies before or after the stream, which is all of a frame's latency, and of its way in the node.
        total = result.times["node"] = result.times["total"]
        figures = self.meter(result) | {"latency_ms": total} | accuracy
        row = {"index": self.frames, "stamp": stamp, **figures}
        self.lines.write(json.dumps(row, allow_nan=False) + "\n")
        self.means.add(figures)
        if "label_change" in figures:
            kind = "keyframe_change" if result.is_keyframe else "other_change"
            self.means.add({kind: figures["label_change"]})
        self.times.add(result.is_keyframe, total)
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
            text = classes_json(self.card.name, self.card.classes, self.card.palette)
            label_info = typestore().types[STRING](text)
            self.bag.write("/segmentation/label_info_json", STRING, label_info, stamp, latched=True)
        self.bag.write("/segmentation/mask", IMAGE, mask_message(stamp, labels), stamp)
        if self.with_overlay:
            name = "/segmentation/overlay/compressed"
            self.bag.write(name, COMPRESSED, jpeg_message(stamp, shown), stamp)
        self.bag.write("/segmentation/consistency", DIAGNOSTICS, diagnostics(stamp, figures), stamp)

    def summary(self) -> dict[str, Any]:
        """The figures over all frames."""
        return {
            "frames": self.frames,
            "seconds": (self.last_stamp - (self.first_stamp or 0)) / 1e9,
            "size": [self.size[1], self.size[0]],
            "fps": self.fps,
            "keyframes": self.keyframes,
            "resets": self.resets - 1,  # the first frame is no interruption
            "times": self.times.summary(),
            "figures": self.means.values(),
            "accuracy": self.scores.summary(),
            "confusion": self.scores.counts.tolist() if self.scores.counts.any() else [],
            "masks_sha256": self.digest.hexdigest(),
            "pictures": self.pictures.listing(),
        }


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
