"""Whether a network that reads several frames gains by motion.

    VSS_DATA=… python bench/moving.py CARD … [--data camvid] [--split val] [--k 2,5] [--steady 0,0.7] [--limit 0]

CARD: names or paths of model cards. decoded: each frame is decoded, with the network's own alignment of what it
remembers of every K-th; moved: only every K-th is, and the frames between get its answer moved along the flow, for 1 to
2 ms. A network of one memory that moves (DCFM) is decoded with its moved memory.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

from vss_ros.data.open import open_dataset
from vss_ros.evaluate.dataset import evaluate
from vss_ros.networks.cards.card import read_card
from vss_ros.stream.load import load_stream

FIGURES = ("mIoU", "mVC_8", "mVC_16", "TC")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cards", nargs="+", metavar="CARD")
    parser.add_argument("--data", default="camvid")
    parser.add_argument("--split", default="val")
    parser.add_argument("--k", default="2,5")
    parser.add_argument("--steady", default="0,0.7")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--limit", type=int, default=0)
    args = parser.parse_args()
    strengths = [float(text) for text in args.steady.split(",")]
    intervals = [int(text) for text in args.k.split(",")]
    print(f"| model | K | steady | between | {' | '.join(FIGURES)} | key ms | other ms |")
    print("| --- " * 10 + "|")
    for card, interval, steady in itertools.product(args.cards, [1, *intervals], strengths):
        for moved in (False, True) if interval > 1 else (False,):
            row = measure(args, card, moved, interval=interval, steady=steady)
            print(row, flush=True)


def measure(args: argparse.Namespace, card: str, moved: bool, **options: Any) -> str:
    """A row of the table."""
    size = read_card(card)[0].size
    with load_stream(card, precision=args.precision, max_gap=0.0, **options) as stream:
        between = "moved" if moved or not stream.backend.keeps else "decoded"
        if moved and (stream.lookahead or not stream.backend.keeps):
            return f"| {card} | {options['interval']} | {options['steady']} | as decoded |" + " |" * 6
        stream.answers_move = between == "moved"
        data = open_dataset(args.data, args.split, None, tuple(size))
        row = evaluate(stream, data, limit=args.limit)
    figures = " | ".join("–" if row.get(name) is None else f"{100 * row[name]:.1f}" for name in FIGURES)
    times = " | ".join("–" if row[name] is None else f"{row[name]:.0f}" for name in ("key_ms", "nonkey_ms"))
    what = between if options["interval"] > 1 else "–"
    return f"| {card} | {options['interval']} | {options['steady']} | {what} | {figures} | {times} |"


if __name__ == "__main__":
    main()
