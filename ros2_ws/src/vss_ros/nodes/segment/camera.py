"""A camera frame's straight line: the callback keeps the newest, one worker decodes, has it answered and publishes.

A slow network drops frames instead of queueing them: a mask is at most a camera period and a run late.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo

from vss_ros.config import VssError
from vss_ros.media.decode import ImageError, decode
from vss_ros.node_config import NodeConfig
from vss_ros.nodes import heap
from vss_ros.nodes.segment.health import Health
from vss_ros.nodes.segment.publish import LOG_PERIOD
from vss_ros.nodes.segment.rectify import Undistort
from vss_ros.stream.schedule import follow


@dataclass
class Frame:
    """An image on its way through the node."""

    message: Any
    stamp: float
    """Seconds; of the arrival where the driver leaves it at zero."""
    arrival: float
    """By `time.perf_counter`."""
    gap: float
    """The longest time in seconds between two images received since the last one that was answered."""
    rgb: Any = None
    """(H, W, 3) uint8, once it is decoded."""
    info: CameraInfo | None = None


class Camera:
    """What belongs to one camera. name: "" for the only one; stream: its own, over the backend of all."""

    def __init__(self, name: str, stream: Any, answers: Any) -> None:
        self.name, self.stream, self.publish = name, stream, answers
        self.prefix = f"{name}: " if name else ""
        self.undistort = Undistort()
        self.info: CameraInfo | None = None
        self.forget()

    def forget(self) -> None:
        """Counters and memory of an earlier activation."""
        self.stream.reset()
        self.health = Health()
        self.waiting: Frame | None = None
        self.received: float | None = None
        self.gap = 0.0
        self.refusal = ""
        self.applied: NodeConfig | None = None

    @property
    def runtime(self) -> str:
        """The backend and the precision that answer, which need not be those of the options."""
        backend = self.stream.backend
        return f"{backend.name} {backend.precision}"

    def on_info(self, message: CameraInfo) -> None:
        self.info = message


class Worker:
    """Answers the newest frame of each camera in turn, in a thread of its own: none queues, none starves.

    config: replaced between two frames; start: gives a successor of the streams once, see `network.Start`.
    """

    def __init__(self, node: Node, cameras: Sequence[Camera], config: NodeConfig, start: Any) -> None:
        self.node, self.cameras, self.config, self.start = node, cameras, config, start
        self.turns = deque(cameras)
        self.changed = threading.Condition()
        self.closed = False
        self.news = False
        """Whether a network that runs beside has answered since."""
        self.busy: tuple[Camera, float] | None = None
        """The camera whose frame is inside, and since when."""
        self.thread = threading.Thread(target=self.work, name="segment", daemon=True)
        self.thread.start()

    # The callback

    def put(self, camera: Camera, message: Any) -> None:
        """Keep a camera's newest image; the one that still waits is dropped."""
        now, health = time.monotonic(), camera.health
        header = message.header.stamp
        stamp = header.sec + header.nanosec * 1e-9
        if stamp <= 0:
            stamp = self.node.get_clock().now().nanoseconds * 1e-9
            self.node.get_logger().warning(
                "the camera leaves header.stamp at zero: latency is unknown, gaps are judged by arrival",
                once=True,
            )
        with self.changed:
            if camera.received is not None:
                camera.gap = max(camera.gap, stamp - camera.received)
            camera.received = stamp
            health.received += 1
            health.window.stamps.append(stamp)
            health.last_image = now
            if health.waiting is None:
                health.waiting = now
            if camera.waiting:
                health.dropped += 1
                health.window.dropped += 1
            camera.waiting = Frame(message, stamp, time.perf_counter(), camera.gap)
            self.changed.notify()

    # The worker

    def hear(self) -> None:
        """A network that runs beside has answered; called from its thread."""
        with self.changed:
            self.news = True
            self.changed.notify()

    def take(self) -> tuple[Camera, Frame] | None:
        """Wait for a frame of the camera whose turn it is, or of the next that has one; None: news, or closed."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.news or any(c.waiting for c in self.turns))
            self.news = False
            if self.closed or not any(camera.waiting for camera in self.turns):
                return None
            while not (frame := self.turns[0].waiting):
                self.turns.rotate(-1)
            camera = self.turns[0]
            self.turns.rotate(-1)
            camera.waiting, camera.gap = None, 0.0
            self.busy = camera, time.monotonic()
            return camera, frame

    def work(self) -> None:
        while not self.closed:
            newcomer = self.take()
            if newcomer is None:
                self.join()
                continue
            camera, frame = newcomer
            try:
                self.segment(camera, frame)
            except ImageError as error:
                self.refuse(camera, str(error))
            except BaseException as error:  # the network's: one frame is lost, the node lives on
                if not self.closed:
                    self.fail(camera, error)
            self.busy = None

    def join(self) -> None:
        """What networks that run beside have answered is taken over while no frame waits for it."""
        for camera in self.cameras:
            try:
                if camera.stream.schedule == "beside":
                    camera.stream.join()
            except Exception as error:  # the network's answer is lost, the node lives on
                self.fail(camera, error)

    def segment(self, camera: Camera, frame: Frame) -> None:
        """One frame from message to masks; a network that looks ahead then answers an earlier one."""
        frame.rgb, frame.info = decode(frame.message, self.config.max_pixels), camera.info
        if camera.applied is not self.config or self.start.successor:
            self.apply(camera)
        if self.config.undistort:
            self.rectify(camera, frame)
        # The drift costs some 5 % of a non-key frame: only with a reader.
        camera.stream.measure_drift = bool(camera.publish.consistency.get_subscription_count())
        for result in camera.stream.feed(frame.rgb, frame.stamp, frame, frame.gap):
            self.answer(camera, result)
        if camera.stream.owed:
            camera.stream.after()

    def answer(self, camera: Camera, result: Any) -> None:
        if self.closed:  # a call that hung is back, and nobody waits for it
            return
        if self.config.undistort:
            camera.publish.hide(result, camera.undistort)
        camera.publish(result, self.config.overlay_alpha)

    def rectify(self, camera: Camera, frame: Frame) -> None:
        frame.rgb, frame.info = camera.undistort(frame.rgb, frame.info)
        if camera.undistort.changed:
            camera.stream.reset()

    def apply(self, camera: Camera) -> None:
        """Runtime parameters, and streams whose engines are built by now, take over between two frames."""
        successors = self.prepared(self.start.take())
        for each, stream in zip(self.cameras, successors, strict=False):
            for result in each.stream.flush():
                self.answer(each, result)
            each.stream.close()
            follow(stream, each.stream)
            each.stream, each.applied = stream, None
        if successors:
            del stream
            heap.trim()
            self.node.get_logger().info(self.start.news)
        camera.stream.configure(self.config)
        if camera.stream.schedule == "beside":
            camera.stream.beside.worker.told = self.hear
        auto = getattr(camera.stream, "auto", None)
        camera.health.schedule = camera.stream.schedule
        camera.health.schedule_reason = auto.why if auto else ""
        camera.applied = self.config

    def prepared(self, successors: list[Any]) -> list[Any]:
        """Streams opened a while ago with the options of now; none where these do not fit any more."""
        try:
            for stream in successors:
                stream.prepare(self.config)
        except VssError as error:
            for stream in successors:
                stream.close()
            self.start.streams = [camera.stream for camera in self.cameras]
            self.start.reason = f"goes on without the engines that were built: {error}"
            self.node.get_logger().error(self.start.reason)
            return []
        return successors

    def refuse(self, camera: Camera, reason: str) -> None:
        """Count an unusable image; log it now and then, and the same reason once."""
        camera.health.refused(reason)
        if reason != camera.refusal:
            self.node.get_logger().warning(
                f"{camera.prefix}image skipped: {reason}", throttle_duration_sec=LOG_PERIOD
            )
        camera.refusal = reason

    def fail(self, camera: Camera, error: BaseException) -> None:
        """Nothing of a frame that failed is reused: its memory may be half written."""
        camera.health.failed += 1
        camera.health.window.failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
        self.node.get_logger().error(
            f"{camera.prefix}a frame failed: {camera.health.window.failure}", throttle_duration_sec=LOG_PERIOD
        )
        self.node.get_logger().debug(traceback.format_exc())
        camera.stream.reset()

    def seconds_inside(self, camera: Camera) -> float:
        """How long the present frame has been inside, if it is this camera's."""
        busy = self.busy
        return time.monotonic() - busy[1] if busy and busy[0] is camera else 0.0

    def close(self, timeout: float) -> bool:
        """Ask the thread to end; False if a call has not come back by then."""
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join(timeout)
        return not self.thread.is_alive()
