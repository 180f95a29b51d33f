"""Losses of segmentation on logits that are smaller than the labels, which they are resized to."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vss_ros.config import IGNORE, VssError

HARD = 0.7  # probability of the right class below which OHEM calls a pixel hard
LEAST = 1 / 16  # share of the pixels that OHEM keeps at least


def resized(logits: Tensor, labels: Tensor) -> Tensor:
    return F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False).float()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy over labelled pixels of logits (B, C, h, w) and labels (B, H, W).

    Zero when no pixel is labelled.
    """
    total = F.cross_entropy(resized(logits, labels), labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def ohem(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy over the hard pixels alone (online hard example mining, as in OCNet's and HRNet's code): those
    whose class gets less than `HARD`, at least the worst `LEAST` of the labelled ones."""
    each = F.cross_entropy(resized(logits, labels), labels, ignore_index=IGNORE, reduction="none")
    losses = each[labels != IGNORE].sort(descending=True).values
    if not len(losses):
        return each.sum()
    hard = int((losses > -torch.log(torch.tensor(HARD))).sum())
    return losses[: max(hard, int(LEAST * len(losses)), 1)].mean()


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 − mean Dice coefficient of the classes that occur (V-Net, Milletari et al. 2016, squared denominator)."""
    valid = (labels != IGNORE)[:, None]
    shares = resized(logits, labels).softmax(1) * valid
    truth = F.one_hot(labels.where(valid[:, 0], labels.new_zeros(())), shares.shape[1]).movedim(-1, 1) * valid
    overlap = 2 * (shares * truth).sum((0, 2, 3))
    whole = (shares**2).sum((0, 2, 3)) + truth.sum((0, 2, 3))
    present = truth.sum((0, 2, 3)) > 0
    if not present.any():
        return shares.sum() * 0
    return 1 - (overlap / whole.clamp(min=1e-6))[present].mean()


CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "ohem": ohem,
    "dice": dice,
}
DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss}


KINDS = {"criterion": CRITERIA, "distance": DISTANCES}
"""Arguments of a network's `loss` that name one, not weigh it."""


def named(losses: dict[str, Callable], field: str, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """One of KINDS' losses. Raises VssError for another name."""
    if name not in losses:
        raise VssError(f"loss: {field}: expected one of {', '.join(losses)}, got {name!r}")
    return losses[name]
