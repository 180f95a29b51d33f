"""A live run against the offline one: drops, delays and what they cost, on figures worked out by hand."""

import json

import numpy as np
import pytest
from fixtures.recordings import evaluate, lines, masks, record, results
from vss_ros.config import VssError
from vss_ros.data.truth import masks_of_topic
from vss_ros.evaluate.live import evaluate_live, published_stamps, stamp_file
from vss_ros.evaluate.run import DIAGNOSTICS, Task, diagnostics, mask_message
from vss_ros.media.bags import IMAGE, BagReader, BagWriter

MS = 1_000_000
START = 5_000_000_000_000
PERIOD = 100 * MS


@pytest.fixture
def offline(evaluate, tmp_path):
    """The offline result of 8 frames with truth, and its masks."""
    bag = record(tmp_path / "drive", compressed=False, count=8)
    assert evaluate("--bag", bag, "--topic", "/camera/image", "--truth", "/truth") == 0
    folder = tmp_path / "out" / "drive" / "tiny_K=4_torch"
    with BagReader(folder / "bag") as written:
        answers = [labels for _, labels, _ in masks_of_topic(written, "/segmentation/mask")]
    return folder, answers


def record_live(path, answers, delays):
    """Masks as a node would give them: delays in ms by frame, none for a dropped frame."""
    published = [START + index * PERIOD for index in range(len(answers))]
    path.parent.mkdir(exist_ok=True)
    with BagWriter(path / "bag") as bag:
        for index, delay in delays.items():
            arrival = published[index] + delay * MS
            bag.write("/segmentation/mask", IMAGE, mask_message(published[index], answers[index]), arrival)
            values = {"total_ms": 20.0, "keyframe": int(index == 0), "reset": "first frame", "dropped": index}
            message = diagnostics(published[index], values)
            bag.write("/segmentation/consistency", DIAGNOSTICS, message, arrival)
    stamp_file(path).write_text("".join(f"{stamp}\n" for stamp in published))
    return path


def test_drops_and_delays(offline, evaluate, tmp_path, capsys):
    folder, answers = offline
    # Frames 2 and 3 are dropped, frame 4 takes longer than a period, frame 6 never comes.
    delays = {0: 30, 1: 60, 4: 130, 5: 50, 7: 40}
    recording = record_live(tmp_path / "recordings" / "one", answers, delays)
    bag = tmp_path / "drive"
    command = ("--bag", bag, "--topic", "/camera/image", "--truth", "/truth", "--live", recording)
    assert evaluate(*command) == 0
    assert "\r" not in capsys.readouterr().err, "no progress bar fills a log"
    rows = lines(folder.with_name(f"{folder.name}_live"))
    assert [row.get("delay_ms") for row in rows] == [delays.get(index) for index in range(8)]
    # What a robot knew when each frame was published: frame 4's mask arrives after frame 5, with frame 6's.
    known = [None, 0, 1, 1, 1, 1, 5, 5]
    assert [row.get("stale_ms") for row in rows] == [
        None if k is None else (index - k) * 100.0 for index, k in enumerate(known)
    ]
    for index, k in enumerate(known):
        if k is not None:
            assert rows[index]["differs_in_force"] == np.mean(answers[k] != answers[index])
            assert "mIoU_in_force" in rows[index]
    assert all(rows[index]["differs"] == 0 for index in delays), "the same masks"
    assert [row.get("keyframe") for row in rows] == [1, 0, None, None, 0, 0, None, 0]
    result = results(tmp_path / "out")["drive/tiny_K=4_torch_live"]
    assert (result["frames"], result["dropped"], result["keyframes"]) == (8, 3, 1)
    assert result["delay_ms"]["p50"] == 50.0 and result["times"]["p50"] == 20.0
    assert result["notes"][0] == "3 of 8 frames got no mask (37.5%)"
    assert result["notes"][3].startswith("mIoU") is False and "at hand" in result["notes"][3]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [run["run"] for run in report["runs"]] == ["tiny K=4 torch", "tiny K=4 torch live"]
    # Not the mean of the node's own counter, which grows from frame to frame.
    assert report["runs"][1]["headline"]["dropped"] == 3
    assert report["runs"][1]["headline"]["drop_share"] == 3 / 8


def test_masks_as_fast_as_the_frames_cost_one_period(offline, tmp_path):
    folder, answers = offline
    recording = record_live(tmp_path / "recordings" / "one", answers, dict.fromkeys(range(8), 20))
    task = json.loads((folder / "result.json").read_text())["task"]
    fields = {name: task[name] for name in Task.__dataclass_fields__}
    evaluate_live(Task(**{**fields, "folder": str(folder)}), recording)
    rows = lines(folder.with_name(f"{folder.name}_live"))
    assert {row["stale_ms"] for row in rows[1:]} == {100.0}
    result = json.loads((folder.with_name(f"{folder.name}_live") / "result.json").read_text())
    offline_result = json.loads((folder / "result.json").read_text())
    assert result["accuracy"]["mIoU"] == offline_result["accuracy"]["mIoU"]
    assert result["dropped"] == 0 and result["figures"]["differs"] == 0


def test_recordings_that_do_not_belong(offline, evaluate, tmp_path, capsys):
    _, answers = offline
    recording = record_live(tmp_path / "recordings" / "one", answers, {0: 10})
    command = ("--bag", tmp_path / "drive", "--topic", "/camera/image", "--truth", "/truth")
    assert evaluate(*command, "--live", recording, k="4,5") == 1
    assert "one recording, model and interval" in capsys.readouterr().err
    with pytest.raises(VssError, match="8 frames were published, the input has 5"):
        published_stamps(recording, 5)
    stamp_file(recording).unlink()
    assert evaluate(*command, "--live", recording) == 1
    assert "expected the stamp_file of replay" in capsys.readouterr().err
    nothing = record_live(tmp_path / "recordings" / "two", [a[:4] for a in answers], {0: 10})
    assert evaluate(*command, "--live", nothing) == 1
    assert "masks of (4, 80), offline they are (48, 80)" in capsys.readouterr().err
    assert not list((tmp_path / "out" / "drive").glob(".*")), "nothing half-written"
