"""Torch on the CPU: the reference for every other runtime. On CUDA see `gpu/torch`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vss_ros.backends.base import Backend
from vss_ros.backends.cpu import cpu_has_bf16
from vss_ros.backends.labels import probabilities
from vss_ros.backends.stages import Encode, drift, remember_parts
from vss_ros.backends.typed import DTYPES
from vss_ros.config import VssError
from vss_ros.media.motion import move_memory
from vss_ros.networks.cards.model import Model

log = logging.getLogger(__name__)


class TorchBackend(Backend):
    """Features, memories and logits are tensors."""

    name = "torch"

    def __init__(self, model: Model, precision: str = "f32", threads: int = 0):
        if precision not in ("f32", "bf16"):
            raise VssError(
                f"precision {precision}: backend torch on a CPU computes in f32 or bf16; f16 needs CUDA, none was found"
            )
        if precision == "bf16" and not cpu_has_bf16():
            log.warning(
                "precision bf16: no bfloat16 is known of this CPU; emulated, it is many times slower: take f32"
            )
        if threads:
            torch.set_num_threads(threads)
        super().__init__(model, precision)
        self.network = model.network.eval()
        self.first = Encode(self.network, model.mean, model.std)
        self.remembering = remember_parts(model, self.network)
        self.parts = len(self.remembering)
        self.dtype = DTYPES[precision]

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32)

    @torch.inference_mode()
    def encode(self, frame: np.ndarray) -> tuple[Tensor, ...]:
        pixels = torch.from_numpy(np.ascontiguousarray(frame))[None]
        with self.autocast():
            return self.first(pixels)

    @torch.inference_mode()
    def remember_part(self, part: int, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with self.autocast():
            return self.remembering[part](*state)

    @torch.inference_mode()
    def decode(self, features: tuple[Tensor, ...], memories: Sequence[tuple[Tensor, ...]]) -> Any:
        with self.autocast():
            answer = self.network.decode(features, *memories)
        return answer.float() if isinstance(answer, Tensor) else tuple(x.float() for x in answer)

    def propagate(self, frame: np.ndarray, memories: Sequence[tuple[Tensor, ...]]) -> Any:
        return self.decode(self.encode(frame), memories)

    def move(self, memory: tuple[Tensor, ...], flow: np.ndarray) -> tuple[Tensor, ...]:
        moved = move_memory([tensor.float().numpy() for tensor in memory], flow)
        return tuple(torch.from_numpy(x).to(tensor.dtype) for x, tensor in zip(moved, memory, strict=True))

    @torch.inference_mode()
    def drift(self, features: tuple[Tensor, ...], keyframe: tuple[Tensor, ...]) -> float:
        return drift(features, keyframe)

    @torch.inference_mode()
    def labels(self, logits: Sequence[Tensor], size: tuple[int, int]) -> np.ndarray:
        return self.upsampled(logits, size).argmax(1)[0].to(torch.uint8).numpy()

    @torch.inference_mode()
    def confidence(self, logits: Sequence[Tensor], size: tuple[int, int]) -> np.ndarray:
        probability = (sum(logits) / len(logits)).softmax(1).amax(1, keepdim=True)
        resized = F.interpolate(probability, size=size, mode="bilinear", align_corners=False)
        return (resized[0, 0] * 255).round().to(torch.uint8).numpy()

    def probabilities(self, logits: Sequence[Tensor]) -> np.ndarray:
        return probabilities([x.numpy() for x in logits])

    def upsampled(self, logits: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return F.interpolate(sum(logits), size=size, mode="bilinear", align_corners=False)
