"""Partition every stage of every network with the real torch-tensorrt, on a machine without a GPU.

Run by hand where torch-tensorrt and TensorRT's Python bindings are installed but neither their libraries nor a
driver is, and a C compiler is at hand:

    pip install --no-deps torch-tensorrt==2.13.0 tensorrt-cu13-bindings==11.0.0.114 dllist
    python tests/backends/gpu/dryrun.py [f16|bf16|f32]

Converters, lowering and partitioner are torch-tensorrt's own. Standing in are: TensorRT's three libraries, by empty
functions that only let the bindings load (none is called), and a driver that names a GPU on which nothing runs.
Exits with 1 if a stage is not exactly one engine, or has an operator left to torch.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

ENTRIES = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
)
NETWORKS = [
    *[("dcfm", "espnetv2"), ("dcfm", "mit_b0"), ("dcfm", "resnet18"), ("segformer", "mit_b0")],
    ("pspnet", "resnet18"),
    *[("cffm", "mit_b0"), ("mrcfa", "mit_b0"), ("msaf", "resnet18"), ("stf", "resnet18")],
    *[("mar+dcfm", "mit_b0"), ("mar+pspnet", "resnet18"), ("mar+stf", "resnet18")],
]
SIZE = (64, 96)


def make_libraries(folder: Path, major: str) -> None:
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ENTRIES))
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = f"lib{name}.so.{major}"
        command = [
            "cc",
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{library}",
            "-o",
            str(folder / library),
            str(source),
        ]
        subprocess.run(command, check=True)


def name_a_gpu() -> None:
    import torch

    properties = type("Properties", (), {"major": 9, "minor": 0, "name": "none", "total_memory": 80 << 30})
    answers = {
        "get_device_properties": properties,
        "get_device_capability": (9, 0),
        "get_device_name": "none",
        "current_device": 0,
        "device_count": 1,
        "mem_get_info": (70 << 30, 80 << 30),
        "set_device": None,
        "synchronize": None,
        "empty_cache": None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    torch._C._CudaDeviceProperties = properties


def load_torch_tensorrt() -> types.ModuleType:
    """A copy without its C++ runtime, which needs CUDA's libraries, beside TensorRT's package, a wheel of one line."""
    installed = Path(importlib.util.find_spec("torch_tensorrt").origin).parent
    folder = Path(os.environ["VSS_STUBS"])
    unneeded = shutil.ignore_patterns("lib", "bin", "include", "__pycache__")
    shutil.copytree(installed, folder / "torch_tensorrt", ignore=unneeded)
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt" / "__init__.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )
    sys.path.insert(0, str(folder))
    import torch_tensorrt

    return torch_tensorrt


def partition(precision: str) -> int:
    import torch

    name_a_gpu()
    torch_tensorrt = load_torch_tensorrt()
    from torch_tensorrt.dynamo import _compiler
    from vss_ros.backends.gpu.build import exported
    from vss_ros.networks import build
    from vss_ros.networks.cards.model import Model

    logging.getLogger("torch_tensorrt").setLevel(logging.ERROR)
    reports: list = []
    _compiler.dryrun_stats_display = lambda tracker, _: reports.append(tracker)
    _compiler.to_torch_device = lambda _: torch.device("cpu")
    bad = 0
    for name, backbone in NETWORKS:
        network = build(name, backbone, 7, **({"grid": (8, 16)} if "stf" in name else {})).eval()
        for stage, (program, inputs) in exported(Model(network, SIZE), precision).items():
            reports.clear()
            torch_tensorrt.dynamo.compile(program, inputs=list(inputs), dryrun=True, min_block_size=1)
            if not reports:
                sys.stdout.write(f"{name}-{backbone} {stage}: hands its inputs through, no engine needed\n")
                continue
            found = reports[0]
            whole = (
                found.tensorrt_graph_count == 1 and found.supported_ops_in_graph == found.total_ops_in_graph
            )
            bad += not whole
            sys.stdout.write(
                f"{name}-{backbone} {stage}: {found.tensorrt_graph_count} engine, {found.supported_ops_in_graph} of "
                f"{found.total_ops_in_graph} operators {'' if whole else found.unsupported_ops}\n"
            )
    return 1 if bad else 0


if __name__ == "__main__":
    if "VSS_STUBS" not in os.environ:  # the loader reads LD_LIBRARY_PATH only at the start of a process
        with tempfile.TemporaryDirectory() as stubs:
            from importlib.metadata import distributions

            (release,) = {
                d.version for d in distributions() if d.name.startswith("tensorrt") and "bind" in d.name
            }
            make_libraries(Path(stubs), release.split(".")[0])
            environment = {**os.environ, "VSS_STUBS": stubs, "LD_LIBRARY_PATH": stubs}
            raise SystemExit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)
    raise SystemExit(partition(sys.argv[1] if len(sys.argv) > 1 else "f16"))
