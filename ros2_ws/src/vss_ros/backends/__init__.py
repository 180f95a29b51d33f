"""Runtimes for a network's stages, one class each; a runtime is imported when its class is made.

    encode(frame (H, W, 3) uint8 RGB at `size`)  -> features
    remember(features)                           -> memory
    decode(features, memories)                   -> logits of one pass
    propagate(frame, memories)                   -> decode(encode(frame), memories), in one graph
    drift(features, features of a keyframe)      -> sum of |difference| / sum of |keyframe's|, ≥ 0
    labels(passes of logits, (H, W))             -> (H, W) uint8
    confidence(passes of logits, (H, W))         -> (H, W) uint8, 0…255

Features, memories and logits are whatever the runtime likes; they are passed back to it, never looked into.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from torch import nn

from vss_ros.config import VssError

log = logging.getLogger(__name__)

# what each backend must be able to import
NEEDS = {
    "torch": ("torch",),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "tensorrt": ("torch",),  # what else it needs differs by machine: tensorrt_versions.advice
    "ort-tensorrt": ("onnxruntime", "onnx", "onnxscript"),
}


def make_backend(
    network: nn.Module,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    name: str = "auto",
    *,
    precision: str = "f32",
    threads: int = 0,
) -> Any:
    """Backend `name` for a network at input size (height, width); "auto" takes the fastest that is installed.

    mean, std: of RGB in 0–1; precision: f32, bf16 or f16; threads: of the CPU, 0 leaves it to the runtime.
    Raises VssError when the runtime is missing or cannot compute in that precision, NoEngine (a VssError) when the
    engines of tensorrt or ort-tensorrt have not been built: that takes minutes and is left to `vss build`.
    """
    if name == "auto":
        name = fastest()
        if name == "torch":
            with contextlib.suppress(VssError):  # on CUDA, once `vss build` has made engines for it
                return make_backend(network, size, mean, std, "tensorrt", precision=precision)
        log.info("backend auto: %s", name)
    if name not in NEEDS:
        raise VssError(f"unknown backend {name!r}: expected auto, {', '.join(NEEDS)}")
    if precision == "int8" and name != "tensorrt":
        raise VssError(f"precision int8: backend {name} does not compute in it; use tensorrt")
    missing = [module for module in NEEDS[name] if find_spec(module) is None]
    if missing:
        raise VssError(f"backend {name} needs {', '.join(missing)}: pip install {' '.join(missing)}")
    if name == "torch":
        from vss_ros.backends.torch_backend import TorchBackend

        return TorchBackend(network, size, mean, std, precision=precision, threads=threads)
    if name == "tensorrt":
        from vss_ros.backends.tensorrt_backend import TensorRTBackend

        return TensorRTBackend(network, size, mean, std, precision)
    if name == "ort-tensorrt":
        from vss_ros.backends.ort_tensorrt import OrtTensorRTBackend

        return OrtTensorRTBackend(network, size, mean, std, precision)
    from vss_ros.backends.onnx_backend import OnnxBackend

    return OnnxBackend(network, size, mean, std, name, precision=precision, threads=threads)


def fastest() -> str:
    """CUDA through torch; on a CPU OpenVINO, else ONNX Runtime, else torch (measured: README, "Speed")."""
    import torch

    if torch.cuda.is_available():
        return "torch"
    for name in ("openvino", "onnxruntime"):
        if all(find_spec(module) for module in NEEDS[name]):
            return name
    return "torch"
