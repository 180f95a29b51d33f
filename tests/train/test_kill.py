"""`kill -9` at any moment, also between two steps of writing a checkpoint: the resumed run is the same to the bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train.test_loop import root, write_recipe

# The n-th time that a file gets its name, the process dies instead.
KILL = """
import os, signal, sys
left = int(sys.argv[1])
def deadly(real):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call
os.replace, os.link = deadly(os.replace), deadly(os.link)
from vss_ros import cli
sys.exit(cli.main(sys.argv[2:]))
"""


def train(recipe: Path, data: Path, kill: int = 0) -> subprocess.CompletedProcess:
    out = recipe.parent / "run"
    line = [
        "train",
        str(recipe),
        "--out",
        str(out),
        "--root",
        str(data),
        "--accelerator",
        "cpu",
        "--workers",
        "0",
    ]
    line += ["--precision", "32-true", *(["--resume"] if (out / "last.ckpt").exists() else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILL, str(kill), *line]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, root):
    """The last checkpoint of a run that nothing interrupts."""
    recipe = make_recipe(tmp_path_factory.mktemp("straight"))
    ran = train(recipe, root)
    assert ran.returncode == 0, ran.stderr
    return torch.load(recipe.parent / "run" / "last.ckpt", weights_only=True)


def make_recipe(folder):
    changes = {"steps": 8, "average": 0.9, "accumulate": 2, "warmup": 3, "save_every": 1, "validate_every": 3}
    return write_recipe(folder, **changes)


@pytest.mark.long
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param((1,), id="before there is a checkpoint"),
        pytest.param((3,), id="while a checkpoint takes the place of an older one"),
        pytest.param((4, 7, 6, 5), id="four times in one run"),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(tmp_path, root, straight, kills):
    recipe = make_recipe(tmp_path)
    for kill in kills:
        assert train(recipe, root, kill).returncode == -9
    ran = train(recipe, root)
    assert ran.returncode == 0, ran.stderr
    last = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert last["step"] == straight["step"] == 8 and last["best"] == straight["best"]
    for part in ("network", "average"):
        for name, tensor in straight[part].items():
            assert torch.equal(tensor, last[part][name]), name
    for number, values in straight["optimiser"]["state"].items():
        for name, tensor in values.items():
            assert torch.equal(tensor, last["optimiser"]["state"][number][name]), name
    assert (tmp_path / "run" / "tiny.yaml").is_file()
    assert not list((tmp_path / "run").glob(".last.ckpt.link"))
