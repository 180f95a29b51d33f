"""VSPW (Miao et al., CVPR 2021), 124 classes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from vss_ros.config import IGNORE, VssError
from vss_ros.data.clips import Files, Frame, need_folder, need_frames

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
