"""A memory in parts: which of them each frame has to run."""

from __future__ import annotations

from itertools import chain

import pytest
from vss_ros.stream.memory import turn


@pytest.mark.parametrize(
    ("frames", "parts", "expected"),
    [(1, 4, [4]), (2, 4, [2, 2]), (3, 4, [2, 1, 1]), (4, 4, [1] * 4), (2, 3, [2, 1]), (3, 3, [1] * 3)],
)
def test_every_part_has_its_turn(frames, parts, expected):
    turns = [list(turn(i, frames, parts)) for i in range(frames)]
    assert list(chain(*turns)) == list(range(parts)) and [len(each) for each in turns] == expected
