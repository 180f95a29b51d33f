"""A network's layers as a GPU runs them fastest: channels last, and in 16 bits several operators as one kernel.

The kernels are written in Triton, which torch's builds with CUDA bring along, and need a C compiler. Each layer is held
against the operators that it stands for before it takes their place; where that fails, they stay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vss_ros.backends.gpu.small import Label, Move
from vss_ros.networks.backbones.mit import MixFFN
from vss_ros.networks.dcfm import DCFM

log = logging.getLogger(__name__)

AGREES = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float32: 1e-3}
"""Share of the greatest value by which a kernel may differ from the operators."""
APART = "the GPU runs operator by operator, which is slower; kernels need Triton, a C compiler and Python's headers"
TRIED = (6, 10)
"""Height and width of the map on which it is tried."""
WIDEST = 256
"""Channels that fit into a multiprocessor's registers."""


class PointwiseReLU(nn.Module):
    """A 1×1 convolution and the ReLU after it in one kernel of torch's, where channels lie last."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        rows, weight = x.permute(0, 2, 3, 1), self.conv.weight.flatten(1).T
        rows = torch._addmm_activation(self.conv.bias, rows.flatten(0, 2), weight).view(*rows.shape[:3], -1)
        return rows.permute(0, 3, 1, 2)


def lay_channels_last(network: nn.Module) -> None:
    """Tokens are pixels whose channels lie last: no kernel reorders them (B5's key frame on an H200 7.8 → 5.5 ms)."""
    for layer in [*network.modules()]:
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)
        if isinstance(layer, nn.Sequential):
            for i, (conv, norm, relu) in enumerate(zip(layer, layer[1:], layer[2:], strict=False)):
                pointwise = (
                    isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.bias is not None
                )
                if pointwise and isinstance(norm, nn.Identity) and isinstance(relu, nn.ReLU):
                    layer[i], layer[i + 2] = PointwiseReLU(conv), nn.Identity()


def take_kernels(network: nn.Module) -> None:
    """Put kernels in place of the layers of a folded network in 16 bits, where they agree with what they stand for."""
    height, width = TRIED
    for layer in [*network.modules()]:
        if isinstance(layer, MixFFN):
            conv = layer.dwconv.dwconv
            operators, kernel = nn.Sequential(layer.dwconv, layer.act), DepthwiseGELU(conv)
            x = randoms(conv.weight, (1, height * width, len(conv.weight)))
            if not agree(kernel, lambda x, *on, layers=operators: layers[1](layers[0](x, *on)), x, *TRIED):
                return
            layer.dwconv, layer.act = kernel, nn.Identity()
        if isinstance(layer, DCFM) and fits(layer):
            features = randoms(layer.fusion["conv"].weight, (1, layer.backbone.shallow_channels, *TRIED))
            features = features.to(memory_format=torch.channels_last)
            memory = randoms(features, (1, *TRIED, layer.width))
            whole = Decode(layer)
            if not agree(whole, lambda x, m, of=layer: of.decode((x,), (m,)), features, memory):
                return
            layer.fusion["whole"] = whole


def agree(kernel: Callable[..., Tensor], operators: Callable[..., Tensor], *inputs: Any) -> bool:
    """Whether a kernel runs here and answers as torch's operators do. Without a device it is taken for granted."""
    if inputs[0].is_meta:
        return True
    problem = ""
    try:
        ours, expected = kernel(*inputs).float(), operators(*inputs).float()
        error = float((ours - expected).abs().max() / expected.abs().max())
        if not error <= AGREES[inputs[0].dtype]:
            problem = f"{type(kernel).__name__} is off by {error:.1g}"
    except Exception as reason:  # compilers fail in many ways
        problem = f"{type(reason).__name__}: {reason}".strip().split("\n")[0][:200]
    if problem:
        log.warning("%s: %s", APART, problem)
    return not problem


def randoms(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)


def label_and_move() -> tuple[Callable[[tuple[int, int]], nn.Module], Callable[[], nn.Module]]:
    """What makes the stage that labels frames of a size, and the one that moves a memory."""
    like = torch.zeros(1).to("cuda")
    logits, flow = randoms(like, (1, 5, *TRIED)), randoms(like, (1, *TRIED, 2))
    values = logits.permute(0, 2, 3, 1).half()
    size = (3 * TRIED[0], 4 * TRIED[1])
    if agree(Argmax(size), Label(size), logits) and agree(Moved(), Move(), values, flow):
        return Argmax, Moved
    return Label, Move


class DepthwiseGELU(nn.Module):
    """tokens (B, N, C) of a map → GELU of its 3×3 depthwise convolution."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.register_buffer("weight", conv.weight.flatten(1).T.contiguous())
        self.register_buffer("bias", conv.bias)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return torch.ops.vss_ros.depthwise_gelu(x, self.weight, self.bias, height, width)


class Decode(nn.Module):
    """A DCFM's `decode`: features (B, C, h, w), memory (B, h, w, D) → logits (B, classes, h, w)."""

    def __init__(self, network: DCFM):
        super().__init__()
        own, layers = network.shares()[1].weight, network.classifier
        last = layers[-1]
        self.classes = len(last.weight)
        kind = {"device": own.device, "dtype": own.dtype}
        weight = torch.zeros(network.width, padded(self.classes), **kind)
        weight[:, : self.classes] = last.weight.flatten(1).T
        bias = torch.zeros(padded(self.classes), **kind)
        if last.bias is not None:
            bias[: self.classes] = last.bias
        first = layers[0].conv if len(layers) > 2 else None
        self.register_buffer("own", own.flatten(1).T.contiguous())
        self.register_buffer("hidden", first.weight.flatten(1).T.contiguous() if first else None)
        self.register_buffer("hidden_bias", first.bias if first else None)
        self.register_buffer("last", weight)
        self.register_buffer("last_bias", bias)

    def forward(self, features: Tensor, memory: Tensor) -> Tensor:
        layers = self.own, self.hidden, self.hidden_bias, self.last, self.last_bias
        rows = features.permute(0, 2, 3, 1)
        return torch.ops.vss_ros.fuse_and_classify(rows, memory, *layers, self.classes).permute(0, 3, 1, 2)


def fits(network: DCFM) -> bool:
    """Whether the kernel serves a network: features and memories of one size (not ResNet's), widths powers of 2."""
    widths = (network.width, network.independent)
    powers = all(n >= 16 and n & (n - 1) == 0 for n in widths)
    return hasattr(network, "head") and powers and max(widths) <= WIDEST


def padded(classes: int) -> int:
    """The least power of 2 that holds them, and that a tensor core takes."""
    return max(16, rounded(classes))


def rounded(count: int) -> int:
    """The least power of 2 that is not below."""
    return 1 << (count - 1).bit_length()


class Argmax(nn.Module):
    """`small.Label` as one kernel: no logits of the frame's size are written."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def forward(self, *logits: Tensor) -> Tensor:
        total = logits[0] if len(logits) == 1 else sum((x.float() for x in logits[1:]), logits[0].float())
        return torch.ops.vss_ros.upsampled_argmax(total, *self.size)


class Moved(nn.Module):
    """`small.Move` as one kernel."""

    def forward(self, values: Tensor, flow: Tensor) -> Tensor:
        return torch.ops.vss_ros.moved(values, flow)


# How each is launched on tensors of a GPU.


def depthwise_gelu(x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    from vss_ros.backends.gpu import kernels

    x, channels = x.contiguous(), x.shape[2]
    out = torch.empty_like(x)
    columns, depth = 16, 64
    grid = (-(-width // columns), len(x) * height, -(-channels // depth))
    kernels.depthwise_gelu[grid](x, weight, bias, out, height, width, channels, columns, depth)
    return out


def fuse_and_classify(
    features: Tensor,
    memory: Tensor,
    own: Tensor,
    hidden: Tensor | None,
    hidden_bias: Tensor | None,
    last: Tensor,
    last_bias: Tensor,
    classes: int,
) -> Tensor:
    from vss_ros.backends.gpu import kernels

    features, memory = features.contiguous(), memory.contiguous()
    out = features.new_empty((*features.shape[:3], classes))
    pixels, each, chunk = features.shape[:3].numel(), 64, 64
    width = features.shape[3]
    sizes = (width, rounded(width), *own.shape, classes, last.shape[1], hidden is not None, each, chunk)
    # where there is no hidden layer, its place is taken by what is not read
    layers = own, last if hidden is None else hidden, last_bias if hidden_bias is None else hidden_bias
    grid = (-(-pixels // each),)
    kernels.fuse_and_classify[grid](
        features, memory, *layers, last, last_bias, out, pixels, *sizes, num_warps=8, num_stages=1
    )
    return out


def upsampled_argmax(logits: Tensor, height: int, width: int) -> Tensor:
    from vss_ros.backends.gpu import kernels

    classes, *before = logits.shape[1:]
    out = torch.empty((height, width), dtype=torch.uint8, device=logits.device)
    each, ratios = 256, (before[0] / height, before[1] / width)
    grid = (-(-height * width // each),)
    kernels.upsampled_argmax[grid](
        logits, out, classes, *before, *logits.stride()[1:], height, width, *ratios, each
    )
    return out


def moved(values: Tensor, flow: Tensor) -> Tensor:
    from vss_ros.backends.gpu import kernels

    values, (height, width, depth) = values.contiguous(), values.shape[1:]
    out = torch.empty_like(values)
    pixels, channels = 16, min(128, rounded(depth))
    grid = (-(-height * width // pixels), -(-depth // channels))
    kernels.moved[grid](values, flow.contiguous(), out, height, width, depth, pixels, channels)
    return out


# Not by `torch.library.custom_op`, whose first call imports the compiler: four seconds and 200 MB.
LIBRARY = torch.library.Library("vss_ros", "DEF")
for schema, launch, answer in (
    (
        "depthwise_gelu(Tensor x, Tensor weight, Tensor bias, int height, int width) -> Tensor",
        depthwise_gelu,
        lambda x, *_: torch.empty_like(x, memory_format=torch.contiguous_format),
    ),
    (
        "fuse_and_classify(Tensor features, Tensor memory, Tensor own, Tensor? hidden, Tensor? hidden_bias, "
        "Tensor last, Tensor last_bias, int classes) -> Tensor",
        fuse_and_classify,
        lambda features, *rest: features.new_empty((*features.shape[:3], rest[-1])),
    ),
    (
        "upsampled_argmax(Tensor logits, int height, int width) -> Tensor",
        upsampled_argmax,
        lambda logits, *size: torch.empty(size, dtype=torch.uint8, device=logits.device),
    ),
    (
        "moved(Tensor values, Tensor flow) -> Tensor",
        moved,
        lambda values, _: torch.empty_like(values, memory_format=torch.contiguous_format),
    ),
):
    LIBRARY.define(schema)
    LIBRARY.impl(launch.__name__, launch, "CUDA")
    LIBRARY.impl(launch.__name__, answer, "Meta")
