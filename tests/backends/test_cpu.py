"""Options of CPU runtimes: precision auto, threads, affinity."""

from __future__ import annotations

import os

import numpy as np
import pytest
import yaml
from fixtures.paths import run_python
from onnx import TensorProto, helper, numpy_helper
from vss_ros.backends import cpu
from vss_ros.config import VssError
from vss_ros.stream.load import load_stream

# argv: runtime, ONNX file, core. Prints the cores of this thread and of those that the runtime starts.
AFFINITY = """
import os, sys
from pathlib import Path
import numpy as np
from vss_ros.backends.cpu import pin
from vss_ros.backends import onnx as onnx_backend
before = set(os.listdir("/proc/self/task"))
pin({core!r})
frame = np.ones((1, 3, 64, 64), np.float32)
if {runtime!r} == "torch":
    import torch
    torch.set_num_threads(2)
    torch.nn.Conv2d(3, 64, 7)(torch.from_numpy(frame))
else:
    stage = getattr(onnx_backend, "load_" + {runtime!r})({{"stage": Path({path!r})}}, "f32", 2)["stage"]
    stage(frame)  # kept until the threads are counted: they end with it
made = set(os.listdir("/proc/self/task")) - before
print(len(made), set().union(os.sched_getaffinity(0), *(os.sched_getaffinity(int(t)) for t in made)))
"""


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_threads_of_a_runtime_stay_on_their_cores(runtime, tmp_path, rng):
    graph = helper.make_graph(
        [helper.make_node("Conv", ["in0", "w"], ["out"], kernel_shape=[7, 7])],
        "stage",
        [helper.make_tensor_value_info("in0", TensorProto.FLOAT, (1, 3, 64, 64))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, (1, 64, 58, 58))],
        [numpy_helper.from_array(rng.normal(size=(64, 3, 7, 7)).astype(np.float32), "w")],
    )
    opset = helper.make_opsetid("", 18)
    (tmp_path / "stage.onnx").write_bytes(
        helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()
    )
    core = str(max(os.sched_getaffinity(0)))
    code = AFFINITY.format(runtime=runtime, path=str(tmp_path / "stage.onnx"), core=core)
    done = run_python(code, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    count, cores = done.stdout.split(maxsplit=1)
    assert int(count) >= 1 and cores.strip() == f"{{{core}}}"


def test_a_stream_passes_threads_and_affinity_on(tiny_card, monkeypatch):
    made = {}
    monkeypatch.setattr("vss_ros.stream.load.pin", lambda cores: made.update(cores=cores) or 3)
    monkeypatch.setattr(
        "vss_ros.backends.torch_cpu.torch.set_num_threads", lambda count: made.update(threads=count)
    )
    load_stream(tiny_card, backend="torch", affinity="0-2")
    assert made == {"cores": "0-2", "threads": 3}
    load_stream(tiny_card, backend="torch", affinity="0-2", threads=2)
    assert made["threads"] == 2


@pytest.mark.parametrize("cores", ["x", "1-", "-1", "4096", "3-2", ",", "0-1-2", "0-999999999999"])
def test_cores_that_are_not_there_are_refused(cores):
    with pytest.raises(VssError, match="affinity: "):
        cpu.pin(cores)


@pytest.mark.parametrize(
    ("name", "has_bf16", "agreement", "expected"),
    [
        ("openvino", True, 0.999, "bf16"),
        ("openvino", True, 0.99, "f32"),
        ("openvino", True, None, "f32"),
        ("openvino", False, 0.999, "f32"),
        ("onnxruntime", True, 0.999, "f32"),
        ("torch", True, 0.999, "f32"),
    ],
)
def test_auto_takes_bf16_only_where_cpu_and_card_allow(
    tiny_card, tmp_path, monkeypatch, name, has_bf16, agreement, expected
):
    content = yaml.safe_load(tiny_card.read_text())
    content["metrics"] = {} if agreement is None else {"bf16": {"agreement": agreement}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "tiny.safetensors").symlink_to(tiny_card.parent / "tiny.safetensors")
    monkeypatch.setattr("vss_ros.backends.choose.cpu_has_bf16", lambda: has_bf16)
    made = {}
    monkeypatch.setattr("vss_ros.backends.onnx.stage_files", lambda *_: {"propagate": None})
    for runtime in ("openvino", "onnxruntime"):
        loader = lambda files, precision, threads: made.update(precision=precision) or {}  # noqa: E731
        monkeypatch.setattr(f"vss_ros.backends.onnx.load_{runtime}", loader)
    stream = load_stream(tmp_path / "tiny.yaml", backend=name)
    assert stream.backend.precision == expected
    assert made.get("precision", expected) == expected
