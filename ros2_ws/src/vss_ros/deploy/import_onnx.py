"""An ONNX file of one's own as a model card: looks at the graph, tries it on an image, refuses with reasons."""

from __future__ import annotations

import argparse
import hashlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import IMAGENET_MEAN, IMAGENET_STD, VssError, brief, missing, option
from vss_ros.data.own.labels import distinct
from vss_ros.data.source import open_source
from vss_ros.deploy.convert import parse_size
from vss_ros.media.files import read_bytes, write_atomic
from vss_ros.networks.cards.card import ModelCard, write_card
from vss_ros.networks.cards.imported import CHOICES, named, parse
from vss_ros.options import add_options, progress
from vss_ros.stream.load import load_stream

log = logging.getLogger(__name__)
ONNX_BYTES = 2 << 30
"""What a message of protobuf, which an ONNX file with its weights in it is, holds at most."""
UNIT = 1e-2
"""How far from 1 a pixel's probabilities may add up."""


@dataclass(frozen=True)
class ImportConfig:
    """Options of `vss import`."""

    file: Path | None = option(
        None, "the ONNX file, its weights in it or beside it", kind=Path, unset="positional"
    )
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
    mean: str = option(
        ",".join(map(str, IMAGENET_MEAN)),
        "of RGB in 0–1; 0,0,0 with --std 1,1,1 for a graph that takes 0–1, uint8 inputs take the pixels as they are",
        unset="ImageNet's",
    )
    std: str = option(",".join(map(str, IMAGENET_STD)), "of RGB in 0–1", unset="ImageNet's")
    image: str = option("street", "image or video to try it on")
    licence: str = option("unknown", "of the weights")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ImportConfig)


def main(args: argparse.Namespace) -> int:
    if args.out.suffix != ".yaml":
        raise VssError(f"--out: expected the path of a card ending in .yaml, got {args.out}")
    classes = [name.strip() for name in args.classes.split(",")]
    with progress(total=3, what="importing", unit="step", delay=0, leave=False) as bar:
        content = joined(args.file)
        bar.update()
        options, size = look(content, args, len(classes))
        bar.update()
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
        with tempfile.TemporaryDirectory() as folder:  # nothing is left of what does not run
            write(card, content, Path(folder) / args.out.name)
            with load_stream(Path(folder) / args.out.name, precision="f32", motion=False) as stream:
                labels = stream(np.ascontiguousarray(rgb)).labels
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(card, content, args.out)
    shares = np.bincount(labels.ravel(), minlength=len(classes)) / labels.size
    seen = ", ".join(f"{name} {share:.1%}" for name, share in zip(classes, shares, strict=True) if share)
    log.info("%s on %s: %s\nwrote %s", options["output"], args.image, seen, args.out)
    return 0


def write(card: ModelCard, content: bytes, path: Path) -> None:
    write_atomic(path.parent / card.weights, content)
    write_card(card, path)


def joined(path: Path) -> bytes:
    """The file with the weights that lie in others beside it, as torch's exporter puts them."""
    content = read_bytes(path, ONNX_BYTES)
    try:
        import onnx

        model = onnx.load_model_from_string(content)
        if not any(tensor.external_data for tensor in model.graph.initializer):
            return content
        onnx.load_external_data_for_model(model, str(path.parent))
        return model.SerializeToString()
    except ModuleNotFoundError as error:
        raise VssError(missing("onnx")) from error
    except Exception as error:  # protobuf's, onnx's and their C++ parts' have no common base
        raise VssError(
            f"{path}: is no valid ONNX file with its weights in it or beside it: {brief(error)}"
        ) from None


def look(content: bytes, args: argparse.Namespace, classes: int) -> tuple[dict[str, Any], tuple[int, int]]:
    """The card's options and the input's size, of what the graph says and what it answers to noise."""
    try:
        model = parse(content)
        held = {item.name for item in model.graph.initializer}
        entry = named([item for item in model.graph.input if item.name not in held], args.input, "--input")
        result = named(list(model.graph.output), args.output_name, "--output-name")
    except VssError as error:
        raise VssError(f"{args.file}: {error}") from error
    shape = [d.dim_value for d in entry.type.tensor_type.shape.dim]
    if len(shape) != 4 or 3 not in (shape[1], shape[3]) or shape[0] > 1:
        raise VssError(
            f"{args.file}: input {entry.name}: expected one image (1, 3, H, W) or (1, H, W, 3), got {shape}"
        )
    layout = "nchw" if shape[1] == 3 else "nhwc"
    fixed = tuple(shape[2:] if layout == "nchw" else shape[1:3])
    size = parse_size(args.size) if args.size else fixed
    if 0 in size or any(f not in (0, s) for f, s in zip(fixed, size, strict=True)):
        said = "is free in the graph: choose one" if 0 in fixed else f"is {fixed[0]}x{fixed[1]} in the graph"
        raise VssError(f"{args.file}: --size HEIGHTxWIDTH {said}")
    found = answer(content, entry, result.name, layout, size, args.file)
    last, kind = meaning(found, classes, f"{args.file}: output {result.name}")
    options = {
        "input": entry.name,
        "output_name": result.name,
        "input_layout": layout,
        "channels": args.channels,
        "output": args.output or kind,
        "output_layout": last,
    }
    return options, size


def meaning(found: np.ndarray, classes: int, name: str) -> tuple[str, str]:
    """Layout and kind of an answer with or without its first axis, the batch. Raises VssError."""
    axes = found.shape[1:] if found.ndim > 2 and found.shape[0] == 1 else found.shape
    if len(axes) == 3 and classes in (axes[0], axes[2]) and found.dtype.kind == "f" and classes > 1:
        last = "nchw" if axes[0] == classes else "nhwc"
        planes = found.reshape(axes)
        total = planes.sum(0 if last == "nchw" else 2, dtype=np.float64)
        return last, "probabilities" if planes.min() >= 0 and np.abs(total - 1).max() < UNIT else "logits"
    if len(axes) == 2 or (len(axes) == 3 and 1 in (axes[0], axes[2])):
        last = "nchw" if len(axes) == 2 or axes[0] == 1 else "nhwc"
        if (found == np.round(found)).all():
            if found.max() >= classes:
                raise VssError(f"{name}: it answers label {found.max():g}, --classes names {classes}")
            return last, "labels"
        if classes == 2:
            return last, "probability" if found.min() >= 0 and found.max() <= 1 else "logit"
        raise VssError(
            f"{name}: one map that holds no labels, {list(found.shape)}: it says where a class is and where it is not; "
            f"name two --classes, the rest first; got {classes}"
        )
    raise VssError(
        f"{name}: expected maps of {classes} classes, got {list(found.shape)}; "
        "name as many --classes, or another --output-name"
    )


def answer(
    content: bytes, entry: Any, output: str, layout: str, size: tuple[int, int], file: Path
) -> np.ndarray:
    import onnxruntime
    from onnx import helper

    shape = (1, 3, *size) if layout == "nchw" else (1, *size, 3)
    kind = helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=shape) if np.dtype(kind).kind == "f" else rng.integers(0, 256, shape)
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return session.run([output], {entry.name: noise.astype(kind)})[0]
    except Exception as error:  # the runtime's errors have no common base
        raise VssError(
            f"{file}: does not run on an image of {size[0]}x{size[1]}: {brief(error, 300)}"
        ) from None


def numbers(text: str) -> list[float]:
    try:
        found = [float(value) for value in text.split(",")]
    except ValueError:
        found = []
    if len(found) != 3:
        raise VssError(f"--mean, --std: expected three numbers with commas, got {text!r}")
    return found
