"""Frames from a video, a folder of images, a rosbag2 or the synthetic street, one after the other."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from vss_ros.config import MAX_PIXELS, VssError
from vss_ros.data.camera import open_camera, refuse_topic
from vss_ros.data.pictures import Picture, Pictures, Skipped, Source, stamp_at
from vss_ros.media.bags import is_bag
from vss_ros.media.decode import ImageError, check_size, decode_compressed
from vss_ros.media.files import check_input, natural_key
from vss_ros.media.quiet import quiet_opencv

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Files of a folder that are taken for images; all others are ignored."""
STREET_FRAMES, STREET_FPS, STREET_SIZE = 300, 30.0, (360, 480)

_log = logging.getLogger(__name__)


def open_source(
    path: str | Path, topic: str | None = None, fps: float | None = None, max_pixels: int = MAX_PIXELS
) -> Source:
    """The frames of `path`.

    path: a video file; an image; a folder of images (in natural order, 30 fps); a recording (see `BagReader`);
    or "street", "street:SEED", the synthetic street (300 frames of 480x360 at 30 fps). topic: the image topic of
    a recording of several cameras; its base name stands for ".../compressed", too. fps: stamps at this rate
    instead of the source's own, which in a video may vary. max_pixels: of the largest image that is decoded.
    Raises VssError when there is nothing to read.
    """
    if fps is not None and not 0 < fps < float("inf"):
        raise VssError(f"fps: expected a positive rate, got {fps}")
    name = str(path)
    if name == "street" or name.startswith("street:"):
        refuse_topic(name, topic)
        return _street(name, fps)
    path = Path(path).expanduser()
    check_input(path, "a video, a folder of images, a rosbag2 or 'street'")
    if is_bag(path):
        return open_camera(path, topic, fps, max_pixels)
    refuse_topic(name, topic)
    if path.is_dir():
        files = image_files(path)
        if not files:
            raise VssError(f"{path}: expected images ({' '.join(SUFFIXES)}) or a rosbag2, found neither")
        return _images(name, files, fps or 30.0, max_pixels)
    if path.suffix.lower() in SUFFIXES:  # OpenCV would take frame_1.png for a pattern and read its siblings
        return _images(name, [path], fps or 30.0, max_pixels)
    return _video(path, fps, max_pixels)


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order (frame_10 follows frame_9), without hidden files."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(found, key=natural_key)


def _size(pictures: Pictures, name: str) -> tuple[int, int]:
    """(height, width) of the first frame, so that a broken source is refused before anything starts."""
    for picture in pictures:
        return picture.rgb.shape[0], picture.rgb.shape[1]
    raise VssError(f"{name}: expected at least one frame, got none")


def _street(name: str, fps: float | None) -> Source:
    from vss_ros.data.street.street import Street

    seed = name.partition(":")[2] or "0"
    if not seed.isdecimal():
        raise VssError(f"{name}: expected 'street' or 'street:SEED' with a whole number")
    rate = fps or STREET_FPS
    street = Street(seed=int(seed), size=STREET_SIZE, fps=rate)

    def pictures() -> Pictures:
        for index in range(STREET_FRAMES):
            yield Picture(street.frame(index)[0], stamp_at(index, rate), index)

    return Source(name, pictures, STREET_SIZE, rate, STREET_FRAMES)


def _images(name: str, files: list[Path], fps: float, max_pixels: int) -> Source:
    skipped = Skipped(name)

    def read(index: int) -> Picture:
        return Picture(read_image(files[index], max_pixels), stamp_at(index, fps), index)

    def pictures() -> Pictures:
        return skipped.pass_through((index, partial(read, index)) for index in range(len(files)))

    return Source(name, pictures, _size(pictures(), name), fps, len(files), notes=skipped.notes)


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, pixels as stored; VssError names a file that does not decode."""
    try:
        if path.stat().st_size > max_pixels * 8 + 2**20:  # the most that four channels of 16 bit take
            raise ImageError(
                f"a file of {path.stat().st_size} bytes: more than an image of {max_pixels} pixels"
            )
        return decode_compressed(path.read_bytes(), path.suffix[1:], max_pixels)
    except (OSError, ImageError) as error:
        raise VssError(f"{path}: {error}") from error


def _open_video(path: Path) -> cv2.VideoCapture:
    # FFmpeg and OpenCV write their own lines to stderr about a file that our error already names.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    with quiet_opencv():
        video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise VssError(
            f"{path}: expected a video, an image or a rosbag2; OpenCV cannot open it; is it cut short?"
        )
    return video


def _video(path: Path, fps: float | None, max_pixels: int) -> Source:
    video = _open_video(path)
    rate = fps or video.get(cv2.CAP_PROP_FPS)
    length = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    height, width = (int(video.get(name)) for name in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
    video.release()
    try:
        check_size(height, width, max_pixels)
    except ImageError as error:
        raise VssError(f"{path}: {error}") from error
    if not 0 < rate < 1000:  # containers without a rate state 0, or their time base
        _log.warning("%s: states a rate of %s frames per second; 30 is taken", path, rate)
        rate = 30.0

    notes: list[str] = []

    def pictures() -> Pictures:
        video, index, stamp, began = _open_video(path), 0, 0, 0.0
        try:
            while True:
                there, bgr = video.read()
                if not there:
                    break
                ms = video.get(cv2.CAP_PROP_POS_MSEC)
                began = began if index else ms
                own = round((ms - began) * 1e6)
                if fps:
                    stamp = stamp_at(index, fps)
                elif index:  # containers without times state 0
                    stamp = own if own > stamp else stamp + stamp_at(1, rate)
                yield Picture(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), stamp, index)
                index += 1
        finally:
            video.release()
        if index < length and not notes:
            notes.append(f"states {length} frames, {index} decode; it may be cut short, or its rate varies")
            _log.warning("%s: %s", path, notes[0])

    size, known = _size(pictures(), str(path)), length if length > 0 else None
    return Source(str(path), pictures, size, rate, known, notes=notes)
