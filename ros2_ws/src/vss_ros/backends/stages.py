"""A network's stages as flat modules: tensors in, tensors out, nothing else, so that every runtime can take them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vss_ros.backends.typed import DTYPES, TypedStage
from vss_ros.networks.model import Model


class Encode(nn.Module):
    """frame (1, H, W, 3) uint8 RGB → features; normalises inside the graph."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float32))
        self.register_buffer("scale", scale.view(1, 3, 1, 1))
        self.register_buffer("shift", (-255 * torch.tensor(mean) * scale).view(1, 3, 1, 1))

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        # cast first: TensorRT takes uint8 as an input, but computes nothing with it
        x = frame.to(self.scale.dtype).permute(0, 3, 1, 2)
        return self.network.encode(x * self.scale + self.shift)


class Remember(nn.Module):
    """features → memory."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        return self.network.remember(features)


class Decode(nn.Module):
    """features, then the tensors of each memory → logits (1, C, h, w)."""

    def __init__(self, network: nn.Module, features: int, memories: int):
        super().__init__()
        self.network = network
        self.features = features
        self.memories = memories

    def forward(self, *tensors: Tensor) -> Tensor:
        features, rest = tensors[: self.features], tensors[self.features :]
        each = len(rest) // self.memories if self.memories else 0
        return self.network.decode(features, *(rest[i * each : (i + 1) * each] for i in range(self.memories)))


class Propagate(nn.Module):
    """frame, then the tensors of each memory → logits: a frame that is not remembered needs no stop in between."""

    def __init__(self, encode: Encode, memories: int):
        super().__init__()
        self.encode = encode
        self.memories = memories

    def forward(self, frame: Tensor, *tensors: Tensor) -> Tensor:
        features = self.encode(frame)
        return Decode(self.encode.network, len(features), self.memories)(*features, *tensors)


class Resize(nn.Module):
    """frame (1, H, W, 3) uint8 → the same at another size, as `stream.fit` resizes it, to one grey level.

    Resizing by area or bilinearly is linear and separable: a product with one constant matrix a side.
    """

    def __init__(self, before: tuple[int, int], after: tuple[int, int], dtype: torch.dtype = torch.float32):
        super().__init__()
        shrinks = before[0] > after[0] and before[1] > after[1]
        self.register_buffer("rows", weights(before[0], after[0], shrinks).T.to(dtype))
        self.register_buffer("columns", weights(before[1], after[1], shrinks).to(dtype))

    def forward(self, frame: Tensor) -> Tensor:
        x = frame.to(self.rows.dtype).permute(0, 3, 1, 2)
        x = (self.rows @ x @ self.columns).round().clamp(0, 255)
        return x.to(torch.uint8).permute(0, 2, 3, 1)


class Label(nn.Module):
    """Passes of logits (1, C, h, w) → class ids (H, W) uint8 at `size`, computed in float32."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def forward(self, *logits: Tensor) -> Tensor:
        total = sum(x.float() for x in logits)
        full = F.interpolate(total, size=self.size, mode="bilinear", align_corners=False)
        return full.argmax(1)[0].to(torch.uint8)


class Confidence(nn.Module):
    """Passes of logits (1, C, h, w) → greatest probability × 255, (H, W) uint8, upsampled from the logits' size."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def forward(self, *logits: Tensor) -> Tensor:
        mean = sum(x.float() for x in logits) / len(logits)
        probability = mean.softmax(1).amax(1, keepdim=True)
        full = F.interpolate(probability, size=self.size, mode="bilinear", align_corners=False)
        return (full[0, 0] * 255).round().to(torch.uint8)


def drift(features: Sequence[Tensor], keyframe: Sequence[Tensor]) -> float:
    """Sum of |difference| over sum of |keyframe's features|, ≥ 0."""
    size = sum(k.abs().sum(dtype=torch.float32) for k in keyframe)
    moved = sum((f - k).abs().sum(dtype=torch.float32) for f, k in zip(features, keyframe, strict=True))
    return float(moved / max(float(size), 1e-12))


def weights(before: int, after: int, shrinks: bool) -> Tensor:
    """Matrix (before, after) that resizes a row of pixels."""
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return torch.from_numpy(cv2.resize(np.eye(before, dtype=np.float32), (after, before), interpolation=kind))


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A copy, for inference alone, whose convolutions hold the batch norms registered right after them.

    Exact up to rounding. In 16 bits it takes a rounding away, and exporters get convolutions whose every input has one
    type: a batch norm of float32 weights on 16-bit features is what they fold wrongly.
    """
    network = copy.deepcopy(network).eval()
    for parent in network.modules():
        if type(parent).forward is nn.Module.forward:
            continue  # it only holds its layers; whoever computes with them folds them there
        for (name, conv), (after, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, after, nn.Identity())
    return network


@torch.no_grad()
def flat_stages(model: Model, precision: str = "f32") -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """Every stage of a model with inputs of the right shapes and types, ready to be exported.

    `propagate`, and if the network remembers `encode`, `remember`, `decode`; precision: f32, bf16 or f16 (see
    `typed`). Tensors lie where the network does.
    """
    network = fold_batch_norms(model.network)
    encode = Encode(network, model.mean, model.std).eval().to(device_of(network))
    frame = torch.zeros((1, *model.size, 3), dtype=torch.uint8, device=device_of(network))
    count = memories_read(network)

    def typed(module: nn.Module) -> nn.Module:
        return module.eval() if precision == "f32" else TypedStage(module, DTYPES[precision]).eval()

    found: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {}
    memories: tuple[Tensor, ...] = ()
    if network.keeps:
        features = typed(encode)(frame)
        remember = typed(Remember(network))
        memory = remember(*features)
        memories = memory * count
        found["encode"] = typed(encode), (frame,)
        found["remember"] = remember, features
        found["decode"] = typed(Decode(network, len(features), count)), (*features, *memories)
    found["propagate"] = typed(Propagate(encode, count)), (frame, *memories)
    # a copy each: exporters take two inputs that are one tensor for one input
    copied = lambda tensors: tuple(t.clone(memory_format=torch.contiguous_format) for t in tensors)  # noqa: E731
    return {name: (module, copied(inputs)) for name, (module, inputs) in found.items()}


def stage_names(network: nn.Module) -> tuple[str, ...]:
    return ("encode", "remember", "decode", "propagate") if network.keeps else ("propagate",)


def fingerprint(model: Model) -> str:
    """Hash of everything that a stage's graph holds: weights, normalisation, the code that computes with them."""
    digest = hashlib.sha256(repr((type(model.network).__name__, list(model.mean), list(model.std))).encode())
    for name, tensor in sorted(model.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    here = Path(__file__).parent
    for file in sorted([*here.parent.glob("networks/*.py"), here / "stages.py", here / "typed.py"]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def memories_read(network: nn.Module) -> int:
    """How many memories one pass of `decode` takes."""
    return len(network.reads(0, [0])[0]) if network.keeps else 0
