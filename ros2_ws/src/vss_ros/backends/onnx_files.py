"""Exports a network's stages to ONNX files once, in a cache that survives damage and concurrent writers."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from vss_ros.backends.stages import Decode, Encode, Propagate, Remember, memories_read
from vss_ros.cards import write_atomic
from vss_ros.config import VssError, cache_dir

log = logging.getLogger(__name__)


def stage_files(
    network: nn.Module, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> dict[str, Path]:
    """Paths of `propagate` and, if the network remembers, of `encode`, `remember`, `decode`; exported once.

    A file is found by the hash of weights, input shape, normalisation, code and exporter; a damaged one is rebuilt.
    """
    stages = ["encode", "remember", "decode", "propagate"] if network.keeps else ["propagate"]
    folder = cache_dir() / "onnx"
    key = cache_key(network, size, mean, std)
    paths = {stage: folder / f"{key}-{stage}.onnx" for stage in stages}
    if all(is_intact(path) for path in paths.values()):
        return paths
    log.info("exporting %s for %d×%d (once)", type(network).__name__, *size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stage, content in export(network, size, mean, std).items():
            write_atomic(paths[stage], content)
            write_atomic(checksum_path(paths[stage]), hashlib.sha256(content).hexdigest().encode())
    except OSError as error:
        raise VssError(
            f"the cache folder {folder} cannot be written ({error.strerror}); set VSS_CACHE to another one"
        ) from error
    return paths


def export(
    network: nn.Module, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], opset: int = 20
) -> dict[str, bytes]:
    """ONNX model of every stage at a fixed input size (height, width)."""
    network = network.eval()
    encode = Encode(network, mean, std).eval()
    frame = torch.zeros((1, *size, 3), dtype=torch.uint8)
    models = {}
    count = memories_read(network)
    with torch.no_grad():
        memories: tuple = ()
        if network.keeps:
            features = encode(frame)
            memories = tuple(network.remember(features)) * count
            models["encode"] = to_onnx(encode, (frame,), opset)
            models["remember"] = to_onnx(Remember(network).eval(), features, opset)
            decode = Decode(network, len(features), count).eval()
            models["decode"] = to_onnx(decode, (*features, *memories), opset)
        models["propagate"] = to_onnx(Propagate(encode, count).eval(), (frame, *memories), opset)
    return models


def to_onnx(module: nn.Module, inputs: tuple, opset: int) -> bytes:
    # a copy each: the exporter takes two inputs that are one tensor for one input
    inputs = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in inputs)
    names = [f"in{i}" for i in range(len(inputs))]
    chatty = [
        logging.getLogger(name) for name in ("torch.onnx", "onnxscript")
    ]  # torchvision is missing, and the like
    levels = [logger.level for logger in chatty]
    for logger in chatty:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module, inputs, dynamo=True, opset_version=opset, input_names=names, verbose=False
            )
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)
    buffer = io.BytesIO()
    program.save(buffer)
    return buffer.getvalue()


def cache_key(network: nn.Module, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    package = Path(__file__).parents[1]
    for file in sorted([*package.glob("networks/*.py"), *package.glob("backends/*.py")]):
        digest.update(file.read_bytes())
    versions = [version(name) for name in ("torch", "onnx", "onnxscript")]
    digest.update(repr((type(network).__name__, size, list(mean), list(std), versions)).encode())
    return digest.hexdigest()[:32]


def checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def is_intact(path: Path) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == checksum_path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return False
