"""What is missing or does not go together on this machine, each with its fix.

Exit code 1 if something fails that the nodes need. It uses the standard library alone, so that it can say what is
missing.
"""

from __future__ import annotations

import argparse
import glob
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from vss_ros.config import missing, share_dir
from vss_ros.options import add_json

REQUIRED = ("numpy", "cv2", "yaml", "tqdm", "safetensors", "mcap", "rosbags", "simplejpeg", "torch")
RUNTIME = ("openvino", "onnx", "onnxscript")
"""Of the fastest backend of a CPU."""
SHARED_MEMORY = 40e6  # bytes: two segments of config/fastdds.xml
OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
"""Wheels that all write into one folder cv2, the last installed over the others; distributions mend theirs."""
HOLES = (
    ((0, 0, 0), (4, 8, 1), "CVE-2023-4863: a WebP image writes beyond its memory"),
    ((4, 10, 0), (4, 12, 0), "CVE-2025-53644: a JPEG image writes beyond its memory"),
)
"""Of OpenCV's wheels: from one release up to, not including, another."""
# Versions are read as text: a child that dies of a wrong pair of binaries must not take us along.
PROBE = "import numpy, cv2; print(numpy.__version__, cv2.__version__)"


@dataclass(frozen=True)
class Finding:
    """level: ok, warn (slower, or a part is out of use) or FAIL; fix: a command or what to do."""

    level: str
    text: str
    fix: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    findings = [finding for check in CHECKS for finding in check()]
    args.result = [asdict(finding) for finding in findings]
    for finding in findings:
        fix = f"\n       {finding.fix}" if finding.fix else ""
        sys.stdout.write(f"{finding.level:5}  {finding.text}{fix}\n")
    return int(any(finding.level == "FAIL" for finding in findings))


def python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", f"Python {version}, {sys.executable}")


def required() -> Iterator[Finding]:
    for module in REQUIRED:
        if find_spec(module) is None:
            yield Finding("FAIL", missing(module))


def arrays() -> Iterator[Finding]:
    """NumPy and OpenCV in one process, and cv_bridge, if it is there, with them."""
    if find_spec("numpy") is None or find_spec("cv2") is None:
        return
    child = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, cwd="/")
    numpy = installed("numpy")
    fix = f"pip install -c {share_dir() / 'config' / 'constraints.txt'} 'numpy<2'"
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        built = "; it is built for NumPy 1" if numpy.startswith("2") else ""
        yield Finding("FAIL", f"OpenCV does not import with NumPy {numpy}{built}: {reason}", fix)
        return
    numpy, opencv = child.stdout.split()
    yield Finding("ok", f"NumPy {numpy}, OpenCV {opencv}")
    yield from holes(numpy, opencv)
    if find_spec("cv_bridge") is not None and find_spec("simplejpeg") is not None:
        from vss_ros.media.decode import cv_bridge_is_sound

        if not cv_bridge_is_sound():
            yield Finding("warn", f"cv_bridge crashes with NumPy {numpy}: rare encodings are refused", fix)


def holes(numpy: str, opencv: str) -> Iterator[Finding]:
    """Known holes of the OpenCV that is imported, which need not be the one that we ask for."""
    wheels = [name for name in OPENCV if installed(name)]
    version = tuple(int(number) for number in re.findall(r"\d+", opencv)[:3])
    for first, mended, hole in HOLES if wheels else ():
        if first <= version < mended:
            # what is built for NumPy 1 ends with 4.11
            wanted = (
                "'opencv-python-headless>=4.12,<5'" if numpy >= "2" else "'opencv-python-headless==4.9.*'"
            )
            fix = f"pip uninstall -y {' '.join(wheels)}; pip install {wanted}"
            yield Finding("warn", f"OpenCV {opencv} has a known hole, {hole}", fix)


def runtimes() -> Iterator[Finding]:
    """The fastest runtime for this machine, and whether torch's build suits it."""
    if find_spec("torch") is None:
        return
    gpu, torch = has_gpu(), installed("torch")
    cuda = any(name.startswith(("nvidia-cu", "nvidia_cu")) for name in distributions())
    if cuda and not gpu:
        fix = "reinstall torch from the CPU index that pytorch.org names"
        yield Finding("warn", f"torch {torch} has 5 GB of CUDA, but this machine has no NVIDIA GPU", fix)
    elif gpu and "+cpu" in torch:
        fix = "pip install torch; on a Jetson NVIDIA's wheel for its JetPack"
        yield Finding("warn", f"torch {torch} is a CPU build, but this machine has an NVIDIA GPU", fix)
    lacks = [module for module in RUNTIME if find_spec(module) is None]
    if gpu:
        yield Finding("ok", f"torch {torch} on an NVIDIA GPU; TensorRT is faster: vss build")
    elif lacks:
        text = "the network runs on torch or ONNX Runtime: OpenVINO is 2 to 9 times as fast on a CPU"
        yield Finding("warn", text, f"pip install {' '.join(lacks)}")
    else:
        yield Finding("ok", f"torch {torch}, OpenVINO {installed('openvino')}")


def build_tools() -> Iterator[Finding]:
    """What only `colcon build` needs."""
    setuptools = installed("setuptools")
    if find_spec("colcon_core") is None or not setuptools:
        return
    if int(setuptools.split(".")[0]) >= 80:
        text = f"colcon build --symlink-install fails or copies with setuptools {setuptools}, which has no --editable"
        yield Finding("FAIL", text, "pip install 'setuptools<80'")
    else:
        yield Finding("ok", f"colcon {installed('colcon-core')}, setuptools {setuptools}")


def ros() -> Iterator[Finding]:
    if find_spec("rclpy") is None:
        fix = "source /opt/ros/DISTRO/setup.bash; then this check again"
        yield Finding("warn", "no ROS: only vss and Python work, no node", fix)
        return
    yield Finding(
        "ok", f"ROS {os.environ.get('ROS_DISTRO', '')} rclpy {installed('rclpy')}".replace("  ", " ")
    )
    if find_spec("vision_msgs") is None:
        name = f"ros-{os.environ.get('ROS_DISTRO', 'DISTRO')}-vision-msgs"
        yield Finding(
            "warn", "no vision_msgs: the classes are on ~/label_info_json only", f"apt install {name}"
        )
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    if free < SHARED_MEMORY:
        text = f"/dev/shm has {free / 1e6:.0f} MB free: Fast DDS loses large images"
        yield Finding(
            "warn",
            text,
            "docker run --shm-size 256m, or --ipc host; else remove /dev/shm/fastdds_* of the dead",
        )


def interpreters() -> Iterator[Finding]:
    """Nodes run in the Python that built them, which may be another than the one with the packages."""
    fix = "in the environment that has the packages: python3 -m colcon build (not: colcon build)"
    active = os.environ.get("VIRTUAL_ENV")
    if active and Path(sys.prefix) != Path(active):
        yield Finding("FAIL", f"{active} is active, but this command was built for {sys.executable}", fix)
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        script = Path(prefix) / "lib" / "vss_ros" / "segment"
        if not script.is_file():
            continue
        interpreter = script.read_text(errors="replace").partition("\n")[0].removeprefix("#!").strip()
        code = f"import importlib.util as u; print(*(n for n in {REQUIRED!r} if u.find_spec(n) is None))"
        if interpreter in ("", sys.executable) or not Path(interpreter).exists():
            continue
        child = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, cwd="/")
        if lacks := child.stdout.split():
            yield Finding(
                "FAIL", f"the nodes were built for {interpreter}, which lacks {', '.join(lacks)}", fix
            )


CHECKS = (python, required, arrays, runtimes, build_tools, ros, interpreters)


def installed(name: str) -> str:
    """Version of a distribution, "" if it has none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def distributions() -> list[str]:
    return [item.metadata["Name"] or "" for item in importlib.metadata.distributions()]


def has_gpu() -> bool:
    """Without torch, which takes seconds: the driver's own files, or a Jetson's."""
    return bool(glob.glob("/dev/nvidia[0-9]*") or Path("/dev/nvhost-gpu").exists())
