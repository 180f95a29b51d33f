"""Points of a network against true ones: neighbour distances, one-to-one matching, IOCFormer's losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHA, GAMMA = 0.25, 2.0
CLASSIFY, LOCATE = 2.0, 5.0
"""Of the matching's cost."""


def targets_of(points: Tensor, size: Sequence[int]) -> list[Tensor]:
    """points (B, M, 2): column and row in pixels, NaN for none → for each image (K, 3): row and column as shares of
    size (height, width), mean distance to the up to three nearest neighbours in the same measure (0 for a lone one).
    """
    scale = points.new_tensor([size[0], size[1]])
    found = []
    for image in points:
        centres = image[~image.isnan().any(1)].flip(1) / scale
        near = torch.cdist(centres, centres).sort(1).values[:, 1:4]  # the first is the point itself
        spread = near.mean(1, keepdim=True) if near.shape[1] else centres.new_zeros(len(centres), 1)
        found.append(torch.cat([centres, spread], 1))
    return found


def match(
    logits: Tensor, located: Tensor, targets: Tensor, begin: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The cheapest one-to-one matching for one image: indices of queries, and of the targets that they get.

    logits (Q, 2), located (Q, 3), targets (K, 3), K ≤ Q; begin (Q, 2): where queries begin, if that alone decides.
    """
    from scipy.optimize import linear_sum_assignment

    if begin is None:
        cost = matching_cost(logits.detach().float(), located.detach().float(), targets.float())
    else:
        cost = torch.cdist(begin.detach().float(), targets[:, :2].float(), p=1)
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(rows, device=logits.device), torch.as_tensor(columns, device=logits.device)


def matching_cost(logits: Tensor, located: Tensor, targets: Tensor) -> Tensor:
    """(Q, K): 2 · (focal cost of being an object − of being none) + 5 · L1 over the three outputs."""
    p = logits[:, 1].sigmoid()
    yes = ALPHA * (1 - p) ** GAMMA * -(p + 1e-8).log()
    no = (1 - ALPHA) * p**GAMMA * -(1 - p + 1e-8).log()
    return CLASSIFY * (yes - no)[:, None] + LOCATE * torch.cdist(located, targets, p=1)


def matched_loss(
    logits: Tensor, located: Tensor, targets: Sequence[Tensor], begin: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sigmoid focal loss over all logits, and L1 of matched queries, each a point of the batch.

    logits (B, Q, 2), located (B, Q, 3), a (K, 3) of targets for each image; begin: of `match`.
    """
    truth, distance = torch.zeros_like(logits), located.new_zeros(())
    for i, wanted in enumerate(targets):
        queries, chosen = match(logits[i], located[i], wanted, begin)
        truth[i, queries, 1] = 1
        distance = distance + (located[i, queries] - wanted[chosen]).abs().sum()
    n = points_a_device(targets)
    return focal(logits.float(), truth.float()) / n, distance / n


def focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Sum of the sigmoid focal loss (Lin et al., ICCV 2017), α 0.25, γ 2."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    p = logits.sigmoid()
    missed = truth * (1 - p) + (1 - truth) * p
    weight = ALPHA * truth + (1 - ALPHA) * (1 - truth)
    return (weight * missed**GAMMA * entropy).sum()


def count_loss(density: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Mean over images of |sum of the density (B, 1, h, w) − number of points|."""
    counts = density.new_tensor([len(wanted) for wanted in targets])
    return (density.float().sum((1, 2, 3)) - counts).abs().mean()


def place_loss(density: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """Mean over images of the squared error against a normal distribution of σ one cell around each point, whose sum
    is 1 also at the border, as a share of what a density of zero has for a point in the open."""
    rows, columns = (
        torch.arange(n, device=density.device, dtype=torch.float32) + 0.5 for n in density.shape[-2:]
    )
    wanted = torch.zeros_like(density[:, 0], dtype=torch.float32)
    for image, points in zip(wanted, targets, strict=True):
        along = [
            torch.exp(-((cells - len(cells) * place[:, None]) ** 2) / 2)  # (K, cells)
            for cells, place in ((rows, points[:, 0]), (columns, points[:, 1]))
        ]
        y, x = (part / part.sum(1, keepdim=True) for part in along)
        image += torch.einsum("kh,kw->hw", y, x)
    return ((density[:, 0].float() - wanted) ** 2).sum((1, 2)).mean() * 4 * math.pi


def points_a_device(targets: Sequence[Tensor]) -> float:
    """Points of the whole batch over the number of devices, at least 1."""
    total = torch.tensor(float(sum(len(wanted) for wanted in targets)))
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        total = total.to(targets[0].device)
        torch.distributed.all_reduce(total)
        total = total / torch.distributed.get_world_size()
    return max(float(total), 1.0)
