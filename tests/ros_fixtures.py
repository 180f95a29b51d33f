"""Real nodes in processes of their own, and a client that talks to them from the test."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 30.0  # seconds; generous, since the machine that runs the tests may be busy


def profile_variable() -> str:
    """The name that this release reads without a remark on the log: Humble and Jazzy know the older one."""
    try:
        old = int(importlib.metadata.version("ros-rclpy").split(".")[0]) < 9
    except importlib.metadata.PackageNotFoundError:
        old = os.environ.get("ROS_DISTRO") in ("humble", "jazzy")
    return "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"


# Fast DDS reads its profile once a process, when the first node is made: set while the tests are collected.
os.environ[profile_variable()] = str(ROOT / "config" / "fastdds.xml")
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"
os.environ["RCUTILS_COLORIZED_OUTPUT"] = "0"
# Two test runs on one machine must not hear each other.
os.environ["ROS_DOMAIN_ID"] = str(10 + os.getpid() % 90)


class Process:
    """A node in its own process, its output in a file."""

    def __init__(self, command: list[str], log: Path, **environment: str) -> None:
        self.log = log
        with log.open("w") as output:
            self.child = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}
            )

    def text(self) -> str:
        return self.log.read_text()

    def awaits_signals(self) -> bool:
        """Whether it is past Python's own start."""
        blocked = Path(f"/proc/{self.child.pid}/status").read_text().split("SigBlk:")[1].split()[0]
        return bool(int(blocked, 16) >> (signal.SIGINT - 1) & 1)

    def logged(self, words: str, timeout: float = PATIENCE) -> bool:
        return wait(lambda: words in self.text(), timeout)

    def stop(self, number: int = signal.SIGINT, timeout: float = PATIENCE) -> int:
        if self.child.poll() is None:
            self.child.send_signal(number)
        return self.child.wait(timeout)

    def kill(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()


def wait(condition: Callable[[], Any], timeout: float = PATIENCE) -> bool:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def ros_arguments(parameters: dict[str, Any], remaps: dict[str, str] | None = None) -> list[str]:
    """The command-line arguments that set parameters and remap topics."""
    arguments = ["--ros-args"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    for old, new in (remaps or {}).items():
        arguments += ["-r", f"{old}:={new}"]
    return arguments


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """start(node, parameters..., patch="code run first") -> Process; all are gone after the test."""
    pytest.importorskip("rclpy", reason="needs rclpy: install the extra [ros] or source a ROS 2 setup")
    processes: list[Process] = []

    def start_node(
        node: str = "segment", patch: str = "", remaps: dict[str, str] | None = None, **parameters: Any
    ) -> Process:
        code = f"{patch}\nfrom vss_ros.nodes import run\nraise SystemExit(run.{node}())"
        command = [sys.executable, "-c", code, *ros_arguments(parameters, remaps)]
        processes.append(Process(command, tmp_path / f"{node}{len(processes)}.log"))
        return processes[-1]

    yield start_node
    for process in processes:
        process.kill()


class Client:
    """A node inside the test: publishes images, collects answers, calls services."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("client", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.publishers: dict[Any, Any] = {}
        self.collected: list[str] = []
        self.settled: set[str] = set()

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def until(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> bool:
        """Serve callbacks until the condition holds; False after the timeout."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                return False
            self.executor.spin_once(timeout_sec=0.02)
        return True

    def spin(self, seconds: float) -> None:
        self.until(lambda: False, seconds)

    def collect(self, kind: Any, topic: str, latched: bool = False, depth: int = 100) -> list[Any]:
        """A list that fills with the topic's messages."""
        from rclpy.qos import DurabilityPolicy, QoSProfile

        messages: list[Any] = []
        qos = QoSProfile(depth=depth)
        if latched:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        self.node.create_subscription(kind, topic, messages.append, qos)
        self.collected.append(topic)
        self.settled.clear()
        return messages

    def publisher(self, kind: Any, topic: str = "/image", best_effort: bool = False) -> Any:
        from rclpy.qos import QoSProfile, ReliabilityPolicy

        if (kind, topic) not in self.publishers:
            qos = QoSProfile(depth=5)
            if best_effort:
                qos.reliability = ReliabilityPolicy.BEST_EFFORT
            self.publishers[kind, topic] = self.node.create_publisher(kind, topic, qos)
        return self.publishers[kind, topic]

    def publish(self, message: Any, topic: str = "/image") -> None:
        """Publish once both sides know each other, so that neither the message nor its answer is lost."""
        publisher = self.publisher(type(message), topic)
        self.settle(publisher)
        publisher.publish(message)

    def settle(self, publisher: Any) -> None:
        if publisher.topic_name in self.settled:
            return
        assert self.until(publisher.get_subscription_count), f"no subscriber on {publisher.topic_name}"
        for topic in self.collected:
            assert self.until(lambda name=topic: self.node.count_publishers(name)), (
                f"nobody publishes {topic}"
            )
        self.spin(0.5)
        self.settled.add(publisher.topic_name)

    def call(self, kind: Any, service: str, request: Any) -> Any:
        client = self.node.create_client(kind, service)
        assert self.until(client.service_is_ready), f"no service {service}"
        future = client.call_async(request)
        assert self.until(future.done), f"no answer from {service}"
        self.node.destroy_client(client)
        return future.result()

    def change(self, transition: str, node: str = "/segment") -> bool:
        """Request a lifecycle transition by its name; whether it succeeded."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        number = getattr(Transition, f"TRANSITION_{transition.upper()}")
        self.settled.clear()
        request = ChangeState.Request(transition=Transition(id=number))
        return self.call(ChangeState, f"{node}/change_state", request).success

    def state(self, node: str = "/segment") -> str:
        from lifecycle_msgs.srv import GetState

        return self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label

    def active(self, node: str = "/segment") -> bool:
        return wait(lambda: self.state(node) == "active")

    def set(self, node: str = "/segment", **values: Any) -> str:
        """Set parameters of a node; "" or the reason of the refusal."""
        from rcl_interfaces.srv import SetParametersAtomically
        from rclpy.parameter import Parameter

        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        request = SetParametersAtomically.Request(parameters=parameters)
        result = self.call(SetParametersAtomically, f"{node}/set_parameters_atomically", request).result
        return "" if result.successful else result.reason or "refused"


@pytest.fixture
def client() -> Iterator[Client]:
    pytest.importorskip("rclpy", reason="needs rclpy: install the extra [ros] or source a ROS 2 setup")
    client = Client()
    yield client
    client.close()


def image(
    pixels: np.ndarray, encoding: str = "rgb8", stamp: float = 1.0, frame: str = "camera", padding: int = 0
) -> Any:
    """(H, W, C) or (H, W) array of any dtype as sensor_msgs/Image, each row with `padding` bytes more."""
    from sensor_msgs.msg import Image

    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=rows.shape[1])
    message.data = array("B", rows.tobytes())
    stamped(message, stamp, frame)
    return message


def stamped(message: Any, stamp: float, frame: str = "camera") -> Any:
    message.header.stamp.sec = int(stamp)
    message.header.stamp.nanosec = round((stamp - int(stamp)) * 1e9)
    message.header.frame_id = frame
    return message


def values(status: Any) -> dict[str, str]:
    """Key-value pairs of a DiagnosticStatus."""
    return {item.key: item.value for item in status.values}


def latest(messages: list[Any], name: str) -> Any:
    """The newest status whose name ends with `name` among DiagnosticArrays; an empty one if there is none."""
    from diagnostic_msgs.msg import DiagnosticStatus

    for message in reversed(messages):
        for status in message.status:
            if status.name.endswith(name):
                return status
    return DiagnosticStatus(level=DiagnosticStatus.STALE)
