"""Turn a SegFormer of Hugging Face's layout, or a checkpoint of a paper's authors (.pth), into a model card and
safetensors. No code and no pickled object is ever run."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vss_ros.config import VssError, option
from vss_ros.data.own.labels import distinct
from vss_ros.data.published.cityscapes import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE
from vss_ros.networks import build
from vss_ros.networks.cards.authors import authors_options, from_authors, load_renamed
from vss_ros.networks.cards.card import ModelCard, save_model
from vss_ros.networks.cards.hugging_face import find_folder, read_pretrained, read_weights
from vss_ros.networks.cards.weights import read_state
from vss_ros.options import add_options, progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertConfig:
    """Options of `vss convert`."""

    checkpoints: tuple[str, ...] = option(
        (),
        "a folder (or hub id, such as owner/name) of a SegFormer of Hugging Face's, whose config says the rest; "
        "or .pth files of a paper's authors; DCFM has two, its encoder's and its decoder's",
        unset="positional",
    )
    network: str = option("", "of .pth files: dcfm, cffm, mrcfa, segformer, pspnet, stf, mar+pspnet, mar+stf")
    backbone: str = option(
        "",
        "of .pth files: mit_b0…mit_b5, resnet18, resnet50, resnet101; STF's and MAR's are resnet50_v1c, resnet101_v1c",
    )
    classes: int | None = option(None, "of .pth files: number of classes", kind=int, low=1, high=255)
    size: str = option(
        "", "HEIGHTxWIDTH of the network's input", unset="the folder's; of .pth files 512x1024"
    )
    licence: str = option("as the checkpoint's", "of the weights")
    out: Path | None = option(
        None, "card to write (.yaml); the weights go beside it", kind=Path, unset="required"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ConvertConfig)


def main(args: argparse.Namespace) -> int:
    if args.out.suffix != ".yaml":
        raise VssError(f"--out: expected the path of a card ending in .yaml, got {args.out}")
    wanted = ("network", "backbone", "classes")
    lacking = [f"--{name}" for name in wanted if not getattr(args, name)]
    if len(lacking) == len(wanted) and not any(Path(path).is_file() for path in args.checkpoints):
        if len(args.checkpoints) > 1:
            raise VssError(
                f"expected one folder, or .pth files that exist; got {', '.join(args.checkpoints)}"
            )
        card = from_folder(find_folder(args.checkpoints[0]), args)
    elif lacking:
        raise VssError(f"expected {', '.join(lacking)} beside .pth files, or one folder and none of these")
    else:
        card = from_checkpoints([Path(path) for path in args.checkpoints], args)
    log.info("wrote %s", card)
    return 0


def from_folder(folder: Path, args: argparse.Namespace) -> Path:
    """A card of a SegFormer of Hugging Face's layout; its weights stay as precise as they are."""
    found = read_pretrained(folder)
    if found.width is None:
        raise VssError(
            f"{folder}: is a classifier: no segmentation; it can start a training: init: imagenet:{folder}"
        )
    size = parse_size(args.size) if args.size else found.size
    known = {tuple(CITYSCAPES_CLASSES): CITYSCAPES_PALETTE.tolist()}
    card = ModelCard(
        name=args.out.stem,
        network="segformer",
        backbone=found.backbone,
        options={"width": found.width},
        classes=found.classes,
        palette=found.palette or known.get(tuple(found.classes)) or distinct(len(found.classes)).tolist(),
        size=list(size),
        weights=f"{args.out.stem}.safetensors",
        sha256="",
        licence=args.licence,
        mean=found.mean,
        std=found.std,
        training={"converted from": args.checkpoints},
    )
    log.info("segformer-%s, %d classes, %dx%d", found.backbone, len(found.classes), *size)
    with progress(total=3, what="converting", unit="step", delay=0, leave=False) as bar:
        network = build("segformer", found.backbone, len(found.classes), width=found.width)
        bar.update()
        load_renamed(network, read_weights(folder), [])
        bar.update()
        return save_model(network, card, args.out.parent, half=False)


def from_checkpoints(paths: Sequence[Path], args: argparse.Namespace) -> Path:
    """A card of what a paper's authors publish; it says nothing of the classes but their number."""
    tensors: dict[str, Tensor] = {}
    for path in progress(paths, "reading", unit="file"):
        tensors.update(with_prefix(args.network, read_state(path)))
    network = from_authors(args.network, args.backbone, args.classes, tensors)
    card = ModelCard(
        name=args.out.stem,
        network=args.network,
        backbone=args.backbone,
        options=authors_options(args.network, tensors),
        classes=[str(i) for i in range(args.classes)],
        palette=distinct(args.classes).tolist(),
        size=list(parse_size(args.size or "512x1024")),
        weights=f"{args.out.stem}.safetensors",
        sha256="",
        licence=args.licence,
        training={"converted from": [path.name for path in paths]},
    )
    log.info("name its classes and their palette in the card")
    return save_model(network, card, args.out.parent)


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
