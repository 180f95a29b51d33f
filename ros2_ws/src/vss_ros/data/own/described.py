"""A data set of one's own: a YAML file says where images and masks lie and which classes there are.

    path: .                                   # relative to this file
    classes: [wall, floor, ball]              # or {name: …, colour: [r, g, b], id: …} each
    fps: 30
    video: folder                             # or a regular expression whose first group names a frame's video
    train: {images: train/images, labels: train/labels}
    val: {images: val/images, labels: val/labels}

Folders as CVAT ("Segmentation mask") and Roboflow ("semantic segmentation masks") export them are read as they are.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from vss_ros.config import VssError, brief, fits
from vss_ros.data.clips import Files, Frame
from vss_ros.data.own.exports import read_export, tool_of
from vss_ros.data.own.frames import find_frames
from vss_ros.data.own.labels import Labels, read_classes, read_mask
from vss_ros.media.files import read_yaml
from vss_ros.options import near

SPLITS = ("train", "val", "test")
FIELDS = {"path", "classes", "fps", "video", "ignore", *SPLITS}


def is_own(name: str | Path) -> bool:
    """Whether a data set's name is the path of a YAML file or of an annotation tool's folder."""
    path = Path(name)
    return path.suffix in (".yaml", ".yml") or (path.is_dir() and tool_of(path) is not None)


def open_own(name: str | Path, split: str) -> Files:
    """A split of `own.yaml`, or of an export's folder. Raises VssError naming the file and the field at fault."""
    path = Path(name).expanduser()
    if split not in SPLITS:
        raise VssError(f"data set {path}: split {split!r}: expected one of {', '.join(SPLITS)}")
    if path.is_dir():
        frames, labels = read_export(path, split)
        return make(f"{path.name} {split}", frames, labels, 30.0)
    try:
        values = read_yaml(path)
        if not fits(values, dict[str, Any]):
            raise VssError(f"expected a mapping of fields, got {type(values).__name__}")
        if unknown := sorted(set(values) - FIELDS):
            hint = near(unknown[0], sorted(FIELDS))
            raise VssError(
                f"unknown {brief(unknown)}{hint or ','} expected some of {', '.join(sorted(FIELDS))}"
            )
        labels = read_classes(values.get("classes"), values.get("ignore", []))
        base = path.parent / str(values.get("path", "."))
        folders = values.get(split)
        if folders is None:
            described = ", ".join(name for name in SPLITS if values.get(name)) or "none"
            raise VssError(
                f"{split}: expected {{images: FOLDER, labels: FOLDER}}, got nothing; it describes {described}: "
                f"add {split}, or give one of these where a command has --split"
            )
        if (
            not fits(folders, dict[str, str])
            or "images" not in folders
            or set(folders) - {"images", "labels"}
        ):
            raise VssError(
                f"{split}: expected {{images: FOLDER, labels: FOLDER}}, got {brief(repr(folders))}"
            )
        fps = values.get("fps", 30.0)
        if not fits(fps, float) or not fps > 0:
            raise VssError(f"fps: expected a positive rate, got {brief(repr(fps))}")
        masks = base / folders["labels"] if "labels" in folders else None
        frames = find_frames(base / folders["images"], masks, str(values.get("video", "folder")))
    except VssError as error:
        raise VssError(f"data set {path}: {error}") from None
    return make(f"{path.stem} {split}", frames, labels, float(fps))


def make(name: str, frames: list[Frame], labels: Labels, fps: float) -> Files:
    read = partial(read_mask, keep_ids=len(labels.colours) < len(labels.names))
    return Files(name, frames, labels.names, labels.palette, fps, labels.decode, read)
