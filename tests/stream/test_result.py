"""Labels as mask files, there and back."""

from __future__ import annotations

import numpy as np
import pytest
from vss_ros.config import VssError
from vss_ros.data.published.cityscapes import CITYSCAPES_PALETTE
from vss_ros.stream.result import MASKS, decode_mask, encode_mask


@pytest.mark.parametrize("kind", MASKS)
def test_masks_there_and_back(kind, rng):
    labels = rng.integers(0, 19, (6, 8)).astype(np.uint8)
    labels[0, 0] = 255
    palette = CITYSCAPES_PALETTE.tolist()
    assert (decode_mask(encode_mask(labels, kind, palette), kind, palette) == labels).all()


def test_cityscapes_ids():
    labels = np.array([[0, 18, 255]], np.uint8)
    assert encode_mask(labels, "cityscapes", CITYSCAPES_PALETTE.tolist()).tolist() == [[7, 33, 0]]
    with pytest.raises(VssError, match="expected a model of its 19 classes, this one has 2"):
        encode_mask(labels, "cityscapes", [[0, 0, 0]] * 2)
    with pytest.raises(VssError, match="expected one of ids, color, cityscapes"):
        encode_mask(labels, "npy", [])
