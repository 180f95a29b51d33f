"""Schedule beside: every frame is answered by the network's newest answer, moved; a thread runs the network."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vss_ros.backends.labels import blend, on_cells
from vss_ros.config import VssError
from vss_ros.media.motion import Motion, Track
from vss_ros.stream.frame import Answer, Frame, check_finite
from vss_ros.stream.memory import Memories, Memory

NICE = 5
"""Of the network's thread, so that the answers get a core at once."""


@dataclass
class Job:
    """The network on one frame. run() → (memory or None, probabilities (h, w, C)), which `answer` then holds."""

    index: int
    stamp: float
    key: bool
    track: Track
    run: Callable[[], Any]
    started: bool = False
    answer: Any = None
    error: BaseException | None = None
    ms: float = 0.0

    def __call__(self) -> None:
        self.started, start = True, time.perf_counter()
        try:
            answer = self.run()
            self.ms = (time.perf_counter() - start) * 1e3
            self.answer = answer
        except BaseException as error:  # it belongs to the stream's thread, which raises it
            self.error = error

    @property
    def finished(self) -> bool:
        return self.answer is not None or self.error is not None


class Worker:
    """One thread that runs the newest job of each of its streams in turn: none starves, none queues."""

    def __init__(self) -> None:
        self.waiting: dict[int, Job] = {}
        self.order: deque[int] = deque()
        self.changed = threading.Condition()
        self.closed = False
        self.thread: threading.Thread | None = None
        self.told: Callable[[], None] = lambda: None
        """Called from the thread after each job."""

    def offer(self, stream: int, job: Job) -> None:
        """Have a job run for this stream; it replaces one that still waits."""
        with self.changed:
            if stream not in self.waiting:
                self.order.append(stream)
            self.waiting[stream] = job
            if self.thread is None:
                atexit.register(self.close)  # a runtime that is inside as the interpreter ends aborts it
                self.thread = threading.Thread(target=self.work, name="network", daemon=True)
                self.thread.start()
            self.changed.notify_all()

    def run(self, stream: int, job: Job) -> None:
        """Have a job run and wait for it: runtimes prepare themselves for each thread, so all run in one."""
        self.offer(stream, job)
        with self.changed:
            self.changed.wait_for(lambda: job.finished or self.closed)
        if not job.finished:
            raise VssError("the stream is closed: expected no more frames")

    def withdraw(self, stream: int) -> None:
        """Forget the job of this stream that has not started."""
        with self.changed:
            if self.waiting.pop(stream, None):
                self.order.remove(stream)

    def work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # of this thread alone, on Linux
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or self.order)
                if self.closed:
                    return
                job = self.waiting.pop(self.order.popleft())
                job.started = True
            job()
            with self.changed:
                self.changed.notify_all()
            self.told()

    def close(self) -> None:
        """End the thread once its present job is done."""
        atexit.unregister(self.close)
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        if self.thread and self.thread is not threading.current_thread():
            self.thread.join(1.0)  # a network that hangs must not keep a robot from stopping


class Beside:
    """The network's turns for one stream.

    delay: frames until an answer joins, which makes it deterministic and needs no thread; 0 takes it when the worker
    is through with it. waits: whether the first frame waits for the network; else frames have no labels until it is
    there, and none is late.
    """

    def __init__(self, backend: Any, memories: Memories, motion: Motion, worker: Worker, delay: int):
        self.backend, self.memories, self.motion = backend, memories, motion
        self.worker, self.delay, self.waits = worker, delay, True
        self.runs = 0
        self.blank = False  # the newest answer is none
        self.job: Job | None = None
        self.cut = False

    def reset(self) -> None:
        """What is under way has seen what is gone."""
        self.job, self.cut = None, False
        self.worker.withdraw(id(self))

    def answer(self, frame: Frame, newest: Answer | None) -> tuple[Answer, bool]:
        """The newest answer, and whether it is the first; that is waited for, see `waits`. Raises what the network
        raised.

        After a cut what the network is on is dropped, if it saw no more than the newest answer; what saw a later scene
        joins even if there was another cut since: where cuts come faster than the network answers, no answer fits,
        and the newest is shown.
        """
        if newest is None:
            job = self.job = self.make(frame, key=True)
            self.blank = not (self.waits or self.delay)
            if self.blank:
                self.worker.offer(id(self), job)
                nothing = np.zeros((*self.motion.cells, 1), np.float32)
                return Answer(frame.index, frame.stamp, nothing, job.track, job.track), False
            job() if self.delay else self.worker.run(id(self), job)
        error = self.job.error if self.job else None
        if error is not None:
            self.job = None
            raise error
        if newest is None:
            return self.join(None, 0.0, frame.index + self.delay)
        if frame.step and not frame.step.trusted:
            if self.job and self.job.track.cuts == newest.sight.cuts:
                self.reset()
            self.cut = True
        return newest, False

    def join(self, newest: Answer | None, strength: float, index: int) -> tuple[Answer, bool]:
        """The newest answer for the frame of this index, which has not come yet, and whether the network has finished
        it since `newest`.

        It is drawn towards the answer before it, where that had seen the same: as far as `strength` says, see `blend`.
        """
        job = self.job
        if job is None or job.answer is None or index < job.index + self.delay:
            assert newest is not None
            return newest, False
        self.job = None
        memory, values = job.answer
        if memory is not None:
            track = job.track if self.backend.moves else None
            self.memories.put(self.runs, Memory(job.stamp, memory, track))
        self.memories.prune(self.runs)
        self.runs += 1
        track = job.track
        if strength and newest and not self.blank:
            alike = self.motion.likeness(newest.sight)
            values = blend(track.move(values), newest.track.move(newest.values), alike, strength)
            track = self.motion.track()
        self.blank = False
        return Answer(job.index, job.stamp, values, track, job.track), True

    @property
    def free(self) -> bool:
        """Whether the network can take a newer frame than the one that it has."""
        return self.job is None or not self.job.started

    @property
    def owes_key(self) -> bool:
        """Whether the next frame offered must be a keyframe: after a cut, or for one that had no turn."""
        return self.cut or (self.job is not None and self.job.key and not self.job.started)

    def offer(self, frame: Frame, key: bool) -> None:
        """Have the network run on this frame, once it has its turn."""
        self.cut, self.job = False, self.make(frame, key)
        if self.delay:
            self.job()
        else:
            self.worker.offer(id(self), self.job)

    def make(self, frame: Frame, key: bool) -> Job:
        """The network on a frame, with all that it needs, for another thread to run."""
        backend, motion, n, pixels = self.backend, self.motion, self.runs, frame.pixels.copy()
        if key and backend.keeps:
            held = {i: self.memories.moved(i) for i in self.memories.kept} if backend.keeps > 1 else {}

            def run() -> Any:
                features = backend.encode(pixels)
                memory = backend.remember(features)
                known = {**held, n: memory}
                passes = backend.reads(n, sorted(known))
                logits = [backend.decode(features, [known[i] for i in reads]) for reads in passes]
                check_finite(backend, logits)
                return memory, on_cells(backend.probabilities(logits), motion.cells)

        else:
            passes = self.memories.passes(n)

            def run() -> Any:
                logits = [backend.propagate(pixels, reads) for reads in passes]
                check_finite(backend, logits)
                return None, on_cells(backend.probabilities(logits), motion.cells)

        return Job(frame.index, frame.stamp, key, self.motion.track(), run)
