"""Photometric change keeps shapes and types, is drawn from its generator alone, and follows its strength."""

import numpy as np
import pytest
from vss_ros.config import IGNORE, VssError
from vss_ros.train.augment import Augmentation
from vss_ros.train.photometric import change


@pytest.fixture
def picture(rng) -> tuple[np.ndarray, np.ndarray]:
    labels = np.zeros((48, 64), np.uint8)
    labels[24:], labels[30:40, 10:30], labels[:, 60:] = 3, 8, IGNORE
    image = np.array([(150, 180, 230), (90, 90, 95), (40, 20, 20)], np.uint8)[np.minimum(labels, 2)]
    return image + rng.integers(0, 9, image.shape, dtype=np.uint8), labels


def test_same_generator_same_picture(picture):
    image, labels = picture
    for seed in range(40):  # every effect is drawn several times
        first, again = (change(image, labels, 1.0, np.random.default_rng(seed)) for _ in range(2))
        assert first.shape == image.shape and first.dtype == np.uint8
        assert np.array_equal(first, again)


def test_strength_is_how_much_changes(picture):
    image, labels = picture

    def mean(strength):
        pictures = (change(image, labels, strength, np.random.default_rng(seed)) for seed in range(40))
        return np.mean([np.abs(p.astype(float) - image).mean() for p in pictures])

    assert mean(0.0) == 0
    assert 2 < mean(0.3) < mean(1.0)


def test_a_picture_without_labels_is_changed_too(picture):
    image, labels = picture
    changed = [
        change(image, np.full_like(labels, IGNORE), 1.0, np.random.default_rng(seed)) for seed in range(20)
    ]
    assert len({p.tobytes() for p in changed}) > 15


def test_frames_of_a_clip_change_alike_and_labels_stay(picture):
    image, labels = picture
    augment = Augmentation((48, 64), flip=False, photometric=1.0)
    frames, maps = augment([image, image], [labels, labels], np.random.default_rng(3))
    assert np.array_equal(frames[0], frames[1]) and not np.array_equal(frames[0], image)
    assert np.array_equal(maps[0], labels)
    with pytest.raises(VssError, match="photometric: expected 0 to 1"):
        Augmentation((48, 64), photometric=2.0)


def test_window_draws_the_side_of_what_is_cut_out(rng):
    """DCFM's authors draw the side: its inverse is the zoom, so that two thirds are below 1."""
    augment = Augmentation((512, 1024), scale=(0.5, 2.0), window=True, flip=False)
    zooms = np.array([augment.draw_matrix((1024, 2048), rng)[0, 0] for _ in range(2000)])
    assert zooms.min() >= 0.5 and zooms.max() <= 2
    assert np.mean(zooms < 1) == pytest.approx(2 / 3, abs=0.04)
    assert zooms.mean() == pytest.approx(np.log(4) / 1.5, abs=0.03)
