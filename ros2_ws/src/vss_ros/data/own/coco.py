"""COCO's annotations (cocodataset.org, "Data format"): polygons, run lengths, crowds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import IGNORE, VssError, brief, fits, missing
from vss_ros.data.own.annotations import UNLABELLED, Annotated, check_stated, read_json, split_of

FIELDS = ("images", "annotations", "categories")


def read_coco(path: Path) -> tuple[list[str], list[Annotated], list[str]]:
    """Classes, images, and what is left out, of an annotation file, or of all in a folder.

    Files of one folder may have ids of their own: a class is its name.
    """
    files = list(find_files(path))
    if not files:
        raise VssError(f"{path}: expected COCO annotations (.json with images, annotations, categories)")
    names: list[str] = []
    found: list[Annotated] = []
    bad: list[str] = []
    base = path if path.is_dir() else path.parent
    for file, content in files:
        try:
            ids = classes_of(
                content["categories"], names, [item.get("category_id") for item in content["annotations"]]
            )
        except VssError as error:
            raise VssError(f"{file}: {error}") from None
        found += images_of(file, content, ids, base, bad)
    return names, found, bad


def find_files(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Annotation files and their content; beside COCO's own instances_*.json those of other tasks do not count."""
    files = [path] if path.is_file() else sorted(path.rglob("*.json"))
    instances = [file for file in files if file.name.startswith("instances_")]
    for file in instances or files:
        content = read_json(file)
        if isinstance(content, dict) and all(fits(content.get(n), list[dict[str, Any]]) for n in FIELDS):
            yield file, content
        elif path.is_file():
            raise VssError(f"{file}: expected lists of {', '.join(FIELDS)}")


def classes_of(categories: list[dict[str, Any]], names: list[str], used: Sequence[Any]) -> dict[int, int]:
    """Category → class, 255 for what means no label; classes that are new are added to `names`.

    used: categories of the annotations; one that only heads others, as Roboflow's first does, is no class.
    """
    ids: dict[int, int] = {}
    heads = [
        item.get("supercategory") for item in categories if item.get("supercategory") != item.get("name")
    ]
    for item in categories:
        if not fits(item.get("id"), int) or not fits(item.get("name"), str) or item["id"] in ids:
            raise VssError(f"categories: expected an id of its own and a name, got {brief(repr(item))}")
        name = item["name"].strip()
        if name.lower() in UNLABELLED or (item["name"] in heads and item["id"] not in used):
            ids[item["id"]] = IGNORE
            continue
        if name not in names:
            names.append(name)
        ids[item["id"]] = names.index(name)
    if len(names) > 255:
        raise VssError(f"categories: expected at most 255, got {len(names)}")
    return ids


def images_of(
    file: Path, content: dict[str, Any], ids: dict[int, int], base: Path, bad: list[str]
) -> Iterator[Annotated]:
    drawn: dict[str, list[dict[str, Any]]] = {}
    boxes = 0
    for item in content["annotations"]:
        if not fits(item.get("category_id"), int) or item["category_id"] not in ids:
            bad.append(
                f"{file}: annotation {brief(repr(item.get('id')))}: expected a category_id of {sorted(ids)}, "
                f"got {brief(repr(item.get('category_id')))}"
            )
        elif not item.get("segmentation"):
            boxes += 1
        else:
            drawn.setdefault(repr(item.get("image_id")), []).append(item)  # a number, or a tool's text
    if boxes:
        bad.append(f"{file}: {boxes} annotations are boxes without a mask")
    split = split_of(file.relative_to(base))
    known = set()
    for image in content["images"]:
        known.add(repr(image.get("id")))
        try:
            name = below(image.get("file_name"), file)
            path = find_image(name, file, base)
        except VssError as error:
            bad.append(str(error))
            continue
        draw = partial(draw_regions, path, image, drawn.get(repr(image.get("id")), []), ids)
        yield Annotated(name.with_suffix(""), split, path, draw)
    lost = sorted(set(drawn) - known)
    if lost:
        bad.append(f"{file}: annotations of images that it does not list: {brief(', '.join(lost))}")


def below(name: Any, file: Path) -> Path:
    """An image's name, which must stay below its folder: it is one below ours, too. Raises VssError."""
    plain = Path(str(name).replace("\\", "/"))
    if not fits(name, str) or not plain.name or plain.is_absolute() or ".." in plain.parts:
        raise VssError(f"{file}: expected an image's name below its folder, got {brief(repr(name))}")
    return plain


def find_image(name: Path, file: Path, base: Path) -> Path:
    """Where tools put images: beside the file, in images/, or in a folder named like the split."""
    stem = file.stem.removeprefix("instances_")
    for root in (file.parent, file.parent.parent, base):
        for folder in (root, root / "images", root / "images" / stem, root / stem):
            if (folder / name).is_file():
                return folder / name
    raise VssError(f"{file}: expected the image {name} beside it, in images/ or in {stem}/")


def draw_regions(
    path: Path,
    image: dict[str, Any],
    regions: Sequence[dict[str, Any]],
    ids: dict[int, int],
    shape: tuple[int, int],
) -> np.ndarray:
    """Crowds first, then regions from the largest to the smallest, so that what lies on another stays seen."""
    check_stated(path, image.get("width"), image.get("height"), shape)
    masks = []
    for item in regions:
        try:
            found = decode(item["segmentation"], shape)
        except (VssError, ValueError, TypeError, OverflowError) as error:
            raise VssError(f"{path}: annotation {brief(repr(item.get('id')))}: {brief(error)}") from None
        masks.append((not item.get("iscrowd"), -int(found.sum()), ids[item["category_id"]], found))
    labels = np.full(shape, IGNORE, np.uint8)
    for _, _, value, found in sorted(masks, key=lambda mask: mask[:2]):
        labels[found] = value
    return labels


def decode(region: Any, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of polygons [[x, y, x, y, …], …], or of run lengths {size: [H, W], counts: …}."""
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        raise VssError(missing("pycocotools")) from error
    height, width = shape
    if isinstance(region, dict):
        if region.get("size") != [height, width]:
            raise VssError(
                f"expected run lengths of size {[height, width]}, got {brief(repr(region.get('size')))}"
            )
        counts: Any = region.get("counts")
        counts = uncompressed(counts) if isinstance(counts, str) else counts
        # what shorter ones leave, pycocotools fills with whatever the memory holds
        if not fits(counts, list[int]) or min(counts, default=-1) < 0 or sum(counts) != height * width:
            raise VssError(f"expected run lengths of {height * width} pixels in all")
        return mask.decode(mask.frPyObjects({**region, "counts": counts}, height, width)).astype(bool)
    right = fits(region, list[list[float]]) and all(len(p) >= 6 and len(p) % 2 == 0 for p in region)
    if not right or not region:
        raise VssError(f"expected polygons [x, y, x, y, x, y, …] or run lengths, got {brief(repr(region))}")
    limit = 1 << 20  # pycocotools keeps coordinates as int
    if max(max(map(abs, polygon)) for polygon in region) > limit:
        raise VssError(f"expected coordinates within {limit}")
    return mask.decode(mask.merge(mask.frPyObjects(region, height, width))).astype(bool)


def uncompressed(text: str) -> list[int]:
    """Run lengths of COCO's text: 5 bits a character, the lowest first, from the fourth on as a difference."""
    counts: list[int] = []
    value = shift = 0
    for character in text.encode():
        code = character - 48
        if not 0 <= code < 64 or shift > 30:
            raise VssError("expected run lengths as COCO writes them")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
