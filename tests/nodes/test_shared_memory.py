"""Segments of Fast DDS: those of dead processes go, those of living ones stay, and a lack of room is said."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time

import pytest
from fixtures.paths import ROOT
from fixtures.ros import PATIENCE
from vss_ros.nodes import shared_memory


@pytest.fixture
def folder(tmp_path):
    """Lock files as Fast DDS leaves them: of a dead process, of a living one, one just made, and other files."""
    old = time.time() - 60

    def segment(name: str, age: float = old) -> str:
        (tmp_path / name).write_bytes(bytes(1000))
        (tmp_path / f"{name}_el").touch()
        os.utime(tmp_path / f"{name}_el", (age, age))
        return name

    dead = [segment("fastdds_0123456789abcdef"), segment("fastrtps_0123456789abcdef")]
    alive = [segment("fastdds_aaaaaaaaaaaaaaaa"), segment("fastdds_bbbbbbbbbbbbbbbb", time.time())]
    other = [segment("fastdds_port7400"), segment("fastdds_../x".replace("/", "_")), segment("mine")]
    handle = os.open(tmp_path / f"{alive[0]}_el", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield tmp_path, dead, [*alive, *other]
    os.close(handle)


def test_only_segments_of_dead_processes_are_removed(folder):
    path, dead, kept = folder
    assert shared_memory.remove_dead(path) == 2000
    assert {item.name for item in path.iterdir()} == {name + end for name in kept for end in ("", "_el")}
    assert dead and shared_memory.remove_dead(path) == 0
    for nothing in (path / "absent", path / "mine"):  # no folder at all
        assert shared_memory.remove_dead(nothing) == 0
    assert shared_memory.remove_dead(path / "nowhere") == 0


def test_segments_of_other_users_stay(folder, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert shared_memory.remove_dead(folder[0]) == 0


def test_a_lack_of_room_is_said_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(ROOT / "config" / "fastdds.xml"))
    need = shared_memory.wanted()
    assert 4 * need < 63e6, "four processes fit into the 64 MB of a container"
    full = os.statvfs_result((4096, 4096, 100, 50, 50, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    assert "--shm-size" in shared_memory.shortage(tmp_path) and "0 MB free" in shared_memory.shortage(
        tmp_path
    )
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE")
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    assert shared_memory.shortage(tmp_path) == "", "without a profile there is nothing to compare"


IN_64_MB = """
mount -t tmpfs -o size=64m tmpfs /dev/shm || exit 77
for i in 1 2 3 4 5; do
    "$0" -c 'from vss_ros.nodes.run import segment; raise SystemExit(segment())' \
        --ros-args -p constant_network:=true -p autostart:=true -r __node:=n$i > "$1/$i.log" 2>&1 &
    for t in $(seq 300); do grep -q "active" "$1/$i.log" && break; sleep 0.1; done
done
ls -l /dev/shm > "$1/files"
kill -TERM $(jobs -p); wait
"""


@pytest.mark.ros
@pytest.mark.slow
def test_four_processes_fit_into_a_containers_memory_and_the_fifth_says_why_not(tmp_path):
    pytest.importorskip("rclpy", reason="needs rclpy: install the extra [ros] or source a ROS 2 setup")
    command = ["unshare", "-m", "bash", "-c", IN_64_MB, sys.executable, str(tmp_path)]
    try:
        code = subprocess.run(command, timeout=5 * PATIENCE, capture_output=True).returncode
    except FileNotFoundError:
        code = 77
    logs = [(tmp_path / f"{i}.log").read_text() if code != 77 else "" for i in range(1, 6)]
    if not all("active" in log for log in logs):
        pytest.skip("needs unshare and the right to mount")
    for log in logs[:4]:
        assert "shared memory" not in log and "/dev/shm" not in log, log
    assert "--shm-size" in logs[4], logs[4]
    assert (tmp_path / "files").read_text().count("_el") >= 4
