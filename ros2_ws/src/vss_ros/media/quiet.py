"""OpenCV without its own lines on stderr, where an error of ours says more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import cv2

# apt's OpenCV 4.6 has it at the top, the wheels' 4.8 and later below `utils`
_set_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
_SILENT = 0


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    level = _set_level(_SILENT)
    try:
        yield
    finally:
        _set_level(level)
