"""One loop scores every input: figures of several videos are those of each, pooled."""

import numpy as np
import pytest
from vss_ros.data import metrics
from vss_ros.evaluate.scores import Scores, Times


def test_videos_are_pooled_and_a_new_size_begins_another(rng):
    scores = Scores(3)
    windows, counts = [], 0
    for length, size in ((12, (16, 24)), (10, (16, 24)), (9, (12, 16))):
        scores.start()
        truth = np.repeat(rng.integers(0, 3, (1, *size), dtype=np.uint8), length, 0)
        labels = np.where(rng.random(truth.shape) < 0.2, 2, truth).astype(np.uint8)
        rgb = rng.integers(0, 256, (length, *size, 3), dtype=np.uint8)
        for frame in zip(rgb, truth, labels, strict=True):
            scores.add(*frame)
        counts = counts + metrics.confusion(truth, labels, 3)
        windows.append(metrics.video_consistency(truth, labels, 8))
    assert np.array_equal(scores.counts, counts)
    found = scores.summary()
    assert found["mVC_8"] == pytest.approx(metrics.mean_video_consistency(windows)) and "mVC_16" not in found
    assert found["mIoU"] == metrics.mean_iou(counts) and 0 <= found["TC"] <= 1


def test_without_the_truth_of_every_frame_nothing_is_said_of_time():
    scores, plane = Scores(2), np.zeros((4, 4), np.uint8)
    rgb = np.zeros((4, 4, 3), np.uint8)
    assert scores.add(rgb, None, plane) == {} and scores.summary() == {}
    assert scores.add(rgb, plane, plane) == {"mIoU": 1.0}
    assert set(scores.summary()) == {"mIoU", "wIoU", "accuracy"}


def test_times():
    times = Times()
    for is_key, ms in ((True, 9.0), (False, 1.0), (False, 2.0)):
        times.add(is_key, ms)
    assert times.medians() == {"key": 9.0, "nonkey": 1.5} and times.summary()["p50"] == 2.0
