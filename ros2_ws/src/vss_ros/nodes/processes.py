"""Our nodes as child processes on a ROS network of their own, from the command line of a demo or a benchmark."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from vss_ros.config import VssError, child_command, share_dir
from vss_ros.nodes.shared_memory import PROFILES


class Chain:
    """Nodes that start together and are all gone afterwards: use it in a `with`. Their logs go to `logs`."""

    def __init__(self, logs: Path):
        require_ros()
        self.logs = logs
        self.logs.mkdir(parents=True, exist_ok=True)
        self.environment = ros_environment()
        self.running: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        """End every node; a second Ctrl-C does not interrupt that."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        alive = [process for process in self.running.values() if process.poll() is None]
        for process in alive:
            process.send_signal(signal.SIGINT)
        limit = time.monotonic() + 8.0
        for process in alive:
            try:
                process.wait(max(limit - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        signal.signal(signal.SIGINT, before)

    def start(self, node: str, parameters: dict[str, Any], remaps: dict[str, str]) -> None:
        command = child_command("vss_ros.nodes.run", node, "--ros-args")
        for name, value in parameters.items():
            command += ["-p", f"{name}:={json.dumps(value) if isinstance(value, (str, bool)) else value}"]
        for old, new in remaps.items():
            command += ["-r", f"{old}:={new}"]
        with (self.logs / f"{node}.log").open("w") as log:
            # A session of its own: Ctrl-C reaches us alone, and we end the nodes in order.
            self.running[node] = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
                preexec_fn=functools.partial(follow_parent, os.getpid()),
            )

    def ended(self, node: str) -> bool:
        return self.running[node].poll() is not None

    def wait(self, node: str, words: str, timeout: float) -> None:
        """Until a node has logged these words; VssError if any node fails before."""
        limit = time.monotonic() + timeout
        while words not in self.log(node):
            self.check(started=False)
            if time.monotonic() > limit:
                raise VssError(f"nothing happened in {timeout:.0f} s:\n{self.tail(*self.running)}")
            time.sleep(0.05)

    def check(self, started: bool) -> None:
        """VssError with what a node said, if one has failed."""
        for node, process in self.running.items():
            code = process.poll()
            if code or (code == 0 and node != "replay"):
                raise VssError(f"{node} ended with code {code}:\n{self.tail(node)}")
        if not started:
            errors = [line for line in self.log("segment").splitlines() if line.startswith("[ERROR]")]
            if errors:  # the node waits for a better model; we do not
                raise VssError(errors[0].split("]: ", 1)[-1])

    def finish(self, *nodes: str) -> None:
        """Ctrl-C for each node in turn, and wait until it has written what it had to."""
        for node in nodes:
            self.running[node].send_signal(signal.SIGINT)
            try:
                code = self.running[node].wait(120.0)
            except subprocess.TimeoutExpired:
                raise VssError(f"{node} did not end in 120 s:\n{self.tail(node)}") from None
            if code:
                raise VssError(f"{node} ended with code {code}:\n{self.tail(node)}")

    def log(self, node: str) -> str:
        path = self.logs / f"{node}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def tail(self, *nodes: str) -> str:
        """The last lines that nodes wrote."""
        texts = [f"{node}: {line}" for node in nodes for line in self.log(node).splitlines()[-12:]]
        return "\n".join(texts) or "(it wrote nothing)"


def require_ros() -> None:
    if importlib.util.find_spec("rclpy") is None:
        raise VssError(
            "rclpy is not installed: source /opt/ros/DISTRO/setup.bash, or, on x86-64, pip install "
            "'ros-rclpy[fastrtps]' ros-common-interfaces"
        )


def follow_parent(parent: int) -> None:
    """A node gets SIGTERM when we die, even by `kill -9` (Linux). Not SIGINT, which background jobs ignore."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # we died before that
            os._exit(0)


def ros_environment() -> dict[str, str]:
    """A network of our own: other robots on it hear nothing, and large images pass."""
    ours = {
        **large_images(),
        "ROS_DOMAIN_ID": str(free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "RCUTILS_COLORIZED_OUTPUT": "0",
    }
    if os.environ.get("ROS_DISTRO") == "humble":
        ours["ROS_LOCALHOST_ONLY"] = "1"
    return {**os.environ, **ours}


def large_images() -> dict[str, str]:
    """What makes Fast DDS let images above 512 kB through, for the environment: the one variable that this release
    of ROS reads; nothing where the user has a profile already."""
    if any(name in os.environ for name in PROFILES):
        return {}
    known = PROFILES[int(is_older_than_kilted())]
    return {known: str(share_dir() / "config" / "fastdds.xml")}


def is_older_than_kilted() -> bool:
    """Fast DDS 3 came with Kilted, and remarks on the older variable at each start."""
    try:
        return int(importlib.metadata.version("rclpy").split(".")[0]) < 8
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")


def free_domain() -> int:
    """A ROS domain whose first discovery port no process here uses."""
    for domain in np.random.default_rng().permutation(np.arange(1, 100)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7410 + 250 * int(domain)))
                return int(domain)
            except OSError:
                continue
    raise VssError("no free ROS domain between 1 and 99: end other ROS processes of this machine")
