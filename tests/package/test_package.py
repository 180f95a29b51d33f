"""The package builds and installs as ROS users, and as pip users, install it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest
from fixtures.paths import ROOT

NODES = {"segment", "replay", "recorder", "cloud", "watcher"}
SHARED = ("launch", "config", "rviz", "models")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of what git tracks, as a clone would hold it."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs the git checkout to know which files belong to the package")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    folder = tmp_path_factory.mktemp("clone") / "vss_ros"
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def colcon(folder: Path) -> None:
    run(sys.executable, "-m", "colcon", "build", cwd=folder)


@pytest.mark.parametrize("place", ["root", "workspace"])
def test_colcon_build_installs_nodes_and_shared_files(sources, tmp_path, place):
    if place == "root":
        folder = tmp_path / "vss_ros"
        shutil.copytree(sources, folder)
    else:
        folder = tmp_path
        shutil.copytree(sources, folder / "src" / "vss_ros")
    colcon(folder)
    prefix = folder / "install" / "vss_ros"
    assert NODES | {"vss"} <= {path.name for path in (prefix / "lib" / "vss_ros").iterdir()}
    share = prefix / "share" / "vss_ros"
    for name in SHARED:
        assert {p.name for p in (ROOT / name).glob("*.*")} <= {p.name for p in (share / name).iterdir()}
    assert (prefix / "share" / "ament_index" / "resource_index" / "packages" / "vss_ros").is_file()
    found = run("bash", "-c", ". install/local_setup.bash && command -v vss", cwd=folder)
    assert Path(found.strip()) == prefix / "lib" / "vss_ros" / "vss", "on PATH"
    (site,) = prefix.glob("lib/python*/site-packages")
    code = "import vss_ros.config as c; print(c.__file__, c.share_dir())"
    file, found = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site)).split()
    assert Path(file).is_relative_to(prefix) and Path(found) == share


def test_wheel_holds_everything(sources, tmp_path):
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        ".",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        cwd=sources,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "vss_ros/networks/dcfm.py" in names and "vss_ros/nodes/segment/node.py" in names
    for name in ("watch.html", "uPlot.iife.min.js", "uPlot.LICENSE"):
        assert f"vss_ros/web/{name}" in names
    for name in SHARED:
        assert any(f"/share/vss_ros/{name}/" in entry for entry in names), name


def test_dependencies_in_package_xml_are_those_that_nodes_import():
    tree = ElementTree.parse(ROOT / "package.xml").getroot()
    declared = {item.text for item in tree.iter("exec_depend")}
    assert tree.get("format") == "3" and tree.findtext("export/build_type") == "ament_python"
    imported = set()
    for file in (ROOT / "ros2_ws" / "src" / "vss_ros" / "nodes").rglob("*.py"):
        for line in file.read_text().splitlines():
            words = line.split()
            if words[:1] in (["from"], ["import"]) and "_msgs" in words[1]:
                imported.add(words[1].split(".")[0])
    assert imported and imported <= declared
    assert "python3-tqdm" in declared and "rviz2" not in declared
    # A system's Python refuses what rosdep would install by pip.
    by_pip = [item for item in tree.iter("exec_depend") if item.text and item.text.endswith("-pip")]
    assert all(item.get("condition") == "$PIP_BREAK_SYSTEM_PACKAGES == 1" for item in by_pip)


def test_constraints_are_those_of_the_package():
    """The ranges of setup.py, but for what apt's binaries need."""
    stated = (ROOT / "setup.py").read_text()
    own = ("numpy<2", "opencv-python-headless<4.12", "setuptools<80")
    lines = (ROOT / "config" / "constraints.txt").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert set(own) < set(lines)
    for line in set(lines) - set(own):
        assert f'"{line}"' in stated, line


def test_pip_install_brings_no_cuda():
    """torch from PyPI does, also where there is no GPU: whoever runs a model chooses its build."""
    text = (ROOT / "setup.py").read_text()
    required = text.split("install_requires=[")[1].split("],")[0]
    assert '"numpy' in required and '"torch' not in required
    assert '"torch' not in text.split('"cpu": [')[1].split("],")[0]


def test_only_nodes_import_rclpy():
    package = ROOT / "ros2_ws" / "src" / "vss_ros"
    guilty = [
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if "nodes" not in file.relative_to(package).parts
        and any(
            line.strip().startswith(("import rclpy", "from rclpy")) for line in file.read_text().splitlines()
        )
    ]
    assert guilty == []
