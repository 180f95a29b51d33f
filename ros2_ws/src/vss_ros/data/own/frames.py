"""Which files of a folder are frames, of which video, and which mask belongs to each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from vss_ros.config import VssError
from vss_ros.data.clips import Frame
from vss_ros.media.files import natural_key

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
PHOTOS = (".jpeg", ".jpg")
NUMBER = re.compile(r"\d+")


def find_frames(images: Path, masks: Path | None, video: str) -> list[Frame]:
    """Images at any depth, each with the mask of the same path but its suffix, where there is one."""
    if not images.is_dir():
        raise VssError(f"expected the folder {images}")
    if masks is not None and not masks.is_dir():
        raise VssError(f"expected the folder {masks}")
    labelled = {}
    together = masks is not None and masks.resolve() == images.resolve()
    for path in files_below(masks) if masks else []:
        if not together or path.suffix.lower() not in PHOTOS:
            labelled[path.relative_to(masks).with_suffix("")] = path  # type: ignore[arg-type]
    found = [path for path in files_below(images) if path not in set(labelled.values())]
    if not found:
        raise VssError(f"{images}: expected images ({' '.join(IMAGES)}), found none")
    frames = number(
        found, {p: labelled.get(p.relative_to(images).with_suffix("")) for p in found}, images, video
    )
    lost = set(labelled) - {p.relative_to(images).with_suffix("") for p in found}
    if lost:
        raise VssError(
            f"{masks}: {len(lost)} masks have no image, such as {min(lost)}: name both alike, up to the suffix"
        )
    return frames


def files_below(folder: Path) -> list[Path]:
    """Images at any depth, also behind links; what is hidden is none (of macOS, of editors). Raises VssError."""
    found: list[Path] = []
    for at, folders, names in os.walk(folder, followlinks=True):
        above = {Path(at).resolve(), *(path.resolve() for path in Path(at).parents)}  # a link may lead back
        folders[:] = [n for n in folders if not n.startswith(".") and Path(at, n).resolve() not in above]
        found += [Path(at, n) for n in names if Path(n).suffix.lower() in IMAGES and not n.startswith(".")]
    if lost := [path for path in found if not path.is_file()]:
        raise VssError(f"{lost[0]}: expected a file, got a link to nothing; {len(lost)} such")
    return sorted(found, key=lambda path: (str(path.parent), natural_key(path)))


def number(paths: list[Path], masks: Mapping[Path, Path | None], base: Path, video: str) -> list[Frame]:
    """Frames of videos: a folder's, or those whose name agrees in the first group of the pattern `video`.

    A frame's number is the last one in its name; where names have none, or some twice, its place.
    """
    try:
        pattern = None if video == "folder" else re.compile(video)
    except re.error as error:
        raise VssError(f"video: expected folder or a regular expression, got {video!r}: {error}") from None
    if pattern is not None and not pattern.groups:
        raise VssError(f"video: expected a group in {video!r} that names the video, such as (.*)_")
    videos: dict[str, list[Path]] = {}
    for path in paths:
        name = path.parent.relative_to(base).as_posix()
        if pattern is not None:
            match = pattern.search(path.relative_to(base).as_posix())
            if match is None:
                raise VssError(f"video: {path.name} does not match {video!r}")
            name = match.group(1)
        videos.setdefault(base.name if name == "." else name, []).append(path)
    frames = []
    for name, members in videos.items():
        numbers = [int(NUMBER.findall(path.stem)[-1]) if NUMBER.search(path.stem) else -1 for path in members]
        if -1 in numbers or len(set(numbers)) < len(numbers):
            numbers = list(range(len(members)))
        frames += [Frame(name, n, path, masks[path]) for n, path in zip(numbers, members, strict=True)]
    return frames
