"""`vss evaluate --groups`: masks, names and accuracy are those of the groups, the truth joined in the same way."""

from __future__ import annotations

import numpy as np
from fixtures.recordings import FRAMES, evaluate, masks, record, results, truth
from vss_ros.data import metrics


def test_truth_is_joined_as_the_labels_are(evaluate, tmp_path):
    bag = record(tmp_path / "drive", compressed=False)
    command = ("--bag", bag, "--topic", "/camera/image", "--truth", "/truth", "--no-overlay")
    groups = tmp_path / "groups.yaml"
    groups.write_text('free: [road, sky]\nobstacle: ["*"]')
    out = tmp_path / "out"
    assert evaluate(*command) == 0
    [plain_name] = results(out)
    assert evaluate(*command, "--groups", groups) == 0
    [name] = {*results(out)} - {plain_name}  # stands beside it
    plain = [np.frombuffer(data, np.uint8) for _, _, data in masks(out / plain_name)]
    joined = [np.frombuffer(data, np.uint8) for _, _, data in masks(out / name)]
    table = np.array([0, 1, 0, *[255] * 253], np.uint8)
    np.testing.assert_array_equal(joined, table[np.array(plain)])
    result = results(out)[name]
    assert result["classes"] == ["free", "obstacle"] and not result["notes"]
    truths = [table[truth(index)].ravel() for index in range(FRAMES)]
    counts = sum(metrics.confusion(t, p, 2) for t, p in zip(truths, joined, strict=True))
    assert result["accuracy"]["mIoU"] == metrics.mean_iou(counts)

    # Another content is another result, although the file's name is the same.
    groups.write_text("free: [road, sky, car]")
    assert evaluate(*command, "--groups", groups) == 0
    assert results(out)[name]["classes"] == ["free"]
