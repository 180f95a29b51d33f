"""A network's stages as flat modules: tensors in, tensors out, nothing else, so that every runtime can take them."""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from vss_ros.backends.typed import DTYPES, TypedStage, narrow_weights
from vss_ros.config import VssError
from vss_ros.networks.cards.model import Model
from vss_ros.networks.heads import fold_batch_norm

NETWORKS = "vss_ros.networks."


class Encode(nn.Module):
    """frame (1, H, W, 3) uint8 RGB → features; normalises inside the graph."""

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        fused: torch.dtype | None = None,
    ):
        """fused: one kernel normalises in float32 and writes this type, for torch on a GPU."""
        super().__init__()
        self.network, self.fused = network, fused
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float32))
        self.register_buffer("scale", scale.view(1, 3, 1, 1))
        self.register_buffer("shift", (-255 * torch.tensor(mean) * scale).view(1, 3, 1, 1))

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        if self.fused:
            pixels = frame.permute(0, 3, 1, 2)
            x = torch.empty_like(pixels, dtype=self.fused)
            return self.network.encode(torch.addcmul(self.shift, pixels, self.scale, out=x))
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


class RememberPart(nn.Module):
    """features, or what the part before gave → the same for the part after, or memory."""

    def __init__(self, network: nn.Module, start: int, stop: int):
        super().__init__()
        self.network = network
        self.start, self.stop = start, stop

    def forward(self, *state: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.remember_part(state, self.start, self.stop))


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


def drift(features: Sequence[Tensor], keyframe: Sequence[Tensor]) -> float:
    """Sum of |difference| over sum of |keyframe's features|, ≥ 0."""
    size = sum(k.abs().sum(dtype=torch.float32) for k in keyframe)
    moved = sum((f - k).abs().sum(dtype=torch.float32) for f, k in zip(features, keyframe, strict=True))
    return float(moved / max(float(size), 1e-12))


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A copy, for inference alone, whose convolutions hold the batch norms registered right after them, and whose
    layers with a `fold` have computed their weights: no frame does. Other batch norms become a product and a sum.

    Exact up to rounding. In 16 bits it takes a rounding away, and exporters get convolutions whose every input has one
    type: a batch norm of float32 weights on 16-bit features is what they fold wrongly.
    """
    network = copy.deepcopy(network).eval()
    for parent in [*network.modules()]:
        if hasattr(parent, "fold"):
            parent.fold()
        if type(parent).forward is nn.Module.forward:
            continue  # it only holds its layers; whoever computes with them folds them there
        for (name, conv), (after, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, after, nn.Identity())
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, Affine(norm))
    return network


class Affine(nn.Module):
    """What a batch norm is in inference."""

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        ones, zeros = torch.ones_like(norm.weight)[:, None], torch.zeros_like(norm.bias)
        scale, shift = fold_batch_norm(ones, zeros, norm)
        self.register_buffer("scale", scale.detach()[..., None])
        self.register_buffer("shift", shift.detach()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


@torch.no_grad()
def flat_stages(
    model: Model, precision: str = "f32", fused: bool = False, device: str = ""
) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """Every stage of a model with inputs of the right shapes and types, ready to be exported.

    Those of `stage_names`; precision: f32, bf16 or f16, fused: see `typed`. Tensors lie on `device`, or where the
    network does, which stays there: a fallback may want it, and a GPU need not hold its weights twice.
    """
    network = fold_batch_norms(model.network)
    if fused:
        from vss_ros.backends.gpu.fused import lay_channels_last, take_kernels

        lay_channels_last(network)
    if precision != "f32":
        narrow_weights(network, DTYPES[precision], fused)
    if device:
        network.to(device)
    if fused and precision != "f32":
        take_kernels(network)
    pixels = DTYPES[precision] if fused else None
    encode = Encode(network, model.mean, model.std, pixels).eval().to(device_of(network))
    frame = torch.zeros((1, *model.size, 3), dtype=torch.uint8, device=device_of(network))
    count = memories_read(network)

    def typed(module: nn.Module) -> nn.Module:
        return module.eval() if precision == "f32" else TypedStage(module, DTYPES[precision], fused).eval()

    found: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {}
    memories: tuple[Tensor, ...] = ()
    if network.keeps:
        features = typed(encode)(frame)
        found["encode"] = typed(encode), (frame,)
        state = features
        for name, part in zip(remember_names(model), remember_parts(model, network), strict=True):
            found[name] = typed(part), state
            state = found[name][0](*state)
        memories = state * count
        found["decode"] = typed(Decode(network, len(features), count)), (*features, *memories)
    found["propagate"] = typed(Propagate(encode, count)), (frame, *memories)
    # a copy each: exporters take two inputs that are one tensor for one input
    copied = lambda tensors: tuple(t.clone(memory_format=torch.contiguous_format) for t in tensors)  # noqa: E731
    return {name: (module, copied(inputs)) for name, (module, inputs) in found.items()}


def stage_names(model: Model) -> tuple[str, ...]:
    """In the order of use: encode, remember (or remember1of4, …), decode, propagate; propagate alone without memory."""
    return (
        ("encode", *remember_names(model), "decode", "propagate") if model.network.keeps else ("propagate",)
    )


def remember_names(model: Model) -> list[str]:
    parts = min(model.parts, getattr(model.network, "steps", 1))
    return ["remember"] if parts <= 1 else [f"remember{i}of{parts}" for i in range(1, parts + 1)]


def remember_parts(model: Model, network: nn.Module) -> list[nn.Module]:
    """Stages that are `remember` one after the other; network: the model's, or a copy of it."""
    count = len(remember_names(model))
    if count == 1:
        return [Remember(network)]
    ends = cuts(step_costs(model), count)
    return [RememberPart(network, start, stop) for start, stop in pairwise([0, *ends])]


@torch.no_grad()
def step_costs(model: Model) -> list[int]:
    """Multiply-accumulates of each of the network's steps; nothing is computed."""
    network = copy.deepcopy(model.network).to("meta").eval()
    state = network.encode(torch.empty(1, 3, *model.size, device="meta"))
    costs = []
    for i in range(network.steps):
        with FlopCounterMode(display=False) as counter:
            state = network.remember_part(state, i, i + 1)
        costs.append(counter.get_total_flops() // 2)
    return costs


def cuts(costs: Sequence[int], count: int) -> list[int]:
    """Where the runs of steps end whose dearest is cheapest, `count` of them and none empty."""
    total = [0, *accumulate(costs)]
    best: dict[int, tuple[int, list[int]]] = {end: (total[end], [end]) for end in range(1, len(total))}
    for part in range(2, count + 1):
        best = {
            end: min(
                (max(best[cut][0], total[end] - total[cut]), [*best[cut][1], end])
                for cut in best
                if cut < end
            )
            for end in range(part, len(total))
        }
    return best[len(costs)][1]


def fingerprint(model: Model) -> str:
    """Hash of everything that a stage's graph holds: weights, normalisation, the code that computes with them."""
    digest = hashlib.sha256(repr((type(model.network).__name__, list(model.mean), list(model.std))).encode())
    for name, tensor in sorted(model.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    here = Path(__file__).parent
    for file in [*sources(model.network), here / "stages.py", here / "typed.py"]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def sources(network: nn.Module) -> list[Path]:
    """Files of our networks that a network's layers are written in, and those that these import from."""
    found: set[str] = set()
    wanted = {type(module).__module__ for module in network.modules()}
    while wanted:
        name = wanted.pop()
        if name in found or not name.startswith(NETWORKS):
            continue
        found.add(name)
        values = vars(sys.modules[name]).values()
        wanted |= {str(getattr(value, "__module__", None) or "") for value in values}
    return sorted(Path(sys.modules[name].__file__ or "") for name in found)


def device_of(network: nn.Module) -> torch.device:
    for parameter in network.parameters():
        return parameter.device
    raise VssError("a network of an ONNX file has no stages in torch: its file lies beside its card as it is")


def memories_read(network: nn.Module) -> int:
    """How many memories one pass of `decode` takes."""
    return len(network.reads(0, [0])[0]) if network.keeps else 0
