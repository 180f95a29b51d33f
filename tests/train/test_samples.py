"""Which clips stand where in a run, and those of a second data set that take the places of some of the first's."""

import dataclasses

import numpy as np
import pytest
from vss_ros.config import VssError
from vss_ros.data.clips import Clip
from vss_ros.train.recipe import read_recipe
from vss_ros.train.samples import Positions, Samples


class Plain:
    """Forty clips of one grey."""

    def __init__(self, name: str, grey: int, classes: tuple[str, ...] = ("a", "b")):
        self.name, self.grey, self.classes = name, grey, classes

    def __len__(self):
        return 40

    def clip(self, i, offsets):
        frame = np.full((32, 32, 3), self.grey, np.uint8)
        return Clip([frame] * len(offsets), [frame[..., 0]] * len(offsets), 0, self.name, i)


def test_the_share_is_drawn_and_repeatable():
    plain = {
        "crop": (32, 32),
        "augment": {},
        "neighbours": (),
        "after": "",
        "mixed": "b",
        "mixed_share": 0.25,
    }
    recipe = dataclasses.replace(read_recipe("street_frames"), **plain)
    samples = Samples(Plain("a", 50), recipe, None, Plain("b", 200))
    greys = [int(samples[position][0][0, 0, 0, 0]) for position in range(200)]
    assert set(greys) == {50, 200} and 0.15 < np.mean(np.array(greys) == 200) < 0.35
    assert greys == [int(samples[position][0][0, 0, 0, 0]) for position in range(200)]
    with pytest.raises(VssError, match=r"mixed: expected .* classes of a, a, b; b has a, c"):
        Samples(Plain("a", 50), recipe, None, Plain("b", 200, ("a", "c")))


def test_processes_share_the_positions_of_a_step():
    recipe = read_recipe("street")
    alone = list(Positions(recipe, 3, 0, 1))
    shared = zip(*(Positions(recipe, 3, rank, 2) for rank in (0, 1)), strict=True)
    assert [sorted(a + b) for a, b in shared] == alone
    assert alone[0][0] == 3 * recipe.batch and len(alone) == recipe.steps - 3
