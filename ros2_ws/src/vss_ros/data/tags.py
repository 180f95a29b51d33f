"""Images of which is known what they show, not where: tags.csv, VOC lists, or time ranges of a recording.

A data set answers `len(data)`, `data.read(i)` → image (H, W, 3) uint8 RGB and tags (C,) bool, and `data.sharing(label)`
→ the images that have a class. What it is split into: `<split>.csv`, or of one `tags.csv` every tenth image for
val and test, all others for train.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from vss_ros.config import VssError
from vss_ros.data.clips import Files, Frame, need_frames, read_image
from vss_ros.data.own.labels import distinct
from vss_ros.data.source import open_source
from vss_ros.media.draw import write_image
from vss_ros.media.files import read_text, read_yaml, write_atomic

HELD_OUT = 10
"""Every how manyth image of one tags.csv is not trained on."""
APART = 1.0
"""Seconds between frames of one recording that may explain each other."""
FULL = 0.9
"""Share of the images above which a class cannot be told from the images without it."""
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class Tagged:
    """sequence, seconds: of a frame of a recording, else "" and 0."""

    image: Path
    tags: tuple[str, ...]
    sequence: str = ""
    seconds: float = 0.0


class TaggedFiles:
    def __init__(self, name: str, entries: Sequence[Tagged], classes: Sequence[str]):
        self.name, self.entries, self.classes = name, list(entries), list(classes)
        self.palette = distinct(len(self.classes))
        self.tags = np.array([[c in e.tags for c in self.classes] for e in self.entries], bool)
        self.tags = self.tags.reshape(len(self.entries), len(self.classes))

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return np.ascontiguousarray(
            read_image(self.entries[i].image, cv2.IMREAD_COLOR)[:, :, ::-1]
        ), self.tags[i]

    def sharing(self, label: int, of: int | None = None, same_clip: bool = False) -> np.ndarray:
        """Indices of the images that have a class; with `of`, not of that image and the frames next to it, and with
        `same_clip` of no other recording than its."""
        found = np.flatnonzero(self.tags[:, label])
        if of is None:
            return found
        here = self.entries[of]
        near = lambda e: (  # noqa: E731
            e.sequence == here.sequence and bool(e.sequence) and abs(e.seconds - here.seconds) < APART
        )
        clip = lambda e: not same_clip or (bool(e.sequence) and e.sequence == here.sequence)  # noqa: E731
        kept = [i for i in found if i != of and not near(self.entries[i]) and clip(self.entries[i])]
        return np.array(kept, np.int64)


def tagged_files(root: Path, split: str) -> TaggedFiles:
    """A folder with `tags.csv` (or `<split>.csv`), a line an image: its path in the folder, then its tags; or with
    `tags.yaml`, whose recording becomes images and a tags.csv once. `classes.txt`, if there, fixes the order."""
    if (root / "tags.yaml").is_file() and not (root / "tags.csv").is_file():
        cut_recording(root / "tags.yaml")
    own, all_ = root / f"{split}.csv", root / "tags.csv"
    file = own if own.is_file() else all_
    if not file.is_file():
        raise VssError(f"tags: expected {all_} with a line an image: image,class,class, or tags.yaml")
    entries = read_csv(file)
    need_frames(entries, file, "<path of an image>,<class>,…")
    order = root / "classes.txt"
    named = read_text(order).split("\n") if order.is_file() else sorted({t for e in entries for t in e.tags})
    classes = [name.strip() for name in named if name.strip()]
    unknown = sorted({tag for e in entries for tag in e.tags} - set(classes))
    if unknown:
        raise VssError(f"{file}: the tags {', '.join(unknown)} are not in {order}")
    if file == all_:
        held = set(entries[HELD_OUT - 1 :: HELD_OUT])
        entries = [e for e in entries if (e in held) == (split != "train")] or entries
    return TaggedFiles(f"tags {split}", entries, classes)


def read_csv(file: Path) -> list[Tagged]:
    entries = []
    for number, row in enumerate(csv.reader(read_text(file).splitlines()), 1):
        cells = [cell.strip() for cell in row if cell.strip()]
        if not cells or (number == 1 and cells[0].lower() == "image"):
            continue
        image = file.parent / cells[0]
        if not image.is_file():
            raise VssError(f"{file}, line {number}: expected image,class,…; there is no {image}")
        sequence, _, stamp = image.stem.rpartition("_")
        timed = sequence and stamp.endswith("ms") and stamp[:-2].isdigit()
        placed = (sequence, int(stamp[:-2]) / 1e3) if timed else ("", 0.0)
        entries.append(Tagged(image, tuple(cells[1:]), *placed))
    tags: dict[Path, tuple[str, ...]] = {}  # an image may have a line for each of its tags
    for entry in entries:
        tags[entry.image] = (*tags.get(entry.image, ()), *entry.tags)
    first = {entry.image: entry for entry in reversed(entries)}
    return [replace(first[image], tags=tuple(dict.fromkeys(all_))) for image, all_ in tags.items()]


def voc_tags(root: Path, split: str) -> TaggedFiles:
    """Pascal VOC: `<split>_cls.txt`, a line an image: its name, then the numbers of its classes from 0 on; images
    in `JPEGImages/`."""
    file = root / f"{split}_cls.txt"
    if not file.is_file():
        raise VssError(f"voc_tags: expected {file} with lines such as `2007_000032 0 14`")
    entries = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        name, *labels = line.split() or [""]
        if not name:
            continue
        if any(not label.isdigit() or int(label) >= len(VOC_CLASSES) for label in labels):
            raise VssError(f"{file}, line {number}: expected numbers below {len(VOC_CLASSES)}, got {line!r}")
        image = root / "JPEGImages" / f"{Path(name).stem}.jpg"
        entries.append(Tagged(image, tuple(VOC_CLASSES[int(label)] for label in labels)))
    need_frames(entries, file, "<name> <number>…")
    return TaggedFiles(f"voc_tags {split}", entries, VOC_CLASSES)


def cut_recording(file: Path) -> None:
    """Images and tags.csv beside a tags.yaml:

    recording: drive.mcap      # a bag, a video or a folder of images; beside this file, or absolute
    topic: /camera/image_raw   # of a bag with several
    every: 0.5                 # seconds between images
    ranges: [{from: 0, to: 12.5, tags: [floor, chair]}]    # seconds from the first frame
    """
    try:
        content = read_yaml(file)
        source, every = file.parent / content["recording"], float(content.get("every", 0.5))
        ranges = [(float(r["from"]), float(r["to"]), [str(t) for t in r["tags"]]) for r in content["ranges"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VssError(f"{file}: expected recording and ranges of {{from, to, tags}}: {error}") from None
    lines, due, start = [], 0.0, None
    folder = file.parent / "images"
    folder.mkdir(exist_ok=True)
    for rgb, stamp in open_source(source, content.get("topic")).frames():
        start = stamp if start is None else start
        seconds = (stamp - start) / 1e9
        tags = {tag for first, last, found in ranges if first <= seconds < last for tag in found}
        if seconds < due or not tags:
            continue
        due = seconds + every
        name = f"{source.stem}_{round(seconds * 1000)}ms.jpg"
        write_image(folder / name, rgb[:, :, ::-1])
        lines.append(",".join([f"images/{name}", *sorted(tags)]))
    need_frames(lines, source, "frames within the ranges")
    write_atomic(file.parent / "tags.csv", ("\n".join(lines) + "\n").encode())


def check_tags(data: TaggedFiles) -> list[str]:
    """Lines that say how often each class is tagged, and warn of those that tags cannot localise."""
    lines = []
    for name, share in zip(data.classes, data.tags.mean(0), strict=True):
        note = ""
        if share > FULL:
            note = "  WARN: in nearly every image; tags cannot say where it is, give it as background"
        elif share * len(data) < 2:
            note = "  WARN: fewer than two images have it; there is no pair to compare"
        lines.append(f"  {share:8.1%}  {name}{note}")
    return lines


def pseudo(root: Path, split: str) -> Files:
    """What `vss pseudo` wrote: data.yaml and, for train and val, images and labels of equal names. There is no test
    split: val stands for it. Its labels are no truth; a figure on them says how well they are learnt."""
    about = root / "data.yaml"
    if not about.is_file():
        raise VssError(f"pseudo: expected {about}; it comes from `vss pseudo`")
    content = read_yaml(about)
    folder = root / ("train" if split == "train" else "val")
    frames = [  # each a sequence of its own: neighbours in the folder are no clip
        Frame(image.stem, 0, image, folder / "labels" / f"{image.stem}.png")
        for image in sorted((folder / "images").iterdir())
    ]
    need_frames(frames, folder / "images", "<name>.jpg")
    palette = np.array([entry["colour"] for entry in content["classes"]], np.uint8)
    classes = [entry["name"] for entry in content["classes"]]
    return Files(f"pseudo {split}", frames, classes, palette, 1.0, lambda mask: mask)


TAG_SETS = {"tags": tagged_files, "voc_tags": voc_tags, "pseudo": pseudo}
