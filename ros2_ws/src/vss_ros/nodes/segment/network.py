"""The network that a node begins with, at once: its engines are loaded, never built, while the node is configured.

Where they are missing and a fallback is allowed, another backend answers; if wanted, a process of its own builds
the engines meanwhile, and the node takes the new stream between two frames.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import cv2

from vss_ros.config import VssError, child_command, missing, replace
from vss_ros.node_config import NodeConfig, SegmentConfig
from vss_ros.nodes import heap
from vss_ros.nodes.segment.constant import ConstantStream

log = logging.getLogger(__name__)


class Start:
    """`streams`, one for each camera, are ready to answer; `take()` gives their successors once, when they are.

    problem: why `streams` are not what the config asks for, or ""; for diagnostics. news: why there are successors.
    Raises VssError if the network cannot be opened and no fallback is allowed.
    """

    def __init__(self, config: Any, make: Callable[..., list[Any]] | None = None):
        self.config, self.make_streams = config, make or make_streams
        self.reason = self.progress = self.news = ""
        self.successor: list[Any] = []
        self.child: subprocess.Popen | None = None
        self.closed = False
        try:
            self.streams = self.make_streams(config)
        except (VssError, RuntimeError) as error:  # RuntimeError: CUDA's, on the first frames
            if not (config.allow_fallback and config.backend in ("tensorrt", "torch", "auto")):
                raise
            self.streams = fallback(config, error, self.make_streams)
            self.reason = f"runs on {self.streams[0].backend.name} instead of {config.backend}: {error}"
            from vss_ros.backends.gpu.engines import NoEngine

            if config.build_on_start and isinstance(error, NoEngine):
                threading.Thread(target=self.build, name="build", daemon=True).start()

    @property
    def problem(self) -> str:
        return "; ".join(filter(None, (self.reason, self.progress)))

    def take(self) -> list[Any]:
        """The streams that replace the fallback's, if they are there and not taken yet."""
        successor, self.successor = self.successor, []
        if successor:
            self.streams = successor  # what they replace is not held any longer
            self.reason = self.progress = ""
        return successor

    def close(self) -> None:
        self.closed, self.successor = True, []
        if self.child:
            self.child.terminate()

    def build(self) -> None:
        """Runs in a thread: builds in a process, which may take minutes and all of a core, then opens the stream."""
        last = ""
        with subprocess.Popen(
            build_command(self.config),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "VSS_DIES_WITH": "the node"},
        ) as child:
            self.child = child
            if self.closed:
                child.terminate()
            for line in child.stdout or ():
                last = line.strip() or last
                self.progress = f"building engines: {last}"
        try:
            if child.returncode:
                raise VssError(last or f"exit status {child.returncode}")
            successor = self.make_streams(self.config)
        except Exception as error:  # the fallback goes on, whatever went wrong beside it
            self.progress = f"building engines failed: {error}"
            return
        self.succeed(successor, f"engines are built: {self.config.backend} takes over")

    def reschedule(self, auto: Any) -> None:
        """Open the streams anew, beside those that answer, with what schedule auto is to be now: beside needs no other
        network, and answers while that is opened which leaves a core to the answers."""

        def run() -> None:
            news = f"schedule {auto.schedule} takes over"
            if auto.schedule == "beside":
                first = self.streams[0].another("beside")
                first.auto = auto
                self.succeed([first, *(first.another() for _ in self.streams[1:])], news)
                news = "its network leaves a core to the answers from now on"
            try:
                successor = self.make_streams(self.config, auto)
            except Exception as error:  # those that answer go on
                log.warning("schedule %s: %s", auto.schedule, error)
                return
            self.succeed(successor, news)

        threading.Thread(target=run, name="reschedule", daemon=True).start()

    def succeed(self, successor: list[Any], news: str) -> None:
        self.news, self.successor = news, successor
        if self.closed:  # meanwhile
            for stream in successor:
                stream.close()


def build_command(config: NodeConfig) -> list[str]:
    precision = "f16" if config.precision == "auto" else config.precision
    command = child_command("vss_ros.cli", "build", "--model", config.model)
    command += ["--precision", precision]
    command += ["--calibration", config.calibration] if config.calibration else []
    parts = getattr(config, "parts", 1) if getattr(config, "schedule", "") in ("auto", "parts") else 1
    command += ["--parts", str(parts)] if parts > 1 else []
    return command + (["--size", f"{config.height}x{config.width}"] if config.height else [])


def fallback(config: NodeConfig, error: Exception, make: Callable[[Any], list[Any]]) -> list[Any]:
    """Streams on torch with CUDA, in the same precision where it has it, else on the fastest runtime of the CPU."""
    from vss_ros.backends.choose import fastest
    from vss_ros.backends.gpu.present import has_cuda

    precision = "f16" if config.precision in ("auto", "int8") else config.precision
    places = [(fastest(cpu=True), "auto")]
    if config.backend == "tensorrt" and has_cuda():
        places.insert(0, ("torch", precision))
    for backend, precision in places:
        try:
            return make(replace(config, backend=backend, precision=precision, build_on_start=False))
        except (VssError, RuntimeError) as later:
            error = later
    raise error


def settle() -> None:
    """What loading a network needed for a moment, some 70 MB that glibc would keep, back to the system; what stays is
    hidden from the garbage collector, which else stops all threads for 0.1 s to look through torch. What was hidden
    before stays so, until the node gives up its network: another one may be answering."""
    gc.collect()
    gc.freeze()
    heap.trim()


def make_streams(config: SegmentConfig, auto: Any = None) -> list[Any]:
    """A stream for each camera over one backend, their keyframes spread over the frames between two.

    auto: what schedule auto is to be, see `open_stream`.
    """
    cameras = len(config.cameras) or 1
    if config.constant_network:
        return [ConstantStream() for _ in range(cameras)]
    try:  # torch takes seconds to import: not before a model is wanted
        from vss_ros.stream.load import open_stream, warm_up
    except ModuleNotFoundError as error:
        raise VssError(missing(error.name or str(error))) from error

    start = time.monotonic()
    log.info("loading model %s", config.model)
    stream = open_stream(config, auto=auto)
    log.info(
        "first frames on %s %s, after %.1f s",
        stream.backend.name,
        stream.backend.precision,
        time.monotonic() - start,
    )
    warm_up(stream)
    settle()
    log.info("ready after %.1f s", time.monotonic() - start)
    streams = [stream, *(stream.another() for _ in range(cameras - 1))]
    for number, each in enumerate(streams):
        each.phase = number * each.policy.longest // cameras
        if each.beside:
            cv2.setNumThreads(1)  # others would wait for the cores that the network has
            # who takes over from another had better wait than show nothing
            each.beside.waits = auto is not None
    return streams
