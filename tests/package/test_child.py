"""Our child processes hear signals that their parent blocked, and a builder ends with the node that started it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

from fixtures.paths import ROOT

SOURCE = str(ROOT / "ros2_ws" / "src")
SLEEPER = "import time\ndef main(arguments):\n    print('ready', flush=True)\n    time.sleep(60)\n"
PARENT = """
import os, signal, subprocess, sys
sys.path.insert(0, {source!r})
from vss_ros.config import child_command
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
environment = {{**os.environ, "PYTHONPATH": {folder!r}, **{more!r}}}
child = subprocess.Popen(child_command("sleeper"), stdout=subprocess.PIPE, text=True, env=environment)
child.stdout.readline()
print(child.pid, flush=True)
{end}
"""


def parent(folder, end, **more):
    (folder / "sleeper.py").write_text(SLEEPER)
    code = PARENT.format(source=SOURCE, folder=str(folder), more=more, end=end)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_child_of_a_process_that_blocks_signals_hears_them(tmp_path):
    process = parent(tmp_path, "child.terminate(); print(child.wait(20))")
    answer, _ = process.communicate(timeout=30)
    assert answer.split()[1] == str(-signal.SIGTERM)


def test_a_builder_ends_with_its_node(tmp_path):
    process = parent(tmp_path, "signal.pause()", VSS_DIES_WITH="the node")
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{child}") and "Z" not in state(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}") or "Z" in state(child)


def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_no_process_of_ours_has_the_current_folder_on_its_path():
    """`python -m` puts it there; `child_command` does not."""
    package = ROOT / "ros2_ws" / "src" / "vss_ros"
    found = [path.name for path in package.rglob("*.py") if re.search(r'"-m",\s*"vss_ros', path.read_text())]
    assert not found
