"""Video packets of ffmpeg_image_transport (h264, hevc …) to RGB, through PyAV."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from vss_ros.config import MAX_PIXELS, VssError, brief
from vss_ros.media.decode import check_size
from vss_ros.media.image_size import ImageError

CODECS = {
    "h264": "h264",
    "hevc": "hevc",
    "h265": "hevc",
    "av1": "av1",
    "mjpeg": "mjpeg",
    "vp8": "vp8",
    "vp9": "vp9",
}


class PacketDecoder:
    """Feed it the packets of one topic in order; what it answers belongs to an earlier one where frames are reordered.

    message: an FFMPEGPacket; its encoding names an encoder (libx264, h264_nvenc, "h264;bgr8;…").
    """

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self.max_pixels = max_pixels
        self.context: Any = None
        self.waiting: dict[int, Any] = {}
        self.number = 0

    def feed(self, message: Any, source: Any) -> Iterator[tuple[np.ndarray, Any]]:
        """(rgb (H, W, 3) uint8, `source` of its packet) of each frame that is complete by now. Raises ImageError."""
        import av

        if self.context is None:
            check_size(message.height, message.width, self.max_pixels)
            self.context = av.CodecContext.create(codec(message.encoding), "r")
        packet = av.Packet(bytes(message.data))
        packet.pts = packet.dts = self.number  # of the decoder's own: those of the message may be anything
        self.waiting[self.number] = source
        self.number += 1
        yield from self.take(packet)

    def flush(self) -> Iterator[tuple[np.ndarray, Any]]:
        """The frames that the decoder still holds."""
        if self.context is not None:
            yield from self.take(None)

    def take(self, packet: Any) -> Iterator[tuple[np.ndarray, Any]]:
        import av

        try:
            frames = self.context.decode(packet)
        except av.FFmpegError as error:
            raise ImageError(
                f"video packet: does not decode ({error}); one before it may be missing"
            ) from error
        for frame in frames:
            check_size(frame.height, frame.width, self.max_pixels)
            yield frame.to_ndarray(format="rgb24"), self.waiting.pop(frame.pts, None)


def codec(encoding: str) -> str:
    """The decoder for an encoding as ffmpeg_image_transport writes it."""
    try:
        import av  # noqa: F401
    except ImportError:
        raise VssError("video packets need PyAV: pip install 'vss_ros[demo]'") from None
    name = encoding.partition(";")[0].lower()
    name = {"x264": "h264", "x265": "hevc"}.get(name.removeprefix("lib"), name)
    found = re.search("|".join(CODECS), name)
    if not found:
        raise VssError(
            f"video packets of encoding {brief(encoding, 60)!r}: expected one of {', '.join(CODECS)}"
        )
    return CODECS[found[0]]
