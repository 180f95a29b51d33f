"""glibc's heap, which keeps what is freed: runtimes need much for a moment, in many threads."""

from __future__ import annotations

import ctypes
from typing import Any

M_ARENA_MAX = -8
ARENAS = 2
"""Threads share so many heaps instead of eight a core; each keeps its own share of what is free."""


def share() -> None:
    """Before the first thread starts."""
    glibc("mallopt", M_ARENA_MAX, ARENAS)


def trim() -> None:
    """Give back what is free now."""
    glibc("malloc_trim", 0)


def glibc(function: str, *arguments: int) -> None:
    found: Any = getattr(ctypes.CDLL(None), function, None)  # not in another libc
    if found:
        found(*arguments)
