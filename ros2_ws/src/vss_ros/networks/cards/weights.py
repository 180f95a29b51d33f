"""Tensors out of files that may be damaged or made to do harm: one VssError each, and no code of theirs is run."""

from __future__ import annotations

import io
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from vss_ros.config import VssError, brief
from vss_ros.media.files import read_bytes

LIMIT = 16 << 30
"""Greatest file of tensors that is read, in bytes."""
TENSORS, PICKLED = 10_000, 4 << 20
"""Most tensors of a .pth file, and bytes of what names them: torch takes a fifth of a millisecond for each."""
READS = 1_000_000
SOUND = (2, 10)
"""Releases of torch before this one can be made to write beyond their memory by a pickle (CVE-2026-24747)."""


class Counted(io.FileIO):
    """A file that is read in at most READS pieces: a pickle of torch's old format takes some 10 µs for each."""

    left = READS

    def read(self, size: int | None = -1, /) -> bytes:  # type: ignore[override]
        self.left -= 1
        if self.left < 0:
            raise VssError(
                f"{self.name}: expected torch's old format to name its tensors in {READS} pieces; got more"
            )
        return super().read(-1 if size is None else size) or b""


def parse_safetensors(content: bytes, name: object) -> dict[str, Tensor]:
    """Tensors of a .safetensors file by name."""
    if content.startswith(b"version https://git-lfs"):
        raise VssError(f"{name}: is a pointer of Git LFS, not the file: run `git lfs pull` in its folder")
    try:
        return load(content)
    except (SafetensorError, RuntimeError, ValueError, TypeError, LookupError) as error:
        raise VssError(f"{name}: cannot be read as .safetensors: {brief(error)}") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    return parse_safetensors(read_bytes(path, LIMIT), path)


def read_checkpoint(path: Path, own: bool = False) -> dict[str, Any]:
    """The dictionary of tensors, numbers and text that `torch.save` wrote.

    own: written by this program, so that its checksums must be right. Raises VssError if it is missing, damaged, or
    holds anything else.
    """
    if not own and tuple(map(int, version("torch").split(".")[:2])) < SOUND:
        raise VssError(
            f"{path}: torch {version('torch')} is not safe to read .pth files of others; convert it with 2.10"
        )
    try:
        size = path.stat().st_size
        if not path.is_file() or size > LIMIT:
            raise VssError(f"{path}: cannot be read: expected a plain file of at most {LIMIT} bytes")
        check_archive(path, size, own)
        with Counted(path) as file:
            old = file.read(4) != b"PK\3\4"  # torch's format of before 1.6
            file.seek(0)
            content = torch.load(file if old else path, map_location="cpu", weights_only=True)
    except VssError:
        raise
    except OSError as error:
        raise VssError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the unpickler's errors are of every kind
        reason = brief(error) or type(error).__name__
        raise VssError(f"{path} is damaged or holds objects other than tensors: {reason}") from error
    if not isinstance(content, dict) or not is_plain(content):
        raise VssError(f"{path}: expected a dictionary of tensors, numbers and text")
    return content


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a .safetensors file, or of a .pth file, which may hold them under "state_dict"."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    content: Any = read_checkpoint(path)
    if isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        raise VssError(f"{path}: expected a dictionary of tensors")
    return content


def check_archive(path: Path, size: int, own: bool) -> None:
    """VssError for a file of ours whose checksums are wrong, which torch reads without a word, for a zip bomb, and for
    more tensors than are read in seconds."""
    if not zipfile.is_zipfile(path):  # torch's format of before 1.6
        if own:
            raise VssError(f"{path} is damaged: its end is missing")
        return
    with zipfile.ZipFile(path) as archive:
        items = archive.infolist()
        if sum(item.file_size for item in items) > size:
            raise VssError(f"{path} is damaged: it states more bytes than it holds")
        pickled = max((item.file_size for item in items if item.filename.endswith(".pkl")), default=0)
        if len(items) > TENSORS or pickled > PICKLED:
            raise VssError(
                f"{path}: expected at most {TENSORS} tensors, named in at most {PICKLED} bytes; got {len(items)} parts "
                f"and {pickled} bytes"
            )
        if own and (name := archive.testzip()):
            raise VssError(f"{path} is damaged: the checksum of {name} is wrong")


def is_plain(value: Any, depth: int = 8) -> bool:
    """Whether it is made of dictionaries, lists, numbers, text and dense tensors that hold all of their values."""
    if depth and isinstance(value, dict):
        return all(isinstance(k, (str, int)) and is_plain(v, depth - 1) for k, v in value.items())
    if depth and isinstance(value, (list, tuple)):
        return all(is_plain(v, depth - 1) for v in value)
    if isinstance(value, Tensor):
        dense = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
        return dense and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    return value is None or isinstance(value, (bool, int, float, str))


def restore(module: nn.Module, tensors: Any, name: object) -> None:
    """Put tensors into a network of the same names and shapes; VssError says which file does not fit."""
    try:
        for key, value in tensors.items():
            if value.is_complex() or not value.float().isfinite().all():
                raise VssError(f"{name}: {brief(key)} holds values that are no finite real numbers")
        module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise VssError(f"{name} does not fit the network: {brief(error, 600)}") from error
