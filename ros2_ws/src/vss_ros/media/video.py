"""RGB frames to an .mp4 that browsers play (H.264 through PyAV), or MPEG-4 where PyAV is absent."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.config import VssError

TICKS = 90_000
"""Units of a frame's time in a second, as usual for mp4."""


class VideoWriter:
    """Writes to a hidden file beside `path`, renamed by `close`; without a frame no file appears.

    With PyAV the frames keep the times of their stamps; OpenCV only knows the constant rate `fps`.
    """

    def __init__(self, path: Path, fps: float = 30.0) -> None:
        self.path, self.fps = path, fps
        self.partial = path.with_name(f".{path.name}")
        self.size = (0, 0)
        self.writer: Any = None
        self.first = self.last = 0

    def write(self, rgb: np.ndarray, stamp_ns: int) -> None:
        """Append an (H, W, 3) uint8 frame; one of another size is fitted to the first's."""
        if self.writer is None:
            height, width = rgb.shape[:2]
            self.size = (height + height % 2, width + width % 2)  # 4:2:0 colours need even sizes
            self.first, self.last = stamp_ns, -1
            self.writer = self.open()
        height, width = self.size
        if rgb.shape[:2] != self.size:
            rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        if isinstance(self.writer, cv2.VideoWriter):
            self.writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
            return
        from av import VideoFrame

        frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        # Players reject times that do not grow; a looping source jumps back.
        self.last = max(self.last + 1, (stamp_ns - self.first) * TICKS // 10**9)
        frame.pts, frame.time_base = self.last, Fraction(1, TICKS)
        self.container.mux(self.writer.encode(frame))

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
        self.container = av.open(str(self.partial), "w", format="mp4")
        stream = self.container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        stream.options = {"preset": "veryfast", "crf": "22"}
        return stream

    def close(self) -> None:
        """Complete the file and give it its name."""
        if self.writer is None:
            return
        if isinstance(self.writer, cv2.VideoWriter):
            self.writer.release()
        else:
            self.container.mux(self.writer.encode(None))
            self.container.close()
        os.replace(self.partial, self.path)

    def abort(self) -> None:
        """Give up; nothing is left."""
        if self.writer is not None:
            if isinstance(self.writer, cv2.VideoWriter):
                self.writer.release()
            else:
                self.container.close()
            self.partial.unlink(missing_ok=True)
