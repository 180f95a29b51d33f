"""OpenCV says nothing inside, and as much as before afterwards, also after an error."""

from __future__ import annotations

import cv2
import pytest
from vss_ros.media import quiet


def level() -> int:
    return cv2.getLogLevel() if hasattr(cv2, "getLogLevel") else cv2.utils.logging.getLogLevel()


def test_level_inside_and_afterwards():
    before = level()
    with pytest.raises(ValueError), quiet.quiet_opencv():
        assert level() == 0
        raise ValueError
    assert level() == before != 0
