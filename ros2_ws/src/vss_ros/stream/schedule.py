"""When a keyframe's deep layers run: before the answer, in parts between answers, or beside them in a thread.

The motion separates two clocks, the camera's and the network's: a memory or an answer that is some frames old is
moved to the newest frame.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from vss_ros.config import VssError

MARGIN = 0.8
"""Share of the time between two frames that the work of one may take where the network keeps up."""


def check(schedule: str, backend: Any, lookahead: int, motion: bool) -> None:
    """Raise VssError where the network or the other options do not allow the schedule."""
    if schedule == "at_once":
        return
    if not motion:
        raise VssError(
            f"schedule {schedule}: needs motion, which brings what is late to its frame; set motion: true"
        )
    if lookahead:
        raise VssError(
            f"schedule {schedule}: answers every frame at once, but here an answer waits for {lookahead} later frames"
        )
    if schedule == "parts" and not (backend.moves and backend.parts > 1):
        raise VssError("schedule parts: needs a network whose memory moves (DCFM); use at_once or beside")


def choose(backend: Any, interval: int, period: float, rounds: int = 3) -> tuple[str, str]:
    """Schedule for frames that come every `period` seconds, and why, by timing the backend on blank frames.

    At once where a keyframe fits into the period, in parts where every part does, else beside.
    """
    frame = np.zeros((*backend.size, 3), np.uint8)
    budget = period * 1e3 * MARGIN
    key = nonkey = part = 0.0
    for _ in range(rounds):
        times = [time.perf_counter()]
        if backend.keeps:
            features = backend.encode(frame)
            state, ends = features, []
            for i in range(backend.parts):
                state = backend.remember_part(i, state) if backend.parts > 1 else backend.remember(state)
                ends.append(time.perf_counter())
            backend.propagate(frame, [state] * len(backend.reads(0, [0])[0]))
            end = time.perf_counter()
            starts = [times[0], *ends[:-1]]
            part = max(b - a for a, b in zip(starts, ends, strict=True)) * 1e3
            nonkey = (end - ends[-1]) * 1e3
            key = (end - times[0]) * 1e3
        else:
            backend.propagate(frame, [])
            key = (time.perf_counter() - times[0]) * 1e3
    if key <= budget:
        return "at_once", f"a keyframe takes {key:.0f} ms of the {period * 1e3:.0f} ms between two frames"
    if backend.keeps == 1 and backend.parts > 1 and nonkey + part <= budget and interval > backend.parts:
        return "parts", f"a keyframe takes {key:.0f} ms, a frame with a part of it {nonkey + part:.0f} ms"
    return "beside", f"a keyframe takes {key:.0f} ms, more than the {period * 1e3:.0f} ms between two frames"
