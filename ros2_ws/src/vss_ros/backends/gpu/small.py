"""What a GPU does with a frame and its logits beside the network: resize, labels, confidence, the move of a memory."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIP = 96 << 20
"""Bytes of logits at the frame's size that exist at a time."""


class Resize(nn.Module):
    """frame (1, H, W, 3) uint8 → the same at another size, as `stream.frame.fit` resizes it, to one grey level.

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
    """Passes of logits (1, C, h, w) → class ids (H, W) uint8 at `size`.

    By strips of rows where logits at full size, 1 GB for 124 classes at 1080p, would be large. Logits of 16 bits are
    upsampled in float16, less the greatest of each cell, so that it is finest where classes compete.
    """

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def forward(self, *logits: Tensor) -> Tensor:
        total = sum((x.float() for x in logits[1:]), logits[0].float())
        if logits[0].dtype != torch.float32:
            # planes: a reduction over the innermost axis of 19 would be slow
            total = total - total.amax(1, keepdim=True)
            total = total.to(torch.float16, memory_format=torch.contiguous_format)
        before, (height, width) = total.shape[2], self.size
        if total.element_size() * total.shape[1] * height * width <= STRIP:
            full = F.interpolate(total, size=self.size, mode="bilinear", align_corners=False)
            return full.argmax(1)[0].to(torch.uint8)
        wide = F.interpolate(total, size=(before, width), mode="bilinear", align_corners=False)[0]
        y = ((torch.arange(height, device=wide.device) + 0.5) * (before / height) - 0.5).clamp(0, before - 1)
        top = y.floor().long()
        share, bottom = (y - top)[:, None].to(wide.dtype), (top + 1).clamp(max=before - 1)
        rows = max(1, STRIP // (wide.element_size() * wide.shape[0] * width))
        strips = [
            torch.lerp(wide.index_select(1, t), wide.index_select(1, b), s).argmax(0).to(torch.uint8)
            for t, b, s in zip(top.split(rows), bottom.split(rows), share.split(rows), strict=True)
        ]
        return torch.cat(strips)


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


class Probabilities(nn.Module):
    """Passes of logits (1, C, h, w) → softmax of their mean, (h, w, C) float32."""

    def forward(self, *logits: Tensor) -> Tensor:
        mean = sum(x.float() for x in logits) / len(logits)
        return mean.softmax(1)[0].permute(1, 2, 0).contiguous()


class Move(nn.Module):
    """Map (1, h, w, D) and flow (1, h, w, 2) float32 → the map at x + flow(x), bilinear, its border replicated."""

    def forward(self, values: Tensor, flow: Tensor) -> Tensor:
        _, height, width, depth = values.shape
        x = torch.arange(width, device=flow.device) + flow[0, :, :, 0]
        y = torch.arange(height, device=flow.device)[:, None] + flow[0, :, :, 1]
        x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
        left, top = x.floor(), y.floor()
        right_share, down_share = (share[..., None].to(values.dtype) for share in (x - left, y - top))
        rows = values.reshape(height * width, depth)

        def at(down: int, right: int) -> Tensor:
            index = (top + down).clamp(max=height - 1) * width + (left + right).clamp(max=width - 1)
            return rows.index_select(0, index.long().flatten()).unflatten(0, (height, width))

        above = torch.lerp(at(0, 0), at(0, 1), right_share)
        below = torch.lerp(at(1, 0), at(1, 1), right_share)
        return torch.lerp(above, below, down_share)[None]


def weights(before: int, after: int, shrinks: bool) -> Tensor:
    """Matrix (before, after) that resizes a row of pixels."""
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return torch.from_numpy(cv2.resize(np.eye(before, dtype=np.float32), (after, before), interpolation=kind))
