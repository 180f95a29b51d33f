"""TensorRT: each stage is a prebuilt engine in a CUDA graph; features and memories stay on the GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from vss_ros.backends.gpu import engines
from vss_ros.backends.gpu.build import engine_keys, unpack
from vss_ros.backends.gpu.cuda import CudaBackend, Stage, Tensors
from vss_ros.backends.gpu.graphs import Graph
from vss_ros.backends.gpu.versions import load_tensorrt
from vss_ros.config import VssError
from vss_ros.networks.cards.model import Model


class TensorRTBackend(CudaBackend):
    """Engines come from the cache only; raises NoEngine if one is missing, stale or not to be trusted."""

    name = "tensorrt"

    def __init__(self, model: Model, precision: str = "f16"):
        keys = engine_keys(model, precision)
        self.plans = {stage: engines.load(key) for stage, key in keys.items()}
        super().__init__(model, precision)

    def open_stages(self, model: Model) -> dict[str, Stage]:
        plans, self.plans = self.plans, {}
        return {stage: open_engine(plan, self.stream) for stage, plan in plans.items()}


def open_engine(content: bytes, stream: torch.cuda.Stream) -> Stage:
    """A packed engine (see `build.pack`) as a function whose outputs the next call overwrites."""
    trt = load_tensorrt()
    inputs, outputs, plan = unpack(content)
    if not plan:  # the stage hands its inputs through
        return lambda *tensors: tuple(tensors[inputs.index(name)] for name in outputs)
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise engines.NoEngine("TensorRT refuses a cached engine: build it again (vss build --force)")
    context = engine.create_execution_context()
    if context is None:
        raise VssError("TensorRT has no memory for an engine: free GPU memory or lower height and width")
    dtypes = {
        trt.float32: torch.float32,
        trt.float16: torch.float16,
        trt.bfloat16: torch.bfloat16,
        trt.uint8: torch.uint8,
        trt.int32: torch.int32,
        trt.int64: torch.int64,
    }

    def buffer(name: str) -> Tensor:
        shape, dtype = tuple(engine.get_tensor_shape(name)), dtypes[engine.get_tensor_dtype(name)]
        return torch.zeros(shape, dtype=dtype, device="cuda")

    # an input that the stage never reads may be missing from the engine
    known = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    read = [i for i, name in enumerate(inputs) if name in known]
    results = {name: buffer(name) for name in outputs}

    def run(*tensors: Tensor, owners: tuple = (runtime, engine)) -> Tensors:  # they must outlive the context
        for name, tensor in [*zip((inputs[i] for i in read), tensors, strict=True), *results.items()]:
            context.set_tensor_address(name, tensor.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise VssError("TensorRT failed to run an engine: its log above says why")
        return tuple(results[name] for name in outputs)

    graph = Graph(run, tuple(buffer(inputs[i]) for i in read), stream)
    return lambda *tensors: graph(*(tensors[i] for i in read))
