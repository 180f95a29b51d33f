"""Exports a network's stages to ONNX files once, in a cache that survives damage and concurrent writers."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Container
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from vss_ros.backends.stages import fingerprint, flat_stages, stage_names
from vss_ros.config import VssError, cache_dir
from vss_ros.media.files import evict, foreign, own_folder, write_atomic
from vss_ros.networks.cards.imported import Imported, to_stage
from vss_ros.networks.cards.model import Model

CPU_OPSET = 20
TENSORRT_OPSET = 18  # the newest that TensorRT 10.3 reads in full

LIMIT = 2 << 30
"""Bytes of all exported stages together; those not used for longest go first."""

log = logging.getLogger(__name__)


def stage_files(model: Model) -> dict[str, Path]:
    """Paths of the stages of `stage_names`, exported once.

    A file is found by the hash of weights, input shape, normalisation, code and exporter; a damaged one is rebuilt.
    """
    folder = cache_dir() / "onnx"
    key = cache_key(model)
    paths = {stage: folder / f"{key}-{stage}.onnx" for stage in stage_names(model)}
    missing = {stage: path for stage, path in paths.items() if not is_intact(path)}
    if not missing:
        with contextlib.suppress(OSError):  # a read-only cache cannot say when it was last used
            for path in paths.values():
                os.utime(path)
        return paths
    log.info("exporting %s for %d×%d (once)", type(model.network).__name__, *model.size)
    contents = export(model, wanted=missing)
    try:
        own_folder(folder)
        write(contents, paths)
        for gone in evict(folder.glob("*.onnx"), LIMIT, list(paths.values())):
            checksum_path(gone).unlink(missing_ok=True)
        return paths
    except OSError as error:
        log.warning(
            "the cache folder %s cannot be written (%s): each start exports anew; set VSS_CACHE to another one",
            folder,
            error.strerror,
        )
    try:
        folder = temporary_folder()
        elsewhere = {stage: folder / path.name for stage, path in missing.items()}
        write(contents, elsewhere)
        return paths | elsewhere
    except OSError as error:
        raise VssError(
            f"no place for {len(contents)} ONNX files: {error}; set VSS_CACHE or TMPDIR"
        ) from error


def write(contents: dict[str, bytes], paths: dict[str, Path]) -> None:
    for stage, content in contents.items():
        write_atomic(paths[stage], content)
        write_atomic(checksum_path(paths[stage]), hashlib.sha256(content).hexdigest().encode())


def temporary_folder() -> Path:
    """A folder that is gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="vss_ros_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def export(model: Model, opset: int = CPU_OPSET, wanted: Container[str] | None = None) -> dict[str, bytes]:
    """ONNX model of every stage, or of those wanted, at a fixed input size."""
    if isinstance(model.network, Imported):
        return {"propagate": to_stage(model.network, model.size, model.mean, model.std)}
    stages = flat_stages(model)
    return {
        name: to_onnx(module, inputs, opset)
        for name, (module, inputs) in stages.items()
        if wanted is None or name in wanted
    }


@torch.no_grad()
def to_onnx(module: nn.Module | torch.export.ExportedProgram, inputs: tuple, opset: int) -> bytes:
    """ONNX model of a stage without duplicate initialisers; its inputs are named in0, in1, …"""
    from onnx_ir.passes.common import DeduplicateInitializersPass

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
    DeduplicateInitializersPass(size_limit=1 << 40)(program.model)
    buffer = io.BytesIO()
    program.save(buffer)
    return buffer.getvalue()


def cache_key(model: Model) -> str:
    versions = [version(name) for name in ("torch", "onnx", "onnxscript")]
    text = repr((fingerprint(model), model.size, versions)).encode() + Path(__file__).read_bytes()
    return hashlib.sha256(text).hexdigest()[:32]


def checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def is_intact(path: Path) -> bool:
    try:
        if any(foreign(item.lstat(), item) for item in (path.parent, path, checksum_path(path))):
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == checksum_path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return False
