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


def test_windows_and_flow_take_what_the_truth_allows(rng):
    """An unlabelled frame ends a window; with `whole` the flow needs no truth; stills have neither."""
    frames = rng.integers(0, 256, (20, 16, 24, 3), dtype=np.uint8)
    labels = rng.integers(0, 2, (20, 16, 24), dtype=np.uint8)
    found = {}
    for whole, moves in ((False, True), (True, True), (False, False)):
        scores = Scores(2)
        scores.start(moves, whole)
        for i, (rgb, plane) in enumerate(zip(frames, labels, strict=True)):
            scores.add(rgb, None if i == 10 else plane, plane)
        found[whole, moves] = scores.summary(), [len(w) for w in scores.windows[8]], scores.flow_counts.sum()
    lengths = [n for n in found[False, True][1] if n]
    assert lengths == [3, 2] and found[False, True][0]["mVC_8"] == 1
    assert found[True, True][2] > found[False, True][2]
    assert not {"mVC_8", "TC"} & set(found[False, False][0])


def test_times():
    times = Times()
    for is_key, ms in ((True, 9.0), (False, 1.0), (False, 2.0)):
        times.add(is_key, ms)
    assert times.medians() == {"key": 9.0, "nonkey": 1.5} and times.summary()["p50"] == 2.0
