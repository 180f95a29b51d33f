"""An ONNX file of one's own as a model card: looks at the graph, tries it on an image, refuses with reasons."""

from __future__ import annotations

import argparse
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import IMAGENET_MEAN, IMAGENET_STD, VssError, option
from vss_ros.data.own.labels import distinct
from vss_ros.data.source import open_source
from vss_ros.deploy.convert import parse_size
from vss_ros.media.files import read_bytes, write_atomic
from vss_ros.networks.cards.card import ModelCard, write_card
from vss_ros.networks.cards.imported import CHOICES, named, parse
from vss_ros.options import add_options
from vss_ros.stream.load import load_stream

log = logging.getLogger(__name__)
ONNX_BYTES = 2 << 30
"""What a message of protobuf, which an ONNX file with its weights in it is, holds at most."""
UNIT = 1e-3
"""How far from 1 a pixel's probabilities may add up."""


@dataclass(frozen=True)
class ImportConfig:
    """Options of `vss import`."""

    file: Path | None = option(None, "the ONNX file, with its weights in it", kind=Path, unset="positional")
    classes: str = option("", "names with commas, in the order of the ids", unset="required")
    out: Path | None = option(
        None, "card to write (.yaml); the file goes beside it", kind=Path, unset="required"
    )
    size: str = option("", "HEIGHTxWIDTH of the input", unset="the graph's, where it is fixed")
    input: str = option("", "name of the image's input, where there are several")
    output_name: str = option("", "name of the output, where there are several")
    output: str | None = option(
        None, "what it holds", choices=CHOICES["output"], kind=str, unset="found out on an image"
    )
    channels: str = option("rgb", "order of the input's", choices=CHOICES["channels"])
    mean: str = option(",".join(map(str, IMAGENET_MEAN)), "of RGB in 0–1", unset="ImageNet's")
    std: str = option(",".join(map(str, IMAGENET_STD)), "of RGB in 0–1", unset="ImageNet's")
    image: str = option("street", "image or video to try it on")
    licence: str = option("unknown", "of the weights")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ImportConfig)


def main(args: argparse.Namespace) -> int:
    if args.out.suffix != ".yaml":
        raise VssError(f"--out: expected the path of a card ending in .yaml, got {args.out}")
    classes = [name.strip() for name in args.classes.split(",")]
    content = read_bytes(args.file, ONNX_BYTES)
    options, size = look(content, args, len(classes))
    card = ModelCard(
        name=args.out.stem,
        network="onnx",
        backbone="none",
        classes=classes,
        palette=distinct(len(classes)).tolist(),
        size=list(size),
        weights=f"{args.out.stem}.onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        licence=args.licence,
        mean=numbers(args.mean),
        std=numbers(args.std),
        options=options,
        training={"imported from": args.file.name},
    )
    rgb, _ = next(iter(open_source(args.image)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out.parent / card.weights, content)
    write_card(card, args.out)
    with load_stream(args.out, precision="f32", motion=False) as stream:
        labels = stream(np.ascontiguousarray(rgb)).labels
    shares = np.bincount(labels.ravel(), minlength=len(classes)) / labels.size
    seen = ", ".join(f"{name} {share:.1%}" for name, share in zip(classes, shares, strict=True) if share)
    log.info("on %s: %s\nwrote %s", args.image, seen, args.out)
    return 0


def look(content: bytes, args: argparse.Namespace, classes: int) -> tuple[dict[str, Any], tuple[int, int]]:
    """The card's options and the input's size, of what the graph says and what it answers to noise."""
    try:
        model = parse(content)
    except VssError as error:
        raise VssError(f"{args.file}: {error}") from error
    held = {item.name for item in model.graph.initializer}
    entry = named([item for item in model.graph.input if item.name not in held], args.input, "input")
    shape = [d.dim_value for d in entry.type.tensor_type.shape.dim]
    if len(shape) != 4 or 3 not in (shape[1], shape[3]) or shape[0] > 1:
        raise VssError(
            f"{args.file}: input {entry.name}: expected one image (1, 3, H, W) or (1, H, W, 3), got {shape}"
        )
    layout = "nchw" if shape[1] == 3 else "nhwc"
    fixed = tuple(shape[2:] if layout == "nchw" else shape[1:3])
    size = parse_size(args.size) if args.size else fixed
    if 0 in size or any(f not in (0, s) for f, s in zip(fixed, size, strict=True)):
        raise VssError(
            f"{args.file}: --size: expected HEIGHTxWIDTH (0 is free) as the graph's {fixed}, got {size}"
        )
    result = named(list(model.graph.output), args.output_name, "output")
    found = answer(content, entry, result.name, layout, size)
    whole = found.ndim == 3 or found.dtype.kind in "iu"
    planes = found if whole or found.ndim != 4 else found[0]
    options = {
        "input": entry.name,
        "output_name": result.name,
        "input_layout": layout,
        "channels": args.channels,
    }
    if whole:
        if found.max() >= classes:
            raise VssError(f"{args.file}: it answers label {found.max()}, --classes names {classes}")
        return {**options, "output": args.output or "labels", "output_layout": "nchw"}, size
    if found.ndim != 4 or classes not in (found.shape[1], found.shape[3]):
        raise VssError(
            f"{args.file}: output {result.name}: expected maps of {classes} classes, got {list(found.shape)}; "
            "name as many --classes, or another --output-name"
        )
    last = "nchw" if found.shape[1] == classes else "nhwc"
    total = planes.sum(0 if last == "nchw" else 2)
    unit = planes.min() >= 0 and np.abs(total - 1).max() < UNIT
    kind = args.output or ("probabilities" if unit else "logits")
    return {**options, "output": kind, "output_layout": last}, size


def answer(content: bytes, entry: Any, output: str, layout: str, size: tuple[int, int]) -> np.ndarray:
    import onnxruntime
    from onnx import helper

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    shape = (1, 3, *size) if layout == "nchw" else (1, *size, 3)
    kind = helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
    noise = np.random.default_rng(0).normal(size=shape).astype(kind)
    try:
        return session.run([output], {entry.name: noise})[0]
    except Exception as error:  # the runtime's errors have no common base
        raise VssError(f"it does not run on an image of {size[0]}x{size[1]}: {str(error)[:300]}") from None


def numbers(text: str) -> list[float]:
    try:
        found = [float(value) for value in text.split(",")]
    except ValueError:
        found = []
    if len(found) != 3:
        raise VssError(f"--mean, --std: expected three numbers with commas, got {text!r}")
    return found
