"""One table of the small networks on the rendered streets: accuracy, steadiness, parameters, time, memory.

    for recipe in segformer dcfm cffm mrcfa pspnet msaf stf stf_causal mar_pspnet mar_dcfm mar_stf; do
        vss train small_$recipe --out runs/small/small_$recipe --cache runs/small/cache
    done
    python bench/networks.py --runs runs/small > bench/networks.md

Every model runs through the same stream as the ROS node's, every frame remembered. Times come from one interleaved
run: a frame of each model in turn, so that whatever else the machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from vss_ros.data.open import open_dataset
from vss_ros.evaluate.dataset import evaluate
from vss_ros.networks.cards.card import load_model
from vss_ros.stream.load import load_stream
from vss_ros.stream.stream import Stream
from vss_ros.train.recipe import read_recipe

MODELS = (
    "segformer", "dcfm", "cffm", "mrcfa", "mar_dcfm", "pspnet", "msaf", "stf", "stf_causal", "mar_pspnet", "mar_stf",
)  # fmt: skip
WARM = 12  # frames until the longest memory is full


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/small"))
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--limit", type=int, default=30, help="frames of each of the 10 test videos")
    parser.add_argument("--rounds", type=int, default=20, help="timed frames of each model")
    args = parser.parse_args()
    names = [f"small_{m}" for m in MODELS if (args.runs / f"small_{m}" / f"small_{m}.yaml").is_file()]
    cards = {name: args.runs / name / f"{name}.yaml" for name in names}
    streams = {
        name: load_stream(cards[name], backend=args.backend, keyframe_interval=1, max_gap=0.0)
        for name in names
    }
    size = next(iter(streams.values())).card.size
    data = rendered(size, args.limit)
    ms = interleaved(streams, [image for image, _, _ in data.kept[0].frames], args.rounds)
    frames = args.limit * len(data.kept)
    lines = [
        f"{size[1]}×{size[0]}, 11 classes, {frames} frames of {len(data.kept)} unseen rendered streets, backend "
        f"{args.backend}, float32, every frame remembered.",
        "",
        "| model | clips trained | mIoU % | VC_8 % | TC % | parameters, M | ms a frame | × SegFormer | memory of a "
        "remembered frame, KiB |",
        "| --- " * 9 + "|",
    ]
    for name in names:
        row = evaluate(streams[name], data, 1)
        network, _ = load_model(cards[name])
        millions = sum(p.numel() for p in network.parameters()) / 1e6
        memory = remembered(streams[name]) / 1024
        scores = [row["mIoU"], row["mVC_8"], row["TC"]]
        shown = ["–" if value is None else f"{100 * value:.1f}" for value in scores]
        lines.append(
            f"| {name.removeprefix('small_')} | {clips(name)} | {' | '.join(shown)} | {millions:.2f} | "
            f"{ms[name]:.0f} | {ms[name] / ms[names[0]]:.1f} | {memory:.0f} |"
        )
        sys.stderr.write(lines[-1] + "\n")
    print("\n".join(lines))


def rendered(size: tuple[int, int], limit: int) -> SimpleNamespace:
    """The test streets, rendered once for all models."""
    data = open_dataset("street", "test", None, size)
    kept = [replace(video, frames=list(itertools.islice(video.frames, limit))) for video in data.videos()]
    return SimpleNamespace(classes=data.classes, fps=data.fps, kept=kept, videos=lambda: iter(kept))


def interleaved(streams: dict[str, Stream], images: list[np.ndarray], rounds: int) -> dict[str, float]:
    """Median milliseconds from one frame to the next, with full memories."""
    taken: dict[str, list[float]] = {name: [] for name in streams}
    for t, image in enumerate(itertools.islice(itertools.cycle(images), WARM + rounds)):
        for name, stream in streams.items():
            began = time.perf_counter()
            stream.feed(image, t / 30)
            if t >= WARM:
                taken[name].append((time.perf_counter() - began) * 1e3)
    return {name: float(np.median(values)) for name, values in taken.items()}


def remembered(stream: Stream) -> int:
    """Bytes that the stream keeps of one remembered frame."""
    if not stream.memories:
        return 0
    memory = next(iter(stream.memories.values()))
    return sum(tensor.nbytes for tensor in memory)


def clips(name: str) -> str:
    """Clips of each stage's training, oldest first."""
    recipe = read_recipe(name)
    own = str(recipe.steps * recipe.batch)
    return f"{clips(recipe.after)} + {own}" if recipe.after else own


if __name__ == "__main__":
    main()
