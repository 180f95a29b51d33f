"""Images with a point for each object, to count them: IOCfish5K, a CSV of one's own, rendered streets.

A data set answers `len(data)` and `data.read(i)` → image (H, W, 3) uint8 RGB, points (N, 2) float32: column and row
in pixels, the middle of the first pixel at 0.5.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

from vss_ros.config import VssError
from vss_ros.data.clips import need_folder, need_frames, read_image, state_of
from vss_ros.data.street.instances import road_users
from vss_ros.data.street.streets import make_street
from vss_ros.media.files import read_text

PALETTE = np.array([[255, 70, 40]], np.uint8)


class PointFiles:
    """Image files, how to find the points of each, and the files in which these are written."""

    def __init__(
        self,
        name: str,
        thing: str,
        images: Sequence[Path],
        points: Callable[[Path], Sequence[Sequence[float]]],
        written: Sequence[Path],
    ):
        self.name, self.classes, self.palette = name, [thing], PALETTE
        self.images, self.points, self.written = list(images), points, list(written)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def source(self) -> str:
        """What its images and points are made of, beyond name and place."""
        return state_of([*self.images, *self.written])

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Points outside of the image are left out."""
        image, points = self.read_all(i)
        return image, points[inside(points, image.shape[:2])]

    def read_all(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(self.images[i], cv2.IMREAD_COLOR)[:, :, ::-1]
        points = np.array(self.points(self.images[i]), np.float32).reshape(-1, 2)
        return np.ascontiguousarray(image), points


def inside(points: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Which points (N, 2) lie in an image of size (height, width)."""
    x, y = points.T
    return (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])


def iocfish5k(root: Path, split: str) -> PointFiles:
    """IOCfish5K: `<split>_id.txt`, `images/<id>.jpg`, `annotations/<id>.xml` with `<object><point><x><y>`."""
    images, notes = root / "images", root / "annotations"
    for folder in (images, notes):
        need_folder(folder, "github.com/GuoleiSun/Indiscernible-Object-Counting", "iocfish5k")
    names = root / f"{split}_id.txt"
    if not names.is_file():
        raise VssError(f"iocfish5k: expected {names} with one image's id a line")
    paths = [images / f"{name}.jpg" for name in read_text(names).split()]
    need_frames(paths, names, "<id>")

    def points(path: Path) -> list[tuple[float, float]]:
        file = notes / f"{path.stem}.xml"
        try:
            found = ElementTree.parse(file).iter("point")
            return [(float(p.findtext("x", "")), float(p.findtext("y", ""))) for p in found]
        except (OSError, ElementTree.ParseError, ValueError) as error:
            raise VssError(f"{file}: expected <point><x>…</x><y>…</y></point> elements: {error}") from error

    written = [notes / f"{path.stem}.xml" for path in paths]
    return PointFiles(f"iocfish5k {split}", "fish", paths, points, written)


def point_csv(root: Path, split: str) -> PointFiles:
    """`<split>.csv` with the header image,x,y and a line an object; images by their path in the folder.

    An image without any object has one line with x and y left empty. `class.txt`, if there, names what is counted.
    """
    file = root / f"{split}.csv"
    if not file.is_file():
        raise VssError(f"points: expected {file} with the header image,x,y and a line an object")
    found: dict[Path, list[tuple[float, float]]] = {}
    rows = csv.reader(read_text(file).splitlines())
    header = [name.strip().lower() for name in next(rows, [])]
    if not {"image", "x", "y"} <= set(header):
        raise VssError(
            f"{file}: expected a header with image,x,y, separated by commas, got {','.join(header)!r}"
        )
    for cells in rows:
        if not any(cells):
            continue
        where, row = f"{file}, line {rows.line_num}", dict(zip(header, map(str.strip, cells), strict=False))
        if len(cells) > len(header):  # 3,5 for 3.5, or a comma in a name
            raise VssError(
                f"{where}: expected {len(header)} values, got {len(cells)}: {','.join(cells)!r}; write a decimal "
                "point, and put names with a comma into quotes"
            )
        if row["image"] and root / row["image"] not in found:
            if not (root / row["image"]).is_file():
                raise VssError(f"{where}: expected an image's path in {root}; there is no {row['image']!r}")
            found[root / row["image"]] = []
        if not row["image"]:
            raise VssError(f"{where}: expected image,x,y, got no image: {','.join(cells)!r}")
        place = row.get("x", ""), row.get("y", "")
        if place != ("", ""):
            found[root / row["image"]].append(to_point(where, *place))
    need_frames(list(found), file, "<path of an image>")
    thing = root / "class.txt"
    name = read_text(thing).strip() if thing.is_file() else ""
    return PointFiles(f"points {split}", name or "object", sorted(found), lambda path: found[path], [file])


def to_point(where: str, x: str, y: str) -> tuple[float, float]:
    try:
        point = float(x), float(y)
    except ValueError:
        point = math.nan, math.nan
    if not all(map(math.isfinite, point)):
        raise VssError(
            f"{where}: expected numbers x,y in pixels, or both empty for an image without objects, got {x!r}, {y!r}"
        )
    return point


# first seed, seeds, frames a seed, video frames between them; no seed of one split is in another
STREET_SPLITS = {"train": (400_000, 200, 8, 75), "val": (410_000, 30, 2, 200), "test": (420_000, 60, 2, 200)}


class StreetPoints:
    """Cars, pedestrians and riders of rendered streets: a few frames of each of many seeds."""

    def __init__(self, split: str, size: tuple[int, int]):
        if split not in STREET_SPLITS:
            raise VssError(f"street_points: expected a split of {', '.join(STREET_SPLITS)}, got {split!r}")
        self.name, self.classes, self.palette = f"street_points {split}", ["road user"], PALETTE
        self.size, self.source, self.fps = size, f"{size}", 30.0
        self.first, self.seeds, self.each, self.gap = STREET_SPLITS[split]

    def __len__(self) -> int:
        return self.seeds * self.each

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        seed = self.first + i // self.each
        t = i % self.each * self.gap + seed * 37 % self.gap
        return road_users(make_street(seed, self.size, self.fps), t)


POINT_SETS = {"iocfish5k": iocfish5k, "points": point_csv}
