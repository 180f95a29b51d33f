"""What every room needs: our error, folders, how an option is declared, and the options of a network over a stream.

Each room declares its own options in such dataclasses; command lines, ROS parameters and launch arguments are made by
looping over their fields, so that a default stands nowhere else.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import sys
import tempfile
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

IGNORE = 255
"""Label id of a pixel without a label (LabelInfo's UNLABELED in this project)."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in 0–1: the normalisation that ImageNet weights expect."""


CAMERA = re.compile(r"[A-Za-z]\w*(/[A-Za-z]\w*)*", re.ASCII)
"""A camera's name: part of a ROS topic's."""
PIXEL_CEILING = 2**28
"""OpenCV's own limit, which it reads once, when it is loaded."""
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(PIXEL_CEILING))
MAX_PIXELS = 2**26
"""Pixels of the largest image that is decoded unless an option says otherwise: some 200 MB as RGB."""


class VssError(Exception):
    """The user's input or environment is at fault; the message names what was expected, what came and the fix."""

    def __str__(self) -> str:  # the names of others' files must not steer a terminal
        return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in super().__str__())


def share_dir() -> Path:
    """Folder with launch/, config/, rviz/ and models/: a checkout, or `share/vss_ros` of a pip or colcon install."""
    for parent in Path(__file__).resolve().parents:
        for folder in (parent / "share" / "vss_ros", parent):
            if (folder / "package.xml").is_file() and (folder / "models").is_dir():
                return folder
    raise VssError("the shared files of vss_ros (models/, config/) are not installed: reinstall the package")


def cache_dir() -> Path:
    """Folder for exported stages: $VSS_CACHE, else $XDG_CACHE_HOME/vss_ros, else ~/.cache/vss_ros.

    A temporary one for a user without a home.
    """
    base = os.environ.get("VSS_CACHE")
    if base:
        return Path(base)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vss_ros"
    except RuntimeError:  # neither HOME nor an entry of this user, as in containers with any uid
        return Path(tempfile.gettempdir()) / f"vss_ros-{os.geteuid()}"


def missing(module: str) -> str:
    """One line about a Python module that is not installed, and how to get it."""
    name = {"cv2": "opencv-python-headless", "yaml": "pyyaml"}.get(module, module)
    note = ""
    if module == "torch":
        note = " (a machine without an NVIDIA GPU takes its CPU build from the index that pytorch.org names: the one "
        note += "on PyPI brings 5 GB of CUDA)"
    return f"needs the Python package {module}: pip install {name}{note}"


def child_command(module: str, *arguments: str) -> list[str]:
    """Command line that runs `main(arguments)` of one of our modules in a process of its own.

    Not `python -m`: that would put the current folder first on the path, so that a `yaml.py` in it would be run.
    """
    return [sys.executable, "-u", str(Path(__file__).with_name("child.py")), module, *arguments]


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    runtime: bool = False,
    inactive: bool = False,
    kind: type | None = None,
    unset: str = "",
) -> Any:
    """A documented dataclass field; `runtime` options may change while the node runs, `inactive` ones while it is
    configured and inactive, all others while it is unconfigured.

    kind: type of one whose default is None; unset: what holds where it is left out; "required": it must not be;
    "positional": nor that, and a command line knows it by its place (of a tuple, one word or more).
    """
    meta = {
        "kind": kind,
        "unset": unset,
        "help": help,
        "low": low,
        "high": high,
        "choices": choices,
        "runtime": runtime,
        "inactive": inactive,
    }
    return field(default=default, metadata=meta)


def warning(default: float, what: str, high: float = 1.0) -> Any:
    """A threshold of /diagnostics, a pair NAME_warn and NAME_error."""
    return option(
        default, f"{what}, in a second's mean, above which it reports", low=0.0, high=high, runtime=True
    )


def check(config: Any) -> None:
    """Raise VssError for the first field of a config dataclass with a wrong type, range or choice."""
    for item in fields(config):
        value, meta = getattr(config, item.name), item.metadata
        expected = type(item.default)
        if expected is float and type(value) is int:
            object.__setattr__(config, item.name, float(value))
        elif expected is tuple and isinstance(value, list):
            object.__setattr__(config, item.name, tuple(value))
        elif type(value) is not expected:
            raise VssError(f"{item.name}: expected {expected.__name__}, got {value!r}")
        if meta.get("choices") and value not in meta["choices"]:
            raise VssError(f"{item.name}: expected one of {', '.join(meta['choices'])}; got {value!r}")
        low, high = meta.get("low"), meta.get("high")
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            raise VssError(f"{item.name}: expected a value in [{low}, {high}], got {value!r}")


def brief(value: object, most: int = 200) -> str:
    """What a file of others holds, as one printable line of bounded length for an error's message."""
    text = " ".join(str(value).split()) if isinstance(value, (str, BaseException)) else repr(value)
    text = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return f"{text[:most]}…" if len(text) > most else text


def fits(value: Any, kind: Any) -> bool:
    """Whether a value read from a file is of a field's type, such as list[list[int]].

    A float is finite and may be written as an int; an int is no bool; text can be printed: no control characters.
    """
    origin, inside = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is Any:
        return True
    if origin is float:
        return (type(value) is float and math.isfinite(value)) or (
            type(value) is int and abs(value) < 1 << 63
        )
    if type(value) is not origin:
        return False
    if origin is dict:
        return all(fits(name, str) and (not inside or fits(v, inside[1])) for name, v in value.items())
    if origin in (list, tuple):
        kinds = inside if inside[-1:] != (...,) and origin is tuple else inside[:1] * len(value)
        return not inside or (len(kinds) == len(value) and all(map(fits, value, kinds)))
    return value.isprintable() if origin is str else True


@dataclass(frozen=True)
class RuntimeConfig:
    """Which network runs over a stream of frames, and on what."""

    model: str = option("street", "name of a model in models/, or the path of a model card (.yaml)")
    backend: str = option(
        "auto",
        "runtime of the network; auto is openvino on a CPU, with CUDA tensorrt where engines are built, else torch",
        choices=("auto", "torch", "onnxruntime", "openvino", "tensorrt"),
    )
    precision: str = option(
        "auto",
        "arithmetic of the network; bf16 needs CUDA or a CPU that has it, f16 CUDA, int8 `vss calibrate`; "
        "auto: f16 with tensorrt, bf16 with openvino where the CPU has it and the card says it agrees, else f32",
        choices=("auto", "f32", "bf16", "f16", "int8"),
    )
    bf16_agreement: float = option(
        0.995,
        "precision auto: least share of pixels with the label of f32, as the model card states it, for bf16",
        low=0.0,
        high=1.0,
    )
    calibration: str = option(
        "", "precision int8: folder of vss calibrate; empty: where it writes by default"
    )
    threads: int = option(0, "CPU threads of the network; 0 leaves it to the runtime", low=0, high=1024)
    affinity: str = option("", "CPU cores of the network, such as 0-3,6; empty leaves them to the system")
    height: int = option(0, "rows of the network's input; 0 takes the model card's", low=0, high=8192)
    width: int = option(0, "columns of the network's input; 0 takes the model card's", low=0, high=8192)
    max_gap: float = option(
        1.0,
        "seconds between two stamps after which the stream starts anew",
        low=0.0,
        high=3600.0,
        runtime=True,
    )

    def __post_init__(self) -> None:
        check(self)
        if (self.height == 0) != (self.width == 0):
            raise VssError(f"height, width: expected both or neither, got {self.height} and {self.width}")


@dataclass(frozen=True)
class StreamConfig(RuntimeConfig):
    """What `vss_ros.load_stream` and `segment` need to run a network over a stream of frames."""

    groups: str = option(
        "",
        "YAML file that joins the model's classes into groups, of which all answers speak then, such as "
        "config/groups.yaml; empty: the classes",
        inactive=True,
    )
    policy: str = option(
        "fixed",
        "when a frame becomes a keyframe: every frame, every interval-th (fixed), when the input changed "
        "(adaptive: AKS), or when the labels drifted from the keyframe's (consistency)",
        choices=("every", "fixed", "adaptive", "consistency"),
        runtime=True,
    )
    interval: int = option(
        0,
        "fixed: frames from one keyframe to the next; 0 takes the network's own (DCFM 5, all others 1), with schedule "
        "parts a keyframe as soon as the one before is remembered",
        low=0,
        high=1000,
        runtime=True,
    )
    threshold: float = option(
        0.3,
        "adaptive: mean absolute difference of the normalised input to the keyframe's that makes a new one",
        low=0.0,
        high=10.0,
        runtime=True,
    )
    drift_threshold: float = option(
        0.06,
        "consistency: share of pixels labelled otherwise than in the keyframe that makes a new one",
        low=0.0,
        high=1.0,
        runtime=True,
    )
    min_interval: int = option(
        1,
        "adaptive, consistency: frames before a keyframe may be replaced",
        low=1,
        high=1000,
        runtime=True,
    )
    max_interval: int = option(
        6,
        "adaptive, consistency: frames after which a keyframe is replaced",
        low=1,
        high=1000,
        runtime=True,
    )
    motion: bool = option(
        True,
        "move what is remembered along the optical flow, see `between`",
    )
    between: str = option(
        "memory",
        "what moves to the frames between keyframes: the keyframe's memory, for networks that have such (DCFM), which "
        "see each frame, or its answer, in a fifth of the time (answer); of other networks always the answer",
        choices=("memory", "answer"),
    )
    flow_scale: float = option(
        0.125,
        "size of the images that the flow is estimated on, relative to the network's input; 0.25 takes twice as "
        "long",
        low=0.1,
        high=1.0,
    )
    flow_preset: str = option(
        "ultrafast",
        "settings of the flow (DIS); fast takes twice as long",
        choices=("ultrafast", "fast", "medium"),
    )
    steady: float = option(
        0.7,
        "strength of the filter that draws each pixel's probabilities towards those of the frame before, moved along "
        "the motion, where both look alike; 0 is off",
        low=0.0,
        high=0.95,
        runtime=True,
    )
    schedule: str = option(
        "at_once",
        "when a keyframe's deep layers run: before its answer (at_once), in parts after the answers of the next "
        "frames (parts), or in a thread while every frame is answered by moving the network's newest answer (beside); "
        "auto measures which of them keeps up with `rate`",
        choices=("auto", "at_once", "parts", "beside"),
    )
    delay: int = option(
        0,
        "beside: frames until the network's answer joins, without a thread and the same at each run; 0: when it is "
        "there",
        low=0,
        high=1000,
    )
    parts: int = option(
        2,
        "schedule parts: pieces that a keyframe's deep layers are cut into, one after the answer of each frame",
        low=2,
        high=16,
    )
    rate: float = option(
        30.0,
        "schedule auto: frames a second of a camera; a node chooses once more when it knows the real rate",
        low=0.1,
        high=1000.0,
    )
    hide_unseen: bool = option(
        False, "label 255 what the motion uncovered and no network has seen yet", runtime=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_interval > self.max_interval:
            raise VssError(
                f"min_interval: expected at most max_interval ({self.max_interval}), got {self.min_interval}"
            )


@dataclass(frozen=True)
class InputConfig:
    """What everything that decodes images asks."""

    max_pixels: int = option(
        MAX_PIXELS,
        "pixels of an image or video above which it is refused undecoded",
        low=1,
        high=PIXEL_CEILING,
    )


def replace(config: Any, **changes: Any) -> Any:
    """`dataclasses.replace` with a VssError that lists the options when a name is unknown."""
    known = {item.name for item in fields(config)}
    unknown = sorted(set(changes) - known)
    if unknown:
        raise VssError(f"unknown option {', '.join(unknown)}: expected one of {', '.join(sorted(known))}")
    return dataclasses.replace(config, **changes)
