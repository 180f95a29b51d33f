"""What a source of frames gives, and what it leaves out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vss_ros.config import VssError, brief

_log = logging.getLogger(__name__)


class Picture(NamedTuple):
    """A frame with what tells it from its neighbours."""

    rgb: np.ndarray
    """(H, W, 3) uint8."""
    stamp: int
    """Nanoseconds."""
    number: int
    """Place in the source, those counted that are left out because they do not decode."""
    header: int = 0
    """Nanoseconds of the header in a bag, however wrong its clock."""
    recorded: int = 0
    """Nanoseconds of the recorder's clock in a bag."""


Pictures = Iterator[Picture]


@dataclass
class Source:
    """A finite sequence of frames that can be iterated any number of times; nothing is kept in memory.

    Iterating yields (rgb (H, W, 3) uint8, stamp in seconds); `frames()` the same with the stamp in exact
    nanoseconds. What does not decode is left out, with a warning; VssError where nothing does.
    """

    name: str
    pictures: Callable[[], Pictures]
    size: tuple[int, int]
    """(height, width) of the first frame."""
    fps: float
    length: int | None
    """Number of frames as the container states it; None if it does not."""
    camera_info: dict[str, Any] | None = None
    """width, height, distortion_model, d, k (9), r (9), p (12) as in sensor_msgs/CameraInfo, from a bag."""
    notes: list[str] = field(default_factory=list)
    """What a whole pass found to be wrong, a line each."""

    def frames(self) -> Iterator[tuple[np.ndarray, int]]:
        for picture in self.pictures():
            yield picture.rgb, picture.stamp

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        for picture in self.pictures():
            yield picture.rgb, picture.stamp / 1e9


class Skipped:
    """Counts what of one pass through a source does not decode; the warning comes once a source, also to `notes`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.notes: list[str] = []

    def pass_through(self, items: Iterable[tuple[int, Callable[[], Picture]]]) -> Pictures:
        """The pictures of (number, how to decode it); VssError with the first reason if there are none."""
        lost, seen, first, total = 0, 0, "", 0
        for number, decode in items:
            total += 1
            try:
                picture = decode()
            except (VssError, OSError) as error:
                lost += 1
                first = first or f"image {number}: {error}"
                continue
            seen += 1
            yield picture
        if lost and not seen:
            raise VssError(f"{self.name}, {first}")
        if lost and not self.notes:
            said = f"{lost} of {total} images do not decode and are left out; "
            self.notes.append(said + brief(first))
            _log.warning("%s: %s%s", self.name, said, first)


def stamp_at(index: int, fps: float) -> int:
    return round(index * 1e9 / fps)
