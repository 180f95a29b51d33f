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

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import IGNORE, VssError, brief, fits, missing
from vss_ros.data.clips import Files, Frame, read_image
from vss_ros.media.bags import natural_key
from vss_ros.media.files import read_yaml

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FIELDS = {"path", "classes", "fps", "video", "ignore", "train", "val", "test"}
PALETTE_PNG = 3
"""Colour type in a PNG's header (PNG specification, 11.2.2)."""
NUMBER = re.compile(r"\d+")
VOID = ("background", "unlabeled", "unlabelled", "void", "ignore")
"""Names under which annotation tools keep what nobody labelled."""


@dataclass(frozen=True)
class Labels:
    """What a mask's values mean.

    names: of the classes; palette: (C, 3) uint8 RGB; ids: value in a grey or palette mask → class;
    colours: RGB in a colour mask → class; ignored: values that mean no label, and colours.
    """

    names: list[str]
    palette: np.ndarray
    ids: Mapping[int, int]
    colours: Mapping[tuple[int, ...], int] = field(default_factory=dict)
    ignored: frozenset[Any] = frozenset({IGNORE})

    def decode(self, mask: np.ndarray) -> np.ndarray:
        """Mask (H, W) of 8 or 16 bit, or (H, W, 3…4) as OpenCV reads it → (H, W) uint8. VssError names what is none."""
        if mask.ndim == 3 and (self.colours or not is_grey(mask)):
            return self.of_colours(mask)
        grey = mask[..., 0] if mask.ndim == 3 else mask
        values, places = np.unique(grey, return_inverse=True)
        unknown = [int(v) for v in values if int(v) not in self.ids and int(v) not in self.ignored]
        if unknown:
            raise VssError(
                f"ids {', '.join(map(str, unknown[:20]))} are of no class: expected {shown(self.ids)}; "
                "name them under `classes`, or under `ignore`"
            )
        table = np.array([self.ids.get(int(v), IGNORE) for v in values], np.uint8)
        return table[places].reshape(grey.shape)

    def of_colours(self, mask: np.ndarray) -> np.ndarray:
        b, g, r = (mask[..., i].astype(np.int64) for i in range(3))
        values, places = np.unique(r << 32 | g << 16 | b, return_inverse=True)
        found = [(int(v) >> 32, int(v) >> 16 & 0xFFFF, int(v) & 0xFFFF) for v in values]
        unknown = [c for c in found if c not in self.colours and c not in self.ignored]
        if unknown:
            raise VssError(
                f"colours {', '.join(map(str, unknown[:20]))} are of no class: expected {shown(self.colours)}; "
                "give each class its `colour`, or name them under `ignore`"
            )
        table = np.array([self.colours.get(c, IGNORE) for c in found], np.uint8)
        return table[places].reshape(mask.shape[:2])


def shown(known: Mapping[Any, int]) -> str:
    return brief(", ".join(map(str, known)) or "none: the classes have no colour")


def is_grey(mask: np.ndarray) -> bool:
    return bool((mask[..., 0] == mask[..., 1]).all() and (mask[..., 0] == mask[..., 2]).all())


def is_own(name: str | Path) -> bool:
    """Whether a data set's name is the path of a YAML file or of an annotation tool's folder."""
    path = Path(name)
    return path.suffix in (".yaml", ".yml") or (path.is_dir() and tool_of(path) is not None)


def open_own(name: str | Path, split: str) -> Files:
    """A split of `own.yaml`, or of an export's folder. Raises VssError naming the file and the field at fault."""
    path = Path(name).expanduser()
    if path.is_dir():
        return open_export(path, split)
    try:
        values = read_yaml(path)
        if not fits(values, dict[str, Any]):
            raise VssError(f"expected a mapping of fields, got {type(values).__name__}")
        if unknown := sorted(set(values) - FIELDS):
            raise VssError(f"unknown {brief(unknown)}, expected some of {', '.join(sorted(FIELDS))}")
        labels = read_classes(values.get("classes"), values.get("ignore", []))
        base = path.parent / str(values.get("path", "."))
        folders = values.get(split)
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


def read_mask(path: Path, keep_ids: bool) -> np.ndarray:
    """A mask as OpenCV reads it, but a PNG with a palette as its ids where these say which class a pixel is."""
    mask = read_image(path, cv2.IMREAD_UNCHANGED)
    if not keep_ids or mask.ndim == 2 or path.suffix.lower() != ".png":
        return mask
    content = path.read_bytes()
    if content[25] != PALETTE_PNG:
        return mask
    try:
        from PIL import Image  # OpenCV answers with the palette's colours alone
    except ModuleNotFoundError as error:
        raise VssError(missing("pillow")) from error
    return np.array(Image.open(io.BytesIO(content)))


def read_classes(classes: Any, ignore: Any = ()) -> Labels:
    """`classes` of the YAML: names in the order of their ids from 0, or mappings with name, colour and id."""
    if not isinstance(classes, list) or not classes:
        raise VssError(f"classes: expected a list of names, got {brief(repr(classes))}")
    names: list[str] = []
    ids: dict[int, int] = {}
    colours: dict[tuple[int, ...], int] = {}
    drawn = distinct(len(classes))
    for i, item in enumerate(classes):
        item = {"name": item} if isinstance(item, str) else item
        right = isinstance(item, dict) and not set(item) - {"name", "colour", "color", "id"}
        if not right or not fits(item.get("name"), str) or not item["name"]:
            raise VssError(f"classes: expected a name or {{name, colour, id}}, got {brief(repr(item))}")
        colour = item.get("colour", item.get("color"))
        if colour is not None:
            if not fits(colour, list[int]) or len(colour) != 3 or not 0 <= min(colour) <= max(colour) <= 255:
                raise VssError(
                    f"classes: {item['name']}: expected a colour [r, g, b], got {brief(repr(colour))}"
                )
            if colours.setdefault(tuple(colour), i) != i:
                raise VssError(f"classes: {item['name']} has the colour of {names[colours[tuple(colour)]]}")
            drawn[i] = colour
        value = item.get("id", i)
        if not fits(value, int) or not 0 <= value < 1 << 16 or ids.setdefault(value, i) != i:
            raise VssError(
                f"classes: {item['name']}: expected an id of its own in 0…65535, got {brief(repr(value))}"
            )
        names.append(item["name"])
    if len(set(names)) < len(names) or len(names) > 255:
        raise VssError("classes: expected 1 to 255 different names")
    if not isinstance(ignore, list):
        raise VssError(f"ignore: expected a list of ids or colours, got {brief(repr(ignore))}")
    ignored = {tuple(value) if isinstance(value, list) else value for value in ignore}
    return Labels(names, drawn, ids, colours, frozenset(ignored | ({IGNORE} - set(ids))))


def distinct(count: int) -> np.ndarray:
    """(count, 3) uint8 RGB; neighbours in the list get far hues."""
    hues = np.arange(count) * 67 % 180
    hsv = np.stack([hues, np.full(count, 200), 240 - np.arange(count) % 3 * 60], -1)
    return cv2.cvtColor(hsv[None].astype(np.uint8), cv2.COLOR_HSV2RGB)[0]


def find_frames(images: Path, masks: Path | None, video: str) -> list[Frame]:
    """Images at any depth, each with the mask of the same path but its suffix, where there is one."""
    if not images.is_dir():
        raise VssError(f"expected the folder {images}")
    if masks is not None and not masks.is_dir():
        raise VssError(f"expected the folder {masks}")
    labelled = {}
    for path in files_below(masks) if masks else []:
        labelled[path.relative_to(masks).with_suffix("")] = path  # type: ignore[arg-type]
    found = [path for path in files_below(images) if path not in set(labelled.values())]
    if not found:
        raise VssError(f"{images}: expected images ({' '.join(IMAGES)}), found none")
    frames = number(
        found, {p: labelled.get(p.relative_to(images).with_suffix("")) for p in found}, images, video
    )
    lost = set(labelled) - {p.relative_to(images).with_suffix("") for p in found}
    if lost:
        raise VssError(f"{masks}: {len(lost)} masks have no image, such as {min(lost)}")
    return frames


def files_below(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.suffix.lower() in IMAGES and path.is_file()]
    return sorted(found, key=lambda path: (str(path.parent), natural_key(path)))


def number(paths: list[Path], masks: Mapping[Path, Path | None], base: Path, video: str) -> list[Frame]:
    """Frames of videos: a folder's, or those whose name agrees in the first group of the pattern `video`.

    A frame's number is the last one in its name; where names have none, or some twice, its place.
    """
    try:
        pattern = None if video == "folder" else re.compile(video)
    except re.error as error:
        raise VssError(f"video: expected folder or a regular expression, got {video!r}: {error}") from None
    if pattern is not None and not pattern.groups:
        raise VssError(f"video: expected a group in {video!r} that names the video, such as (.*)_")
    videos: dict[str, list[Path]] = {}
    for path in paths:
        name = path.parent.relative_to(base).as_posix()
        if pattern is not None:
            match = pattern.search(path.relative_to(base).as_posix())
            if match is None:
                raise VssError(f"video: {path.name} does not match {video!r}")
            name = match.group(1)
        videos.setdefault(base.name if name == "." else name, []).append(path)
    frames = []
    for name, members in videos.items():
        numbers = [int(NUMBER.findall(path.stem)[-1]) if NUMBER.search(path.stem) else -1 for path in members]
        if -1 in numbers or len(set(numbers)) < len(numbers):
            numbers = list(range(len(members)))
        frames += [Frame(name, n, path, masks[path]) for n, path in zip(numbers, members, strict=True)]
    return frames


def tool_of(folder: Path) -> str | None:
    """Which annotation tool wrote a folder."""
    if (folder / "labelmap.txt").is_file() and (folder / "SegmentationClass").is_dir():
        return "cvat"
    return "roboflow" if any(folder.glob("*/_classes.csv")) or (folder / "_classes.csv").is_file() else None


def open_export(folder: Path, split: str) -> Files:
    """A folder of CVAT ("Segmentation mask 1.1") or Roboflow ("semantic segmentation masks").

    Both tell what nobody labelled from a class by its name only: background and void are no class.
    """
    try:
        frames, labels = (cvat if tool_of(folder) == "cvat" else roboflow)(folder, split)
    except VssError as error:
        raise VssError(f"data set {folder}: {error}") from None
    return make(f"{folder.name} {split}", frames, labels, 30.0)


def cvat(folder: Path, split: str) -> tuple[list[Frame], Labels]:
    """labelmap.txt holds `name:r,g,b:parts:actions`; ImageSets/Segmentation/<split>.txt the names of the frames."""
    classes, ignored = [], []
    for line in (folder / "labelmap.txt").read_text().splitlines():
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
        raise VssError(f"split {split}: expected {listing}; there are {', '.join(kinds) or 'none'}")
    images = {path.relative_to(folder / "JPEGImages").with_suffix("").as_posix(): path
              for path in files_below(folder / "JPEGImages")}  # fmt: skip
    masks: dict[Path, Path | None] = {}
    for name in listing.read_text().splitlines():
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
    for row in list(csv.reader((at / "_classes.csv").read_text().splitlines()))[1:]:
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
