"""A checkpoint is chosen by what will run: frames that reuse a keyframe as well as keyframes."""

import numpy as np
import pytest
import torch
from vss_ros.data.clips import Clip
from vss_ros.data.metrics import mean_iou
from vss_ros.networks import build
from vss_ros.train.validate import score_of, validate


class Grey:
    """Twelve frames of two classes; which frames are asked for is noted."""

    name, classes, asked = "grey", ["dark", "bright"], []

    def __len__(self):
        return 12

    def clip(self, i, offsets):
        self.asked.append((i, tuple(offsets)))
        labels = np.zeros((32, 64), np.uint8)
        labels[:, 5 * i :] = 1
        frame = np.repeat(labels[..., None] * 200, 3, -1)
        return Clip([frame] * len(offsets), [labels] * len(offsets), 0, "grey", i)


@pytest.mark.parametrize(("name", "kinds"), [("dcfm", 2), ("segformer", 1)])
def test_reused_keyframes_are_validated_at_every_age(name, kinds):
    torch.manual_seed(0)
    data = Grey()
    data.asked = []
    network = build(name, "mit_b0", 2)
    counts = validate(network, data, (32, 64), interval=4).numpy()
    assert counts.shape == (kinds, 2, 3) and (counts.sum((1, 2)) == 12 * 32 * 64).all()
    assert score_of(counts) == pytest.approx(np.mean([mean_iou(part) for part in counts]))
    ages = {-offset for _, offsets in data.asked for offset in offsets}
    assert ages == ({0, 1, 2, 3} if kinds == 2 else {0})
    assert len(validate(network, data, (32, 64))) == 1
