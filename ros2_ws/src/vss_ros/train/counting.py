"""Training a network that counts: crops with the points in them, and errors of whole images' counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vss_ros.config import VssError
from vss_ros.data.metrics import count_figures
from vss_ros.data.points import inside
from vss_ros.media.draw import draw_points
from vss_ros.stream.tiles import Tiles
from vss_ros.train.augment import Augmentation
from vss_ros.train.recipe import Recipe
from vss_ros.train.samples import cache_name, place_of
from vss_ros.train.segmentation import Segmentation
from vss_ros.train.validate import normalise

THRESHOLD = 0.35
"""Least score of an object, as in the published evaluation."""
DRAWS = 20


class PointSamples(torch.utils.data.Dataset):
    """Augmented crops by position, as `Samples`; a crop with as many points as there are queries is drawn anew."""

    def __init__(self, data: Any, recipe: Recipe, most: int, cache: Path | None = None):
        self.data, self.recipe, self.most, self.cache = data, recipe, most, cache
        self.augment = Augmentation(recipe.crop, **recipe.augment)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """→ (1, h, w, 3) uint8, (N, 2) float32: column and row in pixels."""
        index, rng = place_of(position, len(self.data), self.recipe.seed)
        image, points = read_points(self.data, index, self.cache)
        for _ in range(DRAWS):
            crop, placed = self.augment.with_points(image, points, rng)
            if len(placed) < self.most:
                break
        placed = placed[inside(placed, crop.shape[:2])][: self.most]
        return torch.from_numpy(crop[None]), torch.from_numpy(placed.astype(np.float32))

    @staticmethod
    def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """→ (B, 1, h, w, 3), and (B, M, 2) with NaN beyond each image's last point."""
        points = torch.full((len(samples), max(len(p) for _, p in samples), 2), float("nan"))
        for row, (_, p) in zip(points, samples, strict=True):
            row[: len(p)] = p
        return torch.stack([image for image, _ in samples]), points


def read_points(data: Any, i: int, cache: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`data.read(i)`; with a cache folder it is rendered or decoded once and then read from there."""
    if cache is None:
        return data.read(i)
    path = cache / f"{cache_name(data, i)}.npz"
    if not path.exists():
        image, points = data.read(i)
        cache.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
        np.savez(temporary, image=image, points=points)
        temporary.replace(path)
    with np.load(path) as stored:
        return stored["image"], stored["points"]


class Counting(Segmentation):
    """Points and density of one class of objects."""

    score = "-MAE"
    picture = "image, truth, points"

    def check(self, data: Any) -> None:
        if hasattr(data, "clip") or hasattr(data, "tags"):
            raise VssError(f"{data.name}: {self.recipe.network} learns from points, which it has not")

    def size(self) -> list[int]:
        return list(self.recipe.crop)

    def samples(self, data: Any) -> torch.utils.data.Dataset:
        return PointSamples(data, self.recipe, self.recipe.options.get("queries", 700), self.cache)

    def batch(self, drawn: Any, device: torch.device) -> dict[str, Tensor]:
        frames, points = drawn
        return {"frames": normalise(frames.to(device)), "points": points.to(device)}

    def measure(
        self, network: nn.Module, data: Any, limit: int, rank: int = 0, world: int = 1, interval: int = 1
    ) -> Tensor:
        """(N, 3) of all images, of which this process fills its share of rows: true count, by points, by density."""
        network.eval()
        chosen = np.unique(np.linspace(0, len(data) - 1, limit or len(data)).astype(int))
        rows = torch.zeros(len(chosen), 3, dtype=torch.float64)
        for row, i in list(zip(rows, chosen, strict=True))[rank::world]:
            image, truth = read_points(data, int(i), self.cache)
            found, density = count(network, image, self.recipe.crop[0])
            row[:] = torch.tensor([len(truth), len(found), float(density.sum())])
        return rows

    def scores(self, counts: np.ndarray) -> dict[str, float]:
        points, density = (count_figures(counts[:, 0], counts[:, i]) for i in (1, 2))
        # a network whose points are still below the threshold is told from others by its density
        found = {f"{name} density": value for name, value in density.items()}
        return {self.score: -points["MAE"] - 1e-3 * density["MAE"], **points, **found}

    def draw(self, network: nn.Module, data: Any) -> np.ndarray:
        network.eval()
        image, truth = read_points(data, 0, self.cache)
        found, _ = count(network, image, self.recipe.crop[0])
        return np.hstack([image, draw_points(image, truth), draw_points(image, found)])

    def protocol(self, data: Any) -> str:
        patch = self.recipe.crop[0]
        return f"whole images in patches of {patch}, scores of at least {THRESHOLD}; MSE is its square root"

    def figures(self, counts: np.ndarray, data: Any) -> dict[str, Any]:
        by = {name: count_figures(counts[:, 0], counts[:, i]) for i, name in ((1, "points"), (2, "density"))}
        rounded = {n: {k: round(v, 4) for k, v in figures.items()} for n, figures in by.items()}
        return {"objects": round(float(counts[:, 0].mean()), 2), **rounded}


@torch.no_grad()
def count(network: Any, image: np.ndarray, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3): column, row, score of the objects in an image (H, W, 3) uint8; density of it, objects a cell."""
    tiles = Tiles(image.shape[0], image.shape[1], patch)
    device = next(network.parameters()).device
    whole, found = np.zeros(tiles.cells, np.float32), []
    for i in range(len(tiles)):
        frame = normalise(torch.from_numpy(tiles.cut(image, i)).to(device))[None]
        scores, points, density = (x.float().cpu().numpy()[0] for x in network.decode(network.encode(frame)))
        found.append(tiles.locate(i, scores, points, THRESHOLD))
        tiles.place_density(whole, i, density[0])
    return np.concatenate(found), tiles.of_image(whole)
