"""Turn a checkpoint of a paper's authors (.pth) into a model card and safetensors; no pickled object is ever run."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from torch import Tensor

from vss_ros.config import VssError
from vss_ros.networks import from_authors
from vss_ros.networks.cards.authors import authors_options
from vss_ros.networks.cards.card import ModelCard, save_model
from vss_ros.networks.cards.weights import read_state

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints", nargs="+", type=Path, help=".pth files; DCFM has two, its encoder's and its decoder's"
    )
    parser.add_argument(
        "--network", required=True, help="dcfm, cffm, mrcfa, segformer, pspnet, stf, mar+pspnet, mar+stf"
    )
    parser.add_argument(
        "--backbone",
        required=True,
        help="mit_b0…mit_b5, resnet18, resnet50, resnet101; of STF and MAR: resnet50_v1c, resnet101_v1c",
    )
    parser.add_argument("--classes", required=True, type=int, help="number of classes")
    parser.add_argument("--size", default="512x1024", help="HEIGHTxWIDTH of the network's input")
    parser.add_argument("--licence", default="as the checkpoint's", help="licence of the weights")
    parser.add_argument(
        "--out", required=True, type=Path, help="card to write (.yaml); the weights go beside it"
    )


def main(args: argparse.Namespace) -> int:
    if args.out.suffix != ".yaml":
        raise VssError(f"--out: expected the path of a card ending in .yaml, got {args.out}")
    tensors: dict[str, Tensor] = {}
    for path in args.checkpoints:
        tensors.update(with_prefix(args.network, read_state(path)))
    network = from_authors(args.network, args.backbone, args.classes, tensors)
    card = ModelCard(
        name=args.out.stem,
        network=args.network,
        backbone=args.backbone,
        options=authors_options(args.network, tensors),
        classes=[str(i) for i in range(args.classes)],
        palette=[[(37 * i) % 256, (91 * i + 60) % 256, (173 * i + 120) % 256] for i in range(args.classes)],
        size=list(parse_size(args.size)),
        weights=f"{args.out.stem}.safetensors",
        sha256="",
        licence=args.licence,
        training={"converted from": [path.name for path in args.checkpoints]},
    )
    log.info("wrote %s; name its classes and their palette there", save_model(network, card, args.out.parent))
    return 0


def with_prefix(network: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """DCFM's authors save two files; mark whose tensors these are."""
    tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    if network != "dcfm" or any(name.startswith(("encoder.", "decoder.")) for name in tensors):
        return tensors
    part = "encoder" if any(name.startswith("backbone.") for name in tensors) else "decoder"
    return {f"{part}.{name}": value for name, value in tensors.items()}


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "HEIGHTxWIDTH"."""
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise VssError(f"size: expected HEIGHTxWIDTH such as 512x1024, got {text!r}") from error
    return height, width
