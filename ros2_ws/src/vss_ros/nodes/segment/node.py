"""`segment`: camera images in, class masks out, as a lifecycle node: states, parameters, subscriptions, reports.

What happens to a frame is in `camera`, what is published in `publish`.
"""

from __future__ import annotations

import functools
import gc
import time
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from vss_ros.backends.cpu import pin
from vss_ros.config import VssError
from vss_ros.node_config import NodeConfig, SegmentConfig
from vss_ros.nodes import parameters
from vss_ros.nodes.segment import report
from vss_ros.nodes.segment.bond import bond
from vss_ros.nodes.segment.camera import Camera, Worker
from vss_ros.nodes.segment.health import Window
from vss_ros.nodes.segment.loading import LATE, Loader
from vss_ros.nodes.segment.network import Start
from vss_ros.nodes.segment.publish import Answers
from vss_ros.nodes.segment.rate import Rate

SENSOR: dict[str, Any] = {"depth": 1, "reliability": ReliabilityPolicy.BEST_EFFORT}  # the newest frame wins
COMPRESSED = "sensor_msgs/msg/CompressedImage"
PATIENCE = 3.0
"""Seconds that deactivation waits for the network's present frame."""


class SegmentNode(LifecycleNode):
    """A network on cameras' images. The first five attributes make it `segment`; `count` has others."""

    node_name = "segment"
    options: type[NodeConfig] = SegmentConfig
    make_streams: Any = None
    answers: Any = Answers
    own_status: Any = staticmethod(report.consistency_status)
    exit_code = 0

    def __init__(self) -> None:
        super().__init__(self.node_name)
        self.config: Any = parameters.declare(self, self.options, fixed=False)
        self.add_on_set_parameters_callback(self.on_parameters)
        self.loader = Loader(self)
        self.start: Start | None = None
        self.cameras: list[Camera] = []
        self.worker: Worker | None = None
        self.hung: Worker | None = None
        """A worker whose call did not come back; its streams are not used again."""
        self.images: dict[Camera, list[Any]] = {}
        self.inputs: list[Any] = []
        self.bond: Any = None
        self.rate: Rate | None = None
        self.error = ""
        self.path = self.get_fully_qualified_name().lstrip("/")
        # Not diagnostic_updater: it is not among PyPI's wheels and its FrequencyStatus ignores sim time.
        self.diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        # Steady: the reports go on while a paused simulation stops the time.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self.on_second, clock=steady)
        if self.config.autostart:
            start: Any = self.on_start  # rclpy awaits it, and does not say so
            self.starter = self.create_timer(0.0, start, clock=steady, callback_group=self.loader.group)

    # Lifecycle

    async def on_start(self) -> None:
        self.starter.cancel()
        through = await self.loader.before("configure")
        if through and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self.attempt(self.configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        super().on_activate(state)  # enables the publishers: the latched labels go out in activate()
        return self.attempt(self.activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.stop()
        self.release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self.on_shutdown(state)

    def attempt(self, step: Any) -> TransitionCallbackReturn:
        """Run a step of a transition; FAILURE with one line in the log and in diagnostics if it cannot be."""
        self.error = ""
        try:
            step()
            return TransitionCallbackReturn.SUCCESS
        except VssError as error:
            self.error = str(error)
        except Exception as error:  # rclpy would swallow it without a word
            self.error = f"{step.__name__}: {type(error).__name__}: {error}"
            self.get_logger().debug(traceback.format_exc())
        self.get_logger().error(self.error)
        self.stop()
        if step == self.configure:
            self.release()
        return TransitionCallbackReturn.FAILURE

    def configure(self) -> None:
        names = self.config.cameras or ("",)
        self.start = self.opened()
        self.cameras = [
            Camera(name, stream, self.answers(self, name))
            for name, stream in zip(names, self.start.streams, strict=True)
        ]
        if without := self.cameras[0].publish.without:
            self.get_logger().info(without)

    def open(self) -> Start:
        """The network and its streams, as the options are now; may run in any thread."""
        return Start(self.config, self.make_streams)

    def opened(self) -> Start:
        """The same, loaded before this transition began."""
        start = self.loader.take()
        # the worker's thread starts from this one, and some runtimes' from the worker's
        if self.config.affinity:
            pin(self.config.affinity)
        if start.problem:
            self.get_logger().warning(start.problem)
        return start

    def needs_load(self, transition: str) -> bool:
        """Whether a network must be loaded before a transition."""
        first = (transition, self.state()) == ("configure", "unconfigured")
        return first or ((transition, self.state()) == ("activate", "inactive") and self.other_schedule)

    @property
    def other_schedule(self) -> bool:
        """Whether the options ask for one that needs other stages, or a thread."""
        opened = self.start.config if self.start else self.config
        return getattr(opened, "schedule", None) != getattr(self.config, "schedule", None)

    def activate(self) -> None:
        if self.hung and self.hung.thread.is_alive():
            raise VssError(
                "the network still hangs in its last frame: clean up and configure, or restart the node"
            )
        assert self.start is not None
        streams = self.start.take()
        if self.other_schedule:
            before, self.start = self.start, self.opened()
            before.close()
            streams = self.start.streams
        for camera, stream in zip(self.cameras, streams, strict=False):
            camera.stream.close()
            camera.stream = stream
        for camera in self.cameras:
            camera.forget()
            camera.stream.prepare(self.config)
            camera.publish.begin(self.config, camera.stream.card, camera.health)
        self.worker = Worker(self, self.cameras, self.config, self.start)
        self.rate = Rate(self.cameras, self.start)
        for camera in self.cameras:
            self.subscribe_to(camera)
        self.bond = bond(self)
        stream = self.cameras[0].stream
        self.get_logger().info(
            f"active: {self.config.model} on {self.cameras[0].runtime}, schedule {stream.schedule}"
        )

    def stop(self, timeout: float = PATIENCE) -> bool:
        """Unsubscribe and join the worker; False if it did not end in time."""
        for subscription in self.inputs:
            self.destroy_subscription(subscription)
        self.inputs, self.images = [], {}
        if self.bond:
            self.bond.shutdown()
        self.bond = None
        worker, self.worker = self.worker, None
        if worker is None or worker.close(timeout):
            return self.hung is None or not self.hung.thread.is_alive()
        self.hung = worker
        self.error = f"the network hangs: a frame has not come back for {timeout:.0f} s since the stop"
        self.get_logger().error(f"{self.error}; clean up and configure, or restart the node")
        return False

    def release(self) -> None:
        for camera in self.cameras:
            camera.publish.close()
            camera.stream.close()
        if self.start:
            self.start.close()
        self.loader.forget()
        self.cameras, self.start, self.hung = [], None, None
        gc.unfreeze()  # see `network.settle`

    def close(self, timeout: float) -> bool:
        """Before the process ends; False if the worker hangs."""
        if not (self.loader.give_up() and self.stop(timeout)):
            return False
        if self.state() in ("unconfigured", "inactive", "active"):
            self.trigger_shutdown()
        return True

    def state(self) -> str:
        """The lifecycle state's label; rclpy has no public way to ask for it."""
        return self._state_machine.current_state[1]

    # Topics and parameters

    def subscribe_to(self, camera: Camera) -> None:
        """The images and the calibration of a camera, below its name where it has one."""
        below = f"{camera.name}/" if camera.name else ""
        topic = self.resolve_topic_name(f"{below}image")
        camera.publish.hardware = topic
        assert self.worker is not None
        put = functools.partial(self.worker.put, camera)
        if self.config.transport == "raw":
            self.images[camera] = [self.subscribe(Image, topic, put)]
        else:  # where image_transport publishes it
            self.images[camera] = [
                self.subscribe(CompressedImage, f"{topic.removesuffix('/compressed')}/compressed", put)
            ]
            self.follow_base_topic(camera)
        self.subscribe(CameraInfo, f"{below}camera_info", camera.on_info)

    def follow_base_topic(self, camera: Camera) -> None:
        """Compressed images may also come without a suffix. Only once they do: a topic of two types, which that of
        the raw images would become, is refused by ros2 topic and left out by rosbag2."""
        topic, images = camera.publish.hardware, self.images[camera]
        if self.config.transport == "raw" or len(images) > 1 or topic.endswith("/compressed"):
            return
        if {info.topic_type for info in self.get_publishers_info_by_topic(topic)} == {COMPRESSED}:
            images.append(self.subscribe(CompressedImage, topic, images[0].callback))

    def subscribe(self, kind: Any, topic: str, callback: Any) -> Any:
        subscription = self.create_subscription(
            kind,
            topic,
            callback,
            QoSProfile(**SENSOR),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=lambda _: self.on_incompatible(topic)
            ),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self.inputs.append(subscription)
        return subscription

    def on_parameters(self, changes: list[Any]) -> SetParametersResult:
        try:
            self.config = parameters.change(self.config, changes, self.state())
        except VssError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self.worker:
            self.worker.config = self.config
        return SetParametersResult(successful=True)

    def on_incompatible(self, topic: str) -> None:
        name = self.resolve_topic_name(topic)
        self.get_logger().warning(
            f"a publisher on {name} offers an incompatible QoS, nothing will come from it: "
            f"set qos_overrides.{name}.subscription.* to what `ros2 topic info -v {name}` shows"
        )

    # Once a second

    def on_second(self) -> None:
        state = self.state()
        error = self.loader.says if self.loader.seconds > LATE else self.error
        doing = self.loader.says or state
        lines = [report.lifecycle(self.path, self.resolve_topic_name("image"), state, error, doing)]
        windows: list[Window] = []
        for camera in self.cameras if state == "active" and self.worker else ():
            self.follow_base_topic(camera)
            self.watch_input(camera)
            camera.health.fallback = self.start.problem if self.start else ""
            camera.health.hang = self.worker.seconds_inside(camera) if self.worker else 0.0
            camera.health.backend = camera.runtime
            window = camera.health.next_window()
            where = camera.publish.name, camera.publish.hardware
            lines += report.camera(*where, self.config, camera.health, window)
            lines.append(self.own_status(*where, self.config, window))
            windows.append(window)
        if self.rate and windows and (news := self.rate.look(windows)):
            self.get_logger().info(news)
        header = Header(stamp=self.get_clock().now().to_msg())
        self.diagnostics.publish(DiagnosticArray(header=header, status=lines))

    def watch_input(self, camera: Camera) -> None:
        """Say once why no image comes, and once that they are back."""
        health, quiet = camera.health, time.monotonic() - camera.health.last_image
        if quiet > self.config.image_timeout:
            there = [item for item in self.images[camera] if self.count_publishers(item.topic_name)]
            image = (there or self.images[camera])[0]
            kind = f"sensor_msgs/msg/{image.msg_type.__name__}"
            cause = report.silence_cause(self, image.topic_name, kind, image.qos_profile, health.received)
            if cause != health.silence:
                self.get_logger().warning(f"no image for {quiet:.0f} s: {cause}")
            health.silence = cause
        elif health.silence:
            health.silence = ""
            self.get_logger().info(f"{camera.prefix}images arrive again")
