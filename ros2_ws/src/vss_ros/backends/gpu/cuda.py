"""What every runtime on CUDA does alike: a graph a stage, features and memories that stay, masks that come down."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vss_ros.backends.base import Backend, parts_of
from vss_ros.backends.gpu.fused import label_and_move
from vss_ros.backends.gpu.graphs import Graph, Transfer, recent
from vss_ros.backends.gpu.small import Confidence, Probabilities, Resize
from vss_ros.backends.stages import drift
from vss_ros.config import VssError
from vss_ros.media.motion import resize_flow
from vss_ros.networks.cards.model import Model

log = logging.getLogger(__name__)
Tensors = tuple[Tensor, ...]
Stage = Callable[..., Any]
OFTEN = 2
"""Frames of one size after which its small stages are worth a graph; others may come once, as files do."""
FULL = ("out of memory", "ALLOC_FAILED", "NVML_SUCCESS")
"""Where memory ran out in CUDA's libraries; the last is how torch says it on a Jetson, whose allocator asks NVML."""
BROKEN = ("CUDA", "cuDNN", "kernel image", "unable to find an engine")
KEPT = 32
"""Calls whose times are kept until they are asked for."""


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """What CUDA says while a network is opened, as a VssError, so that a fallback can take over."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.cuda.OutOfMemoryError) or any(sign in str(error) for sign in FULL):
            raise VssError(
                "the GPU has no memory left for the network: free some, lower height and width, or use a CPU "
                f"backend ({first_line(error)})"
            ) from error
        if not any(sign in str(error) for sign in BROKEN):
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

    resizes = queues = True

    def __init__(self, model: Model, precision: str):
        super().__init__(model, precision)
        self.lock = threading.RLock()
        self.stream = torch.cuda.Stream()
        self.transfer = Transfer(self.stream)
        self.small: dict[tuple, Callable[..., Tensor]] = {}
        self.wanted: dict[tuple, Wanted] = {}
        self.marks = threading.local()
        self.make_label, self.make_move = label_and_move()
        self.stages: dict[str, Stage] = self.open_stages(model)
        self.remembering = parts_of(list(self.stages))
        self.parts = len(self.remembering)
        self.prepare()

    def prepare(self) -> None:
        """Have the small stages captured for frames of the network's own size, and the kernels of others loaded."""
        frame = np.zeros((*self.size, 3), np.uint8)
        for _ in range(OFTEN):
            memory = self.remember(self.encode(frame)) if self.keeps else ()
            logits = self.propagate(frame, [memory] * len(self.reads(0, [0])[0]))
            if isinstance(logits, Tensor) and logits.dim() == 4:
                self.labels([logits], self.size)
                self.confidence([logits], self.size)
                self.probabilities([logits])
            if self.moves:
                self.move(memory, np.zeros((*self.size, 2), np.float32))
        self.after()
        self.stage_times()

    def after(self) -> None:
        """Capture the small stages that frames will need again: none waits for it."""
        if not any(wanted.count >= OFTEN for wanted in self.wanted.values()):
            return
        with self.lock:
            for key in [key for key, wanted in self.wanted.items() if wanted.count >= OFTEN]:
                wanted = self.wanted.pop(key)
                recent(self.small, key, wanted.captured, self.stream)

    def open_stages(self, model: Model) -> dict[str, Stage]:
        """Stages as functions on `self.stream`, whose outputs their next call may overwrite."""
        raise NotImplementedError

    def held(self, frame: np.ndarray | Tensor) -> Tensor:
        with self.lock:
            return self.sized(frame)

    def input_change(self, frame: Tensor, keyframe: Tensor) -> float:
        with self.lock, torch.no_grad(), torch.cuda.stream(self.stream):
            difference = (frame.float() - keyframe.float()).abs().mean((0, 1, 2)).cpu().numpy()
        return float(np.mean(difference / (255 * np.array(self.std))))

    def encode(self, frame: np.ndarray | Tensor) -> Tensors:
        with self.lock, self.measured("encode"):
            return self.owned(self.stages["encode"](self.sized(frame)))

    def remember_part(self, part: int, state: Tensors) -> Tensors:
        with self.lock, self.measured("remember"):
            return self.owned(self.stages[self.remembering[part]](*state))

    def decode(self, features: Tensors, memories: Sequence[Tensors]) -> Tensor:
        with self.lock, self.measured("decode"):
            return whole(self.owned(self.stages["decode"](*features, *chain(*memories))))

    def propagate(self, frame: np.ndarray | Tensor, memories: Sequence[Tensors]) -> Tensor:
        with self.lock, self.measured("propagate"):
            return whole(self.owned(self.stages["propagate"](self.sized(frame), *chain(*memories))))

    def move(self, memory: Tensors, flow: np.ndarray) -> Tensors:
        with self.lock, self.measured("move"):
            return tuple(self.moved(tensor, resize_flow(flow, tuple(tensor.shape[1:3]))) for tensor in memory)

    def moved(self, tensor: Tensor, flow: np.ndarray) -> Tensor:
        return self.owned((self.graph(("move",), self.make_move, (tensor, self.transfer.up(flow))),))[0]

    def drift(self, features: Tensors, keyframe: Tensors) -> float:
        with self.lock, torch.no_grad(), torch.cuda.stream(self.stream):
            return drift(features, keyframe)

    def finite(self, logits: Sequence[Tensor]) -> bool:
        with self.lock, torch.no_grad(), torch.cuda.stream(self.stream):
            return bool(torch.stack([x.isfinite().all() for x in logits]).all())

    def labels(self, logits: Sequence[Tensor], size: tuple[int, int]) -> np.ndarray:
        with self.lock, self.measured("label"):
            return self.transfer.down(
                self.graph(("label", size), lambda: self.make_label(size), tuple(logits))
            )

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

    def sized(self, frame: np.ndarray | Tensor) -> Tensor:
        """The frame on the GPU at the network's size, (1, H, W, 3) uint8; it may be there already."""
        if isinstance(frame, Tensor):
            return frame
        pixels, shape = self.transfer.up(frame), frame.shape[:2]
        if shape == self.size:
            return pixels

        def resize() -> nn.Module:
            return Resize(shape, self.size, torch.float16).cuda()

        return self.owned((self.graph(("resize", shape), resize, (pixels,)),))[0]

    def graph(self, key: tuple, make: Callable[[], nn.Module], inputs: Tensors) -> Tensor:
        """Run one of the small stages, whose shapes frames decide: as a CUDA graph, once `after` has made it."""
        key = (*key, *((tuple(tensor.shape), tensor.dtype) for tensor in inputs))
        if key in self.small:
            return recent(self.small, key, make, self.stream)(*inputs)
        wanted = recent(self.wanted, key, lambda: Wanted(make(), self.stream), self.stream)
        wanted.count += 1
        wanted.inputs = inputs if wanted.count >= OFTEN else ()
        return wanted(*inputs)

    @torch.no_grad()
    def owned(self, outputs: Tensors) -> Tensors:
        """Copies that the stage's next run leaves alone."""
        with torch.cuda.stream(self.stream):
            return tuple(tensor.clone() for tensor in outputs)


@dataclass
class Wanted:
    """A small stage that is no graph yet."""

    module: nn.Module
    stream: torch.cuda.Stream
    inputs: Tensors = ()
    count: int = 0

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Any:
        with torch.cuda.stream(self.stream):
            return self.module(*inputs)

    def captured(self) -> Callable[..., Any]:
        """Operator by operator where it cannot be captured, as where no memory is left for it."""
        try:
            return Graph(self.module, self.inputs, self.stream)
        except RuntimeError as error:
            log.warning(
                "%s stays without a CUDA graph, which is slower: %s", type(self.module).__name__, error
            )
            return self


def whole(outputs: Sequence[Any]) -> Any:
    """A stage's only output, or all of several."""
    return outputs[0] if len(outputs) == 1 else outputs
