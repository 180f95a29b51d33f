"""Groups of classes: what a model tells apart, as a robot needs it; see config/groups.yaml."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import IGNORE, VssError, brief
from vss_ros.media.files import read_yaml
from vss_ros.networks.cards.card import ModelCard

REST = "*"
"""In a group's list: all classes that no other group names."""
COLOURS = "colours"
"""The key beside the groups, with [r, g, b] by a group's name."""


class Groups:
    """`groups(labels)` turns the class ids of a card's model into ids of the groups; `groups.card` names those.

    Classes of no group become unlabelled (255). Raises VssError for a file that does not fit the card.
    """

    def __init__(self, card: ModelCard, path: str | Path) -> None:
        content = read_yaml(Path(path).expanduser())
        if not isinstance(content, Mapping) or not (names := [name for name in content if name != COLOURS]):
            raise VssError(f"groups {path}: expected lists of classes by the groups' names")
        members = {name: self.classes_of(card, content[name], f"groups {path}: {name}") for name in names}
        named = [entry for entries in members.values() for entry in entries if entry != REST]
        if twice := sorted({entry for entry in named if named.count(entry) > 1}):
            raise VssError(
                f"groups {path}: expected each class in one group, {brief(', '.join(twice))} is in several"
            )
        rest = [entry for entry in card.classes if entry not in named]
        table, palette = np.full(256, IGNORE, np.uint8), []
        for number, name in enumerate(names):
            entries = [each for entry in members[name] for each in (rest if entry == REST else [entry])]
            ids = [list(card.classes).index(entry) for entry in entries]
            table[ids] = number
            palette.append(card.palette[ids[0]] if ids else [0, 0, 0])
        for name, colour in self.colours_of(content, names, path).items():
            palette[names.index(name)] = colour
        self.table = table
        self.card = dataclasses.replace(card, classes=[str(name) for name in names], palette=palette)

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) uint8 class ids → (H, W) uint8 ids of the groups, a new array."""
        return cv2.LUT(labels, self.table)

    @staticmethod
    def classes_of(card: ModelCard, entries: Any, what: str) -> list[str]:
        if not isinstance(entries, list) or not entries:
            raise VssError(f"{brief(what)}: expected a list of classes, got {brief(repr(entries))}")
        if unknown := [repr(entry) for entry in entries if entry not in (*card.classes, REST)]:
            raise VssError(
                f"{brief(what)}: {brief(', '.join(unknown))}: expected classes of model {card.name}: "
                f"{', '.join(card.classes)}, or '{REST}' for all others"
            )
        return entries

    @staticmethod
    def colours_of(content: Mapping[str, Any], names: list[str], path: str | Path) -> dict[str, list[int]]:
        colours = content.get(COLOURS) or {}
        for name, colour in colours.items() if isinstance(colours, Mapping) else [(COLOURS, colours)]:
            fits = isinstance(colour, list) and len(colour) == 3
            if not fits or name not in names or not all(type(v) is int and 0 <= v <= 255 for v in colour):
                raise VssError(
                    f"groups {path}: {COLOURS}: expected [r, g, b] of 0 to 255 by a group's name, got "
                    f"{brief(repr(name))}: {brief(repr(colour))}"
                )
        return dict(colours)
