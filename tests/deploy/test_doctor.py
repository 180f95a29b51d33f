"""`vss doctor`: each known trap of an installation is found and comes with its fix."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from fixtures.paths import ROOT
from vss_ros import cli
from vss_ros.deploy import doctor


def levels(check) -> list[tuple[str, str]]:
    return [(finding.level, f"{finding.text} | {finding.fix}") for finding in check()]


@pytest.fixture
def without(monkeypatch):
    """without(module...): as if they were not installed."""

    def hide(*names: str) -> None:
        find = doctor.find_spec
        monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in names else find(name))

    return hide


@pytest.fixture
def versions(monkeypatch):
    """versions(distribution="1.0"): as if these were installed."""

    def state(**known: str) -> None:
        known = {name.replace("_", "-"): version for name, version in known.items()}
        monkeypatch.setattr(doctor, "installed", lambda name: known.get(name, ""))

    return state


def test_this_installation_is_sound(capsys):
    assert cli.main(["doctor"]) == 0
    assert "FAIL" not in capsys.readouterr().out


@pytest.mark.parametrize("module", ["tqdm", "rosbags", "torch", "cv2"])
def test_a_missing_package_fails(without, capsys, module):
    without(module)
    assert cli.main(["doctor"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert module in line and "pip install" in line


def test_opencv_that_does_not_import_with_this_numpy(monkeypatch, versions):
    failing = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: numpy.core.multiarray failed")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *a, **k: failing)
    versions(numpy="2.4.6")
    [(level, text)] = levels(doctor.arrays)
    assert level == "FAIL" and "NumPy 2.4.6; it is built for NumPy 1: ImportError" in text
    assert text.endswith("config/constraints.txt 'numpy<2'")


@pytest.mark.parametrize(
    ("opencv", "hole"),
    [("4.8.0", "CVE-2023-4863"), ("4.10.0", "CVE-2025-53644"), ("4.11.0", "CVE-2025-53644")]
    + [(version, "") for version in ("4.8.1", "4.9.0", "4.12.0", "4.14.0", "5.0.0")],
)
def test_an_opencv_with_a_known_hole_is_named(monkeypatch, versions, opencv, hole):
    """Another wheel than ours may have written it over ours; what a distribution ships, it mends."""
    numpy = "1.26.4"
    answer = lambda *a, **k: subprocess.CompletedProcess([], 0, f"{numpy} {opencv}\n", "")  # noqa: E731
    monkeypatch.setattr(doctor.subprocess, "run", answer)
    versions(opencv_contrib_python="4.10.0.84", opencv_python_headless="4.9.0.80", numpy=numpy)
    found = [text for level, text in levels(doctor.arrays) if level == "warn" and "hole" in text]
    assert len(found) == bool(hole)
    if hole:
        assert (
            hole in found[0] and "headless==4.9.*" in found[0] and "uninstall -y opencv-python-h" in found[0]
        )
        numpy = "2.2.0"
        assert "headless>=4.12,<5" in str(levels(doctor.arrays))
    versions(numpy=numpy)
    assert "hole" not in str(levels(doctor.arrays))


@pytest.mark.parametrize(("version", "level"), [("79.0.1", "ok"), ("80.9.0", "FAIL"), ("84.2.1", "FAIL")])
def test_setuptools_that_colcon_cannot_link_with(versions, monkeypatch, version, level):
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    versions(setuptools=version, colcon_core="0.20.1")
    [(found, text)] = levels(doctor.build_tools)
    assert found == level and ("setuptools<80" in text) == (level == "FAIL")


def test_a_missing_runtime_says_what_it_costs(without, versions, monkeypatch):
    monkeypatch.setattr(doctor, "has_gpu", lambda: False)
    monkeypatch.setattr(doctor, "distributions", lambda: ["torch", "nvidia-cudnn-cu13"])
    versions(torch="2.14.1")
    without("openvino")
    cuda, slow = levels(doctor.runtimes)
    assert cuda[0] == slow[0] == "warn"
    assert "5 GB of CUDA, but this machine has no NVIDIA GPU" in cuda[1]
    assert "2 to 9 times as fast" in slow[1] and slow[1].endswith("pip install openvino")


def test_a_gpu_that_torch_cannot_use(versions, monkeypatch):
    monkeypatch.setattr(doctor, "has_gpu", lambda: True)
    monkeypatch.setattr(doctor, "distributions", lambda: ["torch"])
    versions(torch="2.13.0+cpu")
    assert "CPU build, but this machine has an NVIDIA GPU" in levels(doctor.runtimes)[0][1]


def test_nodes_that_were_built_for_another_python(tmp_path, monkeypatch):
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\necho torch rosbags\n")
    other.chmod(0o755)
    script = tmp_path / "prefix" / "lib" / "vss_ros" / "segment"
    script.parent.mkdir(parents=True)
    script.write_text(f"#!{other}\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path / 'prefix'}")
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    [(level, text)] = levels(doctor.interpreters)
    assert level == "FAIL" and "lacks torch, rosbags | " in text and "python3 -m colcon build" in text
    script.write_text(f"#!{sys.executable}\n")
    assert levels(doctor.interpreters) == []
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    [(level, text)] = levels(doctor.interpreters)
    assert level == "FAIL" and f"built for {sys.executable}" in text


def test_it_needs_nothing_but_the_standard_library(tmp_path):
    """-I -S: no site-packages at all."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'ros2_ws' / 'src')!r})\n"
    code += "from vss_ros import cli; sys.exit(cli.main(['doctor']))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == ""
    lacks = re.findall(r"FAIL +needs the Python package (\w+)", done.stdout)
    assert lacks == list(doctor.REQUIRED)


def test_without_torch_python_says_which_build_to_take(tmp_path, monkeypatch):
    """It is no requirement of the package: on a machine without a GPU PyPI's brings CUDA."""
    monkeypatch.setenv("VSS_CACHE", str(tmp_path))  # exported stages need no torch
    code = "import sys; sys.modules['torch'] = None; import vss_ros; vss_ros.load_stream('street')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "VssError: needs the Python package torch: pip install torch (a machine without" in done.stderr


def test_it_asks_for_what_the_package_requires():
    text = (ROOT / "setup.py").read_text().split("install_requires=[")[1].split("],")[0]
    modules = {"opencv-python-headless": "cv2", "pyyaml": "yaml"}
    named = re.findall(r'^ +"([\w-]+)', text, re.MULTILINE)
    assert {modules.get(name, name) for name in named} | {"torch"} == set(doctor.REQUIRED)


def test_the_documented_steps_install_what_it_asks_for():
    text = (ROOT / "docs" / "ROBOT.md").read_text()
    named = set(" ".join(re.findall(r"pip install -c \S+constraints.txt ([\w -]+)", text)).split())
    from_apt = {"numpy", "cv2", "yaml", "tqdm"}
    assert {*doctor.REQUIRED, *doctor.RUNTIME} - from_apt <= named
