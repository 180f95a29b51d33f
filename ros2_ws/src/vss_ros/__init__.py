"""Video semantic segmentation on robots.

stream = vss_ros.load_stream("street", backend="auto", keyframe_interval=5)
result = stream(rgb, stamp)        # rgb (H, W, 3) uint8, seconds
result.labels                      # (H, W) uint8
"""

from __future__ import annotations

from typing import Any

import vss_ros.config  # noqa: F401  first of all: it bounds OpenCV, which reads its limits once

__all__ = ["load_stream"]


def load_stream(model: Any = None, **options: Any) -> Any:
    """See `vss_ros.stream.load.load_stream`; torch is imported by the first call, not by `import vss_ros`."""
    from vss_ros.stream.load import load_stream as load

    return load(model, **options)
