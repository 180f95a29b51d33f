"""The folder of a recording that is being written, and what becomes of one that was left behind."""

import os
import subprocess
import sys

import pytest
from fixtures.bags import START, STEP, TOPIC, image, values
from vss_ros.config import VssError
from vss_ros.media import unfinished
from vss_ros.media.bags import IMAGE, BagReader, BagWriter
from vss_ros.media.unfinished import Claim, complete, free_name, partial_folder

KILLED = """
import os, sys
from pathlib import Path
from fixtures.bags import START, STEP, TOPIC, image
from vss_ros.media.bags import IMAGE, BagWriter
from vss_ros.media.unfinished import Claim
claim = Claim(Path(sys.argv[1]))
bag = BagWriter(claim.folder / "bag")
for index in range(20):
    bag.write(TOPIC, IMAGE, image(index), START + index * STEP)
bag.flush(0.0)
os.kill(os.getpid(), 9)
"""


def killed_recorder(out):
    path = os.pathsep.join(part for part in sys.path if part)
    subprocess.run([sys.executable, "-c", KILLED, str(out)], env={**os.environ, "PYTHONPATH": path})
    assert partial_folder(out).is_dir()


def test_what_a_killed_process_left_is_saved_beside_the_new_one(tmp_path):
    out = tmp_path / "drive"
    for number, name in ((1, "drive_recovered"), (2, "drive_recovered_2")):
        killed_recorder(out)
        claim = Claim(out)
        assert len(claim.recovered) == 1 and f"{name}: 20 messages saved" in claim.recovered[0]
        with BagReader(tmp_path / name / "bag") as bag:
            assert values(bag) == list(range(20)) and bag.problems == []
        assert sorted(p.name for p in claim.folder.iterdir()) == [".reserve"]
        assert claim.publish() == (out if number == 1 else tmp_path / "drive_2")
        os.close(claim.handle)


def test_a_living_recorder_is_left_alone(tmp_path):
    first = Claim(tmp_path / "drive")
    (first.folder / "frames.csv").write_text("stamp\n")
    with pytest.raises(VssError, match="another recorder is writing"):
        Claim(tmp_path / "drive")
    assert (first.folder / "frames.csv").exists()
    (tmp_path / "drive").mkdir()
    assert first.publish() == tmp_path / "drive_2" and (tmp_path / "drive_2" / "frames.csv").exists()


def test_a_disk_that_is_full_from_the_start(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unfinished.os, "posix_fallocate", full)
    with pytest.raises(VssError, match=r"cannot be written: .*No space"):
        Claim(tmp_path / "drive")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_completed_stays_as_it_is(tmp_path):
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "bag.mcap").write_bytes(b"nothing of the kind")
    (tmp_path / ".overlay.mp4").write_bytes(b"a fragment")
    assert "cannot be completed" in complete(tmp_path)
    assert (tmp_path / "bag" / "bag.mcap").read_bytes() == b"nothing of the kind"
    assert (tmp_path / "overlay.mp4").exists()
    assert free_name(tmp_path / "bag") == tmp_path / "bag_2"


@pytest.mark.parametrize("kind", ["file", "pipe", "link to a folder", "link to nothing"])
def test_a_name_that_something_else_has_is_refused_and_left_alone(tmp_path, kind):
    out, there = tmp_path / "drive", tmp_path / "drive.partial"
    (tmp_path / "other").mkdir()
    if kind == "pipe":
        os.mkfifo(there)
    elif kind == "file":
        there.write_text("mine")
    else:
        there.symlink_to(tmp_path / ("other" if "folder" in kind else "nothing"))
    with pytest.raises(VssError, match=r"out: .*drive cannot be written: .*Not a directory"):
        Claim(out)
    assert os.path.lexists(there) and not out.exists() and (tmp_path / "other").is_dir()


def test_a_link_to_nothing_has_its_name(tmp_path):
    (tmp_path / "drive").symlink_to(tmp_path / "nothing")
    assert free_name(tmp_path / "drive") == tmp_path / "drive_2"
