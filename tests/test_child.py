"""Child processes run our code and installed packages, never a file that lies in the current folder."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from fixtures.paths import ROOT
from vss_ros.config import child_command
from vss_ros.media import decode

SOURCE = ROOT / "ros2_ws" / "src" / "vss_ros"
# What child processes import first, from the standard library and beyond it.
TRAPS = ("yaml", "numpy", "json", "importlib", "logging", "argparse", "rclpy", "cv_bridge", "config", "types")


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A folder whose modules say that they ran; the current one, on a Python without PYTHONSAFEPATH."""
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        ("vss_ros.cli", "models", "-h"),
        pytest.param(("vss_ros.nodes.run", "replay", "--ros-args", "-r", "x"), marks=pytest.mark.ros),
    ],
)
def test_a_module_in_the_current_folder_is_not_run(trap, line):
    path = os.environ.get("PYTHONPATH", str(SOURCE.parent))
    ran = subprocess.run(
        child_command(*line), env={**os.environ, "PYTHONPATH": path}, capture_output=True, timeout=120
    )
    assert not (trap / "ran").exists(), (trap / "ran").read_text()
    assert ran.returncode == (0 if line[1] == "models" else 2), ran.stderr


def test_the_probe_of_cv_bridge_does_not_run_it_either(trap, monkeypatch):
    monkeypatch.setattr(decode.importlib.util, "find_spec", lambda name: name)
    decode.cv_bridge_is_sound.__wrapped__()
    assert not (trap / "ran").exists(), (trap / "ran").read_text()


def test_every_child_process_is_started_this_way():
    for path in SOURCE.rglob("*.py"):
        if path.name != "config.py":
            found = re.findall(r"sys\.executable(?!, \"-c\", _PROBE)", path.read_text())
            assert not found, f"{path} starts a Python process by itself: config.child_command"
