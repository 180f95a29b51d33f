"""CUDA graphs and pinned transfers: a frame goes up once, a mask comes down once, one launch a stage."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

log = logging.getLogger(__name__)
# That of a stage which hands its inputs on, as some encoders do, is no fault.
warnings.filterwarnings("ignore", message="The CUDA Graph is empty")

DTYPES = {"uint8": torch.uint8, "float32": torch.float32}
CAPTURE = threading.RLock()
"""Of this process: torch allows one capture at a time."""
MOST = 24
"""Graphs, and buffers, of the shapes that frames had lately."""
WAITING = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.is_nonzero)
"""Operators whose answer the host waits for."""


class NotCapturable(RuntimeError):
    """A function that no CUDA graph can hold, found before a capture is begun."""


class OnDevice(TorchDispatchMode):
    """Raises NotCapturable where an operator reads the host's memory or makes the host wait for the device.

    A capture that fails can leave the process unable to allocate memory (torch ≤ 2.11), so it must not be tried.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = operator(*args, **(kwargs or {}))
        if operator.overloadpacket in WAITING:
            raise NotCapturable(f"{operator} makes the host wait")
        for leaf in tree_leaves((args, kwargs, answer)):
            if isinstance(leaf, Tensor) and leaf.dim() and leaf.device.type != self.device.type:
                raise NotCapturable(f"{operator} uses a tensor in {leaf.device.type} memory")
        return answer


class Graph:
    """A function of fixed shapes as one CUDA graph.

    `run` takes the tensors in `inputs` and returns a tensor or a tuple of them; it must not look at their values.
    A call copies what changed into the fixed inputs, replays, and returns the fixed outputs: they are overwritten by
    the next call, so clone what must stay. An input that is the same tensor as in the last call is not copied again:
    tensors must not be changed in place between calls.
    Raises NotCapturable, before a capture is begun, or the RuntimeError of a capture that failed; the process goes on.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        inputs: tuple[Tensor, ...],
        stream: torch.cuda.Stream,
        plain: Callable[..., Any] | None = None,
    ):
        """plain: what `run` computes, operator by operator, where it is compiled."""
        self.sources: list[Tensor | None] = [None] * len(inputs)
        self.stream = stream
        self.run = run  # a replay reads its weights where they lay at the capture: they must not be freed
        with CAPTURE, torch.no_grad():
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.inputs = tuple(tensor.clone() for tensor in inputs)
                run(*self.inputs)  # workspaces are allocated by the first runs, and capture forbids it
                if inputs:
                    with OnDevice(inputs[0].device):
                        (plain or run)(*self.inputs)
                stream.synchronize()
                self.graph, self.outputs = captured(run, self.inputs)

    @torch.no_grad()
    def __call__(self, *tensors: Tensor) -> Any:
        with torch.cuda.stream(self.stream):
            for i, tensor in enumerate(tensors):
                if tensor is not self.sources[i]:
                    self.inputs[i].copy_(tensor, non_blocking=True)
                    self.sources[i] = tensor
            self.graph.replay()
        return self.outputs


def captured(run: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of `run` on the current stream, and its outputs.

    Not by `torch.cuda.graph`: where the capture fails, that leaves the stream switched and, on torch ≤ 2.11, the
    allocator in its capture, so that the process slowly runs out of memory.
    """
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    # thread_local: another thread may go on using the GPU, as a node does that switches over to this backend
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        outputs = run(*inputs)
    except BaseException:
        abandon(graph, pool)
        raise
    try:
        graph.capture_end()
    except RuntimeError:
        end_allocation(pool)
        raise
    return graph, outputs


def abandon(graph: torch.cuda.CUDAGraph, pool: Any) -> None:
    """End a capture that failed; that it cannot end well is known."""
    try:
        graph.capture_end()
    except RuntimeError as error:
        log.debug("capture ended: %s", error)
        end_allocation(pool)


def end_allocation(pool: Any) -> None:
    """Make the allocator forget a capture; where torch has done so itself (from 2.12 on) it objects, rightly."""
    try:
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
    except RuntimeError as error:
        log.debug("allocator: %s", error)


class Transfer:
    """Copies between NumPy arrays and the GPU through pinned memory, on one stream."""

    def __init__(self, stream: torch.cuda.Stream):
        self.stream = stream
        self.pinned: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}
        self.sent = torch.cuda.Event()

    def up(self, array: np.ndarray) -> Tensor:
        """An array on the GPU, with one axis more in front; it may be reused at once."""
        host = self.buffer("up", (1, *array.shape), DTYPES[array.dtype.name])
        self.sent.synchronize()  # the copy before may still be under way
        host.numpy()[0] = array
        with torch.cuda.stream(self.stream):
            device = host.to("cuda", non_blocking=True)
            self.sent.record(self.stream)
        return device

    def down(self, tensor: Tensor) -> np.ndarray:
        """An array that the caller owns."""
        host = self.buffer("down", tuple(tensor.shape), tensor.dtype)
        with torch.cuda.stream(self.stream):
            host.copy_(tensor, non_blocking=True)
        self.stream.synchronize()
        return host.numpy().copy()

    def buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        def make() -> Tensor:
            return torch.empty(shape, dtype=dtype, pin_memory=True)

        return recent(self.pinned, (name, shape, dtype), make, self.stream)


def recent(kept: dict[Any, Any], key: Any, make: Callable[[], Any], stream: torch.cuda.Stream) -> Any:
    """What is kept under the key, or made for it; beyond `MOST` the one that was asked for least recently goes."""
    if key not in kept and len(kept) >= MOST:
        stream.synchronize()  # it may still be in use
        del kept[next(iter(kept))]
    kept[key] = kept.pop(key) if key in kept else make()
    return kept[key]
