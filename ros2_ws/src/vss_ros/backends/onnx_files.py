"""Where a network's stages lie as ONNX files: exported once, in a cache that survives damage and concurrent writers.

Files that are there already are found by their card, without building the network: a process that only runs them does
not load torch, which takes some 450 MB that it never gives back. Where they are not, another process makes them.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vss_ros.config import VssError, cache_dir, child_command, missing
from vss_ros.media.files import evict, foreign, own_folder, read_bytes, write_atomic
from vss_ros.networks.cards.model import Model, open_model

LIMIT = 2 << 30
"""Bytes of all exported stages together; those not used for longest go first."""
INDEX_LIMIT = 1 << 16
NAME = re.compile(r"[0-9a-f]{32}-([a-z]+(?:[0-9]+of[0-9]+)?)\.onnx")
PACKAGE = Path(__file__).parents[1]

log = logging.getLogger(__name__)


def stage_files(model: Model, apart: bool = True) -> dict[str, Path]:
    """Paths of the stages of `stage_names`, exported once.

    A file is found by the hash of weights, input shape, normalisation, code and exporter; a damaged one is rebuilt.
    apart: in a process of its own, if this one has not loaded torch and the other can leave them in the cache.
    """
    folder = cache_dir() / "onnx"
    index = index_path(folder, model)
    if paths := recall(index):
        return paths
    if apart and "torch" not in sys.modules and export_apart(model, folder) and (paths := recall(index)):
        return paths
    try:
        from vss_ros.backends import onnx_export
        from vss_ros.backends.stages import stage_names
    except ModuleNotFoundError as error:
        raise VssError(missing(error.name or str(error))) from error

    key = cache_key(model)
    paths = {stage: folder / f"{key}-{stage}.onnx" for stage in stage_names(model)}
    lacking = {stage: path for stage, path in paths.items() if not is_intact(path)}
    contents: dict[str, bytes] = {}
    if lacking:
        log.info("exporting %s for %d×%d (once)", type(model.network).__name__, *model.size)
        contents = onnx_export.export(model, wanted=lacking)
    else:
        touch(paths)
    try:
        own_folder(folder)
        write(contents, paths)
        if index:
            write_atomic(index, json.dumps([path.name for path in paths.values()]).encode())
        for gone in evict(folder.glob("*.onnx"), LIMIT, list(paths.values())):
            checksum_path(gone).unlink(missing_ok=True)
        return paths
    except OSError as error:
        if not lacking:
            return paths
        log.warning(
            "the cache folder %s cannot be written (%s): each start exports anew; set VSS_CACHE to another one",
            folder,
            error.strerror,
        )
    try:
        folder = temporary_folder()
        elsewhere = {stage: folder / path.name for stage, path in lacking.items()}
        write(contents, elsewhere)
        return paths | elsewhere
    except OSError as error:
        raise VssError(
            f"no place for {len(contents)} ONNX files: {error}; set VSS_CACHE or TMPDIR"
        ) from error


def export_apart(model: Model, folder: Path) -> bool:
    """Have a process fill the cache with a card's stages; False where it cannot, for whatever reason: the same done
    here then says why."""
    if not (model.stored and model.source):
        return False
    try:
        own_folder(folder)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, VssError):
        return False
    log.info("exporting %s for %d×%d (once), in a process of its own", model.stored.card.network, *model.size)
    arguments = [model.source, *map(str, (*model.size, model.parts))]
    command = child_command("vss_ros.backends.onnx_files", *arguments)
    environment = {**os.environ, "VSS_DIES_WITH": "this process"}
    return not subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ).returncode


def main(arguments: list[str]) -> int:
    """What `export_apart` runs: the model's name or card, height, width, parts. Of stages in parts the whole one is
    made, too: schedule auto may come to want it, and this process has loaded torch already."""
    height, width, parts = map(int, arguments[1:])
    model = open_model(arguments[0], (height, width))
    for number in sorted({1, parts}):
        stage_files(replace(model, parts=number), apart=False)
    return 0


def touch(paths: dict[str, Path]) -> None:
    with contextlib.suppress(OSError):  # a read-only cache cannot say when it was last used
        for path in paths.values():
            os.utime(path)


def index_path(folder: Path, model: Model) -> Path | None:
    """Of the list of a card's files, by what the card says of the weights and all code that may go into them; None
    for a network without a card."""
    stored = model.stored
    if stored is None:
        return None
    card = stored.card
    said = [card.sha256, card.network, card.backbone, len(card.classes), sorted(card.options.items())]
    text = repr((said, list(model.mean), list(model.std), model.size, model.parts, versions())).encode()
    digest = hashlib.sha256(text)
    for file in sorted([*(PACKAGE / "networks").rglob("*.py"), *(PACKAGE / "backends").glob("*.py")]):
        digest.update(file.read_bytes())
    return folder / f"{digest.hexdigest()[:32]}.json"


def recall(index: Path | None) -> dict[str, Path]:
    """The files of an index, in the order of use; {} where one of them is none that can be trusted."""
    paths = listed(index) if index else {}
    if not all(map(is_intact, paths.values())):
        return {}
    touch(paths)
    return paths


def listed(index: Path) -> dict[str, Path]:
    """The files that an index names; {} where it cannot be trusted."""
    try:
        if any(foreign(item.lstat(), item) for item in (index.parent, index)):
            return {}
        names = json.loads(read_bytes(index, INDEX_LIMIT))
        found = [NAME.fullmatch(name) for name in names]
    except (OSError, VssError, ValueError, TypeError, RecursionError):
        return {}
    return {match[1]: index.parent / match[0] for match in found if match} if all(found) else {}


def write(contents: dict[str, bytes], paths: dict[str, Path]) -> None:
    for stage, content in contents.items():
        write_atomic(paths[stage], content)
        write_atomic(checksum_path(paths[stage]), hashlib.sha256(content).hexdigest().encode())


def temporary_folder() -> Path:
    """A folder that is gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="vss_ros_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def cache_key(model: Model) -> str:
    from vss_ros.backends import onnx_export
    from vss_ros.backends.stages import fingerprint

    text = repr((fingerprint(model), model.size, versions())).encode()
    for file in (Path(__file__), Path(onnx_export.__file__)):
        text += file.read_bytes()
    return hashlib.sha256(text).hexdigest()[:32]


def versions() -> list[str]:
    """Of what exports."""
    found = []
    for name in ("torch", "onnx", "onnxscript"):
        try:
            found.append(version(name))
        except PackageNotFoundError:
            found.append("")
    return found


def checksum_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def is_intact(path: Path) -> bool:
    try:
        if any(foreign(item.lstat(), item) for item in (path.parent, path, checksum_path(path))):
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == checksum_path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return False
