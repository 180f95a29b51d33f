"""Annotations of regions → a data set of masks with its YAML, which training, evaluation and check take."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from vss_ros.config import IGNORE, VssError, brief
from vss_ros.data.clips import read_image
from vss_ros.data.own.exports import VOID
from vss_ros.data.own.labels import distinct
from vss_ros.media.draw import write_image
from vss_ros.media.files import natural_key, new_folder, read_bytes, write_atomic
from vss_ros.options import progress

log = logging.getLogger(__name__)
JSON_BYTES = 2 << 30
RATE = "fps: 1  # of the numbers in the files' names; a video's rate (30) adds figures over time\n"
UNLABELLED = (*VOID, "_background_", "__ignore__")
"""Names of regions that nobody labels; drawn over others they cut holes."""
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Annotated:
    """An image and what was drawn on it.

    name: path below the split's folder, without suffix; split: "" where the files do not say; draw: (H, W) → its mask
    (H, W) uint8 with 255 where there is no label, or None for an image that nobody looked at. Raises VssError.
    """

    name: Path
    split: str
    image: Path
    draw: Callable[[tuple[int, int]], np.ndarray | None]


def write_set(
    out: Path, names: Sequence[str], found: Sequence[Annotated], background: str = "", val: float = 0.2
) -> list[str]:
    """Images, masks and data.yaml in the new folder `out`; → one line a file that is left out, and why.

    names: of the classes; background: class of all that has no label, "" for none; val: share of the images that
    becomes the val split where no file says which: the last ones of each folder, since neighbours are alike.
    """
    if out.exists():
        raise VssError(f"{out}: exists; give a folder that does not")
    classes = [*names, background] if background and background not in names else list(names)
    if not names or len(classes) > 255:
        raise VssError(f"expected annotations of 1 to 255 classes, found {len(names)} in what was given")
    bad: list[str] = []
    drawn: dict[str, int] = {}
    total, unlabelled = 0, 0
    with new_folder(out) as folder:
        for item, split in progress(assigned(found, val), "masks", leave=False):
            try:
                image = read_image(item.image, cv2.IMREAD_COLOR)
                mask = item.draw(image.shape[:2])
            except VssError as error:
                bad.append(str(error))
                continue
            target = folder / split / "images" / item.name.with_name(item.name.name + item.image.suffix)
            if target.exists():
                bad.append(f"{item.image}: another image of the split {split} has its name")
                continue
            link(item.image, target)
            if mask is not None and background:
                mask[mask == IGNORE] = classes.index(background)
            labelled = mask is not None and bool((mask != IGNORE).any())
            drawn[split] = drawn.get(split, 0) + labelled
            if mask is not None and labelled:
                put(folder / split / "labels" / item.name.with_name(item.name.name + ".png"), mask)
                total, unlabelled = total + mask.size, unlabelled + int((mask == IGNORE).sum())
        if not any(drawn.values()):
            raise VssError("; ".join(bad[:5]) or "expected annotations, found none")
        colours = [
            {"name": n, "colour": c} for n, c in zip(classes, distinct(len(classes)).tolist(), strict=True)
        ]
        # colours are for pictures: the masks hold ids
        content: dict[str, Any] = {"path": ".", "classes": colours}
        content |= {s: {"images": f"{s}/images", "labels": f"{s}/labels"} for s in SPLITS if drawn.get(s)}
        text = yaml.safe_dump(content, sort_keys=False) + RATE
        write_atomic(folder / "data.yaml", text.encode())
    log.info(
        "%s: %s labelled images, classes %s; unlabelled %.1f %% of the pixels%s",
        out / "data.yaml",
        ", ".join(f"{count} {split}" for split, count in drawn.items()),
        ", ".join(classes),
        100 * unlabelled / total,
        "" if background or not unlabelled else "; --background NAME makes them a class",
    )
    return bad


def assigned(found: Sequence[Annotated], val: float) -> list[tuple[Annotated, str]]:
    """Each with its split."""
    free: dict[Path, list[Annotated]] = {}
    for item in found:
        if not item.split:
            free.setdefault(item.name.parent, []).append(item)
    held_out: set[int] = set()
    for items in free.values():
        items.sort(key=lambda item: natural_key(item.name))
        held_out |= {id(item) for item in items[len(items) - round(val * len(items)) :]}
    return [(item, item.split or ("val" if id(item) in held_out else "train")) for item in found]


def split_of(path: Path) -> str:
    """The split that a part of a path says, the last one first, such as instances_val2017; "" if none does."""
    for part in reversed(path.parts):
        for word in re.split("[^a-z]+", part.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return ""


def check_stated(path: Path, width: Any, height: Any, shape: tuple[int, int]) -> None:
    """VssError where an annotation is of an image of another size: it is another one, or was turned."""
    if isinstance(width, int) and isinstance(height, int) and (height, width) != shape:
        raise VssError(
            f"{path}: its annotations are of {width}x{height} pixels, the image has {shape[1]}x{shape[0]}"
        )


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path, JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise VssError(f"{path}: is no JSON file: {brief(error)}") from None


def link(image: Path, target: Path) -> None:
    """The image by a second name, or a copy of it where the disk is another."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(image.resolve(), target)
    except OSError:
        shutil.copyfile(image, target)


def put(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, mask)
