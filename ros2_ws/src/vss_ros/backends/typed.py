"""Mixed precision written into the graph: every runtime that keeps an exported graph's types computes the same.

The rule is torch.autocast's on CUDA: convolutions, with the PReLU after them, and matrix products in 16 bits;
normalisations and softmax, which overflow there, in float32; everything else in the wider type of its operands.
torch.autocast itself is not used since neither torch.export nor the ONNX exporter writes its casts into the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

NARROW = {
    F.linear,
    F.conv2d,
    F.prelu,
    torch.matmul,
    torch.bmm,
    Tensor.matmul,
    Tensor.__matmul__,
}
INSIDE = {F.layer_norm, F.group_norm}  # torch's kernels take 16 bits and compute in float32
WIDE = {
    *INSIDE,
    *{F.normalize, torch.linalg.vector_norm, F.softmax, torch.softmax, Tensor.softmax},
}


class Typed(TorchFunctionMode):
    """While it is active, functions in NARROW compute in `dtype` and those in WIDE in float32.

    fused: attention, LayerNorm and lengths by torch's own kernels, which compute in float32 inside, instead of written
    out.
    """

    def __init__(self, dtype: torch.dtype, fused: bool = False):
        super().__init__()
        self.dtype, self.fused = dtype, fused
        self.narrow = NARROW | INSIDE if fused else NARROW
        self.attention = partial(fused_attention if fused else attention, dtype=dtype)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            # nothing drops out in inference
            return self.attention(*args, **{k: v for k, v in kwargs.items() if k != "dropout_p"})
        if func is F.multi_head_attention_forward:
            query, key, value, _, heads, weight, bias = args[:7]
            out = args[11:13]  # weight and bias; between them stand options that no network here uses
            return multi_head((query, key, value), heads, (weight, bias), out, self.attention), None
        if self.fused and func in (F.normalize, torch.linalg.vector_norm):
            sizes = lengths(args[0].to(self.dtype), kwargs.get("dim", 1))
            return sizes if func is torch.linalg.vector_norm else args[0] / sizes
        if func in self.narrow:
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


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *, dtype: torch.dtype
) -> Tensor:
    # called past the mode, which would come back here
    with torch._C.DisableTorchFunction():
        return F.scaled_dot_product_attention(*cast((q, k, v), dtype), *cast([attn_mask], dtype))


def lengths(x: Tensor, dim: int) -> Tensor:
    """Of the vectors along an axis in x's own 16 bits, which may be divided by: neither 0 nor infinite."""
    with torch._C.DisableTorchFunction():
        limits = torch.finfo(x.dtype)
        return torch.linalg.vector_norm(x, dim=dim, keepdim=True).clamp(limits.tiny, limits.max)


def multi_head(
    inputs: tuple[Tensor, Tensor, Tensor],
    heads: int,
    project: tuple[Tensor, Tensor],
    out: tuple[Tensor, Tensor],
    attend: Callable[..., Tensor],
) -> Tensor:
    """nn.MultiheadAttention without masks; query (L, N, D), key and value (S, N, D) → (L, N, D).

    project, out: weight and bias of the layer that makes q, k, v, and of the last one.
    """
    dtype = attend.keywords["dtype"]  # type: ignore[attr-defined]
    # (N, heads, L or S, D / heads) each
    split = [
        F.linear(*cast((x, w, b), dtype)).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
        for x, w, b in zip(inputs, project[0].chunk(3), project[1].chunk(3), strict=True)
    ]
    q, k, v = split
    return F.linear(*cast((attend(q, k, v).permute(2, 0, 1, 3).flatten(2), *out), dtype))


def narrow_weights(network: nn.Module, dtype: torch.dtype, fused: bool = False) -> None:
    """Keep the weights of layers that compute in `dtype` in it: no frame casts them, and they take half the memory."""
    kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear)
    if fused:
        kinds += (nn.LayerNorm,)
    for module in network.modules():
        if isinstance(module, kinds):
            module.to(dtype)


class TypedStage(nn.Module):
    """A stage of `stages.py` in 16 bits."""

    def __init__(self, stage: nn.Module, dtype: torch.dtype, fused: bool = False):
        super().__init__()
        self.stage = stage
        self.dtype, self.fused = dtype, fused

    def forward(self, *tensors: Tensor) -> Any:
        with Typed(self.dtype, self.fused):
            return self.stage(*tensors)
