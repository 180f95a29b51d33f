"""What a mask's values mean, and masks of every kind as ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import IGNORE, VssError, brief, fits
from vss_ros.data.clips import read_image
from vss_ros.media.image_size import ImageError
from vss_ros.media.labels import check_lossless, decode_label_file, is_palette


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
        if mask.dtype.kind not in "ui":
            raise VssError(f"expected whole numbers as ids, got a mask of {mask.dtype}")
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


def read_mask(path: Path, keep_ids: bool) -> np.ndarray:
    """A mask as OpenCV reads it, but a PNG with a palette as its ids where these say which class a pixel is."""
    mask, data = read_image(path, cv2.IMREAD_UNCHANGED), path.read_bytes()
    try:
        check_lossless(data)
        if (mask.ndim == 2 and mask.dtype == np.uint8) or (keep_ids and is_palette(data)):
            return decode_label_file(data)  # OpenCV scales ids of 1, 2 and 4 bits
    except ImageError as error:
        raise VssError(f"{path}: {error}") from None
    return mask


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
    if twice := ignored & {*ids, *colours}:
        raise VssError(f"ignore: {brief(sorted(map(str, twice)))} is a class, too: leave one of the two out")
    if IGNORE not in {*ids, *ignored} and (IGNORE,) * 3 in colours and not any("id" in c for c in classes):
        white = names[colours[(IGNORE,) * 3]]
        raise VssError(
            f"classes: {white} is white, and 255 in a grey mask means no label: give the classes their `id` "
            f"({white}: 255 where masks hold 0 and 255), or say `ignore: [255]`"
        )
    return Labels(names, drawn, ids, colours, frozenset(ignored | ({IGNORE} - set(ids))))


def distinct(count: int) -> np.ndarray:
    """(count, 3) uint8 RGB; neighbours in the list get far hues."""
    hues = np.arange(count) * 67 % 180
    hsv = np.stack([hues, np.full(count, 200), 240 - np.arange(count) % 3 * 60], -1)
    return cv2.cvtColor(hsv[None].astype(np.uint8), cv2.COLOR_HSV2RGB)[0]
