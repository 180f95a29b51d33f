"""`vss evaluate --bag`: recordings through the node's stream, the same to the bit every time."""

import json
import logging
import shutil
from itertools import pairwise

import cv2
import numpy as np
import pytest
from fixtures.paths import find_data, run_python
from fixtures.recordings import FRAMES, evaluate, lines, masks, picture, record, results, truth
from vss_ros.config import VssError
from vss_ros.data import metrics
from vss_ros.data.recordings import find_inputs, open_footage
from vss_ros.data.source import open_source
from vss_ros.data.truth import with_files
from vss_ros.evaluate.recordings import merged
from vss_ros.evaluate.run import Task, header, jpeg_message, mask_message
from vss_ros.evaluate.worst import APART, PER_FIGURE, SPREAD, Pictures
from vss_ros.media.bags import COMPRESSED, IMAGE, BagReader, BagWriter
from vss_ros.stream.load import load_stream


def timeless(result):
    """All that must be equal from run to run."""
    if isinstance(result, dict):
        items = result.items()
        return {k: timeless(v) for k, v in items if k not in ("times", "folder") and not k.endswith("_ms")}
    return [timeless(item) for item in result] if isinstance(result, list) else result


@pytest.mark.parametrize(("storage", "compressed"), [("mcap", True), ("sqlite3", False)])
def test_two_runs_are_equal_to_the_bit_and_are_the_streams_answers(
    evaluate, tiny_card, tmp_path, storage, compressed
):
    bag = record(tmp_path / "drive", storage, compressed)
    topic = "/camera/image/compressed" if compressed else "/camera/image"
    for out in ("one", "two"):
        assert evaluate("--bag", bag, "--topic", topic, out=out) == 0
    one, two = (tmp_path / out / "drive" / "tiny_K=4_torch" for out in ("one", "two"))
    assert masks(one) == masks(two)
    (a,), (b,) = (results(tmp_path / out).values() for out in ("one", "two"))
    assert timeless(a) == timeless(b) and timeless(lines(one)) == timeless(lines(two))
    stream = load_stream(tiny_card, backend="torch", threads=1, interval=4)
    expected = list(stream.run(open_source(bag, topic)))
    assert [data for _, _, data in masks(one)] == [r.labels.tobytes() for r in expected]
    assert a["frames"] == FRAMES and a["keyframes"] == sum(r.is_keyframe for r in expected) == 5
    with BagReader(one / "bag") as written:
        assert written.topics == {
            "/segmentation/label_info_json": ("std_msgs/msg/String", 1),
            "/segmentation/mask": (IMAGE, FRAMES),
            "/segmentation/overlay/compressed": (COMPRESSED, FRAMES),
            "/segmentation/consistency": ("diagnostic_msgs/msg/DiagnosticArray", FRAMES),
        }
        message = list(written.messages(["/segmentation/consistency"]))[3][2]
    values = {item.key: item.value for item in message.status[0].values}
    row = lines(one)[3]
    assert float(values["label_change"]) == pytest.approx(row["label_change"], rel=1e-5)
    change = np.mean(expected[3].labels != expected[2].labels)
    assert row["label_change"] == pytest.approx(change) and row["keyframe_age"] == 3
    assert sum(row[f"area/{name}"] for name in ("road", "car", "sky")) == pytest.approx(1)


def test_what_is_done_is_not_done_again(evaluate, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    bag = record(tmp_path / "drive", count=6)
    assert evaluate("--bag", bag, "--topic", "/camera/image/compressed", "--no-overlay", k="2,3") == 0
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*/result.json")}
    assert len(files) == 2
    shutil.rmtree(tmp_path / "out" / "drive" / "tiny_K=3_torch")  # as if it had been stopped before this one
    assert evaluate("--bag", bag, "--topic", "/camera/image/compressed", "--no-overlay", k="2,3") == 0
    assert "1 of 2 runs are there already" in caplog.text
    again = {path: path.stat().st_mtime_ns for path in files}
    assert [path.parent.name for path in files if files[path] == again[path]] == ["tiny_K=2_torch"]
    assert evaluate("--bag", bag, "--topic", "/camera/image/compressed", "--limit", "3", k="2") == 0
    assert results(tmp_path / "out")["drive/tiny_K=2_torch"]["frames"] == 3, "other options: done anew"
    assert results(tmp_path / "out")["drive/tiny_K=3_torch"]["frames"] == 6, "an earlier run stays"


def test_keyframe_policies_side_by_side(evaluate, tmp_path):
    bag = record(tmp_path / "drive", compressed=False, count=6)
    command = ("--bag", bag, "--topic", "/camera/image", "--no-overlay")
    assert evaluate(*command, "--policy", "fixed,consistency", "--drifts", "0,0.9", k="2") == 0
    keyframes = {name: result["keyframes"] for name, result in results(tmp_path / "out").items()}
    assert keyframes == {
        "drive/tiny_K=2_torch": 3,
        "drive/tiny_consistency_0_torch": 6,
        "drive/tiny_consistency_0.9_torch": 1,
    }
    bounds = ("--policy", "consistency", "--drifts", "0", "--min-interval", "2", "--max-interval", "3")
    assert evaluate(*command, *bounds) == 0
    assert len(results(tmp_path / "out")) == 4, "other bounds are another run"


def test_another_input_of_the_same_name_is_refused(evaluate, tmp_path, capsys):
    args = ("--topic", "/camera/image/compressed", "--no-overlay")
    assert evaluate("--bag", record(tmp_path / "a" / "drive", count=3), *args) == 0
    assert evaluate("--bag", record(tmp_path / "b" / "drive", count=3), *args) == 1
    assert "holds the result of" in capsys.readouterr().err


def test_truth(evaluate, tiny_card, tmp_path):
    bag = record(tmp_path / "drive")
    (tmp_path / "masks").mkdir()
    for index in range(FRAMES):
        cv2.imwrite(str(tmp_path / "masks" / f"{index}.png"), truth(index))
    topic = "/camera/image/compressed"
    assert evaluate("--bag", bag, "--topic", topic, "--truth", "/truth", "--no-overlay") == 0
    (result,) = results(tmp_path / "out").values()
    stream = load_stream(tiny_card, backend="torch", threads=1, interval=4)
    frames = list(open_source(bag, topic))
    labels = [r.labels for r in stream.run(frames)]
    truths = [truth(index) for index in range(FRAMES)]
    for source in ("/truth", str(tmp_path / "masks")):
        found = [labels for _, labels, _ in open_footage(str(bag), topic, source).frames()]
        np.testing.assert_array_equal(found, truths)
    counts = sum(metrics.confusion(t, p, 3) for t, p in zip(truths, labels, strict=True))
    assert result["accuracy"]["mIoU"] == metrics.mean_iou(counts)
    assert result["accuracy"]["accuracy"] == metrics.pixel_accuracy(counts)
    for n in (8, 16):
        windows = metrics.video_consistency(truths, labels, n)
        assert result["accuracy"][f"mVC_{n}"] == metrics.mean_video_consistency([windows])
    flow_counts = sum(
        metrics.flow_confusion(now, later, metrics.dis_flow(a, b), 3)
        for ((a, _), (b, _)), (now, later) in zip(pairwise(frames), pairwise(labels), strict=True)
    )
    assert result["accuracy"]["TC"] == metrics.mean_iou(flow_counts)


def test_a_data_set_and_partly_labelled_images(evaluate, tmp_path):
    for index in range(4):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / f"f{index}.png"), picture(index))
        if index % 2:
            cv2.imwrite(str(tmp_path / "masks" / f"f{index}.png"), truth(index))
    assert evaluate("--bag", tmp_path / "images", "--truth", tmp_path / "masks", "--mode", "B", k="2") == 0
    (result,) = results(tmp_path / "out").values()
    assert set(result["accuracy"]) == {"mIoU", "wIoU", "accuracy"}, "no consistency from sparse labels"
    assert ["mIoU" in row for row in lines(tmp_path / "out" / "images" / "tiny_K=2_B_torch")] == [0, 1, 0, 1]
    footage = open_footage("camvid:val:0016E5_07959", root=str(find_data("camvid")))
    rgb, labels, _ = next(footage.frames())
    assert rgb.shape[:2] == labels.shape == (360, 480) and len(footage.classes) == 11


def test_labels_of_other_classes_give_no_accuracy(evaluate, tmp_path):
    assert evaluate("--bag", "street:3", "--limit", "2", "--no-overlay") == 0
    (result,) = results(tmp_path / "out").values()
    assert result["accuracy"] == {} and "other classes" in result["notes"][0]


def test_truth_that_does_not_belong(tmp_path):
    bag = record(tmp_path / "drive", count=3)
    topic = "/camera/image/compressed"
    with pytest.raises(VssError, match=r"no images on '/none'; expected one of /camera"):
        list(open_footage(str(bag), topic, "/none").frames())
    with pytest.raises(VssError, match="expected a mask as PNG, got JPEG"):
        list(open_footage(str(bag), topic, topic).frames())
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "0.png"), truth(0))
    with pytest.raises(VssError, match="a mask for each of the 3 frames, found 1"):
        open_footage(str(bag), topic, str(tmp_path / "masks"))
    with pytest.raises(VssError, match="a mask for each frame, there are only 1"):
        list(with_files(open_source(bag, topic), [tmp_path / "masks" / "0.png"]))
    late = tmp_path / "late"
    with BagWriter(late) as writer:
        for t in (10**9, 2 * 10**9):
            writer.write("/image/compressed", COMPRESSED, jpeg_message(t, picture(0)), t)
            writer.write("/truth", IMAGE, mask_message(t + 1, truth(0)), t)
    with pytest.raises(VssError, match="no mask on /truth has the header stamp of an image"):
        list(open_footage(str(late), "/image/compressed", "/truth").frames())


def test_a_fleet_goes_on_without_its_damaged_bags(evaluate, tmp_path, caplog):
    fleet = tmp_path / "fleet"
    record(fleet / "monday" / "good", compressed=False, count=4)
    record(fleet / "tuesday" / "good", compressed=False, count=4)
    record(fleet / "tuesday" / "broken", compressed=False, count=14, broken=range(14))
    (fleet / "tuesday" / "notes.txt").write_text("no bag")
    talker = find_data("bags") / "rosbag2_official" / "sqlite3_talker"
    assert evaluate("--bag", fleet, talker, "--topic", "/camera/image") == 1
    out = tmp_path / "out"
    assert [name.split("/")[0] for name in results(out)] == ["monday_good", "tuesday_good"]
    assert "image 0: encoding 'thermal99'" in caplog.text
    assert "no images, its topics are /parameter_events, /rosout, /topic" in caplog.text
    assert not (out / "tuesday_broken").exists(), "nothing half-written"
    report = json.loads((out / "report.json").read_text())
    assert len(report["runs"]) == 2 and len(report["problems"]) == 2


@pytest.mark.parametrize(
    ("bag", "topic", "frames", "size"),
    [
        ("derived_colour_sqlite3", "/camera/color/image_raw/compressed", 20, [480, 270]),
        ("svo_mono8_mcap", "", 5, [752, 480]),
    ],
)
def test_recordings_of_real_cameras(evaluate, tmp_path, bag, topic, frames, size):
    assert evaluate("--bag", find_data("bags") / bag, "--topic", topic, "--no-overlay") == 0
    ((name, result),) = results(tmp_path / "out").items()
    assert name == f"{bag}/tiny_K=4_torch"
    assert (result["frames"], result["size"]) == (frames, size)


def test_wrong_arguments(evaluate, tmp_path, capsys):
    for arguments, words, code in [
        (["--bag", tmp_path], "found none", 1),
        (["--bag", "street", "--jobs", "0"], "--jobs: expected a whole number in 1 to 1024", 2),
        (["--bag", "street", "--k", "0"], "at least 1", 1),
    ]:
        assert evaluate(*arguments, k=arguments[-1] if "--k" in arguments else "4") == code
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_inputs_below_folders(tmp_path):
    record(tmp_path / "a" / "x", count=1)
    record(tmp_path / "b" / "x", count=1)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "clip.mp4").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "single.png"), picture(0))
    assert find_inputs([str(tmp_path / "a"), str(tmp_path / "c"), "street:3"]) == {
        "x": str(tmp_path / "a" / "x"),
        "clip.mp4": str(tmp_path / "c" / "clip.mp4"),
        "street_3": "street:3",
    }
    assert set(find_inputs([str(tmp_path)])) == {tmp_path.stem, "a_x", "b_x", "c_clip.mp4"}, (
        "a picture hides no bag"
    )
    both = find_inputs([str(tmp_path / "a" / "x"), str(tmp_path / "b" / "x")])
    assert len(both) == 2 and all(name.startswith("x") for name in both), "of one name, yet apart"
    (tmp_path / "link").symlink_to(tmp_path / "a" / "x")
    twice = ["a/x", "a/x", "a/x/x.mcap", "link"]
    assert list(find_inputs([str(tmp_path / name) for name in twice])) == ["x"]
    assert next(iter(find_inputs(["street:test"]))) == "street_test_street_300000"


def test_each_camera_of_a_recording_is_a_run_of_its_own(evaluate, tmp_path):
    with BagWriter(tmp_path / "drive") as bag:
        for index in range(4):
            for topic in ("/left/image_raw", "/right/image_raw")[: 2 if index < 3 else 1]:
                message = mask_message(10**9 * (index + 1), picture(index)[..., 0])
                bag.write(topic, IMAGE, message, 10**9 * (index + 1))
            bag.write("/gt", IMAGE, mask_message(10**9 * (index + 1), truth(index)), 10**9 * (index + 1))
    assert evaluate("--bag", tmp_path / "drive", "--truth", "/gt", "--no-overlay") == 0
    frames = {name.split("/")[0]: result["frames"] for name, result in results(tmp_path / "out").items()}
    assert frames == {"drive_left_image_raw": 4, "drive_right_image_raw": 3}


def test_a_mask_that_cannot_be_used_costs_one_frame(evaluate, tmp_path, caplog):
    with BagWriter(tmp_path / "drive") as bag:
        for index in range(6):
            stamp = 10**9 + index * 10**8
            bag.write("/image", IMAGE, mask_message(stamp, picture(index)[..., 0]), stamp)
            mask = mask_message(stamp, truth(index) if index != 3 else truth(index)[:-9])
            if index == 1:
                mask.data = mask.data[:-9]
            late = stamp + (4 - index) * 10**8  # recorded in the opposite order
            bag.write("/gt", IMAGE, mask, late)
    assert evaluate("--bag", tmp_path / "drive", "--topic", "/image", "--truth", "/gt", "--no-overlay") == 0
    (result,) = results(tmp_path / "out").values()
    assert result["frames"] == 6
    scored = [
        row["index"]
        for row in lines(next((tmp_path / "out").glob("*/*/result.json")).parent)
        if "mIoU" in row
    ]
    assert scored == [0, 2, 4, 5]
    assert "frame 1: no truth: mask of 80x48 pixels" in caplog.text
    assert "frame 3: no truth: expected a mask of the image's size (48, 80), got (39, 80)" in caplog.text
    assert "2 of 6 masks cannot be used" in caplog.text


def test_a_camera_that_changes_its_size_is_scored(evaluate, tmp_path):
    with BagWriter(tmp_path / "drive") as bag:
        for index in range(24):
            size = (48, 80) if index < 12 else (60, 100)
            stamp = 10**9 + index * 10**8
            bag.write("/image", IMAGE, mask_message(stamp, picture(index, *size)[..., 0]), stamp)
            bag.write("/gt", IMAGE, mask_message(stamp, truth(index, *size)), stamp)
    assert evaluate("--bag", tmp_path / "drive", "--topic", "/image", "--truth", "/gt") == 0
    (result,) = results(tmp_path / "out").values()
    assert result["frames"] == 24 and {"mIoU", "mVC_8", "TC"} <= set(result["accuracy"])


def test_pictures_are_the_worst_and_not_neighbours():
    pictures = Pictures()
    values = np.random.default_rng(0).random(1000)
    values[500:503] = 2, 4, 3
    for index, value in enumerate(values):
        pictures.offer(index, {"label_drift": value}, lambda index=index: str(index).encode())
    worst = [item["index"] for item in pictures.listing() if item["worst"]]
    assert 501 in worst and len(worst) == PER_FIGURE and np.diff(worst).min() >= APART
    assert SPREAD <= len(pictures.spread) < 2 * SPREAD
    assert set(np.diff(sorted(pictures.spread))) == {pictures.step}


def test_a_still_stream_has_no_worst_moment():
    pictures = Pictures()
    for index in range(50):
        pictures.offer(index, {"label_drift": 0.0}, lambda: b"")
    assert not any(item["worst"] for item in pictures.listing()) and pictures.listing()


def test_a_header_keeps_nanoseconds():
    stamp = header(1_700_000_001_123_456_789).stamp
    assert (stamp.sec, stamp.nanosec) == (1_700_000_001, 123_456_789)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["--jobs", "--ray"])
def test_several_processes_give_the_same_report(evaluate, tmp_path, way):
    if way == "--ray":
        pytest.importorskip("ray", reason="needs Ray: install the extra [ray]")
    for name in ("one", "two", "three"):
        record(tmp_path / "fleet" / name, compressed=False, count=8)
    common = ("--bag", tmp_path / "fleet", "--topic", "/camera/image", "--truth", "/truth")
    assert evaluate(*common, k="3", out="alone") == 0
    assert evaluate(*common, way, "2" if way == "--jobs" else "local", k="3", out="spread") == 0
    alone, spread = (results(tmp_path / out) for out in ("alone", "spread"))
    assert len(alone) == 3 and timeless(alone) == timeless(spread)
    for name in alone:
        assert masks(tmp_path / "alone" / name) == masks(tmp_path / "spread" / name)


def test_a_broken_recording_is_listed_once_for_all_runs_that_it_broke():
    tasks = [
        Task(input=source, run=run, folder="", stream={}) for source in ("a", "b") for run in ("K=1", "K=5")
    ]
    failures = [(tasks[0], "cut"), (tasks[1], "cut"), (tasks[2], "cut"), (tasks[3], "no memory")]
    assert merged(failures) == ["a (K=1, K=5): cut", "b (K=1): cut", "b (K=5): no memory"]


LISTENERS = """
import os, psutil
from vss_ros.evaluate.recordings import cluster
with cluster("local"):
    found = [c.laddr.ip for child in psutil.Process().children(recursive=True)
             for c in child.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    print(*found)
"""


@pytest.mark.slow
def test_a_local_ray_listens_on_this_machine_alone():
    pytest.importorskip("ray")
    ran = run_python(LISTENERS)
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.split()) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"} and ran.stdout.split()
