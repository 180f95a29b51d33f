"""Which runtime computes: the one that was asked for, or the fastest that is installed; imported when it is made."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from vss_ros.backends.base import Backend
from vss_ros.backends.cpu import cpu_has_bf16
from vss_ros.backends.gpu.present import has_cuda, has_onnx_cuda
from vss_ros.config import VssError
from vss_ros.networks.cards.model import Model

log = logging.getLogger(__name__)

# what each backend must be able to import
NEEDS = {
    "torch": ("torch",),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "tensorrt": ("torch",),  # what else it needs differs by machine: gpu.versions.advice
}
# how much slower than OpenVINO the other backends of a CPU are, float32 and bf16 (README, Speed)
SLOWER = {"torch": "4 to 9", "onnxruntime": "2 to 3"}


def make_backend(
    model: Model,
    name: str = "auto",
    *,
    precision: str = "f32",
    bf16_agrees: bool = False,
    threads: int = 0,
) -> Backend:
    """Backend `name` for a model; "auto" takes the fastest that is installed.

    precision: f32, bf16, f16, int8, which needs the model's calibration, or auto (see `best_precision`); bf16_agrees:
    whether auto may be bf16; threads: of the CPU, 0 leaves it to the runtime.
    Raises VssError when the runtime is missing or cannot compute in that precision, NoEngine (a VssError) when
    TensorRT's engines have not been built: that takes minutes and is left to `vss build`.
    """
    imported = getattr(model.reading, "from_onnx", False)
    if imported and name == "torch":
        raise VssError("backend torch: a network of an ONNX file runs on openvino, onnxruntime or tensorrt")
    if name == "auto":
        name = "onnxruntime" if imported and has_onnx_cuda() else fastest(cpu=imported)
        if has_cuda():
            try:
                return make_backend(model, "tensorrt", precision=precision)
            except VssError as error:
                if precision == ("f16" if imported else "int8"):  # which the other runtimes do not compute in
                    raise
                precision = "f16" if precision == "auto" and not imported else precision
                where = name if imported else f"torch in {precision} on CUDA"
                log.warning("backend auto: %s, slower than TensorRT: %s", where, error)
        else:
            log.info("backend auto: %s", name)
        if name in SLOWER and not (has_cuda() or has_onnx_cuda()):
            log.warning(
                "on a CPU openvino is %s times as fast as %s (x86-64; README, Speed): pip install %s",
                SLOWER[name],
                name,
                " ".join(NEEDS["openvino"]),
            )
    if name not in NEEDS:
        raise VssError(f"unknown backend {name!r}: expected auto, {', '.join(NEEDS)}")
    if precision == "int8" and name == "torch":
        raise VssError(
            "precision int8: backend torch does not compute in it; use openvino, onnxruntime or tensorrt"
        )
    missing = [module for module in NEEDS[name] if find_spec(module) is None]
    if missing:
        raise VssError(f"backend {name} needs {', '.join(missing)}: pip install {' '.join(missing)}")
    if precision == "auto":
        precision = best_precision(name, bf16_agrees)
        log.info("precision auto: %s", precision)
    if name == "torch" and has_cuda():
        from vss_ros.backends.gpu.cuda import device_errors
        from vss_ros.backends.gpu.torch import TorchCudaBackend

        with device_errors():
            return TorchCudaBackend(model, precision)
    if name == "torch":
        from vss_ros.backends.torch_cpu import TorchBackend

        return TorchBackend(model, precision, threads)
    if name == "tensorrt":
        from vss_ros.backends.gpu.cuda import device_errors
        from vss_ros.backends.gpu.engines import NoEngine
        from vss_ros.backends.gpu.tensorrt import TensorRTBackend

        try:
            with device_errors():
                return TensorRTBackend(model, precision)
        except NoEngine as error:
            raise NoEngine(f"{error}; build it once: {build_command(model, precision)}") from error
    from vss_ros.backends.onnx import OnnxBackend

    return OnnxBackend(model, name, precision, threads)


def build_command(model: Model, precision: str) -> str:
    """What makes the engines that a model lacks."""
    command = f"vss build --model {model.source or 'CARD'} --precision {precision}"
    command += f" --size {model.size[0]}x{model.size[1]}" + (
        f" --parts {model.parts}" if model.parts > 1 else ""
    )
    files = model.calibration.files if model.calibration and precision == "int8" else {}
    return command + "".join(f" --calibration {path.parent}" for path in list(files.values())[:1])


def fastest(cpu: bool = False) -> str:
    """CUDA through torch, else through ONNX Runtime; on a CPU OpenVINO, else ONNX Runtime, else torch (measured:
    README, "Speed"). cpu: leaves the GPU out."""
    if has_cuda() and not cpu:
        return "torch"
    names = ("openvino", "onnxruntime") if cpu or not has_onnx_cuda() else ("onnxruntime", "openvino")
    for name in names:
        if all(find_spec(module) for module in NEEDS[name]):
            return name
    return "torch"


def best_precision(name: str, bf16_agrees: bool) -> str:
    """What precision auto means: f16 for TensorRT, as `vss build` makes engines; bf16 for OpenVINO where the CPU has
    it and the network keeps its labels in it; else f32."""
    if name == "tensorrt":
        return "f16"
    return "bf16" if name == "openvino" and bf16_agrees and cpu_has_bf16() else "f32"
