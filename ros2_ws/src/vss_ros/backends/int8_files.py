"""The folder that `vss calibrate` writes: a quantised ONNX file a stage, and calibration.yaml with how it was made."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any

import yaml

from vss_ros.config import VssError, brief, cache_dir
from vss_ros.media.files import read_yaml, write_atomic
from vss_ros.networks.cards.card import ModelCard
from vss_ros.networks.cards.model import Calibration

OPSET = 18  # the newest that TensorRT 10.3 reads in full
CARD = "calibration.yaml"


def folder_of(card: ModelCard, size: tuple[int, int]) -> Path:
    """Where `vss calibrate` writes and precision int8 looks unless told otherwise."""
    return cache_dir() / "int8" / f"{card.name}-{size[0]}x{size[1]}"


def write(
    folder: Path, models: dict[str, bytes], card: ModelCard, size: tuple[int, int], report: dict[str, Any]
) -> str:
    """Write the stages and their description; returns the hash by which an engine or a card names them."""
    hashes = {stage: hashlib.sha256(model).hexdigest() for stage, model in sorted(models.items())}
    total = hash_of(hashes)
    content = {
        "model": card.name,
        "weights": card.sha256,
        "size": list(size),
        "sha256": total,
        "stages": hashes,
        **report,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CARD).unlink(missing_ok=True)  # no description beside files of another calibration
        for stage, model in models.items():
            write_atomic(folder / f"{stage}.onnx", model)
        write_atomic(folder / CARD, yaml.safe_dump(content, sort_keys=False, width=110).encode())
    except OSError as error:
        raise VssError(f"{folder} cannot be written ({error.strerror}): choose another with --out") from error
    return total


def hash_of(hashes: dict[str, str]) -> str:
    """The hash of a calibration from those of its stages' files."""
    return hashlib.sha256("".join(hashes[stage] for stage in sorted(hashes)).encode()).hexdigest()


def find(folder: Path, card: ModelCard, size: tuple[int, int]) -> Calibration:
    """The calibration in a folder. Raises VssError if it is missing, damaged or of another model."""
    again = (
        f"vss calibrate --model {card.name} --size {size[0]}x{size[1]} --frames BAG_OR_FOLDER --out {folder}"
    )
    try:
        if not (folder / CARD).is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file", str(folder / CARD))
        content = read_yaml(folder / CARD)
        files = {str(stage): folder / f"{Path(str(stage)).name}.onnx" for stage in content["stages"]}
        damaged = [
            path.name
            for stage, path in files.items()
            if hashlib.sha256(path.read_bytes()).hexdigest() != content["stages"][stage]
        ]
        made_for = (content["weights"], [int(side) for side in content["size"]])
        if len(made_for[1]) != 2:
            raise ValueError(f"size: expected [height, width], got {content['size']}")
        total = str(content["sha256"])
    except FileNotFoundError as error:
        raise VssError(f"precision int8 needs a calibration, {error.filename} is missing: {again}") from error
    except (VssError, OSError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise VssError(f"{folder / CARD} cannot be read ({brief(error)}): {again}") from error
    if damaged:
        raise VssError(f"{folder}: {brief(', '.join(damaged))} is damaged: {again}")
    if made_for != (card.sha256, list(size)):
        raise VssError(
            f"{folder}: expected a calibration of {card.name} for {size[0]}x{size[1]}, got one of other weights "
            f"or for {made_for[1][0]}x{made_for[1][1]}: {again}"
        )
    return Calibration(files, total)
