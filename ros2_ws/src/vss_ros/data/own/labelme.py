"""LabelMe's annotations (github.com/wkentaro/labelme): one JSON file an image, shapes in the order they lie."""

from __future__ import annotations

import base64
import binascii
import os
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import IGNORE, VssError, brief, fits
from vss_ros.data.own.annotations import UNLABELLED, Annotated, check_stated, read_json, split_of
from vss_ros.data.own.frames import IMAGES, files_below

POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2}
"""Shapes that cover pixels, and how many points each has at least."""
SHIFT = 4  # fraction bits of OpenCV's coordinates
LIMIT = 1 << 20


def read_labelme(path: Path) -> tuple[list[str], list[Annotated], list[str]]:
    """Classes by name, images, and what is left out, of a folder. Images without a JSON file have no labels."""
    if not path.is_dir():
        raise VssError(f"{path}: expected a folder with LabelMe's .json files beside their images")
    ids: dict[str, int] = {}  # filled once all names are known, before anything is drawn
    found: list[Annotated] = []
    bad: list[str] = []
    taken, names = set(), set()
    for file in sorted(path.rglob("*.json")):
        try:
            content = read_json(file)
            if not isinstance(content, dict):
                raise VssError(f"{file}: expected a mapping of fields")
            image = find_image(content.get("imagePath"), file, path)
            shapes = checked(content.get("shapes"), file)
        except VssError as error:
            bad.append(str(error))
            continue
        taken.add(image)
        lines = {shape["shape_type"] for shape in shapes} - set(POINTS)
        if lines:
            bad.append(
                f"{file}: left out are shapes other than {', '.join(POINTS)}: {', '.join(sorted(lines))}"
            )
        shapes = [shape for shape in shapes if shape["shape_type"] in POINTS]
        names |= {shape["label"] for shape in shapes if shape["label"].lower() not in UNLABELLED}
        found.append(annotated(image, path, partial(draw_shapes, file, content, shapes, ids)))
    found += [annotated(image, path, lambda shape: None) for image in files_below(path) if image not in taken]
    ids |= {name: i for i, name in enumerate(sorted(names))}
    return list(ids), found, bad


def annotated(image: Path, base: Path, draw: Any) -> Annotated:
    name = image.relative_to(base)
    return Annotated(name.with_suffix(""), split_of(name.parent), image, draw)


def find_image(name: Any, file: Path, base: Path) -> Path:
    """Where imagePath says, if that is below `base`; else (it may be another machine's) the image of its own name."""
    stated = Path(os.path.normpath(file.parent / str(name).replace("\\", "/")))
    beside = [file.with_suffix(suffix) for end in IMAGES for suffix in (end, end.upper())]
    for path in (stated, *beside):
        if path.suffix.lower() in IMAGES and path.is_relative_to(base) and path.is_file():
            return path
    raise VssError(
        f"{file}: expected its image {brief(repr(name))} below {base}, or beside it; "
        "labelme_export_json writes the one that a file holds itself (imageData)"
    )


def checked(shapes: Any, file: Path) -> list[dict[str, Any]]:
    """Shapes whose fields can be relied on. Raises VssError."""
    if not fits(shapes, list[dict[str, Any]]):
        raise VssError(f"{file}: expected a list of shapes")
    for shape in shapes:
        kind, points = shape.setdefault("shape_type", "polygon"), shape.get("points")
        right = fits(shape.get("label"), str) and fits(kind, str) and fits(points, list[list[float]])
        if not right or not all(len(p) == 2 and max(map(abs, p)) < LIMIT for p in points):
            raise VssError(f"{file}: expected a label and points [x, y] of a shape, got {brief(repr(shape))}")
        if len(points) < POINTS.get(kind, 0):
            raise VssError(f"{file}: {kind}: expected {POINTS[kind]} points or more, got {len(points)}")
    return shapes


def draw_shapes(
    file: Path,
    content: dict[str, Any],
    shapes: list[dict[str, Any]],
    ids: dict[str, int],
    size: tuple[int, int],
) -> np.ndarray:
    """(H, W) uint8: later shapes cover earlier ones; one of no class (background, ignore) cuts a hole."""
    check_stated(file, content.get("imageWidth"), content.get("imageHeight"), size)
    labels = np.full(size, IGNORE, np.uint8)
    for shape in shapes:
        value = ids.get(shape["label"], IGNORE)
        points = np.array(shape["points"], np.float64)
        if shape["shape_type"] == "mask":
            paste(labels, shape.get("mask"), points, value, file)
        elif shape["shape_type"] == "circle":
            centre, edge = points[:2]
            fixed = [round(float(v) * (1 << SHIFT)) for v in (*centre, np.hypot(*(edge - centre)))]
            cv2.circle(labels, (fixed[0], fixed[1]), fixed[2], value, -1, shift=SHIFT)
        else:
            if shape["shape_type"] == "rectangle":
                (x0, y0), (x1, y1) = points[:2]
                points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
            cv2.fillPoly(labels, [np.round(points * (1 << SHIFT)).astype(np.int32)], value, shift=SHIFT)
    return labels


def paste(labels: np.ndarray, text: Any, corners: np.ndarray, value: int, file: Path) -> None:
    """A shape of LabelMe's AI tools: a PNG between its upper left and lower right corner."""
    try:
        data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
        mask = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    except (TypeError, ValueError, binascii.Error, cv2.error):
        mask = None
    left, top = np.floor(corners.min(0)).astype(int)
    if mask is None or left < 0 or top < 0:
        raise VssError(f"{file}: a mask does not decode, or begins outside of the image")
    room = labels[top : top + mask.shape[0], left : left + mask.shape[1]]
    if room.shape != mask.shape:
        raise VssError(
            f"{file}: a mask of {mask.shape[::-1]} pixels at {(int(left), int(top))} leaves the image"
        )
    room[mask > 0] = value
