"""Frames from a video, a folder of images, a rosbag2 or the synthetic street, one after the other."""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import VssError
from vss_ros.media.bags import CAMERA_INFO, COMPRESSED, IMAGE, BagReader, is_bag, natural_key
from vss_ros.media.decode import ImageError, decode_compressed, to_rgb

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Files of a folder that are taken for images; all others are ignored."""
STREET_FRAMES, STREET_FPS, STREET_SIZE = 300, 30.0, (360, 480)

Frames = Iterator[tuple[np.ndarray, int]]
_log = logging.getLogger(__name__)


@dataclass
class Source:
    """A finite sequence of frames that can be iterated any number of times; nothing is kept in memory.

    Iterating yields (rgb (H, W, 3) uint8, stamp in seconds); `frames()` the same with the stamp in exact
    nanoseconds. Damage that shows up on the way raises VssError.
    """

    name: str
    frames: Callable[[], Frames]
    size: tuple[int, int]
    """(height, width) of the first frame."""
    fps: float
    length: int | None
    """Number of frames as the container states it; None if it does not."""
    camera_info: dict[str, Any] | None = None
    """width, height, distortion_model, d, k (9), r (9), p (12) as in sensor_msgs/CameraInfo, from a bag."""

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        for rgb, stamp_ns in self.frames():
            yield rgb, stamp_ns / 1e9


def open_source(path: str | Path, topic: str | None = None, fps: float | None = None) -> Source:
    """The frames of `path`.

    path: a video file; an image; a folder of images (in natural order, 30 fps); a rosbag2 (folder, .mcap or
    .db3); or "street", "street:SEED", the synthetic street (300 frames of 480x360 at 30 fps). topic: the
    image topic of a bag that has several. fps: stamps at this rate instead of the source's own.
    Raises VssError when there is nothing to read.
    """
    if fps is not None and not 0 < fps < float("inf"):
        raise VssError(f"fps: expected a positive rate, got {fps}")
    name = str(path)
    if name == "street" or name.startswith("street:"):
        return _street(name, fps)
    path = Path(path).expanduser()
    if not path.exists():
        raise VssError(f"{path}: no such file; expected a video, a folder of images, a rosbag2 or 'street'")
    if is_bag(path):
        return _bag(path, topic, fps)
    if path.is_dir():
        files = image_files(path)
        if not files:
            raise VssError(f"{path}: expected images ({' '.join(SUFFIXES)}) or a rosbag2, found neither")
        return _images(name, files, fps or 30.0)
    if path.suffix.lower() in SUFFIXES:  # OpenCV would take frame_1.png for a pattern and read its siblings
        return _images(name, [path], fps or 30.0)
    return _video(path, fps)


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order (frame_10 follows frame_9), without hidden files."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(found, key=natural_key)


def _stamp(index: int, fps: float) -> int:
    return round(index * 1e9 / fps)


def _first(frames: Frames, name: str) -> tuple[int, int]:
    """(height, width) of the first frame, so that a broken source is refused before anything starts."""
    for rgb, _ in frames:
        return rgb.shape[0], rgb.shape[1]
    raise VssError(f"{name}: expected at least one frame, got none")


def _street(name: str, fps: float | None) -> Source:
    from vss_ros.data.street.street import Street

    seed = name.partition(":")[2] or "0"
    if not seed.isdecimal():
        raise VssError(f"{name}: expected 'street' or 'street:SEED' with a whole number")
    rate = fps or STREET_FPS
    street = Street(seed=int(seed), size=STREET_SIZE, fps=rate)

    def frames() -> Frames:
        for index in range(STREET_FRAMES):
            yield street.frame(index)[0], _stamp(index, rate)

    return Source(name, frames, STREET_SIZE, rate, STREET_FRAMES)


def _images(name: str, files: list[Path], fps: float) -> Source:
    def frames() -> Frames:
        for index, file in enumerate(files):
            yield read_image(file), _stamp(index, fps)

    return Source(name, frames, _first(frames(), name), fps, len(files))


def read_image(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, pixels as stored; VssError names a file that does not decode."""
    try:
        data = path.read_bytes()
        if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
            return decode_compressed(data, path.suffix[1:])
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, ImageError, cv2.error) as error:
        raise VssError(f"{path}: {error}") from error
    if bgr is None:
        raise VssError(f"{path}: expected an image, the file does not decode")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _open_video(path: Path) -> cv2.VideoCapture:
    # FFmpeg and OpenCV write their own lines to stderr about a file that our error already names.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        video = cv2.VideoCapture(str(path))
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not video.isOpened():
        raise VssError(f"{path}: expected a video, an image or a rosbag2; OpenCV cannot open it")
    return video


def _video(path: Path, fps: float | None) -> Source:
    video = _open_video(path)
    rate = fps or video.get(cv2.CAP_PROP_FPS)
    length = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    if not 0 < rate < 1000:  # containers without a rate state 0, or their time base
        _log.warning("%s: states a rate of %s frames per second; 30 is taken", path, rate)
        rate = 30.0

    def frames() -> Frames:
        video, index = _open_video(path), 0
        try:
            while True:
                there, bgr = video.read()
                if not there:
                    break
                yield cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), _stamp(index, rate)
                index += 1
        finally:
            video.release()
        if index < length:
            _log.warning("%s: states %d frames, %d decode; it may be cut short", path, length, index)

    return Source(str(path), frames, _first(frames(), str(path)), rate, length if length > 0 else None)


def _bag(path: Path, topic: str | None, fps: float | None) -> Source:
    with BagReader(path) as bag:
        # compressedDepth is PNG behind a header of its own, and no picture.
        found = [
            name
            for name, (msgtype, count) in bag.topics.items()
            if msgtype in (IMAGE, COMPRESSED) and count and not name.endswith("compressedDepth")
        ]
        if not found:
            raise VssError(f"{path}: no images, its topics are {', '.join(sorted(bag.topics)) or 'none'}")
        if topic is None and len(found) > 1:
            raise VssError(f"{path}: has several image topics; choose one: topic {', '.join(sorted(found))}")
        if topic is not None and topic not in found:
            raise VssError(f"{path}: no images on {topic!r}; expected one of {', '.join(sorted(found))}")
        chosen = topic or found[0]
        length = bag.topics[chosen][1]
        camera_info = _camera_info(bag, chosen)

    warned: list[str] = []

    def recorded() -> Frames:
        with BagReader(path) as bag:
            clock = _HeaderClock(f"{path}: {chosen}", warned)
            for index, (_, record_ns, message) in enumerate(bag.messages([chosen])):
                stamp = message.header.stamp
                stamp_ns = clock(stamp.sec * 1_000_000_000 + stamp.nanosec, record_ns)
                try:
                    yield _decode(message), stamp_ns
                except ImageError as error:
                    raise VssError(f"{path}: {chosen}, image {index}: {error}") from error

    start = list(islice(((rgb.shape, stamp) for rgb, stamp in recorded()), 10))
    if not start:
        raise VssError(f"{path}: expected at least one image on {chosen}, got none")
    steps = [after[1] - before[1] for before, after in pairwise(start)]
    rate = fps or (1e9 / max(statistics.median(steps), 1) if steps else 30.0)

    def retimed() -> Frames:
        for index, (rgb, _) in enumerate(recorded()):
            yield rgb, start[0][1] + _stamp(index, rate)

    size = start[0][0][:2]
    return Source(f"{path}:{chosen}", retimed if fps else recorded, size, rate, length, camera_info)


def _decode(message: Any) -> np.ndarray:
    if hasattr(message, "format"):
        return decode_compressed(message.data, message.format)
    big = bool(message.is_bigendian)
    return to_rgb(message.data, message.height, message.width, message.encoding, message.step, big)


class _HeaderClock:
    """Header stamps as long as they increase; from the first that does not, the recorder's clock goes on."""

    def __init__(self, name: str, warned: list[str]) -> None:
        self.name = name
        self.warned = warned
        self.offset: int | None = None
        self.last: int | None = None
        self.last_record = 0

    def __call__(self, header_ns: int, record_ns: int) -> int:
        if self.offset is None and header_ns <= (0 if self.last is None else self.last):
            why = "zero" if header_ns <= 0 else "not increasing"
            if not self.warned:  # once a source, not once a pass
                _log.warning("%s: header stamps are %s; times of recording are used instead", self.name, why)
                self.warned.append(why)
            self.offset = 0 if self.last is None else self.last - self.last_record
        stamp = header_ns if self.offset is None else record_ns + self.offset
        self.last, self.last_record = stamp, record_ns
        return stamp


def _camera_info(bag: BagReader, image_topic: str) -> dict[str, Any] | None:
    """The first CameraInfo beside the image topic (".../camera_info"), or the bag's only one; else None."""
    topics = [name for name, (msgtype, count) in bag.topics.items() if msgtype == CAMERA_INFO and count]
    parents = [image_topic.rsplit("/", depth)[0] for depth in (1, 2)]  # 2: .../image_raw/compressed
    beside = [f"{parent}/camera_info" for parent in parents if f"{parent}/camera_info" in topics]
    chosen = beside[:1] or (topics if len(topics) == 1 else [])
    for _, _, info in bag.messages(chosen) if chosen else ():
        return {
            "width": int(info.width),
            "height": int(info.height),
            "distortion_model": info.distortion_model,
            **{key: [float(value) for value in getattr(info, key)] for key in "dkrp"},
        }
    return None
