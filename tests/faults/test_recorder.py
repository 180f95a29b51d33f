"""What is recorded stays, whatever happens to the recorder."""

import os
import shutil
import signal
import subprocess
import time

import cv2
import numpy as np
import pytest
from fixtures.ros import Client, client, image, start, wait
from mcap.reader import make_reader
from vss_ros.media.bags import BagReader

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def feed(client, count, start_at=0, stamp_at=None, period=0.02, figures=True):
    """Masks, figures and overlays as the segment node sends them."""
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

    rng = np.random.default_rng(start_at)
    for index in range(start_at, start_at + count):
        stamp = stamp_at(index) if stamp_at else time.time()
        mask = image(rng.integers(0, 12, (240, 320)).astype(np.uint8), "mono8", stamp)
        status = DiagnosticStatus(
            values=[KeyValue(key="total_ms", value="5"), KeyValue(key="keyframe", value="1")]
        )
        client.publish(mask, "/segment/mask")
        if figures:
            client.publish(DiagnosticArray(header=mask.header, status=[status]), "/segment/consistency")
        client.publish(
            image(rng.integers(0, 256, (240, 320, 3), np.uint8), "rgb8", stamp), "/segment/overlay"
        )
        client.spin(period)


def record(start, client, out, **parameters):
    node = start("recorder", remaps={"__ns": "/segment"}, out=str(out), **parameters)
    assert node.logged("recording to")
    table = out.with_name(f"{out.name}.partial") / "frames.csv"
    # Discovery of several publishers takes seconds on a busy machine: a row is there once both are found.
    assert wait(lambda: feed(client, 5) or len(table.read_text().splitlines()) > 1)
    return node


def masks(folder):
    with BagReader(folder / "bag") as bag:
        return sum(1 for _ in bag.messages(["/segment/mask"]))


def rows(folder):
    return (folder / "frames.csv").read_text().splitlines()[1:]


def test_kill_9_leaves_all_but_the_last_second_and_the_next_start_saves_it(start, client, tmp_path):
    out = tmp_path / "drive"
    node = record(start, client, out)
    feed(client, 150)
    node.child.kill()
    node.child.wait()
    before = masks(tmp_path / "drive.partial")
    assert before > 60, "readable as it lies"
    second = record(start, client, out)
    assert "an earlier recording was not ended" in second.text()
    feed(client, 20)
    assert second.stop() == 0
    saved = tmp_path / "drive_recovered"
    assert masks(saved) == before and masks(out) >= 20
    assert not (tmp_path / "drive.partial").exists()
    with next((saved / "bag").glob("*.mcap")).open("rb") as file:
        assert make_reader(file, validate_crcs=True).get_summary().statistics.message_count > 1.9 * before
    assert (saved / "bag" / "metadata.yaml").is_file() and len(rows(saved)) > 60
    video = cv2.VideoCapture(str(saved / "overlay.mp4"))
    assert video.read()[0], "the video plays up to its last fragment"


def test_two_recorders_of_one_name_do_not_harm_each_other(start, client, tmp_path):
    out = tmp_path / "drive"
    first = record(start, client, out)
    second = start("recorder", remaps={"__ns": "/segment"}, out=str(out))
    assert second.child.wait(30) == 1
    assert "another recorder is writing" in second.text() and "Traceback" not in second.text()
    feed(client, 20)
    out.mkdir()  # and someone else's folder takes the name meanwhile
    assert first.stop() == 0
    assert masks(tmp_path / "drive_2") >= 20 and list(out.iterdir()) == []


def test_a_clock_that_jumps(start, client, tmp_path):
    out = tmp_path / "drive"
    node = record(start, client, out)
    feed(client, 10, stamp_at=lambda i: 1 + i)  # since boot
    feed(client, 10, start_at=10, stamp_at=lambda i: time.time())  # then NTP
    feed(client, 10, start_at=20, stamp_at=lambda i: 5 + i)  # and back
    assert node.stop() == 0
    assert f"written to {out}" in node.text()
    assert masks(out) >= 30 and len(rows(out)) >= 30
    video = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) >= 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_ends_it_in_order(start, client, tmp_path, number):
    out = tmp_path / "drive"
    node = record(start, client, out)
    feed(client, 5)
    assert node.stop(number) == 0
    assert masks(out) >= 5 and (out / "bag" / "metadata.yaml").is_file()
    assert f"written to {out}" in node.text().splitlines()[-1]


def test_bad_messages_are_skipped_and_counted(start, client, tmp_path):
    from diagnostic_msgs.msg import DiagnosticArray

    out = tmp_path / "drive"
    node = record(start, client, out)
    client.publish(DiagnosticArray(), "/segment/consistency")
    for encoding in ("thermal99", "rgb8"):
        bad = image(np.zeros((8, 8, 3), np.uint8))
        bad.encoding, bad.height = encoding, 7000
        client.publish(bad, "/segment/overlay")
    client.publish(image(np.zeros((50, 30, 3), np.uint8)), "/segment/overlay")
    feed(client, 10)
    assert node.stop() == 0
    assert "2 bad messages skipped" in node.text().splitlines()[-1]
    assert masks(out) >= 10


def test_who_may_not_set_a_priority_records_all_the_same(start, client, tmp_path):
    """As under `nice -n 15`: back to 10 is for root alone."""
    patch = "import os\ndef refuse(*_):\n    raise PermissionError(13, 'Permission denied')\nos.setpriority = refuse"
    node = record(start, client, tmp_path / "drive", patch=patch)
    feed(client, 5)
    assert node.stop() == 0 and masks(tmp_path / "drive") >= 5


def test_masks_without_figures_are_in_the_table(start, client, tmp_path):
    out = tmp_path / "drive"
    node = start("recorder", out=str(out), remaps={"mask": "/segment/mask", "overlay": "/segment/overlay"})
    assert node.logged("recording to")
    feed(client, 330, period=0.005, figures=False)
    assert node.logged("no figures for the masks on /consistency")
    assert node.stop() == 0
    assert len(rows(out)) == masks(out) > 300


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid():
        pytest.skip("mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_ends_it_with_all_that_was_recorded(start, client, small_disk):
    out = small_disk / "drive"
    node = record(start, client, out)
    index = 0
    while node.child.poll() is None and index < 3000:
        feed(client, 10, start_at=index, period=0.005)
        index += 10
    assert node.child.wait(60) == 1
    last = node.text().splitlines()[-1]
    assert "No space left on device" in last and f"written to {out}" in last, last
    assert masks(out) > 50
    with next((out / "bag").glob("*.mcap")).open("rb") as file:
        assert make_reader(file, validate_crcs=True).get_summary().statistics.message_count > 100


@pytest.mark.parametrize("renamed", [True, False])
def test_a_folder_that_goes_away_ends_the_recording_with_a_word(start, client, tmp_path, renamed):
    node = record(start, client, tmp_path / "drive")
    feed(client, 20)
    partial, elsewhere = tmp_path / "drive.partial", tmp_path / "elsewhere"
    assert wait(lambda: len(rows(partial)) >= 20), "what is still on its way when the folder goes may be lost"
    if renamed:
        partial.rename(elsewhere)
    else:
        shutil.rmtree(partial)
    assert node.logged("was removed or renamed during the recording")
    assert node.child.wait(20) == 1
    assert "masks were in it" in node.text() and "stays" not in node.text()
    assert not renamed or (masks(elsewhere) >= 20 and len(rows(elsewhere)) >= 20)
