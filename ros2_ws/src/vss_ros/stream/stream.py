"""Stream: frames of one camera in, labels out. It alone holds state between frames."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import cv2
import numpy as np

from vss_ros.backends import labels as label
from vss_ros.config import IGNORE, StreamConfig, VssError
from vss_ros.media.motion import Motion
from vss_ros.networks.cards.card import ModelCard
from vss_ros.stream import schedule as schedules
from vss_ros.stream.beside import Beside, Worker
from vss_ros.stream.frame import Answer, Frame, Keyframe, check_call, check_finite, check_pair, receive
from vss_ros.stream.groups import Groups
from vss_ros.stream.keyframes import EVERY, Drift, FixedInterval, LabelDrift, Policy, make_policy
from vss_ros.stream.memory import Memories, Memory
from vss_ros.stream.result import Result

UNSEEN = 0.5
"""Likeness to what the network saw below which a moved pixel is new: a difference of about 20 grey levels."""


class Stream(AbstractContextManager["Stream"]):
    """Runs a backend over the frames of one camera and keeps what later frames reuse.

    One backend may serve many streams, each used by one thread. Between two frames `policy`, `max_gap`,
    `measure_drift`, `steady` and `hide_unseen` may be replaced.

    motion: measures the flow along which memories move (of networks with `moves`), and keyframes' answers (of all
    other networks, of schedule beside, and with `between` answer); None leaves everything where it lies.
    steady: strength of the filter along the motion a frame, in [0, 1), see `labels.blend`; 0 is off.
    schedule: when a keyframe's deep layers run. at_once: its own answer waits for them. parts: one part runs in
    `after()` of each frame from the keyframe on. beside: every answer is the network's newest one moved, while a thread
    (`worker`, of several streams, too) runs the network; with a `delay` in frames it joins exactly so many later.
    hide_unseen: label 255 what the motion shows and no network has seen.
    measure_drift: give each result its drifts, which makes a non-key frame about 5 % slower.
    both_sides: add the next keyframe's logits, too (DCFM's B mode): answers wait for an interval, memories lie still.
    """

    def __init__(
        self,
        backend: Any,
        policy: Policy = EVERY,
        *,
        card: ModelCard | None = None,
        max_gap: float = 1.0,
        both_sides: bool = False,
        measure_drift: bool = False,
        motion: Motion | None = None,
        between: str = "memory",
        steady: float = 0.0,
        schedule: str = "at_once",
        delay: int = 0,
        hide_unseen: bool = False,
        worker: Worker | None = None,
    ):
        self.backend, self.policy, self.model_card = backend, policy, card
        self.groups: Groups | None = None
        self.card: Any = card  # names and colours of the labels: the model's, or those of the groups
        self.max_gap, self.both_sides, self.measure_drift = max_gap, both_sides, measure_drift
        self.motion, self.steady, self.hide_unseen = motion, steady, hide_unseen
        self.schedule, self.auto = schedule, schedules.Auto(schedule, "")
        self.phase = 0  # frames by which the second keyframe comes early: several cameras take turns
        # Between keyframes; else each frame is decoded, which saves time only where a memory holds the deep layers.
        self.moves = motion is not None and backend.moves and between == "memory" and not both_sides
        self.answers_move = motion is not None and not (self.moves or backend.lookahead or both_sides)
        schedules.check(schedule, backend, both_sides, motion is not None, self.moves)
        self.memories = Memories(backend)
        self.beside: Beside | None = None
        if schedule == "beside" and motion:
            self.beside = Beside(backend, self.memories, motion, worker or Worker(), delay)
        self.reset()

    def configure(self, config: StreamConfig) -> None:
        """Take over the options that may change between two frames."""
        own = self.backend.parts if self.schedule == "parts" else self.backend.interval
        self.policy = make_policy(config, own)
        self.max_gap, self.hide_unseen = config.max_gap, config.hide_unseen
        self.steady = config.steady if self.motion else 0.0

    def prepare(self, config: StreamConfig) -> None:
        """Take the options that may change while a node is inactive. Raises VssError (see `Groups`)."""
        self.groups = Groups(self.model_card, config.groups) if config.groups and self.model_card else None
        self.card = self.groups.card if self.groups else self.model_card

    def another(self, schedule: str = "") -> Stream:
        """A stream for another camera, with the same options, on the same backend and by the same worker. schedule:
        beside, or that of this one."""
        other = copy.copy(self)
        other.memories = Memories(self.backend)
        other.motion = self.motion.another() if self.motion else None
        if other.motion and "beside" in (schedule, self.schedule):
            turns = (self.beside.worker, self.beside.delay) if self.beside else (Worker(), 0)
            other.beside = Beside(self.backend, other.memories, other.motion, *turns)
            other.schedule = "beside"
        other.reset()
        return other

    @property
    def lookahead(self) -> int:
        """How many frames an answer waits; 0 answers at once."""
        network = self.backend.lookahead
        return max(network, self.policy.longest - 1) if self.both_sides else network

    def reset(self) -> None:
        """Forget every frame; the next one is a keyframe. Answers not yet given are dropped (see `flush`)."""
        for each in (self.memories, self.beside, self.motion):
            if each:
                each.reset()
        self.pending: deque[Frame] = deque()
        self.keyframe: Keyframe | None = None
        self.newest: Answer | None = None
        self.before: np.ndarray | None = None  # probabilities of the frame before, for the filter
        self.drift = Drift()
        self.landed = False  # landed: a memory or an answer came since the frame before
        self.owed: Frame | None = None  # the frame after whose answer there is something left to do
        self.age = self.next_index = 0  # age: of the keyframe that the frame before read
        self.last: tuple[float, tuple[int, int]] | None = None  # stamp and size of the newest frame

    def close(self) -> None:
        """End the thread of schedule beside; the stream must not be fed any more."""
        if self.beside:
            self.beside.worker.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, rgb: np.ndarray, stamp: float = 0.0) -> Result:
        """Labels of a frame, at once. rgb: (H, W, 3) uint8; stamp: seconds, not before that of the last frame.

        Raises VssError for other arrays or stamps, and where frames must wait (`feed`, `run`).
        """
        check_call(self.lookahead, self.last, stamp)
        result = self.feed(rgb, stamp)[0]
        self.after()
        return result

    def run(self, frames: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
        """Answers for a whole clip of (rgb, stamp), or (rgb, stamp, source), one a frame, in order."""
        for rgb, stamp, *source in map(check_pair, frames):
            done = self.feed(rgb, stamp, *source)
            self.after()
            yield from done
        yield from self.flush()

    def feed(
        self, rgb: np.ndarray, stamp: float, source: Any = None, gap: float | None = None
    ) -> list[Result]:
        """Take a frame; returns the answers that it completes (those of frames `lookahead` earlier).

        source: anything, such as the frame's message; its answer brings it back. gap: the longest time in seconds
        between two frames that came since the last call, for a caller who leaves frames out. Call `after` once the
        answers are out.
        """
        self.after()
        self.start = time.perf_counter()
        frame = receive(self.backend, rgb, stamp, source, self.last, gap, self.max_gap, self.lookahead > 0)
        done = self.flush() if frame.reset else []
        if frame.reset:
            self.reset()
        self.lap(frame, "prepare")
        if self.beside:
            self.join()
            self.lap(frame, "join")
        frame.index, self.last, self.next_index = self.next_index, (stamp, frame.size), self.next_index + 1
        if self.motion and not self.lookahead:
            if self.backend.queues and self.moves and not self.beside:
                frame.encode(self.backend)  # the device computes beside the flow
            frame.step = self.motion.step(frame.pixels, self.before)
            self.lap(frame, "flow")
        if self.beside:
            if self.newest is None:
                self.keyframe = Keyframe.of(frame)
            self.newest, first = self.beside.answer(frame, self.newest)
            self.lap(frame, "join")  # the first frame waits for the network here
            is_key, self.landed = self.landed or first, False
            done.append(self.moved(frame, self.newest, is_key))
        else:
            frame.due = self.is_due(frame)
            if frame.due and self.backend.keeps:
                self.remember(frame)
            if self.measure_drift and self.keyframe and self.backend.keeps and not self.answers_move:
                self.keyframe.compare(frame, self.backend)
                self.lap(frame, "drift")
            self.pending.append(frame)
            while self.pending and self.pending[0].index + self.lookahead <= frame.index:
                done.append(self.answer(self.pending.popleft()))
        self.owed = frame if self.beside or self.memories.chain or self.backend.after else None
        return done

    def after(self) -> None:
        """What may wait until the newest frame's answer is out: a part of a keyframe, or the network's next turn."""
        frame, self.owed = self.owed, None
        if frame and self.backend.after:
            self.backend.after()
        if frame and self.memories.chain:
            self.start = time.perf_counter()
            self.landed = self.memories.part()
            self.lap(frame, "part")
        if frame and self.beside:
            if not self.beside.delay:
                self.join()
            if self.beside.free:
                if due := self.is_due(frame) or self.beside.owes_key:
                    self.keyframe = Keyframe.of(frame)
                self.beside.offer(frame, due)

    def join(self) -> None:
        """Of schedule beside, between two frames: take over what the network has answered, so that none pays for it."""
        if self.beside and self.newest:
            self.newest, joined = self.beside.join(self.newest, self.steady, self.next_index)
            self.landed |= joined

    def flush(self) -> list[Result]:
        """Answers for the frames that still wait, with the later frames they lack left out."""
        return [self.answer(self.pending.popleft()) for _ in range(len(self.pending))]

    def is_due(self, frame: Frame) -> bool:
        """Is the frame to be a keyframe?"""
        if self.both_sides and isinstance(self.policy, LabelDrift):
            raise VssError("policy consistency: both_sides makes answers wait; use fixed or adaptive")
        key = self.keyframe
        if key is None or not (self.backend.keeps or self.motion):
            return True
        if frame.step and not frame.step.trusted:
            return True  # a cut: nothing that is remembered fits
        if self.memories.chain:
            return False
        policy, age = self.policy, frame.index - key.index + (0 if key.index else self.phase)
        if isinstance(policy, FixedInterval) or not policy.shortest <= age < policy.longest:
            return age >= policy.longest
        score = self.drift.newest if isinstance(policy, LabelDrift) else key.input_change(frame, self.backend)
        return score >= policy.threshold

    def remember(self, frame: Frame) -> None:
        """Make the frame a keyframe: its memory now, or begun where an older one serves until it is there."""
        cut = frame.step and not frame.step.trusted
        track = self.motion.track() if self.motion and self.moves else None
        frame.encode(self.backend)
        self.lap(frame, "encode")
        if self.schedule == "parts" and self.memories.kept and not cut:
            self.memories.begin(frame.index, frame.features, frame.stamp, track)
        else:
            values = self.backend.remember(frame.features)
            self.lap(frame, "remember")
            self.memories.put(frame.index, Memory(frame.stamp, values, track))
        self.keyframe = Keyframe.of(frame)

    def answer(self, frame: Frame) -> Result:
        """By the network with the memories as they are now; where there are none, a keyframe's answer may be moved."""
        self.start = time.perf_counter()
        if self.motion and self.lookahead:
            frame.step = self.motion.step(frame.pixels, self.before)
            self.lap(frame, "flow")
        if self.newest and not frame.due:
            return self.moved(frame, self.newest, is_key=False)
        passes, key, stamp = self.memories.read(frame.index, frame.stamp)
        self.lap(frame, "move")
        logits = self.logits(frame, passes)
        is_key, self.landed, age = self.landed or key == frame.index, False, frame.index - key
        doubtful = is_key or self.lookahead or not self.backend.keeps  # what it read may be new
        self.before = None
        if self.motion and (self.steady or self.answers_move):
            moved, steady = self.motion.carried, self.steady
            if self.newest and frame.step and frame.step.trusted:
                moved = self.newest.track.move(self.newest.values)
                steady **= frame.index - self.newest.index
            soft, cells = partial(self.backend.probabilities, logits), self.motion.cells
            plain = partial(self.backend.labels, logits, frame.size)
            older, self.age = (age > self.age) - (age < self.age), age
            labels, values = label.steadied(soft, plain, cells, frame.step, moved, steady, older, frame.size)
            doubtful = doubtful or not np.isfinite(values.max())  # the filter would never let go of it
            confidence = partial(label.confidence_of, values, frame.size)
            if not self.answers_move:
                self.before = values
            else:
                track = self.motion.track()
                self.newest = Answer(frame.index, frame.stamp, values, track, track)
                self.keyframe = Keyframe.of(frame)
        else:
            labels = self.backend.labels(logits, frame.size)
            confidence = partial(self.backend.confidence, logits, frame.size)
        if doubtful:
            check_finite(self.backend, logits, self.reset)
        self.lap(frame, "label")
        return self.result(frame, labels, key, stamp, is_key, confidence)

    def logits(self, frame: Frame, passes: list[list[Any]]) -> list[Any]:
        """Logits of each pass over the memories that it reads."""
        if fused := frame.features is None and len(passes) == 1:
            pixels = frame.pixels if frame.held is None else frame.held
            found = [self.backend.propagate(pixels, passes[0])]
        else:
            frame.encode(self.backend)
            self.lap(frame, "encode")
            found = [self.backend.decode(frame.features, memories) for memories in passes]
        self.lap(frame, "propagate" if fused else "decode")
        return found

    def moved(self, frame: Frame, answer: Answer, is_key: bool) -> Result:
        """An answer without the network: its newest one, moved to this frame."""
        assert self.motion is not None
        values = answer.track.move(answer.values)
        seen = self.motion.likeness(answer.sight)
        self.lap(frame, "move")
        labels = label.labels_of(values, frame.size)
        if self.hide_unseen:
            labels[cv2.resize(seen, frame.size[::-1], interpolation=cv2.INTER_LINEAR) < UNSEEN] = IGNORE
        self.lap(frame, "label")
        confidence = partial(label.confidence_of, values, frame.size, seen)
        age = (frame.stamp - answer.stamp) * 1e3
        return self.result(frame, labels, answer.index, answer.stamp, is_key, confidence, age)

    def lap(self, frame: Frame, stage: str) -> None:
        """Count the time since the last lap as this stage's, in milliseconds."""
        start, self.start = self.start, time.perf_counter()
        frame.times[stage] = frame.times.get(stage, 0.0) + (self.start - start) * 1e3

    def result(
        self,
        frame: Frame,
        labels: np.ndarray,
        key: int,
        key_stamp: float,
        is_key: bool,
        confidence: Callable[[], np.ndarray],
        network_age_ms: float = 0.0,
    ) -> Result:
        labels = self.groups(labels) if self.groups else labels
        frame.times["total"] = sum(frame.times.values())
        if self.backend.stage_times:
            frame.times.update(self.backend.stage_times())
        drift = None
        if self.measure_drift or isinstance(self.policy, LabelDrift):
            drift = self.drift.measure(labels, is_key, None if self.lookahead else self.motion)
        elif self.drift.there:
            self.drift = Drift()  # a track costs each frame
        ages = frame.index - key, (frame.stamp - key_stamp) * 1e3, network_age_ms
        facts = (*ages, frame.times, frame.reset, frame.step, drift, frame.input_drift, frame.feature_drift)
        palette = self.card.palette if self.card else ()
        return Result(labels, frame.stamp, frame.index, is_key, *facts, confidence, frame.source, palette)
