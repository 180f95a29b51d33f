"""The CPU: what it computes in hardware, and which of its cores a network may use."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from vss_ros.config import VssError


def cpu_has_bf16() -> bool:
    """Whether bfloat16 is computed in hardware here (AVX512_BF16, AMX; BF16 of ARMv8.6). False where OpenVINO,
    which knows, is not installed."""
    try:
        return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except ImportError:
        return False


@cache
def openvino_core() -> Any:
    """The process's one openvino.Core. On CPUs with AMX each Core gives its thread a signal stack and takes it away
    when it is deleted, whichever is in use by then: after a second Core, Ctrl-C ended the process by SIGSEGV."""
    import openvino

    return openvino.Core()


CORES = 1 << 16
"""More than any machine has: a range is not written out beyond."""


def pin(cores: str) -> int:
    """Keep this thread, and the threads that it starts from now on, on CPU cores such as "0-3,6"; how many they are.

    Every runtime starts its threads after its backend is made, so that they all stay there.
    """
    try:
        wanted: set[int] = set()
        for part in cores.split(","):
            first, last = (int(end) for end in (part if "-" in part else f"{part}-{part}").split("-"))
            wanted |= set(range(first, min(last, CORES) + 1))
    except ValueError as error:
        raise VssError(f"affinity: expected CPU cores such as 0-3,6; got {cores!r}") from error
    there = set(range(os.cpu_count() or 1))
    if not wanted or not wanted <= there or not hasattr(os, "sched_setaffinity"):
        raise VssError(
            f"affinity: expected some of the CPU cores 0-{max(there)} of a Linux machine, got {cores!r}"
        )
    try:
        os.sched_setaffinity(0, wanted)
    except OSError as error:
        raise VssError(f"affinity: cores {cores} are not open to this process: {error.strerror}") from error
    return len(wanted)
