"""The recordings that ../shared/cases/make.py writes, each in a shape that a robot left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.paths import find_data
from fixtures.recordings import evaluate, lines, results
from vss_ros.data.recordings import open_footage
from vss_ros.data.source import open_source


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    script = find_data().parent / "cases" / "make.py"
    if not script.exists():
        pytest.skip(f"needs {script}")
    out = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, str(script), str(out)], check=True, capture_output=True)
    return {case["case"]: case for case in json.loads((out / "cases.json").read_text())}


TRUTH = {"palette": "../gt", "cut_mask": "/gt", "truth_32SC1": "/gt"}
SEVERAL = ("fleet", "ros1", "two_cameras", *TRUTH)


def test_frames_of_every_case(cases):
    counts = {
        name: sum(1 for _ in open_source(case["bag"]).frames())
        for name, case in cases.items()
        if name not in SEVERAL
    }
    assert counts == {name: cases[name]["frames"] for name in counts} and len(counts) > 10


@pytest.mark.parametrize(
    ("name", "scored"), [("palette", [0, 1, 2]), ("cut_mask", [0, 2]), ("truth_32SC1", [0, 1, 2])]
)
def test_truth_of_every_kind(cases, name, scored, caplog):
    bag = cases[name]["bag"]
    truth = str(Path(bag) / TRUTH[name]) if name == "palette" else TRUTH[name]
    topic = "" if name == "palette" else "/camera/image_raw"
    frames = list(open_footage(bag, topic, truth).frames())
    assert len(frames) == cases[name]["frames"]
    assert [index for index, (_, labels, _) in enumerate(frames) if labels is not None] == scored
    assert {int(value) for _, labels, _ in frames if labels is not None for value in set(labels.flat)} == {
        0,
        3,
    }
    assert ("frame 1: no truth" in caplog.text) == (name == "cut_mask")


def test_stamps_of_a_clock_that_was_set_keep_their_rhythm(cases, caplog):
    stamps = [stamp for _, stamp in open_source(cases["ptp"]["bag"]).frames()]
    assert stamps[-1] - stamps[0] == pytest.approx(0.9e9, abs=1e3)
    assert "header stamps jump by" in caplog.text


def test_one_command_for_cameras_fleets_and_what_is_left_out(cases, evaluate, tmp_path, caplog):
    bags = [cases[name]["bag"] for name in ("fleet", "two_cameras", "one_empty", "ros1")]
    assert evaluate("--bag", *bags, "--no-overlay") == 1
    frames = {name.split("/")[0]: result["frames"] for name, result in results(tmp_path / "out").items()}
    assert frames == {
        "good": 5,
        "one_empty": 4,
        "two_cameras_left_image_raw": 5,
        "two_cameras_right_image_raw": 5,
    }
    assert "1 of 5 images do not decode and are left out" in caplog.text
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["problems"]) == 2 and all("ROS 1" in problem for problem in report["problems"])
    assert "o.bag" in (tmp_path / "out" / "report.html").read_text()
