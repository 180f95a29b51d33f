"""CUDA graphs and pinned transfers: a frame goes up once, a mask comes down once, one launch a stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Graph:
    """A function of fixed shapes as one CUDA graph.

    `run` takes the tensors in `inputs` and returns a tensor or a tuple of them; it must not look at their values.
    A call copies what changed into the fixed inputs, replays, and returns the fixed outputs: they are overwritten by
    the next call, so clone what must stay. An input that is the same tensor as in the last call is not copied again:
    tensors must not be changed in place between calls.
    """

    def __init__(self, run: Callable[..., Any], inputs: tuple[Tensor, ...], stream: torch.cuda.Stream):
        self.sources: list[Tensor | None] = [None] * len(inputs)
        self.stream = stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.inputs = tuple(tensor.clone() for tensor in inputs)
            for _ in range(2):  # workspaces are allocated by the first runs, and capture forbids it
                run(*self.inputs)
        stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: another thread may go on using the GPU, as a node does that switches over to this backend
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            self.outputs = run(*self.inputs)

    def __call__(self, *tensors: Tensor) -> Any:
        with torch.cuda.stream(self.stream):
            for i, tensor in enumerate(tensors):
                if tensor is not self.sources[i]:
                    self.inputs[i].copy_(tensor, non_blocking=True)
                    self.sources[i] = tensor
            self.graph.replay()
        return self.outputs


class Transfer:
    """Copies between NumPy arrays and the GPU through pinned memory, on one stream."""

    def __init__(self, stream: torch.cuda.Stream):
        self.stream = stream
        self.pinned: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self.sent = torch.cuda.Event()

    def up(self, frame: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 → (1, H, W, 3) on the GPU; the array may be reused at once."""
        host = self.buffer("up", (1, *frame.shape))
        self.sent.synchronize()  # the frame before may still be under way
        host.numpy()[0] = frame
        with torch.cuda.stream(self.stream):
            device = host.to("cuda", non_blocking=True)
            self.sent.record(self.stream)
        return device

    def down(self, mask: Tensor) -> np.ndarray:
        """uint8 on the GPU → an array that the caller owns."""
        host = self.buffer("down", tuple(mask.shape))
        with torch.cuda.stream(self.stream):
            host.copy_(mask, non_blocking=True)
        self.stream.synchronize()
        return host.numpy().copy()

    def buffer(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if (name, shape) not in self.pinned:
            self.pinned[name, shape] = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        return self.pinned[name, shape]
