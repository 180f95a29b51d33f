"""Masks of a video, a folder of images, a recording, a webcam or an RTSP stream as files, one a frame.

A run that was stopped goes on where it was: frames whose mask is there are not answered again. masks.json beside the
masks says what their values mean.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from vss_ros.config import StreamConfig, VssError, check, option
from vss_ros.data.camera import refuse_topic
from vss_ros.data.pictures import Source
from vss_ros.data.source import image_files, open_source
from vss_ros.media.draw import overlay
from vss_ros.media.files import write_atomic
from vss_ros.media.live import Live, is_live
from vss_ros.media.video import VideoWriter
from vss_ros.options import add_options, from_options, progress
from vss_ros.stream.load import StreamOptions, load_stream, open_stream
from vss_ros.stream.result import MASKS, Result, check_mask_kind, decode_mask
from vss_ros.stream.schedule import check_delay
from vss_ros.stream.stream import Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger(__name__)
RECORD = "masks.json"


@dataclass(frozen=True)
class PredictConfig:
    """Options of `vss predict` beyond those of a stream."""

    png: str = option(
        "ids",
        "masks as class ids, in the model's colours, or as Cityscapes' server wants them (its label ids, its names)",
        choices=MASKS,
    )
    video: bool = option(False, "also overlay.mp4, the frames under the classes")
    limit: int = option(0, "frames at most; 0: all", low=0, high=1 << 30)
    reconnect: float = option(
        30.0, "seconds for which a live source that is lost is tried again", low=0.0, high=1e6
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class FilesConfig:
    """What `vss predict` reads and writes."""

    input: str = option(
        "",
        "video, image, folder, recording, street[:SEED]; live: camera:0 (a webcam), /dev/video0, an rtsp://, "
        "http:// or udp:// address",
        unset="positional",
    )
    out: Path | None = option(None, "folder of the masks", kind=Path, unset="required")
    topic: str | None = option(None, "image topic of a recording of several cameras", kind=str)


@dataclass
class Frames:
    """What is to be answered. items: (rgb (H, W, 3) uint8, seconds); names: of the frames where they are files."""

    items: Iterable[tuple[np.ndarray, float]]
    fps: float
    length: int | None
    names: list[str] | None = None
    live: bool = False

    @property
    def gap(self) -> float | None:
        """For `Stream.feed`, of the newest frame of a live source."""
        return getattr(self.items, "gap", None)

    def numbered(self) -> Iterator[tuple[int, tuple[np.ndarray, float]]]:
        """Each with its place in the source, where some may not decode."""
        if isinstance(self.items, Source):
            yield from ((p.number, (p.rgb, p.stamp / 1e9)) for p in self.items.pictures())
        else:
            yield from enumerate(self.items)

    def stem(self, index: int, stamp: float, cityscapes: bool) -> str:
        """A mask's name: its image's, its number, or of a live frame its time in seconds since 1970."""
        name = self.names[index] if self.names else f"{stamp:.6f}" if self.live else f"{index:06d}"
        return f"{name.removesuffix('_leftImg8bit')}_pred" if cityscapes else name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, FilesConfig)
    add_options(parser, PredictConfig)
    add_options(parser, StreamConfig)


def main(args: argparse.Namespace) -> int:
    config, wanted = from_options(StreamConfig, args), from_options(PredictConfig, args)
    frames = open_frames(args.input, args.topic, wanted.reconnect)
    with open_stream(config) as stream:
        if not frames.live:
            check_delay(stream)
        if stream.card is None:
            raise VssError("predict: expected a model with a card")
        check_mask_kind(wanted.png, stream.card.palette)
        claim(args.out, args.input, stream, wanted.png)
        most = [n for n in (frames.length, wanted.limit) if n]
        with progress(total=min(most, default=None), unit="frame") as bar:
            masks = Masks(args.out, stream, frames, wanted, bar)
            masks.write_all()
    kept = f", {masks.kept} were there already" if masks.kept else ""
    log.info("masks are in %s: %d new%s", args.out, masks.new, kept)
    if dropped := getattr(frames.items, "dropped", 0):
        log.info("%d frames came while another was answered and are left out", dropped)
    return 0


def predict(
    source: str | Path,
    model: str | Path | None = None,
    *,
    topic: str | None = None,
    **options: Unpack[StreamOptions],
) -> Iterator[tuple[np.ndarray, Result]]:
    """See `vss_ros.predict`; what cannot be opened is refused here, not with the first frame."""
    if not isinstance(source, (str, Path)):
        raise VssError(f"source: expected a path, or a text such as 'camera:0', got {type(source).__name__}")
    frames = open_frames(str(source), topic)
    stream = load_stream(model, **options)
    if not frames.live:
        check_delay(stream)
    return answers(stream, frames)


def answers(stream: Stream, frames: Frames) -> Iterator[tuple[np.ndarray, Result]]:
    with stream:
        for rgb, stamp in frames.items:
            done = stream.feed(rgb, stamp, rgb, frames.gap)
            stream.after()
            yield from ((result.source, result) for result in done)
        yield from ((result.source, result) for result in stream.flush())


def open_frames(text: str, topic: str | None, patience: float = 30.0) -> Frames:
    if is_live(text):
        refuse_topic(text, topic)
        live = Live(text, patience)
        return Frames(live, live.fps, live.length, live=live.length is None)
    source = open_source(text, topic)
    path = Path(text).expanduser()
    files = image_files(path) if path.is_dir() else []
    names = [file.stem for file in files] if files and len(files) == source.length else None
    if names and len({*names}) < len(names):
        names = [file.name.replace(".", "_") for file in files]  # 1.jpg beside 1.png
    return Frames(source, source.fps, source.length, names)


def claim(out: Path, text: str, stream: Stream, png: str) -> None:
    """Write masks.json into the folder, or find that it is of an earlier run of the same. Raises VssError else."""
    card = stream.card
    path = Path(text).expanduser()
    record = {
        "input": str(path.resolve()) if path.exists() else text.split("@")[-1],
        "model": card.name,
        "weights": card.sha256,
        "png": png,
        "classes": {name: number for number, name in enumerate(card.classes)},
        "palette": [list(colour) for colour in card.palette],
    }
    file = out / RECORD
    if file.is_file():
        try:
            earlier = json.loads(file.read_text())
        except ValueError:
            earlier = {}
        other = [
            name for name in record if not isinstance(earlier, dict) or earlier.get(name) != record[name]
        ]
        if other:
            raise VssError(
                f"{out}: holds masks of another {', '.join(other)} (see {RECORD}): choose another --out, or remove it"
            )
        return
    if out.is_dir() and any(out.glob("*.png")):
        raise VssError(f"{out}: holds PNG files that are no masks of `vss predict`: choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(record, indent=1).encode())
    except OSError as error:
        raise VssError(f"{out}: cannot be written: {error}") from error


class Masks:
    """The files of one run. new: masks that it wrote; kept: those of earlier runs."""

    def __init__(self, out: Path, stream: Stream, frames: Frames, wanted: PredictConfig, bar: Any) -> None:
        self.out, self.stream, self.frames, self.wanted, self.bar = out, stream, frames, wanted, bar
        self.palette = stream.card.palette
        self.video = VideoWriter(out / "overlay.mp4", frames.fps) if wanted.video else None
        self.new = self.kept = 0

    def write_all(self) -> None:
        try:
            try:
                self.answer()
            except KeyboardInterrupt:
                if not self.frames.live:  # which has no other end
                    raise
                self.put(self.stream.flush())
        except BaseException:
            if self.video:
                self.video.abort()
            raise
        if self.video:
            self.video.close()

    def answer(self) -> None:
        limit, cityscapes = self.wanted.limit, self.wanted.png == "cityscapes"
        for index, (rgb, stamp) in self.frames.numbered():
            path = self.out / f"{self.frames.stem(index, stamp, cityscapes)}.png"
            if not self.keep(path, rgb, stamp):
                self.put(self.stream.feed(rgb, stamp, (path, rgb), self.frames.gap))
                self.stream.after()
            if limit and index + 1 >= limit:
                break
        self.put(self.stream.flush())

    def keep(self, path: Path, rgb: np.ndarray, stamp: float) -> bool:
        """Whether an earlier run answered the frame; it then goes into the video as it is."""
        if not path.exists():
            return False
        labels = self.read(path, rgb) if self.video else None
        if self.video and labels is None:
            return False
        self.put(self.stream.flush())
        self.stream.reset()  # the frames between were not seen
        self.kept += 1
        if self.video and labels is not None:
            self.show(rgb, labels, stamp)
        self.bar.update()
        return True

    def read(self, path: Path, rgb: np.ndarray) -> np.ndarray | None:
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if mask is None or mask.shape[:2] != rgb.shape[:2]:
            return None
        return decode_mask(mask, self.wanted.png, self.palette)

    def put(self, results: Iterable[Result]) -> None:
        for result in results:
            path, rgb = result.source
            result.save(path, self.wanted.png)
            self.new += 1
            if self.video:
                self.show(rgb, result.labels, result.stamp)
            self.bar.update()

    def show(self, rgb: np.ndarray, labels: np.ndarray, stamp: float) -> None:
        assert self.video
        self.video.write(overlay(rgb, labels, self.palette), round(stamp * 1e9))
