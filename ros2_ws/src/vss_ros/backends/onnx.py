"""Runtimes that run the stages' ONNX files: OpenVINO (the fastest on a CPU) and ONNX Runtime (the portable one, which
with onnxruntime-gpu computes on CUDA where torch has no wheel for the GPU)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vss_ros.backends import labels as label
from vss_ros.backends.base import Backend, parts_of
from vss_ros.backends.cpu import cpu_has_bf16, openvino_core
from vss_ros.backends.gpu.present import CUDA, has_onnx_cuda
from vss_ros.backends.onnx_files import stage_files
from vss_ros.config import VssError
from vss_ros.media.motion import move_memory
from vss_ros.networks.cards.model import Model
from vss_ros.options import progress

log = logging.getLogger(__name__)

Arrays = tuple[np.ndarray, ...]
Stages = dict[str, Callable[..., Arrays]]


class OnnxBackend(Backend):
    """Features, memories and logits are NumPy arrays."""

    def __init__(
        self,
        model: Model,
        name: str = "openvino",
        precision: str = "f32",
        threads: int = 0,
        files: Mapping[str, Path] | None = None,
    ):
        """files: stages to run instead of the model's own export, or of its calibration with int8."""
        if precision == "int8" and not model.calibration:
            raise VssError(f"precision int8: backend {name} needs a calibration (vss calibrate)")
        if files is None:
            int8 = model.calibration if precision == "int8" else None
            files = int8.files if int8 else stage_files(model)
        super().__init__(model, precision)
        self.name = name
        load = load_openvino if name == "openvino" else load_onnxruntime
        self.stages = load(files, precision, threads)
        self.remembering = parts_of(list(self.stages))
        self.parts = len(self.remembering)

    def encode(self, frame: np.ndarray) -> Arrays:
        return self.stages["encode"](np.ascontiguousarray(frame)[None])

    def remember_part(self, part: int, state: Arrays) -> Arrays:
        return self.stages[self.remembering[part]](*state)

    def decode(self, features: Arrays, memories: Sequence[Arrays]) -> np.ndarray:
        return whole(self.stages["decode"](*features, *chain(*memories)))

    def propagate(self, frame: np.ndarray, memories: Sequence[Arrays]) -> np.ndarray:
        return whole(self.stages["propagate"](np.ascontiguousarray(frame)[None], *chain(*memories)))

    def drift(self, features: Arrays, keyframe: Arrays) -> float:
        pairs = [
            (f.reshape(len(f), -1), k.reshape(len(k), -1)) for f, k in zip(features, keyframe, strict=True)
        ]
        size = sum(cv2.norm(k, cv2.NORM_L1) for _, k in pairs)
        return sum(cv2.norm(f, k, cv2.NORM_L1) for f, k in pairs) / max(size, 1e-12)

    move = staticmethod(move_memory)
    labels = staticmethod(label.labels)
    confidence = staticmethod(label.confidence)
    probabilities = staticmethod(label.probabilities)


def load_openvino(files: Mapping[str, Path], precision: str, threads: int) -> Stages:
    if precision == "f16":
        raise VssError("precision f16: backend openvino on a CPU computes in f32 or bf16")
    if precision == "bf16" and not cpu_has_bf16():  # OpenVINO says nothing and computes in float32
        raise VssError("precision bf16: this CPU has no bfloat16 and would compute in f32: take f32 or auto")
    if precision == "int8":  # of the layers that are not
        precision = "bf16" if cpu_has_bf16() else "f32"
    # without the hint OpenVINO takes bfloat16 wherever the CPU has it
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    core = openvino_core()

    def load(path: Path) -> Callable[..., Arrays]:
        compiled = core.compile_model(core.read_model(path), "CPU", options)
        own = threading.local()  # a request serves one thread at a time

        def run(*inputs: np.ndarray) -> Arrays:
            if not hasattr(own, "request"):
                own.request = compiled.create_infer_request()
            found = own.request.infer(list(inputs), share_inputs=True)
            return tuple(found[i] for i in range(len(found)))

        return run

    return each(files, load)


def load_onnxruntime(files: Mapping[str, Path], precision: str, threads: int) -> Stages:
    import onnxruntime

    if precision not in ("f32", "int8"):
        raise VssError(
            f"precision {precision}: backend onnxruntime computes in f32 or int8; use openvino for bf16"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    providers: list[Any] = ["CPUExecutionProvider"]
    if has_onnx_cuda():
        onnxruntime.preload_dlls()  # CUDA's libraries may lie among Python's packages
        # The default search times every algorithm of every convolution at each start.
        providers.insert(0, (CUDA, {"cudnn_conv_algo_search": "HEURISTIC"}))

    def load(path: Path) -> Callable[..., Arrays]:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        if len(providers) > 1 and CUDA not in session.get_providers():  # it falls back without an error
            log.warning(
                "onnxruntime: %s does not load, the CPU computes: its release must fit CUDA's and cuDNN's",
                CUDA,
            )
            del providers[0]  # the other stages need not try
        names = [item.name for item in session.get_inputs()]

        def run(*inputs: np.ndarray) -> Arrays:
            return tuple(session.run(None, dict(zip(names, inputs, strict=True))))

        return run

    return each(files, load)


def each(files: Mapping[str, Path], load: Callable[[Path], Callable[..., Arrays]]) -> Stages:
    return {
        name: load(path) for name, path in progress(files.items(), "compiling", unit="stage", leave=False)
    }


def whole(outputs: Sequence[Any]) -> Any:
    """A stage's only output, or all of several."""
    return outputs[0] if len(outputs) == 1 else outputs
