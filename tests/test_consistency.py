"""Consistency figures against examples counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from vss_ros.config import IGNORE, VssError
from vss_ros.consistency import flicker, label_change

A = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]], np.uint8)


def test_label_change_counts_pixels():
    b = A.copy()
    b[0, 0], b[3, 3], b[2, 1] = 1, 0, IGNORE
    assert label_change(A, b) == 3 / 16
    assert label_change(A, A) == 0
    assert label_change(A, A + 1) == 1


def test_flicker_counts_labels_that_come_back():
    middle, last = A.copy(), A.copy()
    middle[0, :] = 9  # four pixels leave ...
    last[0, 0] = 9  # ... one stays away, three come back
    last[3, 3] = 5  # changes later: no flicker
    assert flicker(A, middle, last) == 3 / 16
    assert flicker(A, A, A) == 0


def test_sizes_must_agree():
    with pytest.raises(VssError, match="one size"):
        label_change(A, A[:2])
    with pytest.raises(VssError, match="at least one pixel"):
        label_change(A[:0], A[:0])
    with pytest.raises(VssError, match="one size"):
        flicker(A, A[:2], A)
