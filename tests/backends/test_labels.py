"""Logits and probabilities: labels of them, and the filter along the motion."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from fixtures.motion import CELLS, SIZE
from vss_ros.backends.labels import (
    LOG,
    SHARPER,
    blend,
    labels,
    labels_of,
    on_cells,
    probabilities,
    sharpened,
    steadied,
)
from vss_ros.media.motion import Step


def test_the_filter_blends_what_is_alike_and_keeps_what_is_new(rng):
    now, before = rng.random((2, 6, 8, 3), dtype=np.float32)
    alike = np.zeros((6, 8), np.float32)
    alike[:, :4] = 1
    found = blend(now, before.copy(), alike, 0.7)
    assert np.array_equal(found[:, 4:], now[:, 4:])
    assert np.allclose(found[:, :4], 0.3 * now[:, :4] + 0.7 * before[:, :4], atol=1e-6)
    assert np.array_equal(blend(now, before.copy(), alike, 0.0), now)


@pytest.mark.parametrize("shift", [0, 60, 500, -500])
def test_probabilities_of_logits_of_any_size(rng, shift):
    logits = [4 * rng.standard_normal((1, 5, 6, 8), dtype=np.float32) + shift]
    expected = np.exp(logits[0][0] - shift) / np.exp(logits[0][0] - shift).sum(0)
    assert np.abs(probabilities(logits) - expected.transpose(1, 2, 0)).max() < 1e-4
    logits[0][0, 2, 3, 4] = np.nan  # is not hidden
    assert np.isnan(probabilities(logits)[3, 4]).all()


@pytest.mark.parametrize(("older", "expected"), [(0, 0.7), (1, 1.4 / 1.7), (-1, 0.35 / 0.65)])
def test_the_filter_keeps_more_of_what_a_newer_keyframe_gave(rng, older, expected):
    now, before = rng.random((2, *CELLS, 3), dtype=np.float32)
    step = Step(np.zeros((*CELLS, 2), np.float32), np.ones(CELLS, np.float32), 0.0, True)
    plain = rng.integers(0, 3, SIZE, np.uint8)

    def found(strength, step=step, moved=before):
        given = None if moved is None else moved.copy()
        return steadied(lambda: now, lambda: plain, CELLS, step, given, strength, older, SIZE)

    labels, values = found(0.7)
    assert np.allclose(values, (1 - expected) * now + expected * before, atol=1e-5)
    assert np.array_equal(labels, labels_of(values, SIZE))
    assert np.array_equal(found(0.0)[0], labels_of(now, SIZE)), "as the moved ones after it"
    for nothing in (found(0.7, step=None), found(0.7, moved=None)):
        assert np.array_equal(nothing[1], now) and nothing[0] is plain


def test_probabilities_and_their_labels(rng):
    passes = [4 * rng.standard_normal((1, 7, 12, 16), dtype=np.float32) for _ in range(2)]
    passes[0][:, 3] = -50  # a class that is nowhere
    found = probabilities(passes)
    mean = (passes[0] + passes[1])[0] / 2
    expected = np.exp(mean) / np.exp(mean).sum(0)
    assert np.abs(found - expected.transpose(1, 2, 0)).max() < 1e-6
    logs = np.log(np.maximum(found, 1 / 255))
    logs += SHARPER * (logs - cv2.GaussianBlur(logs, (3, 3), 0))
    ours, exact = labels_of(found, (50, 70)), labels([logs.transpose(2, 0, 1)[None]], (50, 70))
    assert (ours == exact).mean() > 0.97
    full = cv2.resize(logs, (70, 50))
    lost = np.take_along_axis(full, exact[..., None].astype(int), 2) - np.take_along_axis(
        full, ours[..., None].astype(int), 2
    )
    assert lost.max() < np.log(2), "a step of 8 bits, where probabilities are least"


@pytest.mark.parametrize(
    "size", [(180, 240), (240, 320), (45, 60), (91, 121), (100, 120), (720, 1280), (7, 5)]
)
@pytest.mark.parametrize("spread", [1, 4, 40])
def test_a_class_upsampled_around_its_cells_alone_is_where_it_is_in_the_whole_map(rng, size, spread):
    coarse = rng.normal(0, spread, (6, 8, 7)).astype(np.float32)
    coarse[..., 5] -= 3 * spread  # a rare class
    coarse[0, 7, 6] += 9 * spread  # one in a corner
    found = probabilities([cv2.resize(coarse, (60, 45)).transpose(2, 0, 1)[None]])
    planes = cv2.split(cv2.convertScaleAbs(found, alpha=255))
    whole = labels([np.stack([sharpened(cv2.LUT(plane, LOG)) for plane in planes])[None]], size)
    assert np.array_equal(labels_of(found, size), whole)


@pytest.mark.parametrize("share", [0.6, 0.7, 0.9])
def test_thin_things_get_wider_by_sharpening(monkeypatch, share):
    line = np.zeros((12, 16, 2), np.float32)
    line[:, 7:10, 1] = 0.4 * share, share, 0.4 * share  # as resampling leaves it
    line[..., 0] = 1 - line[..., 1]
    sharp = (labels_of(line, (192, 256)) == 1).mean()
    monkeypatch.setattr("vss_ros.backends.labels.SHARPER", 0.0)
    assert 0 < (labels_of(line, (192, 256)) == 1).mean() < sharp < 8 / 64


@pytest.mark.parametrize("classes", [1, 2, 19, 150, 255])
def test_some_class_is_always_the_greatest(classes):
    even = np.full((4, 5, classes), 1 / classes, np.float32)
    assert not labels_of(even, (8, 10)).any(), "the first of equals"


@pytest.mark.parametrize("size", [(48, 64), (46, 66), (47, 63), (12, 16), (6, 8), (13, 15)])
@pytest.mark.parametrize("classes", [1, 3, 4, 5, 19, 255])
def test_every_size_comes_to_the_cells(rng, size, classes):
    values = rng.random((*size, classes), np.float32)
    on = on_cells(values, (12, 16))
    assert on.shape == (12, 16, classes) and on.dtype == np.float32
    assert on.mean() == pytest.approx(values.mean(), abs=0.05)
    assert np.allclose(on[..., -1], on_cells(values[..., -1:], (12, 16))[..., 0], atol=1e-6)
