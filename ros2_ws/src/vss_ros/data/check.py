"""Data sets before hours go into training.

`check DATA`: counts, sizes, share of each class, broken pairs, a contact sheet. `import coco|labelme IN OUT`:
regions of annotation tools as masks with a YAML file, which --data of every command takes.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import IGNORE, VssError, option
from vss_ros.data.clips import Video
from vss_ros.data.metrics import count_figures
from vss_ros.data.open import DATASETS, open_dataset
from vss_ros.data.own.annotations import write_set
from vss_ros.data.own.coco import read_coco
from vss_ros.data.own.labelme import read_labelme
from vss_ros.data.points import POINT_SETS, StreetPoints, inside
from vss_ros.data.tags import TAG_SETS, check_tags
from vss_ros.media.draw import contact_sheet, draw_points, jpeg, overlay
from vss_ros.media.files import write_atomic
from vss_ros.options import DataConfig, add_json, add_options, progress

IMPORTS = {"coco": read_coco, "labelme": read_labelme}
NAMED = ("street", *DATASETS, "street_points", *POINT_SETS, *TAG_SETS)

SHOWN = 14
"""Frames on a contact sheet."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckConfig:
    """Options of `vss data`, beside the data set's."""

    action: str = option("", "what to do with the data set", choices=("check", "import"), unset="positional")
    data: tuple[str, ...] = option(
        (),
        f"check: {', '.join(NAMED)}, or the YAML file or folder of a data set of your own; "
        f"import: {' or '.join(IMPORTS)}, then the folder (or COCO's .json file) to read, and a new folder to write",
        unset="positional",
    )
    split: str | None = option(
        None, "splits, with commas", kind=str, unset="train,val,test, the last if there is one"
    )
    out: Path = option(Path("runs/check"), "check: folder of the contact sheets")
    background: str = option("", "import: class of all that is in no region")
    val: float = option(0.2, "import: share of images for val where no file says", low=0.0, high=0.99)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, CheckConfig)
    add_json(parser)
    add_options(parser, DataConfig, ("root", "limit"))


def main(args: argparse.Namespace) -> int:
    if args.action == "import":
        return read_annotations(args)
    if len(args.data) != 1:
        raise VssError(f"check: expected one data set, got {' '.join(args.data)}")
    name, broken, args.result = args.data[0], 0, []
    for split in (args.split or "train,val,test").split(","):
        if name in TAG_SETS and name != "pseudo":
            tagged = open_dataset(name, split, args.root)
            shares = dict(zip(tagged.classes, tagged.tags.mean(0), strict=True))
            args.result.append({"name": tagged.name, "images": len(tagged), "shares": shares})
            log.info("%s", "\n".join([f"{tagged.name}: {len(tagged)} images", *check_tags(tagged)]))
            continue
        try:
            data = open_dataset(name, split, args.root)
        except VssError as error:
            if args.split or split != "test":
                raise
            log.info("test: none, and nothing else needs it: %s", error)
            continue
        counts = name in POINT_SETS or isinstance(data, StreetPoints)
        report = (check_points if counts else check)(data, args.limit)
        args.result.append({key: value for key, value in report.items() if key != "pictures"})
        broken += len(report["broken"])
        log.info("%s", (format_points if counts else format_report)(report))
        if pictures := report["pictures"]:
            path = args.out / f"{Path(name).stem}_{split}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not counts:
                pictures = [legend(data, report["shares"], pictures[0].shape), *pictures]
            write_atomic(path, jpeg(contact_sheet(pictures)))
            log.info("  look at %s", path)
    return 1 if broken else 0


def read_annotations(args: argparse.Namespace) -> int:
    """`vss data import`: 1 where something was left out."""
    args.result = {"out": args.data[-1], "left_out": []}
    if len(args.data) != 3 or args.data[0] not in IMPORTS:
        raise VssError(f"import: expected {' or '.join(IMPORTS)}, IN and OUT, got {' '.join(args.data)}")
    names, found, bad = IMPORTS[args.data[0]](Path(args.data[1]))
    for line in bad:
        log.warning("left out: %s", line)
    more = write_set(Path(args.data[2]), names, found, args.background, args.val)
    for line in more:
        log.warning("left out: %s", line)
    args.result["left_out"] = [*bad, *more]
    return 1 if bad or more else 0


def spread(length: int, limit: int) -> tuple[np.ndarray, set[int]]:
    """Which of so many frames are read, all or `limit` of them, evenly; and which of these are shown."""
    chosen = np.unique(np.linspace(0, length - 1, min(limit or length, length)).astype(int))
    return chosen, set(chosen[np.linspace(0, len(chosen) - 1, min(SHOWN, len(chosen))).astype(int)])


def check(data: Any, limit: int = 0) -> dict[str, Any]:
    """Read every labelled frame (or `limit` of them, evenly spread); what cannot be read goes to "broken"."""
    pixels = np.zeros(256, np.int64)
    sizes: Counter = Counter()
    broken, pictures = [], []
    chosen, shown = spread(len(data), limit)
    for i in progress(chosen, data.name, leave=False):
        try:
            clip = data.clip(int(i))
        except VssError as error:
            broken.append(str(error))
            continue
        if i in shown:
            pictures.append(
                fitted(overlay(np.ascontiguousarray(clip.frames[0]), clip.labels[0], data.palette))
            )
        sizes[clip.frames[0].shape[:2]] += 1
        pixels += np.bincount(clip.labels[0].ravel(), minlength=256)
    return {
        "name": data.name,
        "labelled": len(data),
        "read": len(chosen),
        "sequences": dict(Counter(map(kind_of, data.videos()))),
        "sizes": dict(sizes),
        "shares": dict(zip(data.classes, pixels / max(pixels.sum(), 1), strict=False)),
        "unlabelled": float(pixels[IGNORE] / max(pixels.sum(), 1)),
        "broken": broken,
        "pictures": pictures,
        "notes": list(getattr(data, "notes", ())),
    }


def check_points(data: Any, limit: int = 0) -> dict[str, Any]:
    """Read every image with points (or `limit` of them): how many each has, which of them can be meant by nobody."""
    counts, outside, twice, broken, pictures = [], 0, 0, [], []
    sizes: Counter = Counter()
    chosen, shown = spread(len(data), limit)
    for i in progress(chosen, data.name, leave=False):
        try:
            image, points = getattr(data, "read_all", data.read)(int(i))
        except VssError as error:
            broken.append(str(error))
            continue
        within = points[inside(points, image.shape[:2])]
        counts.append(len(within))
        outside += len(points) - len(within)
        twice += len(within) - len(np.unique(within, axis=0))
        sizes[image.shape[:2]] += 1
        if i in shown:
            pictures.append(fitted(draw_points(image, within)))
    mean = float(np.mean(counts or [0]))
    return {
        "name": data.name,
        "images": len(data),
        "read": len(chosen),
        "objects": sum(counts),
        "most": max(counts, default=0),
        "mean": mean,
        "always_the_mean": count_figures(counts or [0], [mean] * (len(counts) or 1))["MAE"],
        "empty": counts.count(0),
        "outside": outside,
        "twice": twice,
        "sizes": dict(sizes),
        "broken": broken,
        "pictures": pictures,
    }


def format_points(report: dict[str, Any]) -> str:
    sizes = ", ".join(f"{w}x{h} ({n})" for (h, w), n in report["sizes"].items())
    lines = [
        f"{report['name']}: {report['images']} images, read {report['read']}, sizes {sizes or 'none'}",
        f"  {report['objects']} objects, {report['mean']:.1f} an image, at most {report['most']}; "
        f"{report['empty']} images without any; to say the mean always has an MAE of {report['always_the_mean']:.2f}",
    ]
    if not report["objects"]:
        lines.append("  WARN: no object in any image; there is nothing to learn")
    if report["outside"]:
        lines.append(
            f"  WARN: {report['outside']} points lie outside of their image and are left out; expected pixels x,y "
            "from the image's upper left corner"
        )
    if report["twice"]:
        lines.append(f"  WARN: {report['twice']} points lie exactly on another one; each counts")
    return "\n".join([*lines, *(f"  broken: {error}" for error in report["broken"])])


def fitted(picture: np.ndarray) -> np.ndarray:
    """At most 480 pixels wide."""
    height, width = picture.shape[:2]
    size = (480, max(1, height * 480 // width))
    return picture if width <= 480 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def legend(data: Any, shares: dict[str, float], shape: Sequence[int]) -> np.ndarray:
    """Names of the classes in their colours, with their shares of the pixels, 480 wide and of an image's shape."""
    picture = np.full((480 * shape[0] // shape[1], 480, 3), 32, np.uint8)
    lines = max(1, len(picture) // 20)
    columns = -(-len(data.classes) // lines)
    for i, (name, share) in enumerate(shares.items()):
        left, top = i // lines * 480 // columns, i % lines * 20
        cv2.rectangle(picture, (left + 4, top + 6), (left + 16, top + 18), data.palette[i].tolist(), -1)
        text, white = f"{name[: 48 // columns]} {share:.1%}", (255, 255, 255)
        cv2.putText(
            picture, text, (left + 22, top + 17), cv2.FONT_HERSHEY_SIMPLEX, 0.4, white, 1, cv2.LINE_AA
        )
    return picture


def kind_of(video: Video) -> str:
    """What can be measured on it."""
    if video.dense:
        return "with every frame labelled (mIoU, VC, TC)"
    return "with frames between the labels (mIoU, TC)" if video.moves else "of stills (mIoU)"


def format_report(report: dict[str, Any]) -> str:
    sizes = ", ".join(f"{w}x{h} ({n})" for (h, w), n in report["sizes"].items())
    kinds = ", ".join(f"{count} {kind}" for kind, count in report["sequences"].items())
    lines = [
        f"{report['name']}: {report['labelled']} labelled frames; sequences: {kinds}",
        f"  read {report['read']}, sizes {sizes or 'none'}, unlabelled {report['unlabelled']:.2%} of the pixels",
        *(f"  {share:8.3%}  {name}" for name, share in report["shares"].items()),
        *(f"  {note}" for note in report["notes"]),
        *(f"  broken: {error}" for error in report["broken"]),
    ]
    return "\n".join(lines)
