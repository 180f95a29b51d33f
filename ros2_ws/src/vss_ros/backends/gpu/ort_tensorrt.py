"""ONNX Runtime's TensorRT provider: the route where neither torch-tensorrt nor TensorRT's Python package is at hand.

ONNX Runtime hands whole stages to TensorRT and gives back one file a stage with the engine inside (an "EP context"
model), which the engine cache keeps. Its networks are weakly typed: LayerNorm stays in float32, softmax need not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.export import ExportedProgram

from vss_ros.backends import labels
from vss_ros.backends.gpu import engines
from vss_ros.backends.gpu.build import Job, exported, job_of, stage_keys
from vss_ros.backends.gpu.versions import probe
from vss_ros.config import VssError

PROVIDER = "TensorrtExecutionProvider"
PRECISIONS = {"f32": {}, "f16": {"trt_fp16_enable": "1"}, "bf16": {"trt_bf16_enable": "1"}}
Values = tuple[Any, ...]


class OrtTensorRTBackend:
    """See `backends.make_backend`. Features and memories are OrtValues on the GPU; engines come from the cache only."""

    name = "ort-tensorrt"

    def __init__(
        self,
        network: nn.Module,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        precision: str,
    ):
        keys = engine_keys(network, size, mean, std, precision)
        files = {stage: engines.load(key) for stage, key in keys.items()}
        self.stages = {stage: Stage(open_session(file, provider()), "cuda") for stage, file in files.items()}
        self.precision, self.size, self.std, self.interval = precision, size, std, network.interval
        self.keeps, self.lookahead, self.reads = network.keeps, network.lookahead, network.reads

    def encode(self, frame: np.ndarray) -> Values:
        return self.stages["encode"](np.ascontiguousarray(frame)[None])

    def remember(self, features: Values) -> Values:
        return self.stages["remember"](*features)

    def decode(self, features: Values, memories: Sequence[Values]) -> np.ndarray:
        return self.stages["decode"](*features, *(x for memory in memories for x in memory))[0].numpy()

    def propagate(self, frame: np.ndarray, memories: Sequence[Values]) -> np.ndarray:
        pixels = np.ascontiguousarray(frame)[None]
        return self.stages["propagate"](pixels, *(x for memory in memories for x in memory))[0].numpy()

    def drift(self, features: Values, keyframe: Values) -> float:
        pairs = [(f.numpy(), k.numpy()) for f, k in zip(features, keyframe, strict=True)]
        return float(
            sum(np.abs(f - k).sum() for f, k in pairs) / max(sum(np.abs(k).sum() for _, k in pairs), 1e-12)
        )

    def labels(self, logits: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
        return labels.labels([x.astype(np.float32) for x in logits], size)

    def confidence(self, logits: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
        return labels.confidence([x.astype(np.float32) for x in logits], size)


class Stage:
    """A session whose inputs may be NumPy arrays or OrtValues and whose outputs stay on the device as OrtValues."""

    def __init__(self, session: Any, device: str):
        self.session, self.device = session, device
        self.inputs = [item.name for item in session.get_inputs()]
        self.outputs = [item.name for item in session.get_outputs()]

    def __call__(self, *values: Any) -> Values:
        bound = self.session.io_binding()
        for name, value in zip(self.inputs, values, strict=True):
            if isinstance(value, np.ndarray):
                bound.bind_cpu_input(name, value)
            else:
                bound.bind_ortvalue_input(name, value)
        for name in self.outputs:
            bound.bind_output(name, self.device)
        self.session.run_with_iobinding(bound)
        return tuple(bound.get_outputs())


def engine_keys(
    network: nn.Module,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    precision: str,
    calibration: str = "",
) -> dict[str, engines.Key]:
    """Cache key of every stage on this machine. Raises VssError where ONNX Runtime has no TensorRT."""
    machine = machine_key()
    if precision not in PRECISIONS:
        raise VssError(f"precision {precision}: backend ort-tensorrt builds {', '.join(PRECISIONS)}")
    return stage_keys(network, size, mean, std, precision, calibration, machine)


def machine_key() -> dict[str, str]:
    """The fields of a key that this machine decides. Raises VssError where ONNX Runtime has no TensorRT."""
    check_provider()
    import onnxruntime

    found = probe()
    return {"builder": f"onnxruntime {onnxruntime.__version__}", "tensorrt": found.tensorrt, "gpu": found.gpu}


def jobs(
    network: nn.Module,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    precision: str,
    files: dict[str, Path] | None = None,
) -> dict[str, Job]:
    """What builds each stage's engine. Exported in float32: this provider chooses the types itself."""
    check_provider()
    if files:
        raise VssError("backend ort-tensorrt builds no int8 engines: use tensorrt")
    return {
        name: job_of(program, partial(make, program, inputs, precision))
        for name, (program, inputs) in exported(network.cpu(), size, mean, std, "f32").items()
    }


def make(program: ExportedProgram, inputs: tuple[Tensor, ...], precision: str) -> bytes:
    from vss_ros.backends.onnx_files import TENSORRT_OPSET, to_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stage_ctx.onnx"
        options = {
            "trt_dump_ep_context_model": "1",
            "trt_ep_context_file_path": str(path),
            "trt_ep_context_embed_mode": "1",
        }
        open_session(to_onnx(program, inputs, TENSORRT_OPSET), provider(**PRECISIONS[precision], **options))
        if not path.is_file():
            raise VssError("ONNX Runtime's TensorRT provider took no stage: its log above says why")
        return path.read_bytes()


def provider(**options: str) -> tuple[str, dict[str, str]]:
    return PROVIDER, {"trt_layer_norm_fp32_fallback": "1", **options}


def open_session(content: bytes, provider: tuple[str, dict[str, str]]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=[provider])
    if session.get_providers()[0] != provider[0]:  # ONNX Runtime falls back to the CPU without a word
        raise VssError(
            f"ONNX Runtime did not take {provider[0]}: its libraries (TensorRT, CUDA, cuDNN) do not load"
        )
    return session


def check_provider() -> None:
    import onnxruntime

    if PROVIDER not in onnxruntime.get_available_providers():
        raise VssError(
            "backend ort-tensorrt needs an ONNX Runtime built with TensorRT: pip install onnxruntime-gpu (Jetson: the "
            f"wheel of its JetPack); found {', '.join(onnxruntime.get_available_providers())}"
        )
