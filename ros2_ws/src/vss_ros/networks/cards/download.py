"""Weights from the network: resumed where an earlier try ended, and never used before their SHA-256 is right."""

from __future__ import annotations

import errno
import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vss_ros.config import VssError, brief
from vss_ros.networks.cards.card import PLAIN_NAME, SHA256, WEIGHTS_BYTES
from vss_ros.options import progress

BLOCK = 1 << 20
PATIENCE = 30.0  # seconds that a server may stay silent


@dataclass(frozen=True)
class Published:
    """One file. use: what it is for, in a recipe's or command's words."""

    url: str
    sha256: str
    licence: str
    use: str


TORCHVISION = "https://download.pytorch.org/models/"
BSD = "BSD-3-Clause, trained on ImageNet"
KNOWN = {
    "resnet18": Published(
        f"{TORCHVISION}resnet18-f37072fd.pth",
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        BSD,
        "init: imagenet:FILE on backbone resnet18",
    ),
    "resnet50": Published(
        f"{TORCHVISION}resnet50-0676ba61.pth",
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        BSD,
        "init: imagenet:FILE on backbone resnet50_plain",
    ),
    "resnet101": Published(
        f"{TORCHVISION}resnet101-63fe2227.pth",
        "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a",
        BSD,
        "init: imagenet:FILE on backbone resnet101_plain",
    ),
    "vgg16": Published(
        f"{TORCHVISION}vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        BSD,
        "init: imagenet:FILE on backbone vgg16",
    ),
}


def download(url: str, sha256: str, folder: Path) -> Path:
    """Path of the file of that URL in `folder`, fetched unless it is there already.

    What an earlier try left is gone on with. Raises VssError: no network, another content, no room.
    """
    parts = urlsplit(url)
    name = Path(parts.path).name
    if parts.scheme not in ("http", "https") or not PLAIN_NAME.fullmatch(name):
        raise VssError(f"{brief(url)}: expected an http or https address of a file")
    if not SHA256.fullmatch(sha256):
        raise VssError(f"--sha256: expected 64 hexadecimal digits, got {brief(sha256)}")
    path, part = folder / name, folder / f".{name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            if sha256_of(path) == sha256:
                return path
            raise VssError(f"{path}: is another file than {url}: its SHA-256 differs; remove it")
        fetch(url, part)
        found = sha256_of(part)
        if found != sha256:
            part.unlink()
            raise VssError(
                f"{url}: expected sha256 {sha256}, got {found}; what came is removed, nothing is used"
            )
        part.replace(path)
    except OSError as error:
        raise VssError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return path


def fetch(url: str, part: Path) -> None:
    """Add to `part` what it lacks of the URL's content."""

    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    again = "the same command goes on from there"
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
            have = have if resumed else 0
            left = int(answer.headers.get("Content-Length") or 0)
            if have + left > WEIGHTS_BYTES:
                raise VssError(f"{url}: expected at most {WEIGHTS_BYTES} bytes, it states {have + left}")
            free = shutil.disk_usage(part.parent).free
            if left > free:
                raise OSError(errno.ENOSPC, f"{left >> 20} MiB are to come, {free >> 20} MiB are free")
            whole = have + left if left else None
            bar = progress(total=whole, initial=have, unit="B", unit_scale=True)
            with bar, part.open("ab" if resumed else "wb") as file:
                while block := answer.read(BLOCK):
                    have += len(block)
                    if have > WEIGHTS_BYTES:
                        raise VssError(f"{url}: expected at most {WEIGHTS_BYTES} bytes")
                    file.write(block)
                    bar.update(len(block))
        if whole is not None and have < whole:  # which http.client takes for an end like any other
            raise ConnectionError("the connection ended early")
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # all of it is there
            return
        raise VssError(f"{url}: the server answers {error.code} {brief(error.reason)}") from None
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = brief(getattr(error, "reason", None) or error)
        raise VssError(f"{url}: cannot be fetched ({have >> 20} MiB are here; {again}): {reason}") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise VssError(
            f"{part.parent}: the disk is full: {error.strerror}; make room, then {again}"
        ) from None


def sha256_of(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()
