"""When a keyframe's deep layers run: before the answer, in parts between answers, or beside them in a thread.

The motion separates two clocks, the camera's and the network's: a memory or an answer that is some frames old is
moved to the newest frame.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from vss_ros.config import VssError
from vss_ros.stream.frame import Answer
from vss_ros.stream.keyframes import FixedInterval

MARGIN = 0.8
"""Share of the time between two frames that the work of one may take where the network keeps up."""
WORTH = 1.25
"""How many times as old a moved memory may be as a moved answer: the frame's own shallow layers correct it. By
CamVid val and rendered streets it is worth as much at 1.3 to 1.8 times the age."""


def check_delay(stream: Any) -> None:
    """Raise VssError, for frames of a file, where answers come when the network is through: nothing waits for it."""
    if stream.beside and not stream.beside.delay:
        stream.close()
        raise VssError(
            "schedule beside: offline frames come as fast as they are answered, not as a camera sends them; say with "
            "--delay how many frames late the network's answers are"
        )


def check(schedule: str, backend: Any, both_sides: bool, motion: bool, moves: bool) -> None:
    """Raise VssError where the network or the other options do not allow the schedule."""
    if schedule == "at_once":
        return
    if not motion:
        raise VssError(
            f"schedule {schedule}: needs motion, which brings what is late to its frame; set motion: true"
        )
    if both_sides or backend.lookahead:
        raise VssError(
            f"schedule {schedule}: answers every frame at once, but here answers wait for later frames; use at_once"
        )
    if schedule == "parts" and not (moves and backend.parts > 1):
        raise VssError(
            "schedule parts: needs a network whose memory moves (DCFM), and between: memory; use at_once or beside"
        )


@dataclass(frozen=True)
class Costs:
    """Milliseconds of a stream. key: an answer that waits for the deep layers; nonkey: one that does not; part: the
    longest part of the deep layers; parts: how many there are, 1 where they cannot be cut."""

    key: float
    nonkey: float = 0.0
    part: float = 0.0
    parts: int = 1

    def times(self, factor: float) -> Costs:
        """The same on a machine that is so many times as slow."""
        return Costs(self.key * factor, self.nonkey * factor, self.part * factor, self.parts)

    def cut(self, backend: Any, rounds: int = 4) -> Costs:
        """The same with the parts of this backend, timed, if it has some."""
        if backend.parts < 2 or backend.keeps != 1:
            return self
        part = float(np.median([longest_part(backend) for _ in range(rounds)][1:]))
        return dataclasses.replace(self, part=part, parts=backend.parts)

    def choose(self, interval: int, period: float) -> Auto:
        """At once where a keyframe fits into the period between two frames in seconds, in parts where each does and
        what is remembered is then not too old, else beside. interval: most frames from one keyframe to the next; 0
        takes one as soon as the one before is remembered."""
        budget, between = period * 1e3 * MARGIN, f"the {period * 1e3:.0f} ms between two frames"
        key = f"a keyframe takes {self.key:.0f} ms"
        if self.key <= budget:
            return Auto("at_once", f"{key} of {between}", self)
        late = int(self.key / (period * 1e3)) + 1  # frames, of an answer beside
        longest, age = self.nonkey + self.part, self.parts + (max(interval, self.parts) - 1) / 2
        if self.parts > 1 and longest <= budget and age <= WORTH * (late + (late - 1) / 2):
            return Auto("parts", f"{key}, a frame with a part of it {longest:.0f} ms of {between}", self)
        return Auto("beside", f"{key}, too much for {between}", self)


@dataclass(frozen=True)
class Auto:
    """What schedule auto chose, and why; costs: None where there was nothing to measure."""

    schedule: str
    why: str
    costs: Costs | None = None


def measure(stream: Any, rounds: int = 4) -> Costs:
    """Time a stream whose keyframes are answered at once, on a picture that moves; it is reset.

    Medians of all rounds but the first, in which runtimes prepare themselves.
    """
    policy, stream.policy = stream.policy, FixedInterval(1000)
    rng = np.random.default_rng(0)
    height, width = stream.backend.size
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    keys: list[float] = []
    others: list[float] = []
    for number in range(rounds):
        stream.reset()
        stream.feed(picture, 0.0)
        stream.keyframe = None  # the next frame is a keyframe that has one before it
        for shift, found in ((1, keys), (2, others)):
            result = stream.feed(np.roll(picture, shift, 1), shift * 1e-3)[0]
            found += [result.times["total"]] * (number > 0)
    stream.reset()
    stream.policy = policy
    costs = Costs(float(np.median(keys)), float(np.median(others)))
    return costs if stream.answers_move else costs.cut(stream.backend, rounds)


def follow(stream: Any, other: Any) -> None:
    """Have a stream of schedule beside go on after the frames that another one of its model has answered, which ends:
    with its motion and its newest answer, so that no frame waits for the network. Others begin anew."""
    if not (stream.schedule == "beside" and other.motion and other.last):
        return
    newest = other.newest
    if other.before is not None:
        track = other.motion.track()
        newest = Answer(other.next_index - 1, other.last[0], other.before, track, track)
    if newest:
        stream.motion = stream.beside.motion = other.motion
        stream.newest, stream.last, stream.next_index = newest, other.last, other.next_index


def longest_part(backend: Any) -> float:
    """Milliseconds of the longest call of `remember_part`."""
    state = backend.encode(np.zeros((*backend.size, 3), np.uint8))
    times = [time.perf_counter()]
    for i in range(backend.parts):
        state = backend.remember_part(i, state)
        if backend.stage_times:
            backend.stage_times()  # waits for a device that has not run it yet
        times.append(time.perf_counter())
    return max(b - a for a, b in pairwise(times)) * 1e3
