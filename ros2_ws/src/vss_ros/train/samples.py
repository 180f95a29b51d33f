"""Training clips by position: everything random in a clip follows from (seed, position).

So the data of a run is the same however often it is stopped, and needs no state in a checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vss_ros.config import VssError, brief
from vss_ros.media.motion import Motion
from vss_ros.train.augment import Augmentation
from vss_ros.train.recipe import Recipe


class Samples(torch.utils.data.Dataset):
    """Augmented clips; position ÷ len(data) is the epoch, each with an order of its own.

    With a cache folder each clip is rendered or decoded once, so its neighbour and direction are drawn once, too.
    Clips of `mixed` take the places of some, as the recipe says.
    """

    def __init__(self, data: Any, recipe: Recipe, cache: Path | None = None, mixed: Any = None):
        self.data, self.recipe, self.cache, self.mixed = data, recipe, cache, mixed
        if mixed is not None and list(mixed.classes) != list(data.classes):
            raise VssError(
                f"mixed: expected a data set with the classes of {data.name}, {brief(', '.join(data.classes))}; "
                f"{mixed.name} has {brief(', '.join(mixed.classes))}: leave it out, or take another"
            )
        self.augment = Augmentation(recipe.crop, **recipe.augment)

    def __getitem__(self, position: int) -> tuple[Tensor, ...]:
        """→ (T, h, w, 3) uint8 frames, (T, h, w) uint8 labels, in the order of the recipe's offsets; where it says
        `moved`, also the flow (h/4, w/4, 2) from the first frame to the second."""
        recipe, data = self.recipe, self.data
        index, rng = place_of(position, len(data), recipe.seed)
        if self.mixed is not None and rng.random() < recipe.mixed_share:
            data, index = self.mixed, int(rng.integers(len(self.mixed)))
        offsets = list(recipe.offsets)
        draw = np.random.default_rng((recipe.seed, index)) if self.cache else rng
        if recipe.reverse and draw.random() < recipe.reverse:
            offsets = [-offset for offset in offsets]
        if recipe.neighbours:
            offsets.append(int(draw.choice(recipe.neighbours)))
        frames, labels = self.augment(*read_clip(data, index, offsets, self.cache), rng)
        parts = (torch.from_numpy(frames), torch.from_numpy(labels))
        if not recipe.moved:
            return parts
        return *parts, torch.from_numpy(flow_over([frames[1], frames[0]]))


def flow_over(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Flow (h, w, 2) float32 from the last of frames (H, W, 3) uint8 to the first, in cells, as a stream composes it;
    zero where it cannot be trusted."""
    motion = Motion(frames[0].shape[:2])
    motion.step(frames[0])
    track = motion.track()
    for frame in frames[1:]:
        motion.step(frame)
    if track.flow is None or track.cuts:
        return np.zeros((*motion.cells, 2), np.float32)
    return track.flow


def place_of(position: int, length: int, seed: int) -> tuple[int, np.random.Generator]:
    """Which of `length` samples stands at a position of the run, and what everything random in it is drawn from."""
    epoch, place = divmod(position, length)
    index = int(np.random.default_rng((seed, epoch)).permutation(length)[place])
    return index, np.random.default_rng((seed, epoch, place))


def read_clip(
    data: Any, index: int, offsets: Sequence[int], cache: Path | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames and labels of a clip; with a cache folder each frame is rendered or decoded once and then read from there,
    by runs of other offsets, too."""
    if cache is None:
        clip = data.clip(index, offsets)
        return clip.frames, clip.labels
    paths = {offset: cache / f"{cache_name(data, index)}_{offset}.npy" for offset in offsets}
    if missing := [offset for offset, path in paths.items() if not path.exists()]:
        clip = data.clip(index, missing)
        cache.mkdir(parents=True, exist_ok=True)
        for offset, frame, labels in zip(missing, clip.frames, clip.labels, strict=True):
            temporary = cache / f".{paths[offset].name}.{os.getpid()}.npy"
            np.save(temporary, np.concatenate([frame, labels[..., None]], -1))
            temporary.replace(paths[offset])
    planes = [np.load(paths[offset]) for offset in offsets]
    return [plane[..., :3] for plane in planes], [np.ascontiguousarray(plane[..., 3]) for plane in planes]


def cache_name(data: Any, index: int) -> str:
    """How a cache's files of the index-th sample begin; another one once what it is made of has changed."""
    source = hashlib.sha256(repr((data.name, data.source)).encode()).hexdigest()[:12]
    return f"{data.name.replace(' ', '_')}_{source}_{index}"


class Positions(torch.utils.data.Sampler):
    """Positions of one process's clips, a list a forward pass, from optimiser step `step` on."""

    def __init__(self, recipe: Recipe, step: int, rank: int, world: int):
        self.recipe, self.step, self.rank, self.world = recipe, step, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        recipe = self.recipe
        part = recipe.batch // (recipe.accumulate * self.world)
        for step in range(self.step, recipe.steps):
            start = step * recipe.batch + self.rank * part * recipe.accumulate
            for i in range(recipe.accumulate):
                yield list(range(start + i * part, start + (i + 1) * part))


def make_loader(
    samples: Any, recipe: Recipe, step: int, rank: int = 0, world: int = 1, workers: int = 2
) -> Iterator[Any]:
    """Batches of one process from an optimiser step on; of `Samples` (B, T, h, w, 3), (B, T, h, w)."""
    loader = torch.utils.data.DataLoader(
        samples,
        collate_fn=getattr(samples, "collate", None),
        batch_sampler=Positions(recipe, step, rank, world),
        num_workers=workers,
        worker_init_fn=one_thread,
        prefetch_factor=4 if workers else None,
    )
    # Made here, not at the first batch: it draws from torch's random state, which belongs to the step by then.
    return plain_errors(iter(loader))


def plain_errors(batches: Iterator[Any]) -> Iterator[Any]:
    """What a loader process raises comes with that process's traceback before its message: drop that."""
    try:
        yield from batches
    except (VssError, OSError) as error:
        last = str(error).strip().splitlines()[-1]
        raise VssError(last.removeprefix("vss_ros.config.VssError: ")) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise VssError(
            f"a loader process ended ({brief(str(error).splitlines()[0])}), as where memory is short: "
            "lower --workers, then go on with --resume"
        ) from None


def one_thread(worker: int) -> None:
    """A loader process works on one core; more would take them from the network. Ctrl-C is the main process's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
