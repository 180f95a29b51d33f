"""Torch on CUDA without TensorRT: each stage is one CUDA graph, frames go up once and masks come down once as uint8."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vss_ros.backends.gpu.graphs import Graph, Transfer
from vss_ros.backends.gpu.tensorrt import TensorRTBackend
from vss_ros.backends.stages import flat_stages
from vss_ros.networks.model import Model

log = logging.getLogger(__name__)


class TorchCudaBackend(TensorRTBackend):
    """The data path of the TensorRT backend; its stages are torch's own kernels instead of engines.

    precision: f32, f16 or bf16, LayerNorm and softmax stay in f32 (see `typed`); compiled: fuse the operators of each
    stage by torch.compile first, which takes a minute or more.
    """

    name = "torch"

    def __init__(self, model: Model, precision: str = "f32", compiled: bool = False):
        network = model.network.cuda()
        self.stream = torch.cuda.Stream()
        self.transfer = Transfer(self.stream)
        stages = flat_stages(model, precision)
        self.stages = {name: captured(*stage, self.stream, compiled) for name, stage in stages.items()}
        self.small: dict[tuple, Graph] = {}
        self.precision, self.size, self.std, self.interval = (
            precision,
            model.size,
            model.std,
            network.interval,
        )
        self.keeps, self.lookahead, self.reads = network.keeps, network.lookahead, network.reads


@torch.inference_mode()
def captured(
    module: nn.Module, inputs: tuple[Tensor, ...], stream: torch.cuda.Stream, compiled: bool
) -> Callable[..., tuple[Tensor, ...]]:
    """A stage as a CUDA graph; operator by operator where its code cannot be captured."""
    run = torch.compile(module) if compiled else module

    def stage(*tensors: Tensor) -> tuple[Tensor, ...]:
        answer: Any = run(*tensors)
        return answer if isinstance(answer, tuple) else (answer,)

    try:
        return Graph(stage, inputs, stream)
    except RuntimeError as error:
        log.warning("%s runs without a CUDA graph: %s", type(module).__name__, error)

    @torch.inference_mode()
    def eager(*tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.cuda.stream(stream):
            return stage(*tensors)

    return eager
