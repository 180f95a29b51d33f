"""Networks side by side, and whether those that read several frames gain by motion.

    vss ablate networks
    python bench/networks.py runs/ablate/networks/*/*.yaml [--data street] [--split test] [--k 2,5] [--limit 0]

K = 1 stands alone first, without motion and filter, then with both, as all rows after it. decoded: each frame is
decoded, with the network's own alignment of what it remembers of every K-th (DCFM moves its memory); moved: only every
K-th is, and the frames between get its answer moved along the flow.

ms: time of one core a frame, mean over whole intervals; the models take turns frame by frame, so that whatever else the
machine does falls on all alike. KiB: of one remembered frame.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import replace
from typing import Any

import numpy as np
from vss_ros.data.open import open_dataset
from vss_ros.evaluate.dataset import evaluate
from vss_ros.networks.cards.card import load_model, read_card
from vss_ros.stream.load import load_stream
from vss_ros.stream.stream import Stream

FIGURES = ("mIoU", "mVC_8", "mVC_16", "TC")
WARM = 10  # frames until the longest memory is full


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cards", nargs="+", metavar="CARD", help="names or paths of model cards")
    parser.add_argument("--data", default="street")
    parser.add_argument("--split", default="test")
    parser.add_argument("--k", default="2,5", help="intervals beside 1")
    parser.add_argument("--limit", type=int, default=0, help="frames of each video; 0: all")
    parser.add_argument("--rounds", type=int, default=20, help="timed frames of each row")
    parser.add_argument("--precision", default="f32")
    args = parser.parse_args()
    data = frames_of(args)
    streams = {row: open_row(*row, args.precision) for row in rows_of(args)}
    ms = interleaved(streams, [image for image, *_ in next(data.videos()).frames], args.rounds)
    print(f"| model | parameters, M | KiB | K | between | {' | '.join(FIGURES)} | ms |")
    print("| --- " * (6 + len(FIGURES)) + "|")
    for row, stream in streams.items():
        card, interval, between = row
        millions = sum(p.numel() for p in load_model(card)[0].parameters()) / 1e6
        kept = next(iter(stream.memories.kept.values()), None)
        memory = sum(np.asarray(part).nbytes for part in kept.values) // 1024 if kept else 0
        found = evaluate(stream, data)
        figures = " | ".join(
            "–" if found.get(name) is None else f"{100 * found[name]:.1f}" for name in FIGURES
        )
        name = read_card(card)[0].name
        print(
            f"| {name} | {millions:.1f} | {memory} | {interval} | {between} | {figures} | {ms[row]:.0f} |",
            flush=True,
        )


def rows_of(args: argparse.Namespace) -> list[tuple[str, int, str]]:
    """Card, interval, and what happens between keyframes."""
    rows = []
    for card in args.cards:
        rows += [(card, 1, "alone"), (card, 1, "–")]
        with open_row(card, 1, "–", args.precision) as stream:
            ways = ["decoded"] * bool(stream.backend.keeps) + ["moved"] * (not stream.lookahead)
        rows += [(card, int(k), way) for k in args.k.split(",") for way in ways]
    return rows


def open_row(card: str, interval: int, between: str, precision: Any) -> Stream:
    alone: dict[str, Any] = {"motion": False, "steady": 0.0} if between == "alone" else {}
    stream = load_stream(
        card, precision=precision, keyframe_interval=interval, max_gap=0.0, threads=1, **alone
    )
    if between in ("decoded", "moved"):
        stream.answers_move = between == "moved"
    return stream


def frames_of(args: argparse.Namespace) -> Any:
    """The data set with its videos rendered or read once for all rows."""
    data: Any = open_dataset(args.data, args.split, None, tuple(read_card(args.cards[0])[0].size))
    kept = [
        replace(video, frames=list(itertools.islice(video.frames, args.limit or None)))
        for video in data.videos()
    ]
    data.videos = lambda: iter(kept)
    return data


def interleaved(
    streams: dict[tuple[str, int, str], Stream], images: list[np.ndarray], rounds: int
) -> dict[tuple[str, int, str], float]:
    """Mean milliseconds of all the process's threads from one frame to the next, with full memories."""
    taken: dict[tuple[str, int, str], list[float]] = {row: [] for row in streams}
    for t, image in enumerate(itertools.islice(itertools.cycle(images), WARM + rounds)):
        for row, stream in streams.items():
            began = time.process_time()
            stream.feed(image, t / 30)
            stream.after()
            if t >= WARM:
                taken[row].append((time.process_time() - began) * 1e3)
    return {row: float(np.mean(values)) for row, values in taken.items()}


if __name__ == "__main__":
    main()
