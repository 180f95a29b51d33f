"""Files and folders that appear only once they are complete, and files of others, which may hold anything."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from vss_ros.config import VssError, brief, fits
from vss_ros.options import near

YAML_BYTES, YAML_NODES = 1 << 20, 50_000
"""Greatest YAML file that is read, and how many values it may hold with its aliases written out."""


def natural_key(path: Path) -> list[Any]:
    """Sort key under which frame_10 follows frame_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def foreign(info: os.stat_result, path: Path) -> str:
    """Why a file or folder could hold what someone else wrote, or ""."""
    if stat.S_ISLNK(info.st_mode):
        return f"{path} is a link; remove it"
    if info.st_uid not in (0, os.geteuid()):  # who is root can write everywhere anyway
        return (
            f"{path} belongs to user {info.st_uid}, not to you ({os.geteuid()}); remove it or set VSS_CACHE"
        )
    if info.st_mode & 0o022:
        return f"{path} is writable for others; remove it if you did not make it so, else chmod go-w {path}"
    return ""


def own_folder(folder: Path) -> None:
    """Make a folder that nobody else may write to. Raises VssError if it is another user's, OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    about = folder.lstat()
    if about.st_uid == os.geteuid() and about.st_mode & 0o022 and stat.S_ISDIR(about.st_mode):
        folder.chmod(stat.S_IMODE(about.st_mode) & ~0o022)  # as umask 002 leaves it
        about = folder.lstat()
    if problem := foreign(about, folder):
        raise VssError(problem)


def evict(files: Iterable[Path], limit: int, keep: Collection[Path] = ()) -> list[Path]:
    """Remove those that were used longest ago until all fit into `limit` bytes; what was removed."""
    gone, total, found = [], 0, []
    for path in files:
        with suppress(FileNotFoundError):  # another process may remove some, too
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > limit and path not in keep:
            path.unlink(missing_ok=True)
            gone.append(path)
    return gone


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder that takes the name, in place of an earlier one, once the block has succeeded."""
    partial = folder.parent / f".{folder.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise VssError(f"{folder}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_input(path: Path, expected: str) -> None:
    """Raise VssError for what is neither a plain file nor a folder: pipes and sockets never end, some devices neither.

    expected: what the user may give, for the message.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise VssError(f"{path}: no such file or folder; expected {expected}") from None
    except (OSError, ValueError) as error:  # a loop of links, a name that is too long; a NUL in it
        raise VssError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise VssError(f"{path}: cannot be read: it is no plain file; expected {expected}")


def read_text(path: Path) -> str:
    """A list that someone wrote: UTF-8, or what Excel calls Unicode. Raises VssError."""
    try:
        content = path.read_bytes()
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise VssError(
            f"{path}: expected text in UTF-8, got byte {content[error.start]:#04x} at {error.start}; save it as UTF-8"
        ) from None
    except OSError as error:
        raise VssError(f"{path}: cannot be read: {error}") from None


def read_bytes(path: Path, limit: int) -> bytes:
    """Content of a plain file of at most `limit` bytes; never waits for a pipe or reads a device. Raises VssError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise VssError(f"{path}: cannot be read: it is no plain file")
            if about.st_size > limit:
                raise VssError(f"{path}: cannot be read: expected at most {limit} bytes, got {about.st_size}")
            return file.read(limit)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise VssError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


class Loader(yaml.SafeLoader):
    """Whole numbers have at most 63 bits: Python cannot even print much longer ones."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if value.bit_length() > 63:
            raise yaml.constructor.ConstructorError(None, None, "a number is too large", node.start_mark)
        return value


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)


def read_yaml(path: Path) -> Any:
    """What a YAML file of plain values holds. Raises VssError if it is no such file, too large or a trap.

    PyYAML's own errors for wrong values are of many kinds, and aliases of aliases can stand for billions of values.
    """
    content = read_bytes(path, YAML_BYTES)
    try:
        loader = Loader(content)
        node = loader.get_single_node()
        if node is None:
            return None
        if count_nodes(node, {}) > YAML_NODES:
            raise VssError(f"{path}: cannot be read: expected at most {YAML_NODES} values")
        return loader.construct_document(node)
    except RecursionError:
        raise VssError(f"{path}: cannot be read: it is nested too deeply, or holds itself") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise VssError(f"{path}: cannot be read: {brief(error, 400)}") from error


def read_fields(path: Path, kind: type, given: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass by name, of any type, as a YAML file has them. given: what the file may leave out.

    Raises VssError if it cannot be read, is no mapping, lacks fields without a default, or has others.
    """
    values = read_yaml(path)
    if not fits(values, dict[str, Any]):
        raise VssError(f"{path}: expected a mapping of fields, got {type(values).__name__}")
    known = {item.name: item for item in fields(kind)}
    required = {name for name, item in known.items() if item.default is item.default_factory is MISSING}
    missing, unknown = sorted(required - {*given, *values}), sorted(set(values) - set(known))
    if missing or unknown:
        hint = near(unknown[0], list(known)) if unknown else ""
        raise VssError(f"{path}: missing {missing}, unknown {brief(unknown)}{hint}")
    return values


def count_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Values that a YAML node stands for, each alias as often as it is used; RecursionError if it holds itself."""
    if id(node) not in known:
        known[id(node)] = -1
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = isinstance(node, yaml.MappingNode)
        inner = [item for pair in parts for item in pair] if pairs else parts
        known[id(node)] = 1 + sum(count_nodes(item, known) for item in inner)
    if known[id(node)] < 0:
        raise RecursionError
    return known[id(node)]
