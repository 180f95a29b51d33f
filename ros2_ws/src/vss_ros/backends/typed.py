"""Mixed precision written into the graph: every runtime that keeps an exported graph's types computes the same.

The rule is torch.autocast's on CUDA: convolutions and matrix products in 16 bits; normalisations and softmax, which
overflow there, in float32; everything else in the wider type of its operands. torch.autocast itself is not used since
neither torch.export nor the ONNX exporter writes its casts into the graph.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

NARROW = {
    F.linear,
    F.conv2d,
    torch.conv2d,
    torch.matmul,
    torch.bmm,
    Tensor.matmul,
    Tensor.__matmul__,
}
WIDE = {F.layer_norm, F.group_norm, F.normalize, F.softmax, torch.softmax, Tensor.softmax}


class Typed(TorchFunctionMode):
    """While it is active, functions in NARROW compute in `dtype` and those in WIDE in float32."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return attention(*args, **kwargs, dtype=self.dtype)
        if func is F.multi_head_attention_forward:
            query, key, value, _, heads, weight, bias = args[:7]
            out = args[11:13]  # weight and bias; between them stand options that no network here uses
            return multi_head((query, key, value), heads, (weight, bias), out, self.dtype), None
        if func in NARROW:
            return func(*cast(args, self.dtype), **cast(kwargs, self.dtype))
        if func in WIDE:
            return func(*cast(args, torch.float32), **cast(kwargs, torch.float32))
        return func(*args, **kwargs)


def cast(values: Any, dtype: torch.dtype) -> Any:
    """The same tuple, list or dict with its floating-point tensors in `dtype`."""
    if isinstance(values, dict):
        return {key: cast(value, dtype) for key, value in values.items()}
    if isinstance(values, (tuple, list)):
        return type(values)(cast(value, dtype) for value in values)
    is_real = isinstance(values, Tensor) and values.is_floating_point()
    return values.to(dtype) if is_real else values


def attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *, dtype: torch.dtype
) -> Tensor:
    """softmax(q·kᵀ/√d + mask)·v with the softmax in float32; q scaled first, so that the product stays small."""
    scores = (q.to(dtype) / math.sqrt(q.shape[-1])) @ k.to(dtype).transpose(-2, -1)
    scores = scores.float() if attn_mask is None else scores.float() + attn_mask
    return scores.softmax(-1).to(dtype) @ v.to(dtype)


def multi_head(
    inputs: tuple[Tensor, Tensor, Tensor],
    heads: int,
    project: tuple[Tensor, Tensor],
    out: tuple[Tensor, Tensor],
    dtype: torch.dtype,
) -> Tensor:
    """nn.MultiheadAttention without masks; query (L, N, D), key and value (S, N, D) → (L, N, D).

    project, out: weight and bias of the layer that makes q, k, v, and of the last one.
    """
    split = [
        F.linear(*cast((x, w, b), dtype)).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
        for x, w, b in zip(inputs, project[0].chunk(3), project[1].chunk(3), strict=True)
    ]  # (N, heads, L or S, D / heads) each
    q, k, v = split
    return F.linear(*cast((attention(q, k, v, dtype=dtype).permute(2, 0, 1, 3).flatten(2), *out), dtype))


class TypedStage(nn.Module):
    """A stage of `stages.py` in 16 bits."""

    def __init__(self, stage: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.stage = stage
        self.dtype = dtype

    def forward(self, *tensors: Tensor) -> Any:
        with Typed(self.dtype):
            return self.stage(*tensors)
