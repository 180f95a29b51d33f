"""What every runtime on CUDA does alike: a graph a stage, features and memories that stay, masks that come down."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vss_ros.backends.base import Backend, parts_of
from vss_ros.backends.gpu.graphs import Graph, Transfer, recent
from vss_ros.backends.stages import Confidence, Label, Move, Probabilities, Resize, drift
from vss_ros.config import VssError
from vss_ros.media.motion import resize_flow
from vss_ros.networks.cards.model import Model

Tensors = tuple[Tensor, ...]
Stage = Callable[..., Any]
KEPT = 32
"""Calls whose times are kept until they are asked for."""


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """What CUDA says while a network is opened, as a VssError, so that a fallback can take over."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise VssError(
            "the GPU has no memory left for the network: free some, lower height and width, or use a CPU backend "
            f"({first_line(error)})"
        ) from error
    except RuntimeError as error:
        if "CUDA" not in str(error) and "kernel image" not in str(error):
            raise
        raise VssError(
            f"CUDA does not run here: {first_line(error)}; install a torch built for this GPU (docs/JETSON.md), or "
            "use a CPU backend"
        ) from error


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


class CudaBackend(Backend):
    """Takes frames of any size and resizes them on the GPU. Threads take turns: one call is computed at a time.

    Features, memories and logits are tensors on the GPU. Subclasses say how a stage is opened.
    """

    resizes = True

    def __init__(self, model: Model, precision: str):
        super().__init__(model, precision)
        self.lock = threading.RLock()
        self.stream = torch.cuda.Stream()
        self.transfer = Transfer(self.stream)
        self.small: dict[tuple, Graph] = {}
        self.marks = threading.local()
        self.stages: dict[str, Stage] = self.open_stages(model)
        self.remembering = parts_of(list(self.stages))
        self.parts = len(self.remembering)

    def open_stages(self, model: Model) -> dict[str, Stage]:
        """Stages as functions on `self.stream`, whose outputs their next call may overwrite."""
        raise NotImplementedError

    def encode(self, frame: np.ndarray) -> Tensors:
        with self.lock, self.measured("encode"):
            return self.owned(self.stages["encode"](self.sized(frame)))

    def remember_part(self, part: int, state: Tensors) -> Tensors:
        with self.lock, self.measured("remember"):
            return self.owned(self.stages[self.remembering[part]](*state))

    def decode(self, features: Tensors, memories: Sequence[Tensors]) -> Tensor:
        with self.lock, self.measured("decode"):
            return whole(self.owned(self.stages["decode"](*features, *chain(*memories))))

    def propagate(self, frame: np.ndarray, memories: Sequence[Tensors]) -> Tensor:
        with self.lock, self.measured("propagate"):
            return whole(self.owned(self.stages["propagate"](self.sized(frame), *chain(*memories))))

    def move(self, memory: Tensors, flow: np.ndarray) -> Tensors:
        with self.lock, self.measured("move"):
            return tuple(self.moved(tensor, resize_flow(flow, tuple(tensor.shape[1:3]))) for tensor in memory)

    def moved(self, tensor: Tensor, flow: np.ndarray) -> Tensor:
        return self.owned((self.graph(("move",), Move, (tensor, self.transfer.up(flow))),))[0]

    def drift(self, features: Tensors, keyframe: Tensors) -> float:
        with self.lock, torch.no_grad(), torch.cuda.stream(self.stream):
            return drift(features, keyframe)

    def finite(self, logits: Sequence[Tensor]) -> bool:
        with self.lock, torch.no_grad(), torch.cuda.stream(self.stream):
            return bool(torch.stack([x.isfinite().all() for x in logits]).all())

    def labels(self, logits: Sequence[Tensor], size: tuple[int, int]) -> np.ndarray:
        with self.lock, self.measured("label"):
            return self.transfer.down(self.graph(("label", size), lambda: Label(size), tuple(logits)))

    def confidence(self, logits: Sequence[Tensor], size: tuple[int, int]) -> np.ndarray:
        with self.lock:
            return self.transfer.down(
                self.graph(("confidence", size), lambda: Confidence(size), tuple(logits))
            )

    def probabilities(self, logits: Sequence[Tensor]) -> np.ndarray:
        with self.lock:
            return self.transfer.down(self.graph(("probabilities",), Probabilities, tuple(logits)))

    @contextlib.contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Mark begin and end of a call on the device; it has not run yet when the call returns."""
        marks = self.marks.__dict__.setdefault("pairs", [])
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(self.stream)
        yield
        end.record(self.stream)
        marks.append((name, begin, end))
        del marks[:-KEPT]  # of a caller who never asks

    def stage_times(self) -> dict[str, float]:
        found: dict[str, float] = {}
        marks, self.marks.pairs = getattr(self.marks, "pairs", []), []
        for name, begin, end in marks:
            end.synchronize()
            found[name] = found.get(name, 0.0) + begin.elapsed_time(end)
        return found

    def sized(self, frame: np.ndarray) -> Tensor:
        """The frame on the GPU at the network's size, (1, H, W, 3) uint8."""
        pixels, shape = self.transfer.up(frame), frame.shape[:2]
        if shape == self.size:
            return pixels

        def resize() -> nn.Module:
            return Resize(shape, self.size, torch.float16).cuda()

        return self.owned((self.graph(("resize", shape), resize, (pixels,)),))[0]

    def graph(self, key: tuple, make: Callable[[], nn.Module], inputs: Tensors) -> Tensor:
        """Run one of the small stages whose shapes the first frame decides, as a CUDA graph made then."""
        key = (*key, *((tuple(tensor.shape), tensor.dtype) for tensor in inputs))
        graph = recent(self.small, key, lambda: Graph(make(), inputs, self.stream), self.stream)
        return graph(*inputs)

    @torch.no_grad()
    def owned(self, outputs: Tensors) -> Tensors:
        """Copies that the stage's next run leaves alone."""
        with torch.cuda.stream(self.stream):
            return tuple(tensor.clone() for tensor in outputs)


def whole(outputs: Sequence[Any]) -> Any:
    """A stage's only output, or all of several."""
    return outputs[0] if len(outputs) == 1 else outputs
