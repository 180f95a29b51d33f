"""Masks of a video, a folder of images, a recording, a webcam or an RTSP stream as files, one a frame.

A run that was stopped goes on where it was: frames whose mask is there are not answered again.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from vss_ros.config import IGNORE, StreamConfig, VssError, check, option
from vss_ros.data.published.cityscapes import CITYSCAPES_IDS
from vss_ros.data.source import image_files, open_source
from vss_ros.media.draw import colorize, overlay
from vss_ros.media.files import write_atomic
from vss_ros.options import add_options, from_options
from vss_ros.stream.load import open_stream

log = logging.getLogger(__name__)
LIVE = ("rtsp://", "rtsps://", "http://", "https://", "camera:")


@dataclass(frozen=True)
class PredictConfig:
    """Options of `vss predict` beyond those of a stream."""

    png: str = option(
        "ids",
        "masks as class ids, in the model's colours, or as Cityscapes' server wants them (its label ids, its names)",
        choices=("ids", "color", "cityscapes"),
    )
    video: bool = option(False, "also overlay.mp4, the frames under the classes")
    limit: int = option(0, "frames at most; 0: all", low=0, high=1 << 30)

    def __post_init__(self) -> None:
        check(self)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        help="video, image, folder, recording, street[:SEED], camera:0 (a webcam) or an rtsp:// address",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the masks")
    parser.add_argument("--topic", help="image topic of a recording of several cameras")
    add_options(parser, PredictConfig)
    add_options(parser, StreamConfig)


def main(args: argparse.Namespace) -> int:
    config, wanted = from_options(StreamConfig, args), from_options(PredictConfig, args)
    names, frames, total, fps = frames_of(args.input, args.topic)
    with open_stream(config) as stream:
        if stream.card is None:
            raise VssError("predict: expected a model with a card")
        palette = np.array(stream.card.palette, np.uint8)
        if wanted.png == "cityscapes" and len(palette) != len(CITYSCAPES_IDS):
            raise VssError(
                f"png cityscapes: expected a model of its {len(CITYSCAPES_IDS)} classes, {stream.card.name} has "
                f"{len(palette)}"
            )
        args.out.mkdir(parents=True, exist_ok=True)
        video = None
        skipped = 0
        bar = tqdm(frames, total=min(total or 1 << 60, wanted.limit or 1 << 60) if total or wanted.limit else None,
                   disable=True if args.quiet else None, unit="frame")  # fmt: skip
        try:
            for index, (rgb, stamp) in enumerate(bar):
                if wanted.limit and index == wanted.limit:
                    break
                stem = names[index] if names else f"{index:06d}"
                if wanted.png == "cityscapes":
                    stem = stem.removesuffix("_leftImg8bit") + "_pred"
                path = args.out / f"{stem}.png"
                if path.exists() and not wanted.video:
                    skipped += 1
                    continue
                labels = stream(rgb, stamp).labels
                mask = encoded(labels, wanted.png, palette)
                write_atomic(path, cv2.imencode(".png", mask)[1].tobytes())
                if wanted.video:
                    if video is None:
                        height, width = labels.shape
                        video = cv2.VideoWriter(
                            str(args.out / "overlay.mp4"),
                            cv2.VideoWriter.fourcc(*"mp4v"),
                            fps,
                            (width, height),
                        )
                    video.write(overlay(rgb, labels, palette)[:, :, ::-1])
        finally:
            if video is not None:
                video.release()
    note = f", {skipped} were there already" if skipped else ""
    log.info("masks are in %s%s", args.out, note)
    return 0


def encoded(labels: np.ndarray, kind: str, palette: np.ndarray) -> np.ndarray:
    """Labels (H, W) uint8 as OpenCV writes them: ids, BGR colours, or Cityscapes' label ids (0: unlabelled)."""
    if kind == "color":
        return colorize(labels, palette)[:, :, ::-1]
    if kind == "cityscapes":
        table = np.zeros(256, np.uint8)
        table[: len(CITYSCAPES_IDS)] = CITYSCAPES_IDS
        table[IGNORE] = 0
        return table[labels]
    return labels


def frames_of(text: str, topic: str | None) -> tuple[list[str] | None, Iterator[Any], int | None, float]:
    """Names of the frames where they are files, (rgb, seconds) of each, how many, and their rate."""
    if text.startswith(LIVE):
        return None, live(text), None, 30.0
    source = open_source(text, topic)
    path = Path(text).expanduser()
    files = image_files(path) if path.is_dir() else []
    names = [file.stem for file in files] if files and len(files) == source.length else None
    return names, iter(source), source.length, source.fps


def live(text: str) -> Iterator[tuple[np.ndarray, float]]:
    """Frames of a camera until it ends, or Ctrl-C."""
    number = text.removeprefix("camera:")
    capture = cv2.VideoCapture(int(number) if number.isdigit() else text)
    try:
        if not capture.isOpened():
            raise VssError(
                f"{text}: cannot be opened; expected camera:0 or an address that OpenCV's FFmpeg plays"
            )
        while True:
            there, bgr = capture.read()
            if not there:
                return
            yield np.ascontiguousarray(bgr[:, :, ::-1]), time.time()
    finally:
        capture.release()
