"""Training a classifier of tags: pairs of images that share a class, and the average precision of the tags."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from vss_ros.config import VssError
from vss_ros.media.draw import heat
from vss_ros.train.augment import Augmentation, recolour
from vss_ros.train.recipe import Recipe
from vss_ros.train.samples import place_of
from vss_ros.train.segmentation import Segmentation
from vss_ros.train.validate import normalise


class PairSamples(torch.utils.data.Dataset):
    """Pairs by position, as `Samples`: the second image has a class of the first, drawn among the first's; both are
    resized to the crop's size without regard to their aspect."""

    def __init__(self, data: Any, recipe: Recipe):
        self.data, self.recipe = data, recipe
        self.tagged = np.flatnonzero(data.tags.any(1))
        self.augment = Augmentation(recipe.crop, **recipe.augment)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, int]:
        """→ (2, h, w, 3) uint8, (2, C) float32, passes over the data so far."""
        place, rng = place_of(position, len(self.tagged), self.recipe.seed)
        pair = draw_pair(self.data, int(self.tagged[place]), rng, self.recipe.same_clip)
        frames = [self.prepare(self.data.read(i)[0], rng) for i in pair]
        tags = torch.from_numpy(self.data.tags[list(pair)].astype(np.float32))
        return torch.from_numpy(np.stack(frames)), tags, position // len(self.tagged)

    def prepare(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image = fit(image, self.recipe.crop)
        image = image[:, ::-1] if self.augment.flip and rng.random() < 0.5 else image
        return recolour(np.ascontiguousarray(image), *self.augment.draw_colour(rng))


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = image.shape[0] > size[0] and image.shape[1] > size[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def draw_pair(data: Any, m: int, rng: np.random.Generator, same_clip: float = 0.0) -> tuple[int, int]:
    """m, and an image drawn among those that have one of m's classes, itself among them.

    same_clip: how often it is drawn among the frames of m's recording a second or more away, where there are some.
    """
    label = int(rng.choice(np.flatnonzero(data.tags[m])))
    if same_clip and rng.random() < same_clip and len(near := data.sharing(label, m, same_clip=True)):
        return m, int(rng.choice(near))
    return m, int(rng.choice(data.sharing(label)))


class Tagging(Segmentation):
    """Which classes an image has."""

    score = "mAP"
    picture = "image, class maps"

    def check(self, data: Any) -> None:
        if not hasattr(data, "tags"):
            raise VssError(f"{data.name}: {self.recipe.network} learns from image tags, which it has not")
        if not data.tags.any():
            raise VssError(f"{data.name}: no image has a tag")

    def size(self) -> list[int]:
        return list(self.recipe.crop)

    def samples(self, data: Any) -> torch.utils.data.Dataset:
        return PairSamples(data, self.recipe)

    def batch(self, drawn: Any, device: torch.device) -> dict[str, Tensor]:
        frames, tags, epoch = drawn
        return {"frames": normalise(frames.to(device)), "tags": tags.to(device), "epoch": epoch.min()}

    @torch.no_grad()
    def measure(
        self, network: nn.Module, data: Any, limit: int, rank: int = 0, world: int = 1, interval: int = 1
    ) -> Tensor:
        """(2, N, C): tags and scores of all images, of which this process fills its share."""
        network.eval()
        chosen = np.unique(np.linspace(0, len(data) - 1, limit or len(data)).astype(int))
        found = torch.zeros(2, len(chosen), len(data.classes), dtype=torch.float64)
        for place, i in list(enumerate(chosen))[rank::world]:
            image, tags = data.read(int(i))
            found[0, place] = torch.from_numpy(tags.astype(float))
            found[1, place] = self.maps(network, image).mean((1, 2)).cpu()
        return found

    def maps(self, network: Any, image: np.ndarray) -> Tensor:
        device = next(network.parameters()).device
        frame = normalise(torch.from_numpy(fit(image, self.recipe.crop)).to(device))[None]
        return network.decode(network.encode(frame))[0].float()

    def scores(self, counts: np.ndarray) -> dict[str, float]:
        tags, scores = counts
        each = [average_precision(t, s) for t, s in zip(tags.T, scores.T, strict=True)]
        return {self.score: float(np.nanmean(each))}

    @torch.no_grad()
    def draw(self, network: nn.Module, data: Any) -> np.ndarray:
        network.eval()
        image, tags = data.read(0)
        image = fit(image, self.recipe.crop)
        maps = self.maps(network, image).clamp(min=0).cpu().numpy()[tags][:3]
        scaled = [cv2.resize(m / max(m.max(), 1e-6), image.shape[1::-1]) for m in maps]
        return np.hstack([image, *(heat((255 * np.clip(m, 0, 1)).astype(np.uint8), 255) for m in scaled)])

    def protocol(self, data: Any) -> str:
        height, width = self.recipe.crop
        return f"average precision of {len(data.classes)} image tags, {width}x{height}; says nothing about places"

    def figures(self, counts: np.ndarray, data: Any) -> dict[str, Any]:
        each = [average_precision(counts[0, :, i], counts[1, :, i]) for i in range(len(data.classes))]
        named = {c: round(s, 4) for c, s in zip(data.classes, each, strict=True) if s == s}
        return {"mAP": round(float(np.nanmean(each)), 4), "AP": named}


def average_precision(tags: np.ndarray, scores: np.ndarray) -> float:
    """Mean precision at each tagged image, in the order of falling scores; NaN for a class that no image has."""
    order = np.argsort(-scores, kind="stable")
    hits = tags[order] > 0
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()) if hits.any() else float("nan")
