"""Cache of built engines: found by all that makes one valid, loaded only if nobody else could have written it.

An engine is code that runs on the GPU with the user's rights, takes minutes to build, and serves exactly one GPU,
TensorRT, network and shape. One file an engine: a line of JSON (key, checksum, seconds it took), then its bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vss_ros.config import VssError, cache_dir
from vss_ros.media.files import evict, foreign, write_atomic

log = logging.getLogger(__name__)

LIMIT = 8 << 30
"""Bytes of all engines together; the oldest go first."""


@dataclass(frozen=True)
class Key:
    """Everything that must be equal for an engine to be used.

    weights: hash of weights, normalisation and the network's code; stage: encode, remember, decode or propagate;
    size: HEIGHTxWIDTH of the network's input, from which all shapes follow; calibration: hash of an INT8
    calibration, or ""; builder: what made it and its version; gpu: name, compute capability, multiprocessors.
    """

    weights: str
    network: str
    stage: str
    size: str
    precision: str
    calibration: str
    builder: str
    tensorrt: str
    gpu: str

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Entry:
    """A file of the cache as `vss models` lists it. problem: why it would not be loaded, or ""."""

    path: Path
    key: Key | None
    size: int
    built: float
    """Seconds since 1970."""
    seconds: float
    """That the build took."""
    problem: str


class NoEngine(VssError):
    """No valid engine is in the cache; the message ends with the command that builds it."""


def engine_dir() -> Path:
    return cache_dir() / "engines"


def load(key: Key) -> bytes:
    """The engine of a key. Raises NoEngine, with the reason, if there is none or it must not be loaded."""
    path = file_of(key)
    problem = unsafe(engine_dir())
    if problem:
        raise NoEngine(f"the engine cache is not used: {problem}")
    header, content = read(path)
    if header.get("key") != asdict(key):
        raise NoEngine(f"{path} belongs to another engine: expected {asdict(key)}, got {header.get('key')}")
    with contextlib.suppress(OSError):  # a read-only cache cannot say when it was last used
        os.utime(path)
    return content


def store(key: Key, content: bytes, seconds: float = 0.0, limit: int = LIMIT) -> Path:
    """Put an engine into the cache, then remove the oldest ones beyond `limit` bytes. Raises VssError."""
    header = {"key": asdict(key), "sha256": hashlib.sha256(content).hexdigest(), "seconds": round(seconds, 1)}
    path = file_of(key)
    write_private(path, json.dumps(header).encode() + b"\n" + content)
    for gone in evict(engine_dir().glob("*.engine"), limit, [path]):
        log.info("engine cache above %.1f GB: %s removed", limit / 1e9, gone.name)
    return path


def write_private(path: Path, content: bytes) -> None:
    """Write a file of the cache that only its owner may read. Raises VssError."""
    with errors_of(engine_dir()):
        make_dir()
        write_atomic(path, content, mode=0o600)


def build(key: Key, make: Callable[[], bytes], limit: int = LIMIT) -> bytes:
    """The cached engine, else what `make` builds; a second builder of the same engine waits for the first."""
    with locked(key):
        try:
            return load(key)
        except NoEngine:
            start = time.monotonic()
            content = make()
            store(key, content, time.monotonic() - start, limit)
            return content


def entries() -> list[Entry]:
    """Every file of the cache, oldest first; it need not be loadable."""
    found = []
    for path in engine_dir().glob("*.engine"):
        problem, key, seconds = unsafe(engine_dir()), None, 0.0
        try:
            info = path.lstat()
            header, _ = read(path)
            key, seconds = Key(**header["key"]), float(header["seconds"])
        except NoEngine as error:
            problem = problem or str(error)
        except (KeyError, TypeError, ValueError):
            problem = problem or f"{path} was written by another version"
        except OSError:
            continue  # removed meanwhile
        found.append(Entry(path, key, info.st_size, info.st_mtime, seconds, problem))
    return sorted(found, key=lambda entry: entry.built)


def differences(wanted: Key, cached: Key) -> list[str]:
    """Why an engine does not serve, one line a field, e.g. "tensorrt: built for 10.3.0, now 10.13.2"."""
    now, then = asdict(wanted), asdict(cached)
    return [f"{name}: built for {then[name]}, now {now[name]}" for name in now if now[name] != then[name]]


def file_of(key: Key) -> Path:
    return engine_dir() / f"{key.digest()}.engine"


def read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and engine of a file that is ours alone and undamaged; NoEngine otherwise."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NoEngine("no engine has been built for this model, size, precision and GPU") from None
    except OSError as error:
        raise NoEngine(f"{path} cannot be read ({error.strerror}); remove it") from error
    with os.fdopen(handle, "rb") as file:
        # of the opened file: the name could be swapped meanwhile
        problem = foreign(os.fstat(file.fileno()), path)
        if problem:
            raise NoEngine(problem)
        line, _, content = file.read().partition(b"\n")
    try:
        header = json.loads(line)
        intact = header["sha256"] == hashlib.sha256(content).hexdigest()
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise NoEngine(f"{path} is damaged")
    return header, content


def unsafe(folder: Path) -> str:
    """Why nothing may be loaded from a folder, or ""."""
    try:
        return foreign(folder.lstat(), folder)
    except OSError:
        return ""  # not there yet


def make_dir() -> None:
    folder = engine_dir()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    problem = unsafe(folder)
    if problem:
        raise VssError(f"the engine cache cannot be used: {problem}")
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        folder.chmod(0o700)


@contextlib.contextmanager
def locked(key: Key) -> Iterator[None]:
    """One builder an engine, across processes; a builder that dies releases its lock."""
    with errors_of(engine_dir()):
        make_dir()
        handle = os.open(file_of(key).with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process builds this engine: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def errors_of(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VssError(
            f"the engine cache {folder} cannot be written ({error.strerror}): make room or set VSS_CACHE"
        ) from error
