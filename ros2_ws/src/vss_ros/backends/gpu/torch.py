"""Torch on CUDA without TensorRT: each stage is one CUDA graph, frames go up once and masks come down once as uint8."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from vss_ros.backends.gpu.cuda import CudaBackend, Stage
from vss_ros.backends.gpu.graphs import Graph
from vss_ros.backends.stages import flat_stages
from vss_ros.networks.cards.model import Model

log = logging.getLogger(__name__)


class TorchCudaBackend(CudaBackend):
    """Stages are torch's own kernels.

    precision: f32, f16 or bf16, LayerNorm and softmax stay in f32 (see `typed`); compiled: fuse the operators of each
    stage by torch.compile first, which takes a minute or more.
    """

    name = "torch"

    def __init__(self, model: Model, precision: str = "f32", compiled: bool = False):
        self.compiled = compiled
        super().__init__(model, precision)

    def open_stages(self, model: Model) -> dict[str, Stage]:
        stages = flat_stages(model, self.precision, fused=True, device="cuda")
        return {name: self.opened(name, *stage) for name, stage in stages.items()}

    def opened(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> Stage:
        """A stage as a CUDA graph; operator by operator where its code cannot be captured."""
        run = compiled(module, inputs) if self.compiled else module

        def stage(*tensors: Tensor) -> tuple[Tensor, ...]:
            answer: Any = run(*tensors)
            return answer if isinstance(answer, tuple) else (answer,)

        try:
            return Graph(stage, inputs, self.stream, module)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            log.warning("stage %s runs without a CUDA graph, which is slower: %s", name, error)

        @torch.no_grad()
        def eager(*tensors: Tensor) -> tuple[Tensor, ...]:
            with torch.cuda.stream(self.stream):
                return stage(*tensors)

        return eager


def compiled(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """A stage whose operators are fused. It is exported first: the modules' own code would give dozens of graphs."""
    with torch.no_grad():
        return torch.compile(torch.export.export(module, inputs, strict=False).module())
