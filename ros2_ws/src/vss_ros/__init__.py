"""Video semantic segmentation on robots.

stream = vss_ros.load_stream("street", backend="auto", keyframe_interval=5)
result = stream(rgb, stamp)        # rgb (H, W, 3) uint8, seconds
result.labels                      # (H, W) uint8

for rgb, result in vss_ros.predict("drive.mp4", "street"):
    result.save(f"masks/{result.index:06}.png")
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vss_ros.config import VssError, missing  # first of all: it bounds OpenCV, which reads its limits once

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from typing_extensions import Unpack

    from vss_ros.stream.load import StreamOptions
    from vss_ros.stream.result import Result
    from vss_ros.stream.stream import Stream

__all__ = ["VssError", "__version__", "load_stream", "predict"]
__version__ = "0.1.0"


def load_stream(model: str | Path | None = None, **options: Unpack[StreamOptions]) -> Stream:
    """A stream of one camera, ready to be called: `result = stream(rgb, stamp)`.

    model: name of an installed model (`vss models`) or path of a model card, by default "street". options: the fields
    of `vss_ros.config.StreamConfig`, `keyframe_interval` for its `interval`, and `both_sides` and `measure_drift` of
    `vss_ros.stream.stream.Stream`. Raises VssError for a model that is not there or damaged, an unknown option or a
    value out of its range, and a package that is not installed. The first call imports torch, `import vss_ros` does
    not.
    """
    try:
        from vss_ros.stream.load import load_stream as load
    except ModuleNotFoundError as error:
        raise VssError(missing(error.name or str(error))) from error
    return load(model, **options)


def predict(
    source: str | Path,
    model: str | Path | None = None,
    *,
    topic: str | None = None,
    **options: Unpack[StreamOptions],
) -> Iterator[tuple[np.ndarray, Result]]:
    """Each frame of a source with its answer, in order: (rgb (H, W, 3) uint8, result).

    source: a video, image, folder of images or recording; "street", the synthetic street; or what is live:
    "camera:0" (a webcam), "/dev/video0", an rtsp://, http:// or udp:// address. Of a live source frames are left out
    while one is answered, and it is tried again for 30 s when it is lost. topic: the image topic of a recording of
    several cameras. model, options: as for `load_stream`. Raises VssError, also for a source that cannot be read,
    before the first frame.
    """
    try:
        from vss_ros.deploy.predict import predict as answers
    except ModuleNotFoundError as error:
        raise VssError(missing(error.name or str(error))) from error
    return answers(source, model, topic=topic, **options)
