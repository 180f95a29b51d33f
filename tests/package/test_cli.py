"""`vss` for people and for machines: JSON alone on stdout, silence, what the shell completes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml
from fixtures.paths import run_python
from vss_ros import cli
from vss_ros.options import plain, progress


def answer(capsys, *words, code=0):
    """What a command prints with --json; stdout must hold nothing else."""
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_results_of_numpy_and_sizes_become_plain_json():
    value = {
        (3, 4): np.float32(0.5),
        "nan": float("nan"),
        "path": cli.share_dir,
        "list": (np.int64(1), None, True),
    }
    found = plain(value)
    assert found["4x3"] == 0.5 and found["nan"] is None and found["list"] == [1, None, True]
    assert isinstance(found["path"], str) and json.dumps(found, allow_nan=False)


def test_doctor_and_models(capsys):
    findings = answer(capsys, "doctor", code=cli.main(["doctor"]))
    assert all({"level", "text", "fix"} == set(finding) for finding in findings)
    models = {model["name"]: model for model in answer(capsys, "models")["models"]}
    assert models["street"]["network"] == "dcfm" and len(models["street"]["size"]) == 2


@pytest.mark.parametrize("suffix", [".mcap", ".mp4", ".png", ""])
@pytest.mark.parametrize("kind", ["pipe", "long", "loop", "control"])
def test_an_input_that_is_no_file_is_one_line_at_once(capfd, caplog, tmp_path, kind, suffix):
    """Pipes never end, and what a file's name holds does not reach the terminal."""
    path = tmp_path / (f"{'x' * 300}{suffix}" if kind == "long" else f"a\x1b[31m{suffix}")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "control":
        path.write_bytes(b"nothing")
    for words in (
        ["predict", str(path)],
        ["evaluate", "--bag", str(path)],
        ["import", str(path), "--classes", "a"],
    ):
        out = tmp_path / "out.yaml"
        assert cli.main([*words, "--out", str(out), "--quiet"]) == 1
        said = "".join(capfd.readouterr()) + caplog.text
        assert "Traceback" not in said and "\x1b" not in said
        assert ("xxx" if kind == "long" else "?[31m") in said


def test_an_onnx_file_of_more_than_protobuf_holds_is_not_read(capsys, tmp_path):
    with (tmp_path / "a.onnx").open("wb") as file:
        file.truncate(3 << 30)
    words = ["import", str(tmp_path / "a.onnx"), "--classes", "a", "--out", str(tmp_path / "a.yaml")]
    assert cli.main(words) == 1 and "expected at most 2147483648 bytes" in capsys.readouterr().err


@pytest.fixture
def own_set(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for i in range(2):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.full((64, 96, 3), 80 * i, np.uint8))
        cv2.imwrite(str(tmp_path / "labels" / f"{i}.png"), np.full((64, 96), i, np.uint8))
    folders = {"images": "images", "labels": "labels"}
    about = {"classes": [f"c{i}" for i in range(5)], **dict.fromkeys(("train", "val", "test"), folders)}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(about))
    return tmp_path / "own.yaml"


def test_data_check_and_evaluate(capsys, own_set, tiny_card, tmp_path):
    (report,) = answer(capsys, "data", "check", str(own_set), "--split", "val")
    assert report["labelled"] == 2 and report["sizes"] == {"96x64": 2} and report["broken"] == []
    about = yaml.safe_load(own_set.read_text())
    about["classes"] = yaml.safe_load(tiny_card.read_text())["classes"]
    own_set.write_text(yaml.safe_dump(about))
    words = ["--model", str(tiny_card), "--data", str(own_set), "--k", "1", "--backend", "torch"]
    report = answer(capsys, "evaluate", *words, "--out", str(tmp_path / "out"))
    assert 0 <= report["rows"][0]["mIoU"] <= 1 and report["model"] == "tiny"


def test_bench(capsys):
    words = ["--network", "segformer", "--sizes", "64x64", "--classes", "2", "--paper", "--device", "orin"]
    figures = answer(capsys, "bench", *words)
    assert list(figures) == ["64x64"] and figures["64x64"]["segformer"]


def test_progress_is_shown_on_a_terminal_unless_quiet():
    code = (
        "import io, logging, sys; from vss_ros.options import progress\n"
        "class Terminal(io.StringIO):\n"
        "    def isatty(self): return True\n"
        "log, shown = logging.getLogger('vss_ros'), []\n"
        "for level, options in ((20, {'delay': 0}), (30, {'delay': 0}), (20, {'disable': 1, 'delay': 0}), (20, {})):\n"
        "    log.setLevel(level); end = Terminal()\n"
        "    assert list(progress(range(3), 'work', file=end, **options)) == [0, 1, 2]\n"
        "    shown.append(end.getvalue())\n"
        "assert 'work: 100%' in shown[0] and '<' in shown[0], shown\n"
        "assert shown[1:] == ['', '', ''], 'quiet, of another process, and soon over'\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert list(progress(range(2))) == [0, 1]


def test_lines_of_the_log_stand_above_a_bar():
    code = (
        "import logging, sys, time; from vss_ros import cli; from vss_ros.options import progress\n"
        "log = logging.getLogger('vss_ros'); log.setLevel(20); log.addHandler(cli.Lines())\n"
        "sys.stderr.isatty = lambda: True\n"
        "with progress(total=2, what='work', delay=0) as bar:\n"
        "    bar.update(); log.info('a line'); bar.update()\n"
    )
    lines = run_python(code).stderr.replace("\r", "\n").splitlines()
    assert "a line" in lines and any(line.startswith("work:  50%") for line in lines), lines
    assert any("work: 100%" in line for line in lines[lines.index("a line") :]), lines


def completions(line: str) -> set[str]:
    """As a shell asks: the words after `line`, by descriptor 8."""
    read, write = os.pipe()
    code = "import os, sys; os.dup2(int(sys.argv[1]), 8); from vss_ros import cli; cli.main([])"
    about = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_IFS": "\n"}
    about |= {"COMP_LINE": line, "COMP_POINT": str(len(line.encode())), "COMP_TYPE": "9"}
    subprocess.run(
        [sys.executable, "-c", code, str(write)], env={**os.environ, **about}, pass_fds=(write,), timeout=120
    )
    os.close(write)
    with os.fdopen(read) as found:
        return {word.strip() for word in found.read().split("\n") if word.strip()}


def test_what_a_shell_completes():
    pytest.importorskip("argcomplete")
    assert completions("vss ev") == {"evaluate"}
    assert {"evaluate", "predict", "doctor"} <= completions("vss ")
    assert completions("vss doctor --js") == {"--json"}
    assert "street" in completions("vss train str")
