"""What `vss evaluate --bag` reads: frames, and their true labels where these are known."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from vss_ros.config import MAX_PIXELS, VssError
from vss_ros.data.camera import cameras, find_topic, refuse_topic
from vss_ros.data.open import DATASETS, open_dataset
from vss_ros.data.source import STREET_FPS, STREET_FRAMES, STREET_SIZE, image_files, open_source
from vss_ros.data.street.street import CLASSES, Street
from vss_ros.data.truth import with_files, with_topic
from vss_ros.media.bags import BagReader, find_bags, is_bag
from vss_ros.media.bags.folder import groups

VIDEOS = (".avi", ".mkv", ".mov", ".mp4", ".webm")
"""Files of a folder that are taken for videos; a file that is named itself may have any suffix."""

Frame = tuple[np.ndarray, "np.ndarray | None", int]
Frames = Iterator[Frame]
_log = logging.getLogger(__name__)


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
    notes: Sequence[str] = ()
    """What a whole pass found to be wrong, a line each, once it is through."""


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
            inputs = {f"{name}_{split}_{video.name}": f"{text}:{video.name}" for video in videos}
        else:
            inputs = {text: text}
        for short, source in inputs.items():
            short = short.replace(":", "_").replace("/", "_")
            if found.get(short, source) != source:  # two drives may hold a bag of the same name
                short += f"_{hashlib.sha256(source.encode()).hexdigest()[:6]}"
            found[short] = source
    return once(found)


def once(inputs: dict[str, str]) -> dict[str, str]:
    """Each recording once, although it may be named as a folder and as the file in it, or through a link."""
    seen: dict[frozenset[Path], str] = {}
    kept = {}
    for short, source in inputs.items():
        path = Path(source)
        if path.exists() and is_bag(path):
            first = groups(path)[:1] if path.is_dir() else [[path]]
            files = frozenset(file.resolve() for files in first for file in files)
            if files in seen:
                _log.warning("%s: the same recording as %s; it is left out", source, seen[files])
                continue
            seen[files] = source
        kept[short] = source
    return kept


def inputs_below(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    if is_bag(path):
        found = find_bags(path)
    else:
        found = [path] if image_files(path) else []
        found += [p for p in inside if p.is_file() and p.suffix.lower() in VIDEOS]
    return found + [below for folder in inside if folder.is_dir() for below in inputs_below(folder)]


def find_cameras(source: str, topic: str = "", truth: str = "") -> list[str]:
    """The image topics of an input that are to be evaluated, each on its own; [topic] where it has none to choose."""
    path = Path(source).expanduser()
    if topic or not path.exists() or not is_bag(path):
        return [topic]
    try:
        with BagReader(path) as bag:
            found = [name for name in cameras(bag) if not f"{name}/".startswith(f"{truth or None}/")]
    except VssError:  # which opening it will tell, too
        return [topic]
    return found if len(found) > 1 else [found[0] if truth and found else topic]


def name_below(base: Path, path: Path) -> str:
    return str(path.relative_to(base)) if path != base else base.stem


def open_footage(
    source: str,
    topic: str = "",
    truth: str = "",
    fps: float = 0.0,
    root: str = "",
    max_pixels: int = MAX_PIXELS,
) -> Footage:
    """The frames of one of `find_inputs`' inputs.

    truth: a topic of the bag (masks with the header stamps of their images), or a folder of mask images (for a
    folder of images: named like them; else as many as frames, in order); see `media.labels` for what a mask may
    be. Ids are those of the model, any other is unlabelled. max_pixels: of the largest image that is decoded.
    Raises VssError where there is nothing to read or the truth does not belong to it.
    """
    name, _, split = source.partition(":")
    if name in (*DATASETS, "street"):
        refuse_topic(source, topic)
    if name in (*DATASETS, "street") and ":" in split:
        split, _, video = split.partition(":")
        return data_set(name, split, video, root)
    if name == "street":
        return street(source, fps)
    path = Path(source).expanduser()
    opened = open_source(source, topic or None, fps or None, max_pixels)
    footage = Footage(
        lambda: ((rgb, None, t) for rgb, t in opened.frames()), opened.fps, opened.length, notes=opened.notes
    )
    if not truth:
        return footage
    if Path(truth).is_dir():
        masks = mask_files(path, Path(truth), opened.length)
        return replace(footage, frames=partial(with_files, opened, masks, max_pixels))
    if fps or not is_bag(path):
        raise VssError(f"--truth {truth}: expected a folder of masks, or a topic of a bag (without --fps)")
    with BagReader(path) as bag:
        found = find_topic(bag, truth)
    return replace(footage, frames=partial(with_topic, opened, path, found, max_pixels))


def data_set(name: str, split: str, video: str, root: str) -> Footage:
    data = open_dataset(name, split, root or None)

    def frames() -> Frames:
        for found in data.videos():
            if found.name == video:
                for image, labels, seconds in found.frames:
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


def fingerprint(source: str) -> str:
    """Sizes and times of change of the files of an input; "" for one that is not a file."""
    path = Path(source).expanduser()
    if not source or not path.exists():
        return ""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    files = [p for p in files if not p.name.endswith("-shm")]  # which SQLite touches when it reads
    seen = [f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files]
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()
