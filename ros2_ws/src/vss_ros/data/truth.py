"""Frames joined with their true labels; a mask that cannot be used costs its frame's score, not the run."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import MAX_PIXELS, VssError
from vss_ros.data.pictures import Source
from vss_ros.media.bags import COMPRESSED, IMAGE, BagReader
from vss_ros.media.decode import stamp_ns
from vss_ros.media.labels import decode_labels, read_labels

Frames = Iterator["tuple[np.ndarray, np.ndarray | None, int]"]
_log = logging.getLogger(__name__)
LOOKAHEAD = 5 * 10**9
"""Nanoseconds by which a mask may be recorded before or after its image."""
PATIENCE = 20
"""Unusable masks, none usable before them, after which the truth is taken for a wrong one."""


class Truth:
    """Checks the masks of a source and counts those that cannot be used."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.used = self.lost = 0
        self.first = ""

    def take(self, number: int, mask: Any, size: Sequence[int]) -> np.ndarray | None:
        """The mask if it is one of this size. mask: labels, or why there are none, or None where none was expected."""
        if mask is None:
            return None
        if isinstance(mask, np.ndarray) and mask.shape == tuple(size):
            self.used += 1
            return mask
        if isinstance(mask, np.ndarray):
            mask = f"expected a mask of the image's size {tuple(size)}, got {mask.shape}"
        self.lost += 1
        self.first = self.first or f"frame {number}: {mask}"
        if self.lost <= 3:
            _log.warning("%s, frame %d: no truth: %s", self.name, number, mask)
        if self.lost == PATIENCE and not self.used:
            raise VssError(f"{self.name}: the first {self.lost} masks cannot be used; {self.first}")
        return None

    def finish(self, otherwise: str) -> None:
        """Raise VssError unless a mask was used. otherwise: why, if there were none."""
        if not self.used:
            raise VssError(f"{self.name}: {self.first or otherwise}")
        if self.lost:
            _log.warning("%s: %d of %d masks cannot be used", self.name, self.lost, self.lost + self.used)


def with_files(source: Source, masks: list[Path | None], max_pixels: int = MAX_PIXELS) -> Frames:
    """Each frame of the source with the mask of its place."""
    truth = Truth(source.name)
    for picture in source.pictures():
        if picture.number >= len(masks):
            raise VssError(f"expected a mask for each frame, there are only {len(masks)}")
        path = masks[picture.number]
        mask: Any = None
        if path is not None:
            try:
                mask = read_labels(path, max_pixels)
            except (VssError, OSError) as error:
                mask = f"{path}: {error}"
        yield picture.rgb, truth.take(picture.number, mask, picture.rgb.shape[:2]), picture.stamp
    truth.finish("no frame has a mask")


def with_topic(source: Source, path: Path, topic: str, max_pixels: int = MAX_PIXELS) -> Frames:
    """Each frame of a bag with the mask of exactly its header's stamp, wherever it lies near it in the bag."""
    truth = Truth(f"{path}: {topic}")
    with BagReader(path) as bag:
        masks = masks_of_topic(bag, topic, max_pixels)
        near: OrderedDict[int, tuple[Any, int]] = OrderedDict()
        upcoming = next(masks, None)
        for picture in source.pictures():
            while upcoming and upcoming[2] <= picture.recorded + LOOKAHEAD:
                near[upcoming[0]] = upcoming[1:]
                upcoming = next(masks, None)
                while near and next(iter(near.values()))[1] < picture.recorded - LOOKAHEAD:
                    near.popitem(last=False)
            mask, _ = near.pop(picture.header, (None, 0))
            yield picture.rgb, truth.take(picture.number, mask, picture.rgb.shape[:2]), picture.stamp
    truth.finish(f"no mask on {topic} has the header stamp of an image")


def masks_of_topic(
    bag: BagReader, topic: str, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[int, Any, int]]:
    """(header stamp in ns, labels (H, W) uint8 or why there are none, time of recording in ns) of a mask topic."""
    kind = bag.topics.get(topic, ("", 0))[0]
    if kind not in (IMAGE, COMPRESSED):
        images = sorted(t for t, (msgtype, _) in bag.topics.items() if msgtype in (IMAGE, COMPRESSED))
        raise VssError(f"{bag.path}: expected masks on {topic!r}; its image topics are {', '.join(images)}")
    for _, recorded, message in bag.messages([topic]):
        labels: Any
        try:
            labels = decode_labels(message, max_pixels)
        except VssError as error:
            labels = str(error)
        yield stamp_ns(message), labels, recorded
