"""Cityscapes (Cordts et al., CVPR 2016), 19 classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vss_ros.config import IGNORE
from vss_ros.data.clips import Files, Frame, need_folder, need_frames

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
    """Cityscapes: `leftImg8bit_sequence/` where it is there, else the stills of `leftImg8bit/`, and `gtFine/`; 17 Hz.

    A snippet of 30 frames is a sequence. Files: <city>_<sequence>_<frame>_leftImg8bit.png, …_gtFine_labelIds.png.
    """
    masks = root / "gtFine" / split
    need_folder(masks, "cityscapes-dataset.com, gtFine_trainvaltest.zip", "cityscapes")
    images, notes = root / "leftImg8bit_sequence" / split, []
    if not images.is_dir():
        notes = [f"{images} is missing: single frames, no videos (leftImg8bit_sequence_trainvaltest.zip)"]
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
    name = f"cityscapes {split}"
    return Files(
        name, frames, CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, 17.0, lambda mask: table[mask], notes=notes
    )
