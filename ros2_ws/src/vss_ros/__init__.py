"""Video semantic segmentation on robots.

stream = vss_ros.load_stream("street", backend="auto", keyframe_interval=5)
result = stream(rgb, stamp)        # rgb (H, W, 3) uint8, seconds
result.labels                      # (H, W) uint8
"""

from __future__ import annotations

from typing import Any

from vss_ros.config import VssError, missing  # first of all: it bounds OpenCV, which reads its limits once

__all__ = ["VssError", "__version__", "load_stream"]
__version__ = "0.1.0"


def load_stream(model: Any = None, **options: Any) -> Any:
    """See `vss_ros.stream.load.load_stream`; torch is imported by the first call, not by `import vss_ros`."""
    try:
        from vss_ros.stream.load import load_stream as load
    except ModuleNotFoundError as error:
        raise VssError(missing(error.name or str(error))) from error
    return load(model, **options)
