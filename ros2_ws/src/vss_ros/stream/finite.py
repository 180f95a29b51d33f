"""An answer that is not a number is noticed, once a keyframe, before anyone drives by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vss_ros.config import VssError


class NotFinite(VssError):
    """The network answers NaN or infinity: its weights, its memory or its arithmetic are broken."""


def check_finite(arrays: Sequence[Any]) -> None:
    """Raise NotFinite if an array of any runtime (NumPy, torch on any device) holds NaN or infinity.

    By its extremes, which are NaN where any value is: 0.02 ms for 12×90×120, and no sum that overflows in float16.
    """
    if not all(math.isfinite(float(x.min())) and math.isfinite(float(x.max())) for x in arrays):
        raise NotFinite(
            "the network's answer is not finite (NaN or infinity), its memory is thrown away: set precision to f32; "
            "if it comes back, the weights are damaged, install the model again"
        )
