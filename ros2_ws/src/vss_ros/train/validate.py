"""A network in training, measured on labelled frames by the frames that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vss_ros.config import IMAGENET_MEAN, IMAGENET_STD
from vss_ros.data.metrics import confusion, mean_iou
from vss_ros.media.draw import colorize
from vss_ros.networks import reads_of
from vss_ros.networks.dcfm import moved
from vss_ros.train.samples import flow_over, read_clip


def normalise(frames: Tensor) -> Tensor:
    """(…, H, W, 3) uint8 → (…, 3, H, W) float32, less ImageNet's mean, over its standard deviation."""
    mean = torch.tensor(IMAGENET_MEAN, device=frames.device) * 255
    std = torch.tensor(IMAGENET_STD, device=frames.device) * 255
    return ((frames.float() - mean) / std).movedim(-1, -3)


@torch.no_grad()
def validate(
    network: nn.Module,
    data: Any,
    size: tuple[int, int],
    cache: Path | None = None,
    limit: int = 0,
    rank: int = 0,
    world: int = 1,
    interval: int = 1,
) -> Tensor:
    """Confusion matrices (P, C, C + 1) of labelled frames at the labels' own size, as a stream has them.

    P = 1: every frame is remembered. With an `interval` a network that reads the last keyframe alone answers each
    frame twice, P = 2: as a keyframe, and with a keyframe of 1 to interval − 1 frames before it, by turns.
    limit: at most that many frames, evenly spread, 0: all; this process takes every world-th of them.
    """
    network.eval()
    reuses = interval > 1 and reads_of(network) == (0,)
    counts = np.zeros((1 + reuses, len(data.classes), len(data.classes) + 1), np.int64)
    chosen = np.arange(len(data)) if not limit else np.linspace(0, len(data) - 1, limit).astype(int)
    for place, i in list(enumerate(sorted(set(chosen.tolist()))))[rank::world]:
        ages = (0, 1 + place % (interval - 1)) if reuses else (0,)
        for part, age in zip(counts, ages, strict=True):
            _, truth, labels = segment(network, data, i, size, cache, age)
            part += confusion(truth, labels, len(data.classes))
    return torch.from_numpy(counts)


def score_of(counts: np.ndarray) -> float:
    """What a checkpoint is chosen by: mean over keyframes and others of their mIoU."""
    return float(np.mean([mean_iou(part) for part in counts]))


@torch.no_grad()
def segment(
    network: Any, data: Any, i: int, size: tuple[int, int], cache: Path | None = None, age: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The i-th labelled frame, its truth and its labels by the frames that the network reads; size: its input's.

    With an `age` they lie as many frames earlier, and what is remembered is moved along the optical flow since then.
    """
    offsets = tuple(offset - age for offset in reads_of(network))
    wanted = list(dict.fromkeys((0, *offsets, *range(-age, 0))))
    images, truths = read_clip(data, i, wanted, cache)
    device = next(network.parameters()).device
    frames = normalise(torch.from_numpy(np.stack(images)).to(device))
    if frames.shape[-2:] != size:
        frames = F.interpolate(frames, size=size, mode="bilinear", antialias=True)
    features = {o: network.encode(frames[wanted.index(o)][None]) for o in {0, *offsets}}
    memories = [network.remember(features[o]) for o in offsets]
    if age:
        flow = flow_over([images[wanted.index(o)] for o in range(-age, 1)])
        flow = torch.from_numpy(flow)[None].to(device)
        memories = [[moved(x.movedim(-1, 1), flow).movedim(1, -1) for x in memory] for memory in memories]
    logits = network.decode(features[0], *memories)
    logits = F.interpolate(logits.float(), size=images[0].shape[:2], mode="bilinear")
    return images[0], truths[0], logits.argmax(1)[0].cpu().numpy().astype(np.uint8)


def draw_sample(
    network: nn.Module, data: Any, size: tuple[int, int], cache: Path | None = None
) -> np.ndarray:
    """The first frame beside its truth and its labels, (H, 3·W, 3) uint8."""
    image, *maps = segment(network, data, 0, size, cache)
    return np.hstack([image, *(colorize(part, data.palette) for part in maps)])
