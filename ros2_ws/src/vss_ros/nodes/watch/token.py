"""The secret in the page's address: from a file or the environment, shown on a terminal, and nowhere else.

Not a parameter, which every node may read; not a word of a command line or of a log, which other users may read.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path

from vss_ros.config import VssError, cache_dir
from vss_ros.media.files import own_folder, read_bytes, write_atomic

VARIABLE = "VSS_WATCH_TOKEN"
TOKEN = re.compile(r"[A-Za-z0-9_.~-]{16,200}")


def find_token(file: str) -> str:
    """The user's own token, of `file` or of the environment, or "". Raises VssError if it is easily guessed."""
    source = file or f"${VARIABLE}"
    text = (
        read_bytes(Path(file).expanduser(), 4096).decode(errors="replace")
        if file
        else os.environ.get(VARIABLE, "")
    )
    if text and not TOKEN.fullmatch(text.strip()):
        raise VssError(f"{source}: expected a token of 16 to 200 letters, digits and - _ . ~")
    if file and not text.strip():
        raise VssError(f"{source}: expected a token, the file is empty")
    return text.strip()


def make_token() -> str:
    return secrets.token_urlsafe(24)


def reveal(url: str, token: str, port: int) -> str:
    """Show the whole address on the terminal, if there is one, else leave it in a file; what the log may say of it."""
    if not token:
        return f"open {url}"
    if sys.stderr.isatty():
        sys.stderr.write(f"open {url}?token={token}\n")
        return f"serves {url}; the token is on the terminal"
    path = cache_dir() / f"watch-{port}.url"
    try:
        own_folder(path.parent)
        write_atomic(path, f"{url}?token={token}\n".encode(), mode=0o600)
    except OSError as error:
        raise VssError(
            f"the token has no place: no terminal, and {path} cannot be written ({error.strerror})"
        ) from error
    return f"serves {url}; the address with its token is in {path}"
