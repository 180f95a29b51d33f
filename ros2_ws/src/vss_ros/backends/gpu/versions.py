"""Which torch, torch-tensorrt and TensorRT go together, what this machine has, and what to install instead."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vss_ros.config import VssError

# torch and torch-tensorrt release -> TensorRT release that its wheels require (their metadata, 2.8.0 … 2.14.0)
PAIRS = {
    "2.8": "10.12",
    "2.9": "10.13",
    "2.10": "10.14",
    "2.11": "10.15",
    "2.12": "10.16",
    "2.13": "11.0",
    "2.14": "11.1",
}
ORIN = {"2.8": "10.3"}  # the wheel of 2.8 for Jetson Orin
# Jetson Linux from that release on -> name, torch-tensorrt that matches its TensorRT ("": none)
JETPACKS = [
    ((36, 4), "JetPack 6.1 and 6.2 (Orin, TensorRT 10.3)", "2.8"),
    ((38, 0), "JetPack 7.0 and 7.1 (Thor, TensorRT 10.13)", "2.9"),
    ((39, 0), "JetPack 7.2 and later (TensorRT 10.16, from 7.2.2 on 11)", ""),
]
OLDEST = (10, 3)
RTX = "RTX"
"""Before the release of TensorRT for RTX, which counts on its own."""


@dataclass(frozen=True)
class Versions:
    """What was found; "" where it is missing. l4t: Jetson Linux release, e.g. "36.4"; gpu: name and capability."""

    torch: str
    torch_tensorrt: str = ""
    tensorrt: str = ""
    l4t: str = ""
    gpu: str = ""


def probe() -> Versions:
    """Versions of this machine; imports TensorRT, not torch-tensorrt."""
    import torch

    gpu = ""
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        units = torch.cuda.get_device_properties().multi_processor_count  # boards of one name differ in it
        gpu = f"{torch.cuda.get_device_name()} sm_{major}{minor} {units} SMs"
    try:
        library = load_tensorrt()
        found = f"{RTX} {library.__version__}" if library.__name__ == "tensorrt_rtx" else library.__version__
    except (ImportError, OSError):  # OSError: the bindings without the libraries
        found = ""
    return Versions(torch.__version__, installed("torch-tensorrt"), found, jetson_linux(), gpu)


def load_tensorrt() -> Any:
    """TensorRT's Python module, or that of TensorRT for RTX, whose builder, parser and runtime have the same names."""
    try:
        return importlib.import_module("tensorrt")
    except ModuleNotFoundError:
        return importlib.import_module("tensorrt_rtx")


def builder(found: Versions) -> str:
    """What builds engines here: "torch-tensorrt", or "onnx", TensorRT's own parser, where it is not installed.

    Raises VssError for an impossible combination and names one that works.
    """
    if not found.gpu:
        raise VssError(
            "backend tensorrt needs an NVIDIA GPU that torch can use: torch.cuda.is_available() is False"
        )
    if not found.tensorrt:
        raise VssError(f"backend tensorrt needs TensorRT, which is not installed: {advice(found)}")
    if found.tensorrt.startswith(RTX):
        return "onnx"
    if numbers(found.tensorrt) < OLDEST:
        raise VssError(f"TensorRT {found.tensorrt} is too old: expected 10.3 or later; {advice(found)}")
    if not found.torch_tensorrt:
        return "onnx"
    ours, theirs = release(found.torch), release(found.torch_tensorrt)
    if ours != theirs:
        raise VssError(f"torch {ours} and torch-tensorrt {theirs} do not go together: {advice(found)}")
    if theirs not in PAIRS:
        raise VssError(f"torch-tensorrt {theirs} is untested, expected {', '.join(PAIRS)}: {advice(found)}")
    expected = required(theirs, found.l4t)
    if release(found.tensorrt) != expected:
        raise VssError(
            f"torch-tensorrt {theirs} needs TensorRT {expected}, found {found.tensorrt}: {advice(found)}"
        )
    return "torch-tensorrt"


def advice(found: Versions) -> str:
    """What to install on this machine, in one line."""
    parser = "or leave torch-tensorrt out (pip uninstall torch-tensorrt): engines are then built from ONNX"
    if found.l4t:
        place = [(name, pair) for start, name, pair in JETPACKS if numbers(found.l4t) >= start]
        if not place:
            return f"Jetson Linux {found.l4t} has no TensorRT 10: flash JetPack 6.2 or later"
        name, pair = place[-1]
        if not pair and "Orin" not in found.gpu:  # for Orin no wheel was made after 2.8
            pair = next((ours for ours, theirs in PAIRS.items() if theirs == release(found.tensorrt)), "")
        if not pair:
            return (
                f"no torch-tensorrt matches the TensorRT of {name}: leave it out, engines are built from ONNX"
            )
        wheels = f"torch {pair}, torch-tensorrt {pair} and TensorRT {required(pair, found.l4t)}"
        return f"{name} needs {wheels} (apt: python3-libnvinfer), {parser}"
    pair = release(found.torch) if release(found.torch) in PAIRS else list(PAIRS)[-1]
    torch = "" if pair == release(found.torch) else f"torch=={pair}.* "
    return f"pip install {torch}torch-tensorrt=={pair}.* (it brings TensorRT {PAIRS[pair]}), {parser}"


def required(torch_tensorrt: str, l4t: str) -> str:
    """TensorRT release for a torch-tensorrt release; Orin's wheel differs."""
    return ORIN.get(torch_tensorrt, PAIRS[torch_tensorrt]) if l4t.startswith("36.") else PAIRS[torch_tensorrt]


def jetson_linux(file: Path = Path("/etc/nv_tegra_release")) -> str:
    """Release of Jetson Linux, e.g. "36.4.3", or "" elsewhere."""
    try:
        found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", file.read_text())
    except OSError:
        return ""
    return f"{found[1]}.{found[2]}" if found else ""


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def numbers(text: str) -> tuple[int, int]:
    """(major, minor) of a version."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def release(text: str) -> str:
    """ "2.13.0+cu130" → "2.13"."""
    return ".".join(str(number) for number in numbers(text))
