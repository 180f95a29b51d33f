"""Webcams and network streams: the newest frame, however slow its reader is, and another try when they are lost."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import MAX_PIXELS, VssError
from vss_ros.media.decode import check_size
from vss_ros.media.image_size import ImageError
from vss_ros.media.quiet import quiet_opencv

log = logging.getLogger(__name__)
ADDRESSES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://", "srt://")
TIMEOUT_MS = 10_000
"""Without an answer, or a frame, an address counts as lost."""
WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds between two tries; the last one repeats."""


def is_live(text: str) -> bool:
    """camera:0, /dev/video0 or an address of `ADDRESSES`."""
    return text.startswith((*ADDRESSES, "camera:")) or (
        text.startswith("/dev/") and Path(text).is_char_device()
    )


def open_capture(address: str) -> cv2.VideoCapture:
    """OpenCV's reader, opened or not."""
    with quiet_opencv():
        if not address.startswith(ADDRESSES):
            number = address.removeprefix("camera:")
            return cv2.VideoCapture(int(number) if number.isdecimal() else number, cv2.CAP_ANY)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
        return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)


class Live:
    """Iterates (rgb (H, W, 3) uint8, seconds since 1970 at which it came) until the source is lost for good.

    A thread reads and keeps the newest frame alone: whoever is slow misses frames (`dropped`) and does not lag. A
    source that is lost is opened again for `patience` seconds. An address of a file, which has an end, is read frame
    by frame instead (`length`), stamped by its rate. Raises VssError where it cannot be opened in the first place.
    """

    def __init__(
        self,
        address: str,
        patience: float = 30.0,
        max_pixels: int = MAX_PIXELS,
        capture: Callable[[str], Any] = open_capture,
    ) -> None:
        self.address, self.patience, self.max_pixels, self.open = address, patience, max_pixels, capture
        self.name = re.sub(r"//[^/]*@", "//", address)  # a log is no place for its password
        self.capture = self.opened()
        if self.capture is None:
            raise VssError(
                f"{self.name}: cannot be opened; expected camera:0, /dev/video0, or an address that plays, such as "
                "rtsp://user:password@host/stream"
            )
        rate = self.capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0 < rate < 1000 else 30.0
        length = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)) if address.startswith(ADDRESSES) else 0
        self.length = length if 0 < length < 1 << 40 else None
        self.dropped = self.seen = 0
        self.gap: float | None = None
        """Longest time in seconds between two frames that came, from the last but one given to the last one; None for
        a file. What a slow reader leaves out is no gap."""
        self.waited, self.came = 0.0, 0.0
        self.newest: tuple[np.ndarray, float] | None = None
        self.ended = False
        self.stop = threading.Event()
        self.changed = threading.Condition()

    def opened(self) -> Any:
        """A capture that plays, or None. Raises VssError for frames that are too large."""
        capture = self.open(self.address)
        if not capture.isOpened():
            capture.release()
            return None
        height, width = (
            int(capture.get(name)) for name in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
        )
        try:
            if height and width:
                check_size(height, width, self.max_pixels)
        except ImageError as error:
            capture.release()
            raise VssError(f"{self.name}: {error}") from error
        return capture

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        if self.length:
            yield from self.file()
            return
        thread = threading.Thread(target=self.read, name="live", daemon=True)
        thread.start()
        try:
            while True:
                with self.changed:
                    self.changed.wait_for(lambda: self.newest or self.ended)
                    taken, self.newest = self.newest, None
                    self.gap, self.waited = self.waited, 0.0
                if taken is None:
                    return
                yield taken
        finally:
            self.stop.set()
            thread.join(TIMEOUT_MS / 1e3)

    def file(self) -> Iterator[tuple[np.ndarray, float]]:
        try:
            while (bgr := self.grab()) is not None:
                yield cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), self.seen / self.fps
                self.seen += 1
        finally:
            self.capture.release()

    def grab(self) -> np.ndarray | None:
        """The next frame (H, W, 3) uint8 BGR, or None where there is none any more."""
        try:
            there, bgr = self.capture.read()
        except cv2.error:
            return None
        return bgr if there and bgr is not None and bgr.ndim == 3 else None

    def read(self) -> None:
        """The thread: take frames as they come, until `stop` or the source is lost for good."""
        try:
            while not self.stop.is_set():
                bgr = self.grab()
                if bgr is None:
                    if not self.again():
                        return
                    continue
                frame = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), time.time()
                with self.changed:
                    self.waited = max(self.waited, frame[1] - (self.came or frame[1]))
                    self.came = frame[1]
                    self.dropped += self.newest is not None
                    self.seen, self.newest = self.seen + 1, frame
                    self.changed.notify()
        finally:
            self.capture.release()
            with self.changed:
                self.ended = True
                self.changed.notify()

    def again(self) -> bool:
        """Open a lost source again; False if that does not succeed within `patience`."""
        self.capture.release()
        lost = time.monotonic()
        log.warning("%s: lost after %d frames; trying again for %g s", self.name, self.seen, self.patience)
        for turn in range(1 << 30):
            wait = WAITS[min(turn, len(WAITS) - 1)]
            left = lost + self.patience - time.monotonic()
            if left <= 0 or self.stop.wait(min(wait, left)):
                break
            try:
                capture = self.opened()
            except VssError as error:
                log.warning("%s", error)
                break
            if capture is not None:
                self.capture = capture
                log.warning("%s: back after %.1f s", self.name, time.monotonic() - lost)
                return True
        if not self.stop.is_set():
            log.warning("%s: not back within %g s: it ends here", self.name, self.patience)
        return False
