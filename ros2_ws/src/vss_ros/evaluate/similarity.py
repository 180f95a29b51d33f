"""How alike the features of neighbouring frames are, of DCFM: its common ones, which the frames after a keyframe take
over from it, against the independent ones, of which each frame has its own (Figure 7 of its paper asks the same)."""

from __future__ import annotations

import argparse
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import VssError
from vss_ros.data.metrics import dis_flow
from vss_ros.evaluate.tradeoff import new_figure, write
from vss_ros.media.motion import move_memory
from vss_ros.networks.cards.card import load_model
from vss_ros.stream.frame import fit

KINDS = {
    "common": "common",
    "common_moved": "common, moved along the flow",
    "independent": "independent",
    "common_elsewhere": "common, cells drawn at random",
    "independent_elsewhere": "independent, cells drawn at random",
}


def similarity(args: argparse.Namespace, data: Any, path: Path) -> dict[str, list[float]]:
    """Mean cosine of the features of a cell in two frames that lie 1, 2, … `similarity` frames apart, of each of KINDS,
    over all cells and pairs of the videos (of each at most `limit` frames), at the card's size, in float32; what cells
    of one frame have in common wherever they lie shows where they are drawn at random. Draws them to `path`.

    Raises VssError for another network than DCFM, and where no video is there.
    """
    network, card = load_model(args.model)
    if card.network != "dcfm":
        raise VssError(f"--similarity: expected a model of network dcfm, {card.name} is {card.network}")
    videos = (itertools.islice(video.frames, args.limit or None) for video in data.videos() if video.moves)
    images = ((image for image, *_ in frames) for frames in videos)
    found, pair = measure(network, card, images, args.similarity)
    if not pair:
        raise VssError(f"--similarity: expected frames at a video's rate, {data.name} has none")
    draw(found, pair, f"{card.name}, {data.name}", path)
    return found


def measure(
    network: Any, card: Any, videos: Iterable[Iterable[np.ndarray]], farthest: int
) -> tuple[dict[str, list[float]], list[np.ndarray]]:
    """The figures, and of the first pair that lies farthest apart both frames and the maps (h, w) of the cosines of
    its common and of its independent features."""
    sums, counts = {kind: np.zeros(farthest) for kind in KINDS}, np.zeros(farthest)
    pair: list[np.ndarray] = []
    longest = 0
    for frames in videos:
        kept: deque = deque(maxlen=farthest)  # the newest first
        for image in frames:
            frame = fit(np.ascontiguousarray(image), tuple(card.size))
            common, independent = features_of(network, card, frame)
            anywhere = {
                "common_elsewhere": cosine(common, elsewhere(common)),
                "independent_elsewhere": cosine(independent, elsewhere(independent)),
            }
            for place, (before, old_common, old_independent) in enumerate(kept):
                (moved,) = move_memory((old_common[None],), dis_flow(frame, before))
                maps = {
                    "common": cosine(common, old_common),
                    "common_moved": cosine(common, moved[0]),
                    "independent": cosine(independent, old_independent),
                    **anywhere,
                }
                counts[place] += 1
                for kind, values in maps.items():
                    sums[kind][place] += values.mean()
                if place >= longest:
                    longest, pair = place + 1, [before, frame, maps["common"], maps["independent"]]
            kept.appendleft((frame, common, independent))
    known = counts > 0
    return {kind: (values[known] / counts[known]).tolist() for kind, values in sums.items()}, pair


def features_of(network: Any, card: Any, frame: np.ndarray) -> Sequence[np.ndarray]:
    """Common and independent feature of a frame (H, W, 3) uint8 RGB, (h, w, D) float32 each, as DCFM fuses them: unit
    vectors."""
    import torch

    from vss_ros.backends.stages import Encode

    with torch.inference_mode():
        features = Encode(network, card.mean, card.std)(torch.from_numpy(frame)[None])
        common = network.summarise(network.backbone.part(features, 0, network.steps - 1))
        maps = (torch.nn.functional.normalize(x)[0].movedim(0, -1) for x in (common, features[0]))
        return [np.ascontiguousarray(x.float().numpy()) for x in maps]


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(h, w) of maps (h, w, D), of which `a` holds unit vectors; moving shortens those of `b`."""
    return np.einsum("hwd,hwd->hw", a, b) / np.sqrt(np.einsum("hwd,hwd->hw", b, b) + 1e-12)


def elsewhere(maps: np.ndarray) -> np.ndarray:
    """The same cells in a random order."""
    cells = maps.reshape(-1, maps.shape[-1])
    return cells[np.random.default_rng(0).permutation(len(cells))].reshape(maps.shape)


def draw(found: dict[str, list[float]], pair: Sequence[np.ndarray], title: str, path: Path) -> None:
    """The cosines over the distance, and the pair with its maps."""
    figure = new_figure((13, 4.6))
    curves, *places = figure.subplot_mosaic([[0, 1, 2], [0, 3, 4]], width_ratios=[1.2, 1, 1]).values()
    for kind, text in KINDS.items():
        style = {"linestyle": "--" if "elsewhere" in kind else "-", "marker": "."}
        colour = "tab:orange" if "independent" in kind else "tab:green" if "moved" in kind else "tab:blue"
        curves.plot(range(1, 1 + len(found[kind])), found[kind], label=text, color=colour, **style)
    curves.set(xlabel="frames apart", ylabel="mean cosine")
    curves.grid(alpha=0.3)
    curves.legend(fontsize=7, loc="upper right")
    apart = f"{len(found['common'])} frames apart"
    names = ("a frame", apart, f"common, {apart}", f"independent, {apart}")
    for axes, picture, name in zip(places, pair, names, strict=True):
        shown = axes.imshow(picture, vmin=0, vmax=1, cmap="viridis")
        axes.set_title(name, fontsize=8)
        axes.set_axis_off()
    figure.colorbar(shown, ax=places, shrink=0.7, label="cosine")
    figure.suptitle(title, fontsize=10)
    write(figure, path)


def similarity_table(found: dict[str, list[float]]) -> list[str]:
    """Lines of Markdown: the mean cosines over the distance; none where nothing was measured."""
    if not found:
        return []
    distances = range(1, 1 + len(found["common"]))
    lines = [
        f"| mean cosine of features, frames apart | {' | '.join(map(str, distances))} |",
        "| --- " * (1 + len(distances)) + "|",
    ]
    return [
        "",
        *lines,
        *(f"| {text} | {' | '.join(f'{x:.3f}' for x in found[k])} |" for k, text in KINDS.items()),
    ]
