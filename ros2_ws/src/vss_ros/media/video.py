"""RGB frames to an .mp4 that browsers play (H.264 through PyAV), or MPEG-4 where PyAV is absent."""

from __future__ import annotations

import io
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import VssError

TICKS = 90_000
"""Units of a frame's time in a second, as usual for mp4."""
LONGEST_PAUSE = 10
"""Seconds that a frame is shown at most: a clock that is set must not stretch the video by years."""


class Whole(io.FileIO):
    """Takes each write whole or raises OSError; FFmpeg's own files lose the last one on a full disk without a word."""

    def write(self, data: Any) -> int:
        written = super().write(data) or 0
        while written < len(data):
            written += super().write(data[written:]) or 0
        return written


class VideoWriter:
    """Writes to a hidden file beside `path`, renamed by `close`; without a frame no file appears.

    With PyAV the frames keep the times of their stamps, and the hidden file plays up to its last second whatever
    happens to us; OpenCV only knows the constant rate `fps`.
    """

    def __init__(self, path: Path, fps: float = 30.0) -> None:
        self.path, self.fps = path, fps
        self.partial = path.with_name(f".{path.name}")
        self.size = (0, 0)
        self.writer: Any = None
        self.sound = True
        self.stamp = self.time = 0

    def write(self, rgb: np.ndarray, stamp_ns: int) -> None:
        """Append an (H, W, 3) uint8 frame; one of another size is fitted to the first's."""
        if self.writer is None:
            height, width = rgb.shape[:2]
            self.size = (height + height % 2, width + width % 2)  # 4:2:0 colours need even sizes
            self.stamp, self.time = stamp_ns, -1
            self.writer = self.open()
        height, width = self.size
        if rgb.shape[:2] != self.size:
            rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        if isinstance(self.writer, cv2.VideoWriter):
            self.writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
            return
        from av import VideoFrame

        frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        # Players reject times that do not grow; a looping source jumps back, a clock that is set to and fro.
        passed = min((stamp_ns - self.stamp) * TICKS // 10**9, LONGEST_PAUSE * TICKS)
        self.time, self.stamp = self.time + max(passed, 1), stamp_ns
        frame.pts, frame.time_base = self.time, Fraction(1, TICKS)
        self.sound, sound = False, self.sound  # FFmpeg may crash when it goes on after an error
        if not sound:
            raise OSError(f"{self.path}: has ended with an earlier error")
        self.container.mux(self.writer.encode(frame))
        self.sound = True

    def open(self) -> Any:
        height, width = self.size
        try:
            import av
        except ImportError:
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            # OpenCV tells the format by the suffix.
            self.partial = self.partial.with_suffix(".mp4")
            writer = cv2.VideoWriter(str(self.partial), fourcc, self.fps, (width, height))
            if not writer.isOpened():
                raise VssError(f"{self.path}: OpenCV cannot write video here; pip install av") from None
            return writer
        # Fragments of a second, each complete in itself: what a kill or a full disk leaves plays.
        fragments = {"movflags": "empty_moov+default_base_moof", "frag_duration": "1000000"}
        self.file = Whole(self.partial, "w")
        self.container = av.open(self.file, "w", format="mp4", options=fragments)
        stream = self.container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        stream.options = {"preset": "veryfast", "crf": "22"}
        return stream

    def close(self) -> None:
        """Complete the file and give it its name. Raises OSError or PyAV's error where the disk is full."""
        writer, self.writer = self.writer, None  # FFmpeg ends a file once
        if writer is None:
            return
        if isinstance(writer, cv2.VideoWriter):
            writer.release()
            os.replace(self.partial, self.path)
            return
        try:
            if self.sound:
                self.container.mux(writer.encode(None))
                self.container.close()  # which writes the last fragment
        finally:
            self.file.close()
            join_fragments(self.partial, self.path)

    def abort(self) -> None:
        """Give up; nothing is left."""
        if self.writer is not None:
            if isinstance(self.writer, cv2.VideoWriter):
                self.writer.release()
            else:
                if self.sound:
                    self.container.close()
                self.file.close()
            self.partial.unlink(missing_ok=True)


def join_fragments(partial: Path, path: Path) -> None:
    """The same packets with one index, by which players and OpenCV find frames; the fragments where that fails."""
    import av

    joined = partial.with_name(f"{partial.name}.joined")
    try:
        with (
            av.open(str(partial)) as source,
            Whole(joined, "w") as file,
            av.open(file, "w", format="mp4") as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        os.replace(joined, path)
        partial.unlink()
    except (OSError, av.FFmpegError):
        joined.unlink(missing_ok=True)
        os.replace(partial, path)
