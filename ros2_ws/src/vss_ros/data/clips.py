"""Data sets in files, as clips and as videos.

Every data set answers the same three calls: `len(data)` labelled frames, `data.clip(i, offsets)` around the i-th
of them, and `data.videos()` frame by frame. Images are (H, W, 3) uint8 RGB, labels (H, W) uint8 with 255 where a
pixel has no label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import IGNORE, MAX_PIXELS, VssError
from vss_ros.media.decode import check_size
from vss_ros.media.image_size import ImageError, image_size


@dataclass(frozen=True)
class Clip:
    """Frames of one sequence in the order of the offsets they were asked for.

    labels holds one map a frame, all 255 for a frame without labels; `labelled` is the position of the frame
    that the clip is about, `index` its number in the sequence.
    """

    frames: list[np.ndarray]
    labels: list[np.ndarray]
    labelled: int
    sequence: str
    index: int


@dataclass(frozen=True)
class Frame:
    """One image file; label is None where the data set has none for it."""

    sequence: str
    number: int
    image: Path
    label: Path | None


@dataclass(frozen=True)
class Video:
    """A sequence of a data set.

    frames: (image, labels, stamp in seconds) each; targets: which of the data set's labelled frames lie in it; moves:
    frames at a video's rate, so that figures of consistency over time make sense; dense: all of these labelled, too.
    """

    name: str
    frames: Iterator[tuple[np.ndarray, np.ndarray, float]]
    targets: Sequence[int]
    moves: bool
    dense: bool


class Files:
    """A data set in files: `frames` sorted by sequence and number, some or all of them labelled."""

    def __init__(
        self,
        name: str,
        frames: Sequence[Frame],
        classes: Sequence[str],
        palette: np.ndarray,
        fps: float,
        decode_label: Callable[[np.ndarray], np.ndarray],
        read_label: Callable[[Path], np.ndarray] | None = None,
        notes: Sequence[str] = (),
    ):
        self.name = name
        self.frames = sorted(frames, key=lambda frame: (frame.sequence, frame.number))
        self.classes = list(classes)
        self.palette = palette
        self.fps = fps
        self.decode_label = decode_label
        self.read_label = read_label or partial(read_image, flags=cv2.IMREAD_UNCHANGED)
        self.targets = [i for i, frame in enumerate(self.frames) if frame.label]
        self.ends: dict[str, tuple[int, int]] = {}
        for i, frame in enumerate(self.frames):
            self.ends[frame.sequence] = (self.ends.get(frame.sequence, (i, i))[0], i)
        self.stills = all(first == last for first, last in self.ends.values())
        """Whether no frame has a neighbour."""
        alone = "no frame has a neighbour: each is a keyframe, whatever the interval"
        self.notes = (*notes, *([alone] if self.stills else []))
        """What its user must know of it."""

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def source(self) -> str:
        """What its clips are made of, beyond name and place: its files, and what the values of its masks mean."""
        files = state_of(path for frame in self.frames for path in (frame.image, frame.label) if path)
        return f"{files} {getattr(self.decode_label, '__self__', '')!r}"

    def clip(self, i: int, offsets: Sequence[int] = (0,)) -> Clip:
        """Frames at `offsets` (counted in stored frames) from the i-th labelled one, clamped to its sequence. It stands
        in for those of another size, which no network can compare with it."""
        target = self.targets[i]
        first, last = self.ends[self.frames[target].sequence]
        places = [min(max(target + offset, first), last) for offset in offsets]
        read = {place: self.read(self.frames[place]) for place in {target, *places}}
        size = read[target][0].shape
        places = [place if read[place][0].shape == size else target for place in places]
        pairs = [read[place] for place in places]
        labelled = places.index(target) if target in places else 0
        frame = self.frames[target]
        return Clip([p[0] for p in pairs], [p[1] for p in pairs], labelled, frame.sequence, frame.number)

    def videos(self) -> Iterator[Video]:
        """Every sequence."""
        for sequence, (first, last) in self.ends.items():
            frames = self.frames[first : last + 1]
            gaps = [b.number - a.number for a, b in pairwise(frames)]
            moves = bool(gaps) and max(gaps) <= DENSE_GAP * self.fps
            targets = [i for i, target in enumerate(self.targets) if first <= target <= last]
            dense = moves and len(targets) == len(frames)
            yield Video(sequence, self.video(frames), targets, moves, dense)

    def video(self, frames: Sequence[Frame]) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
        for frame in frames:
            image, labels = self.read(frame)
            yield image, labels, frame.number / self.fps

    def read(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(frame.image, cv2.IMREAD_COLOR)[:, :, ::-1]
        if frame.label is None:
            return image, np.full(image.shape[:2], IGNORE, np.uint8)
        mask = self.read_label(frame.label)
        try:
            labels = self.decode_label(mask)
        except VssError as error:
            raise VssError(f"{frame.label}: {error}") from None
        if labels.shape != image.shape[:2]:
            raise VssError(
                f"{frame.label}: expected labels of the image's size {image.shape[:2]}, got {labels.shape}"
            )
        return image, labels


DENSE_GAP = 0.2  # seconds


def need_folder(folder: Path, download: str, name: str) -> None:
    if not folder.is_dir():
        raise VssError(f"{name}: expected the folder {folder}; it comes from {download}")


def need_frames(frames: Sequence[Any], folder: Path, pattern: str) -> None:
    if not frames:
        raise VssError(f"{folder}: expected files named {pattern}, found none")


def state_of(paths: Iterable[Path]) -> str:
    """Digest of files by path, size and time of change: what a cache tells by whether they are as they were."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(str(path).encode(errors="surrogateescape"))
        with suppress(OSError):
            about = path.stat()
            digest.update(f" {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def read_image(path: Path, flags: int) -> np.ndarray:
    try:
        data = path.read_bytes()
        check_size(*image_size(data), MAX_PIXELS)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (OSError, ImageError, cv2.error) as error:
        raise VssError(f"{path}: cannot be read as an image; is the download complete? {error}") from error
    if image is None:
        raise VssError(f"{path}: cannot be read as an image; is the download complete?")
    return image
