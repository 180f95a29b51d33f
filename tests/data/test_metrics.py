"""Each figure equals one worked out by hand on 4×4 pixels."""

import numpy as np
import pytest
from vss_ros.config import VssError
from vss_ros.data import metrics

TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2], [2, 2, 255, 255]], np.uint8)
LABELS = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [2, 2, 0, 0], [2, 255, 1, 2]], np.uint8)
# classes 0…3, of which 3 does not occur:
#   0: 3 right of 4 true, 5 labelled     IoU 3 / 6
#   1: 4 right of 4 true, 5 labelled     IoU 4 / 5
#   2: 3 right of 6 true, 3 labelled     IoU 3 / 6   (one pixel has no label, two are taken for 0)


@pytest.fixture
def counts():
    return metrics.confusion(TRUTH, LABELS, 4)


def test_confusion(counts):
    assert counts.tolist() == [[3, 1, 0, 0, 0], [0, 4, 0, 0, 0], [2, 0, 3, 0, 1], [0, 0, 0, 0, 0]]


def test_iou(counts):
    np.testing.assert_allclose(metrics.iou(counts), [3 / 6, 4 / 5, 3 / 6, np.nan])


def test_means(counts):
    assert metrics.mean_iou(counts) == pytest.approx((0.5 + 0.8 + 0.5) / 3)
    assert metrics.mean_iou(counts, all_classes=True) == pytest.approx((0.5 + 0.8 + 0.5) / 4)
    assert metrics.weighted_iou(counts) == pytest.approx((4 * 0.5 + 4 * 0.8 + 6 * 0.5) / 14)
    assert metrics.pixel_accuracy(counts) == pytest.approx(10 / 14)


def test_parts_add_up(counts):
    parts = [metrics.confusion(TRUTH[rows], LABELS[rows], 4) for rows in (slice(0, 2), slice(2, 4))]
    np.testing.assert_array_equal(sum(parts), counts)


def test_nothing_labelled():
    counts = metrics.confusion(np.full((4, 4), 255, np.uint8), LABELS, 4)
    assert counts.sum() == 0 and np.isnan(metrics.mean_iou(counts)) and metrics.pixel_accuracy(counts) == 0


def test_against_torchmetrics(rng):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("torchmetrics.functional.classification")
    truth, labels = rng.integers(0, 5, (2, 40, 40), dtype=np.uint8)
    counts = metrics.confusion(truth, labels, 5)
    t, p = torch.from_numpy(truth).long(), torch.from_numpy(labels).long()
    expected = library.multiclass_jaccard_index(p, t, 5, average=None).numpy()
    np.testing.assert_allclose(metrics.iou(counts), expected, rtol=1e-6)
    accuracy = library.multiclass_accuracy(p, t, 5, average="micro").item()
    assert metrics.pixel_accuracy(counts) == pytest.approx(accuracy)


def video(*changes):
    """Four frames of 4×4 zeros in which pixel (row, column) becomes 1 from a frame on."""
    frames = np.zeros((4, 4, 4), np.uint8)
    for frame, row, column in changes:
        frames[frame:, row, column] = 1
    return list(frames)


def test_video_consistency_by_hand():
    truth = video((1, 0, 0))  # changes in the window of frames 0, 1 alone
    labels = video((1, 0, 0), (1, 0, 1), (3, 3, 3))
    # frames 0, 1: 15 pixels stay, of which (0, 1) is labelled otherwise; 1, 2: 16 stay; 2, 3: (3, 3) changes
    assert metrics.video_consistency(truth, labels, 2, "paper") == pytest.approx([14 / 15, 1.0, 15 / 16])
    assert metrics.video_consistency(truth, labels, 2) == pytest.approx([14 / 15, 1.0])
    # frames 0, 1, 2: as frames 0, 1; frames 1, 2, 3: as frames 2, 3
    assert metrics.video_consistency(truth, labels, 3, "paper") == pytest.approx([14 / 15, 15 / 16])


def test_video_consistency_ignores_whether_labels_are_right():
    assert metrics.video_consistency(video(), [np.full((4, 4), 7, np.uint8)] * 4, 3) == [1.0]


def test_window_in_which_everything_changes_is_not_counted():
    truth = [np.full((4, 4), t, np.uint8) for t in range(4)]
    values = metrics.video_consistency(truth, truth, 2)
    assert np.isnan(values).all() and np.isnan(metrics.mean_video_consistency([values]))


def test_mean_video_consistency():
    videos = [[1.0, 0.5, float("nan")], [0.0]]
    assert metrics.mean_video_consistency(videos) == pytest.approx(0.5)
    assert metrics.mean_video_consistency(videos, "paper") == pytest.approx((0.75 + 0) / 2)


def test_flow_consistency_by_hand():
    labels = np.array([[0, 0, 1, 1]] * 4, np.uint8)
    later = np.array(
        [[2, 0, 0, 0]] * 4, np.uint8
    )  # moved one pixel right; the pixels of class 1 have become 0
    right = np.zeros((4, 4, 2), np.float32)
    right[..., 0] = 1
    counts = metrics.flow_confusion(labels, later, right, 3)
    # fetched: 0 0 0 and one column outside; class 0: 8 of 12, class 1: 0 of 4
    assert metrics.iou(counts)[:2].tolist() == [8 / 12, 0.0]
    assert counts.sum() == 12


def test_images_of_every_size_have_a_flow(rng):
    for size in ((1, 1), (11, 11), (12, 1), (1, 12), (12, 12), (13, 40), (500, 8), (17, 16)):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        assert metrics.dis_flow(image, image).shape == (*size, 2)


def test_dis_flow_finds_a_shift(rng):
    import cv2

    noise = cv2.GaussianBlur(rng.integers(0, 255, (96, 128), dtype=np.uint8), (0, 0), 2)
    image = np.repeat(cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)[..., None], 3, -1)
    flow = metrics.dis_flow(image, np.roll(image, 3, axis=1))
    assert np.abs(np.median(flow[20:-20, 20:-20], (0, 1)) - (3, 0)).max() < 0.2


def test_wrong_shapes_are_refused():
    with pytest.raises(VssError, match=r"\(4, 4\), got \(2, 4\)"):
        metrics.confusion(TRUTH, LABELS[:2], 4)
    with pytest.raises(VssError, match="convention"):
        metrics.video_consistency([TRUTH], [LABELS], 2, "other")
