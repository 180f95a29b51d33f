"""What of an input was left out stands in the report, not in the log alone."""

import json

import cv2
import numpy as np
import pytest
from fixtures.recordings import evaluate, record, results
from vss_ros.evaluate.report import write_report


def pictures(folder, rng, count=6, broken=()):
    folder.mkdir()
    for i in range(count):
        path = folder / f"{i}.jpg"
        cv2.imwrite(str(path), rng.integers(0, 256, (64, 96, 3), np.uint8))
        if i in broken:
            path.write_bytes(path.read_bytes()[:300])
    return folder


@pytest.mark.parametrize("kind", ["folder", "bag"])
def test_left_out_images_stand_in_every_form_of_the_report(evaluate, tmp_path, rng, kind):
    if kind == "folder":
        source = pictures(tmp_path / "drive", rng, broken=(1, 4))
    else:
        source = tmp_path / "drive"
        record(source, compressed=False, count=6, broken=(1, 4))
    topic = ("--topic", "/camera/image") if kind == "bag" else ()
    assert evaluate("--bag", source, *topic) == 0
    out = tmp_path / "out"
    note = "2 of 6 images do not decode and are left out; image 1: "
    for result in results(out).values():
        assert result["frames"] == 4 and note in "".join(result["notes"])
    assert note in (out / "report.json").read_text() and note in (out / "report.html").read_text()
    table, _ = write_report(out)
    assert any(line.startswith("- ") and note in line for line in table.splitlines())


def test_a_whole_input_needs_no_note(evaluate, tmp_path, rng):
    assert evaluate("--bag", pictures(tmp_path / "drive", rng)) == 0
    assert [run["notes"] for run in json.loads((tmp_path / "out" / "report.json").read_text())["runs"]] == [
        []
    ]
