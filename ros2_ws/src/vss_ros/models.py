"""List the installed models: network, input size, classes, measured accuracy, licence."""

from __future__ import annotations

import argparse
import sys

from vss_ros.cards import find_models, read_card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def main(args: argparse.Namespace) -> int:
    for name, path in find_models().items():
        card, _ = read_card(path)
        score = card.metrics.get("test", {}).get("mIoU")
        accuracy = f"test mIoU {score:.1%}" if score is not None else "not measured"
        sys.stdout.write(
            f"{name}: {card.network}-{card.backbone}, {card.size[1]}×{card.size[0]}, {len(card.classes)} classes, "
            f"{accuracy}, {card.licence}\n"
        )
    return 0
