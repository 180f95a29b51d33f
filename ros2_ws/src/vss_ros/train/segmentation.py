"""What a network learns, seen from the training loop: its samples, how it is measured, and what the card says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vss_ros.config import IGNORE, VssError
from vss_ros.data.metrics import iou, mean_iou
from vss_ros.data.open import open_dataset
from vss_ros.train.recipe import Recipe
from vss_ros.train.samples import Samples
from vss_ros.train.validate import draw_sample, normalise, score_of, validate


class Segmentation:
    """A class for each pixel; other tasks answer the same calls."""

    score = "mIoU"
    """The figure that chooses the checkpoint, more is better."""
    picture = "image, truth, labels"

    def __init__(self, recipe: Recipe, cache: Path | None = None):
        self.recipe, self.cache = recipe, cache

    def check(self, data: Any) -> None:
        """VssError unless the data set has labels of the kind that the network learns from."""
        if not hasattr(data, "clip"):
            raise VssError(
                f"{data.name}: {self.recipe.network} learns from labelled pixels, which it has not"
            )
        if all(
            (data.clip(i).labels[0] == IGNORE).all() for i in range(len(data))
        ):  # mostly the first one ends it
            raise VssError(f"{data.name}: expected labelled pixels, all are void (255): see `vss data check`")

    def size(self) -> list[int]:
        """[height, width] of the network's input, for the card."""
        return list(self.recipe.size)

    def samples(self, data: Any) -> torch.utils.data.Dataset:
        """What the loader draws from by position; its `collate`, if any, joins several."""
        recipe = self.recipe
        mixed = open_dataset(recipe.mixed, "train", None, recipe.size) if recipe.mixed else None
        return Samples(data, recipe, self.cache, mixed)

    def batch(self, drawn: Any, device: torch.device) -> dict[str, Tensor]:
        """What `network.loss` takes, of what the loader gave."""
        frames, labels, *flow = drawn
        batch = {"frames": normalise(frames.to(device)), "labels": labels.to(device).long()}
        return {**batch, "flow": flow[0].to(device)} if flow else batch

    def measure(
        self, network: nn.Module, data: Any, limit: int, rank: int = 0, world: int = 1, interval: int = 1
    ) -> Tensor:
        """A tensor of counts for this process's share of at most `limit` images (0: all); those of processes add up."""
        return validate(network, data, self.recipe.size, self.cache, limit, rank, world, interval)

    def scores(self, counts: np.ndarray) -> dict[str, float]:
        """Figures of a validation run by name, `score` among them."""
        parts = zip(("keyframes", "others"), counts, strict=False)
        return {self.score: score_of(counts), **{f"mIoU {kind}": mean_iou(part) for kind, part in parts}}

    def draw(self, network: nn.Module, data: Any) -> np.ndarray:
        """A picture (H, W, 3) uint8 of how far it is."""
        return draw_sample(network, data, self.recipe.size, self.cache)

    def protocol(self, data: Any) -> str:
        height, width = self.recipe.size
        return f"every frame remembered, {width}x{height}, {len(data.classes)} classes"

    def figures(self, counts: np.ndarray, data: Any) -> Mapping[str, Any]:
        """For the card, of the counts of one split."""
        scores = iou(counts[0])
        per_class = {c: round(float(s), 4) for c, s in zip(data.classes, scores, strict=True) if s == s}
        return {"mIoU": round(float(np.nanmean(scores)), 4), "IoU": per_class}
