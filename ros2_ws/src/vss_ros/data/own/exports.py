"""Folders of masks as CVAT and Roboflow export them."""

from __future__ import annotations

import csv
from pathlib import Path

from vss_ros.config import VssError, brief
from vss_ros.data.clips import Frame
from vss_ros.data.own.frames import files_below, number
from vss_ros.data.own.labels import Labels, read_classes
from vss_ros.media.files import read_text

VOID = ("background", "unlabeled", "unlabelled", "void", "ignore")
"""Names under which annotation tools keep what nobody labelled."""


def tool_of(folder: Path) -> str | None:
    """Which annotation tool wrote a folder."""
    if (folder / "labelmap.txt").is_file() and (folder / "SegmentationClass").is_dir():
        return "cvat"
    return "roboflow" if any(folder.glob("*/_classes.csv")) or (folder / "_classes.csv").is_file() else None


def read_export(folder: Path, split: str) -> tuple[list[Frame], Labels]:
    """A folder of CVAT ("Segmentation mask 1.1") or Roboflow ("semantic segmentation masks").

    Both tell what nobody labelled from a class by its name only: background and void are no class.
    """
    try:
        return (cvat if tool_of(folder) == "cvat" else roboflow)(folder, split)
    except VssError as error:
        raise VssError(f"data set {folder}: {error}") from None


def cvat(folder: Path, split: str) -> tuple[list[Frame], Labels]:
    """labelmap.txt holds `name:r,g,b:parts:actions`; ImageSets/Segmentation/<split>.txt the names of the frames."""
    classes, ignored = [], []
    for line in read_text(folder / "labelmap.txt").splitlines():
        name, _, rest = line.partition(":")
        if not name or name.startswith("#"):
            continue
        try:
            colour = [int(value) for value in rest.split(":")[0].split(",")]
        except ValueError:
            raise VssError(f"labelmap.txt: expected name:r,g,b::, got {brief(line)}") from None
        if name.lower() in VOID:
            ignored.append(colour)
        else:
            classes.append({"name": name, "colour": colour})
    listing = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not listing.is_file():
        kinds = sorted(path.stem for path in listing.parent.glob("*.txt"))
        raise VssError(
            f"split {split}: expected {listing}; there are {', '.join(kinds) or 'none'}: give CVAT's tasks the subsets "
            "train and val, or divide the names among these files"
        )
    images = {path.relative_to(folder / "JPEGImages").with_suffix("").as_posix(): path
              for path in files_below(folder / "JPEGImages")}  # fmt: skip
    masks: dict[Path, Path | None] = {}
    for name in read_text(listing).splitlines():
        mask = folder / "SegmentationClass" / f"{name}.png"
        if name.strip() and name not in images:
            raise VssError(
                f"{listing.name} lists {name}, of which JPEGImages has no image; export with images"
            )
        if name.strip():
            masks[images[name]] = mask if mask.is_file() else None
    if not masks:
        raise VssError(f"{listing}: expected names of frames, found none")
    return number(list(masks), masks, folder / "JPEGImages", "folder"), read_classes(classes, ignored)


def roboflow(folder: Path, split: str) -> tuple[list[Frame], Labels]:
    """<split>/_classes.csv holds `Pixel Value, Class`; masks lie beside their images as NAME_mask.png."""
    at = next(
        (
            folder / name
            for name in {"val": ("val", "valid")}.get(split, (split,))
            if (folder / name).is_dir()
        ),
        None,
    )
    if at is None or not (at / "_classes.csv").is_file():
        raise VssError(f"split {split}: expected the folder {folder / split} with _classes.csv")
    classes, ignored = [], []
    for row in list(csv.reader(read_text(at / "_classes.csv").splitlines()))[1:]:
        if len(row) < 2 or not row[0].strip().isdigit():
            raise VssError(f"{at / '_classes.csv'}: expected `pixel value, class`, got {brief(row)}")
        value, name = int(row[0]), row[1].strip()
        if name.lower() in VOID:
            ignored.append(value)
        else:
            classes.append({"name": name, "id": value})
    images = [path for path in files_below(at) if not path.stem.endswith("_mask")]
    masks = {path: at / f"{path.stem}_mask.png" for path in images}
    if not images:
        raise VssError(f"{at}: expected images with NAME_mask.png beside them, found none")
    have = {path: mask if mask.is_file() else None for path, mask in masks.items()}
    return number(images, have, at, "folder"), read_classes(classes, ignored)
