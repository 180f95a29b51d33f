"""The process of a node, from its first import to its last message; the console scripts start here."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import signal
import sys
import tempfile
import threading
from functools import partial
from typing import Any

from vss_ros.config import VssError
from vss_ros.nodes import heap, shared_memory

NODES = {
    "segment": ("vss_ros.nodes.segment.node", "SegmentNode"),
    "count": ("vss_ros.nodes.count.node", "CountNode"),
    "replay": ("vss_ros.nodes.replay", "Replay"),
    "recorder": ("vss_ros.nodes.recorder", "Recorder"),
    "cloud": ("vss_ros.nodes.cloud", "Cloud"),
    "watcher": ("vss_ros.nodes.watch.node", "Watcher"),
}
"""Module and class by the executable's name; a module is imported only when its node is run."""
SWITCH = 0.0005
"""Seconds that a thread which computes lets another one wait; Python's own 5 ms are felt in a mask's latency."""
SHUTDOWN_SECONDS = 5.0
"""A node that is inside a long call (a model compiles) after Ctrl-C is left there after this time."""


class Leave:
    """Ends the process at once where other threads are alive: one that is inside a runtime's C++ as the interpreter
    ends (a stream that opens, a call that hangs) would abort it. To be registered first, so that it runs last."""

    code = 1

    def __call__(self) -> None:
        if threading.active_count() > 1:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.code)


def run(name: str, args: list[str] | None = None) -> int:
    """Run a node in this process, which is its own, until it ends; the exit code."""
    leave = Leave()
    atexit.register(leave)
    leave.code = serve(name, args)
    return leave.code


def serve(name: str, args: list[str] | None) -> int:
    """Run a node until SIGINT, SIGTERM, SIGHUP or `finish()`; the exit code.

    The signals are blocked in all threads and awaited by this one: KeyboardInterrupt cannot appear in the
    middle of an import, a callback or the clean-up, so Ctrl-C at any moment ends in the same orderly way.
    """
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # a closed terminal; nohup asks to outlive it
        signals.append(signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for number in signals:  # a shell's background job starts with SIGINT ignored
        signal.signal(number, signal.SIG_DFL)
    give_logs_a_home()
    heap.share()
    sys.setswitchinterval(SWITCH)
    module, kind = NODES[name]
    make_node = getattr(importlib.import_module(module), kind)
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    freed = shared_memory.remove_dead()
    warnings = [f"removed {freed / 1e6:.0f} MB of shared memory of processes that are gone" if freed else ""]
    warnings.append(shared_memory.shortage())
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except (RuntimeError, ValueError) as error:  # malformed --ros-args or parameter file
        sys.stderr.write(f"{name}: {' '.join(str(error).split())}\n")
        return 2
    try:
        node = make_node()
    except VssError as error:
        rclpy.logging.get_logger(name).error(str(error))
        rclpy.try_shutdown()
        return 1
    for line in filter(None, [*warnings, shared_memory.missing()]):
        node.get_logger().warning(line)
    logging.getLogger("vss_ros").addHandler(Forward(node.get_logger()))
    logging.getLogger("vss_ros").setLevel(logging.INFO)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    stopping = threading.Event()
    spinner = threading.Thread(target=spin, args=(executor, node, stopping), name="spin", daemon=True)
    spinner.start()
    signal.sigwait(signals)
    stopping.set()
    return end(executor, spinner, node)


class Forward(logging.Handler):
    """What the library says goes to the node's log, and with it to /rosout."""

    def __init__(self, to: Any) -> None:
        super().__init__()
        self.to = to

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.ERROR:  # rclpy allows a line of code one severity
            self.to.error(text)
        elif record.levelno >= logging.WARNING:
            self.to.warning(text)
        else:
            self.to.info(text)


def give_logs_a_home() -> None:
    """ROS ends without a folder for its logs, as where a container's user has no home."""
    if any(os.environ.get(name) for name in ("ROS_LOG_DIR", "ROS_HOME")):
        return
    home = os.environ.get("HOME", "")
    if not (home and os.access(home, os.W_OK)):
        os.environ["ROS_LOG_DIR"] = tempfile.mkdtemp(prefix="ros_log_")


def finish() -> None:
    """End this process as Ctrl-C would: what a node calls when its work is done."""
    os.kill(os.getpid(), signal.SIGTERM)


def spin(executor: Any, node: Any, stopping: threading.Event) -> None:
    """Serve callbacks; what one of them raises is logged, the node lives on."""
    while not stopping.is_set():
        try:
            executor.spin()
        except (
            Exception
        ) as error:  # RCLError among them, which Jazzy raises for an invalid transition request
            if not stopping.is_set():
                node.get_logger().error(f"{type(error).__name__} in a callback: {error}")


def end(executor: Any, spinner: threading.Thread, node: Any) -> int:
    """Stop the callbacks, then the node's own threads, then ROS."""
    import rclpy

    executor.shutdown(timeout_sec=SHUTDOWN_SECONDS)
    spinner.join(1.0)
    if spinner.is_alive() or not node.close(SHUTDOWN_SECONDS):
        sys.stderr.flush()
        os._exit(node.exit_code)  # Python's own exit would wait for that call
    node.destroy_node()
    rclpy.try_shutdown()
    return node.exit_code


segment, count, replay, recorder, cloud, watcher = (partial(run, name) for name in NODES)


def main(arguments: list[str]) -> int:
    """The name of a node and its arguments: how our own commands start nodes (`config.child_command`)."""
    return run(arguments[0], arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
