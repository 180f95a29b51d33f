"""TensorRT: each stage is a prebuilt engine in a CUDA graph; features and memories stay on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vss_ros.backends.gpu import engines
from vss_ros.backends.gpu.build import engine_keys, unpack
from vss_ros.backends.gpu.graphs import Graph, Transfer
from vss_ros.backends.stages import Confidence, Label, Resize, drift
from vss_ros.config import VssError
from vss_ros.networks.model import Model

Tensors = tuple[Tensor, ...]


class TensorRTBackend:
    """See `backends.make_backend`. Takes frames of any size and resizes them on the GPU. For one thread at a time.

    Engines come from the cache only; raises NoEngine if one is missing, stale or not to be trusted.
    """

    name = "tensorrt"
    resizes = True

    def __init__(self, model: Model, precision: str = "f16"):
        network = model.network
        keys = engine_keys(model, precision)
        plans = {stage: engines.load(key) for stage, key in keys.items()}
        self.stream = torch.cuda.Stream()
        self.transfer = Transfer(self.stream)
        self.stages = {stage: open_engine(plan, self.stream) for stage, plan in plans.items()}
        self.small: dict[tuple, Graph] = {}
        self.precision, self.size, self.std, self.interval = (
            precision,
            model.size,
            model.std,
            network.interval,
        )
        self.keeps, self.lookahead, self.reads = network.keeps, network.lookahead, network.reads

    def encode(self, frame: np.ndarray) -> Tensors:
        return self.owned(self.stages["encode"](self.sized(frame)))

    def remember(self, features: Tensors) -> Tensors:
        return self.owned(self.stages["remember"](*features))

    def decode(self, features: Tensors, memories: Sequence[Tensors]) -> Tensor:
        return self.owned(self.stages["decode"](*features, *(t for memory in memories for t in memory)))[0]

    def propagate(self, frame: np.ndarray, memories: Sequence[Tensors]) -> Tensor:
        return self.owned(self.stages["propagate"](self.sized(frame), *(t for m in memories for t in m)))[0]

    def drift(self, features: Tensors, keyframe: Tensors) -> float:
        with torch.cuda.stream(self.stream):
            return drift(features, keyframe)

    def labels(self, logits: Sequence[Tensor], size: tuple[int, int]) -> np.ndarray:
        return self.transfer.down(self.graph(("label", size), lambda: Label(size), tuple(logits)))

    def confidence(self, logits: Sequence[Tensor], size: tuple[int, int]) -> np.ndarray:
        return self.transfer.down(self.graph(("confidence", size), lambda: Confidence(size), tuple(logits)))

    def sized(self, frame: np.ndarray) -> Tensor:
        pixels, shape = self.transfer.up(frame), frame.shape[:2]
        if shape == self.size:
            return pixels

        def resize() -> nn.Module:
            return Resize(shape, self.size, torch.float16).cuda()

        return self.owned((self.graph(("resize", shape), resize, (pixels,)),))[0]

    def graph(self, key: tuple, make: Callable[[], nn.Module], inputs: Tensors) -> Tensor:
        """Run one of the small stages whose shapes the first frame decides, as a CUDA graph made then."""
        key = (*key, *(tuple(tensor.shape) for tensor in inputs))
        if key not in self.small:
            with torch.no_grad():
                self.small[key] = Graph(make(), inputs, self.stream)
        return self.small[key](*inputs)

    def owned(self, outputs: Tensors) -> Tensors:
        """Copies that the engine's next run leaves alone."""
        with torch.cuda.stream(self.stream):
            return tuple(tensor.clone() for tensor in outputs)


def open_engine(content: bytes, stream: torch.cuda.Stream) -> Callable[..., Tensors]:
    """A packed engine (see `tensorrt_build.pack`) as a function whose outputs the next call overwrites."""
    import tensorrt as trt

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
