"""The figures of a whole run."""

import json

import numpy as np
import pytest
from fixtures.recordings import evaluate, lines, record


def test_the_refresh_jump_with_and_without_motion(evaluate, tmp_path):
    """Both runs in one report, side by side."""
    bag = record(tmp_path / "drive")
    for options in ((), ("--no-motion", "--steady", "0")):
        assert evaluate("--bag", bag, "--topic", "/camera/image/compressed", "--no-overlay", *options) == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(found["runs"]) == 2 and {"keyframe_change", "other_change"} <= set(found["columns"])
    for run in found["runs"]:
        folder = next(
            path.parent
            for path in (tmp_path / "out").glob("*/*/result.json")
            if json.loads(path.read_text())["run"] == run["run"]
        )
        rows = [row for row in lines(folder) if "label_change" in row]
        for name, kind in (("keyframe_change", 1), ("other_change", 0)):
            expected = np.mean([row["label_change"] for row in rows if row["keyframe"] == kind])
            assert run["headline"][name] == pytest.approx(expected)
