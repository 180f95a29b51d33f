"""What `vss evaluate --bag` reads: frames, and their true labels where these are known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import VssError
from vss_ros.data.clips import DATASETS, open_dataset
from vss_ros.data.source import STREET_FPS, STREET_FRAMES, STREET_SIZE, image_files, open_source
from vss_ros.data.street.street import CLASSES, Street
from vss_ros.media.bags import COMPRESSED, IMAGE, BagReader, is_bag

VIDEOS = (".avi", ".mkv", ".mov", ".mp4", ".webm")
"""Files of a folder that are taken for videos; a file that is named itself may have any suffix."""

Frame = tuple[np.ndarray, "np.ndarray | None", int]
Frames = Iterator[Frame]


@dataclass
class Footage:
    """Frames of one camera that can be read any number of times, in the same order with the same pixels.

    frames() yields (rgb (H, W, 3) uint8, true labels (H, W) uint8 or None, stamp in nanoseconds).
    """

    frames: Callable[[], Frames]
    fps: float
    length: int | None
    classes: Sequence[str] | None = None
    """Names of the true labels' ids, where the source knows them."""


def find_inputs(paths: Sequence[str], root: Path | None = None) -> dict[str, str]:
    """{short name: input} of everything to evaluate, in natural order.

    A path is a rosbag2, a video, an image, a folder of images, or a folder at any depth of such; "street[:SEED]"
    is the synthetic street, "NAME:SPLIT" each video of a data set whose folder is `root`.
    """
    found: dict[str, str] = {}
    for text in paths:
        name, _, split = text.partition(":")
        if Path(text).expanduser().exists():
            base = Path(text).expanduser().absolute()
            inputs = {name_below(base, path): str(path) for path in inputs_below(base)}
            if not inputs:
                raise VssError(f"{text}: expected rosbags, videos or images in this folder, found none")
        elif name in (*DATASETS, "street") and split and not split.isdecimal():
            videos = open_dataset(name, split, root).videos()
            inputs = {f"{name}_{split}_{video}": f"{text}:{video}" for video, _ in videos}
        else:
            inputs = {text: text}
        for short, source in inputs.items():
            short = short.replace(":", "_").replace("/", "_")
            if found.get(short, source) != source:  # two drives may hold a bag of the same name
                short += f"_{hashlib.sha256(source.encode()).hexdigest()[:6]}"
            found[short] = source
    return found


def inputs_below(path: Path) -> list[Path]:
    if not path.is_dir() or is_bag(path):
        return [path]
    inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    found = [path] if image_files(path) else []
    found += [p for p in inside if p.is_file() and p.suffix.lower() in VIDEOS]
    return found + [below for folder in inside if folder.is_dir() for below in inputs_below(folder)]


def name_below(base: Path, path: Path) -> str:
    return str(path.relative_to(base)) if path != base else base.stem


def open_footage(source: str, topic: str = "", truth: str = "", fps: float = 0.0, root: str = "") -> Footage:
    """The frames of one of `find_inputs`' inputs.

    truth: a topic of the bag (mono8 masks, or PNG, with the stamps of their images), or a folder of mask images
    (for a folder of images: named like them; else as many as frames, in order). Ids are those of the model, any
    other is unlabelled. Raises VssError where there is nothing to read or the truth does not belong to it.
    """
    name, _, split = source.partition(":")
    if name in (*DATASETS, "street") and ":" in split:
        split, _, video = split.partition(":")
        return data_set(name, split, video, root)
    if name == "street":
        return street(source, fps)
    opened = open_source(source, topic or None, fps or None)
    path = Path(source).expanduser()
    if not truth:
        return Footage(lambda: ((rgb, None, t) for rgb, t in opened.frames()), opened.fps, opened.length)
    if Path(truth).is_dir():
        masks = mask_files(path, Path(truth), opened.length)
        return Footage(lambda: with_files(opened.frames(), masks), opened.fps, opened.length)
    if fps or not is_bag(path):
        raise VssError(f"--truth {truth}: expected a folder of masks, or a topic of a bag (without --fps)")
    return Footage(lambda: with_topic(opened.frames(), path, truth), opened.fps, opened.length)


def data_set(name: str, split: str, video: str, root: str) -> Footage:
    data = open_dataset(name, split, root or None)

    def frames() -> Frames:
        for found, items in data.videos():
            if found == video:
                for image, labels, seconds in items:
                    yield np.ascontiguousarray(image), labels, round(seconds * 1e9)

    return Footage(frames, data.fps, None, data.classes)


def street(source: str, fps: float) -> Footage:
    clip = open_source(source, fps=fps or None)  # refuses a wrong seed
    scene = Street(seed=int(source.partition(":")[2] or 0), size=STREET_SIZE, fps=fps or STREET_FPS)

    def frames() -> Frames:
        for index in range(STREET_FRAMES):
            yield *scene.frame(index), round(index * 1e9 / clip.fps)

    return Footage(frames, clip.fps, STREET_FRAMES, CLASSES)


def mask_files(source: Path, folder: Path, length: int | None) -> list[Path | None]:
    files = image_files(folder)
    if source.is_dir() and not is_bag(source):
        named = {file.stem: file for file in files}
        masks = [named.get(file.stem) for file in image_files(source)]
        if not any(masks):
            raise VssError(f"{folder}: expected masks named like the images of {source}, found none")
        return masks
    if length is not None and len(files) != length:
        raise VssError(f"{folder}: expected a mask for each of the {length} frames, found {len(files)}")
    return list(files)


def with_files(frames: Iterator[tuple[np.ndarray, int]], masks: list[Path | None]) -> Frames:
    for index, (rgb, stamp) in enumerate(frames):
        if index == len(masks):
            raise VssError(f"expected a mask for each frame, there are only {index}")
        labels, path = None, masks[index]
        if path is not None:
            labels = check_mask(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), rgb.shape[:2], str(path))
        yield rgb, labels, stamp


def with_topic(frames: Iterator[tuple[np.ndarray, int]], path: Path, topic: str) -> Frames:
    """Each frame with the mask of exactly its stamp."""
    matched = False
    with BagReader(path) as bag:
        masks = masks_of_topic(bag, topic)
        upcoming = next(masks, None)
        for rgb, stamp in frames:
            while upcoming and upcoming[0] < stamp:
                upcoming = next(masks, None)
            labels = upcoming[1] if upcoming and upcoming[0] == stamp else None
            if labels is not None:
                matched = True
                check_mask(labels, rgb.shape[:2], f"{path}: {topic}")
            yield rgb, labels, stamp
    if not matched:
        raise VssError(f"{path}: no mask on {topic} has the header stamp of an image")


def masks_of_topic(bag: BagReader, topic: str) -> Iterator[tuple[int, Any, int]]:
    """(header stamp in ns, labels, time of recording in ns) of a mask topic; labels may not be a mask."""
    kind = bag.topics.get(topic, ("", 0))[0]
    if kind not in (IMAGE, COMPRESSED):
        images = sorted(t for t, (msgtype, _) in bag.topics.items() if msgtype in (IMAGE, COMPRESSED))
        raise VssError(f"{bag.path}: expected masks on {topic!r}; its image topics are {', '.join(images)}")
    for _, recorded, message in bag.messages([topic]):
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        if kind == COMPRESSED:
            yield stamp, cv2.imdecode(np.asarray(message.data, np.uint8), cv2.IMREAD_UNCHANGED), recorded
        elif message.encoding in ("mono8", "8UC1"):
            rows = np.asarray(message.data, np.uint8).reshape(message.height, message.step)
            yield stamp, rows[:, : message.width], recorded
        else:
            raise VssError(f"{bag.path}: {topic}: expected mono8 class ids, got {message.encoding}")


def check_mask(labels: Any, size: tuple[int, ...], name: str) -> np.ndarray:
    if labels is None or labels.dtype != np.uint8 or labels.shape != tuple(size):
        got = "nothing that decodes" if labels is None else f"{labels.dtype} {labels.shape}"
        raise VssError(f"{name}: expected a mask of 8-bit class ids of the image's size {size}, got {got}")
    return labels
