"""What motion costs a frame, how even each schedule's latency is at a camera's rate, and several cameras at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch

from vss_ros.backends.choose import make_backend
from vss_ros.backends.labels import blend, labels_of, probabilities
from vss_ros.config import StreamConfig, child_command
from vss_ros.data.street.street import Street
from vss_ros.deploy.convert import parse_size
from vss_ros.media.motion import Motion, Step, move_memory, resample
from vss_ros.networks import build
from vss_ros.networks.cards.model import Model
from vss_ros.options import progress
from vss_ros.stream.keyframes import FixedInterval
from vss_ros.stream.load import parts_of, spare
from vss_ros.stream.stream import Stream

SIZES = ((360, 480, 11), (512, 1024, 19))
"""(height, width, classes)."""
CHANNELS = 128
"""Of DCFM's memory."""
CLIP = 30
"""Rendered frames, played forth and back."""
ROOM = 1.25
"""Period of a camera that the machine holds, over the work of its dearest frame in twenty."""
STEADY = 0.7
SCHEDULES = ("at_once", "parts", "beside")
COUNTS = (1, 2, 4, 8)
"""Cameras."""
COSTS = ["image", "flow", "move", "filter", "labels", "flow + move + filter"]


def cost(rounds: int = 15) -> list[list[str]]:
    """Rows for each size: size, then milliseconds of flow, move, filter and labels, and of the first three together.

    Processor time of one thread: other processes do not count.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return [costs_of((height, width), classes, rounds) for height, width, classes in SIZES]
    finally:
        cv2.setNumThreads(threads)


def costs_of(size: tuple[int, int], classes: int, rounds: int) -> list[str]:
    street, motion = Street(size=size), Motion(size)
    frames = [street.frame(t)[0] for t in range(4)]
    rng = np.random.default_rng(0)
    memory = (rng.random((1, *motion.cells, CHANNELS), np.float32),)
    coarse = rng.normal(0, 4, (classes, 6, 8)).astype(np.float32)
    logits = np.stack([cv2.resize(plane, motion.cells[::-1]) for plane in coarse])[None]
    spent: dict[str, list[float]] = {"flow": [], "move": [], "filter": [], "labels": []}

    def timed(name: str, run: Callable[..., Any], *inputs: Any) -> Any:
        start = time.thread_time()
        found = run(*inputs)
        spent[name].append((time.thread_time() - start) * 1e3)
        return found

    def steady(before: np.ndarray, step: Step) -> np.ndarray:
        return blend(probabilities([logits]), resample(before, step.place), step.likeness, STEADY)

    for _ in progress(range(rounds), f"motion, {size[1]}×{size[0]}"):
        motion.reset()
        motion.step(frames[0])
        track, values = motion.track(), probabilities([logits])
        motion.step(frames[1])
        for frame in frames[2:]:
            step = timed("flow", motion.step, frame)
            timed("move", move_memory, memory, track.flow)
            values = timed("filter", steady, values, step)
            timed("labels", labels_of, values, size)
    medians = {name: float(np.median(times)) for name, times in spent.items()}
    together = medians["flow"] + medians["move"] + medians["filter"]
    return [f"{size[1]}×{size[0]}", *(f"{ms:.2f}" for ms in medians.values()), f"{together:.2f}"]


def latency(open_for: Callable[[str], Any], frames: int, rate: float) -> list[list[str]]:
    """Rows for each schedule that the network allows: name, images a second, p50, p99 and their ratio of the latency
    in ms, from the time when a frame is due to its answer, and the share of frames that came while one was inside. The
    last row is of `Alike`, at the rate of the one before: what is uneven there is the machine.

    open_for: a schedule's backend; rate: images a second; 0 takes what the machine holds, see `ROOM`.
    """
    rows, threads = [], cv2.getNumThreads()
    for schedule in progress(SCHEDULES, "latency"):
        backend = open_for(schedule)
        if schedule == "parts" and backend.parts == 1:
            continue
        clip = clip_of(backend.size)
        options: dict[str, Any] = {"motion": Motion(backend.size), "steady": STEADY, "schedule": schedule}
        if schedule == "beside":
            cv2.setNumThreads(1)  # as the node does
        with Stream(backend, FixedInterval(2 if schedule == "parts" else 5), **options) as stream:
            hz = rate or held(stream, clip)
            rows.append([schedule, *evenness(stream, clip, frames, hz)])
    rows.append(["none", *evenness(Alike(clip), clip, frames, hz)])
    cv2.setNumThreads(threads)
    return rows


def evenness(stream: Any, clip: Sequence[np.ndarray], frames: int, hz: float) -> list[str]:
    late, waited = paced([stream], clip, frames, hz)
    p50, p99 = np.percentile(late, (50, 99))
    return [f"{hz:.0f}", f"{p50:.1f}", f"{p99:.1f}", f"{p99 / p50:.2f}", f"{waited:.1%}"]


class Alike:
    """In place of a stream: flow and labels of the same two frames over and over, without a network."""

    beside = None

    def __init__(self, clip: Sequence[np.ndarray]):
        self.frames, self.motion = clip[:2], Motion(clip[0].shape[:2])
        self.values = np.random.default_rng(0).random((*self.motion.cells, 11), np.float32)

    def feed(self, rgb: np.ndarray, stamp: float) -> list[np.ndarray]:
        for frame in self.frames:
            self.motion.step(frame)
        return [labels_of(self.values, rgb.shape[:2])]

    def after(self) -> None:
        """Nothing waits."""


def clip_of(size: tuple[int, int]) -> list[np.ndarray]:
    street = Street(size=size)
    clip = [street.frame(t)[0] for t in range(CLIP)]
    return clip + clip[-2:0:-1]


def held(stream: Stream, clip: Sequence[np.ndarray]) -> float:
    """Images a second that a stream takes without one that waits."""
    work = []
    for t, rgb in enumerate(clip):
        start = time.perf_counter()
        stream.feed(rgb, t / 30)
        stream.after()
        work.append(time.perf_counter() - start)
    stream.reset()
    return 1 / (ROOM * float(np.percentile(work[5:], 95)))


def paced(
    streams: Sequence[Any], clip: Sequence[np.ndarray], frames: int, hz: float
) -> tuple[list[float], float]:
    """Milliseconds of each frame from when it was due to its answer, and the share of those that had to wait.

    Streams take turns; the first second does not count.
    """
    late, waited, skip = [], 0, round(hz)
    for stream in streams:
        stream.feed(clip[0], 0.0)
        stream.after()
    begin = time.perf_counter()
    for t in range(skip + frames):
        due = begin + t / hz
        rest = due - time.perf_counter()
        pause(streams, due)
        stream = streams[t % len(streams)]
        (_,) = stream.feed(clip[(t // len(streams) + 1) % len(clip)], (t + 1) / hz)
        if t >= skip:
            late.append((time.perf_counter() - due) * 1e3)
            waited += rest < 0
        stream.after()
    return late, waited / frames


def pause(streams: Sequence[Stream], until: float) -> None:
    """Wait as the node does: what a network beside has answered is taken over meanwhile."""
    news = threading.Event()
    beside = [stream for stream in streams if stream.beside]
    for stream in beside:
        stream.beside.worker.told = news.set  # type: ignore[union-attr]
        stream.join()
    while (rest := until - time.perf_counter()) > 0:
        if not beside:
            time.sleep(rest)
        elif news.wait(rest):
            news.clear()
            for stream in beside:
                stream.join()


def throughput(backend: Any, cameras: int, frames: int) -> tuple[float, float, float]:
    """Frames a second of so many cameras in this process, unpaced, and p50 and p99 of the milliseconds of a round, in
    which each camera has one frame: what a frame waits at most.

    Keyframes are staggered as the node's are.
    """
    clip = clip_of(backend.size)
    first = Stream(backend, FixedInterval(5), motion=Motion(backend.size), steady=STEADY)
    streams = [first, *(first.another() for _ in range(cameras - 1))]
    for number, stream in enumerate(streams):
        stream.phase = number * 5 // cameras
    for t in range(6):
        for stream in streams:
            stream(clip[t], t / 30)
    times = []
    begin = time.perf_counter()
    for t in range(6, 6 + max(frames // cameras, 1)):
        start = time.perf_counter()
        for stream in streams:
            stream(clip[t % len(clip)], t / 30)
        times.append((time.perf_counter() - start) * 1e3)
    seconds = time.perf_counter() - begin
    p50, p99 = np.percentile(times, (50, 99))
    return len(times) * cameras / seconds, float(p50), float(p99)


def cameras(spec: Sequence[str], counts: Sequence[int], frames: int) -> list[list[str]]:
    """Rows for each number of cameras: it, frames a second in one process and their share of one camera's, p50 and p99
    of a round of one frame each in ms, then the same with as many processes of one camera each. spec: see
    `open_backend`. One camera is measured again before each, since other processes' load comes and goes."""
    backend = open_backend("at_once", *spec)
    rows = []
    for count in progress(counts, "cameras"):
        alone, *_ = throughput(backend, 1, frames)
        rate, *rounds = throughput(backend, count, frames)
        many = processes(spec, count, frames // count)
        figures = [f"{x:.1f}" for x in (rate, *rounds, *many)]
        rows.append([str(count), figures[0], f"{rate / alone:.0%}", *figures[1:]])
    return rows


def processes(spec: Sequence[str], count: int, frames: int) -> tuple[float, float, float]:
    """`throughput` of one camera in each of so many processes that begin together: the sum, medians of p50 and p99."""
    command = child_command("vss_ros.deploy.bench.schedules", *spec, str(frames))
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        for _ in range(count)
    ]
    try:
        for child in children:
            child.stdout.readline()  # type: ignore[union-attr]
        for child in children:
            child.stdin.write("\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
        found = np.array([json.loads(child.communicate()[0]) for child in children])
    finally:
        for child in children:
            child.kill()
            child.wait()
    return float(found[:, 0].sum()), float(np.median(found[:, 1])), float(np.median(found[:, 2]))


def open_backend(
    schedule: str, network: str, backbone: str, classes: str, size: str, runtime: str, precision: str
) -> Any:
    """A backend for a network of random weights; everything as on a command line."""
    torch.manual_seed(0)  # the same weights in each process: exported stages are found again
    return backend_for(
        schedule, build(network, backbone, int(classes)).eval(), parse_size(size), runtime, precision
    )


def backend_for(
    schedule: str, network: torch.nn.Module, size: tuple[int, int], runtime: str, precision: str
) -> Any:
    """A backend as a stream of this schedule has it: cut for parts alone, a core left to the answers for beside."""
    config = StreamConfig(schedule=schedule)
    model = Model(network, size, parts=parts_of(config))
    return make_backend(model, runtime, precision=precision, threads=spare(config, schedule).threads)


def main(arguments: Sequence[str]) -> int:
    """One camera of several processes: says when it is ready, waits for a line, answers with `throughput`."""
    *spec, frames = arguments
    backend = open_backend("at_once", *spec)
    throughput(backend, 1, 10)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sys.stdout.write(json.dumps(throughput(backend, 1, int(frames))))
    return 0


def tables(spec: Sequence[str], frames: int, rate: float) -> dict[str, tuple[list[str], list[list[str]]]]:
    """What `vss bench --schedules` prints: titles, heads and rows."""
    heads = ["schedule", "images/s", "p50 ms", "p99 ms", "p99 ÷ p50", "had to wait"]
    paces = f"{rate:g} images a second" if rate else "a rate that the machine holds"
    rows = latency(lambda schedule: open_backend(schedule, *spec), frames, rate)
    found = {f"latency, {frames} frames at {paces}": (heads, rows)}
    heads = [
        "cameras",
        "frames/s",
        "of one's",
        "round p50 ms",
        "p99 ms",
        "processes: frames/s",
        "p50 ms",
        "p99 ms",
    ]
    found["one process against as many, K = 5, unpaced"] = (heads, cameras(spec, COUNTS, frames))
    return found
