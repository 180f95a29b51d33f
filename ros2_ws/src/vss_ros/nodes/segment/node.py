"""`segment`: camera images in, class masks out, as a lifecycle node.

The image callback only stores the newest message. A worker thread takes it, runs the network and publishes,
so a slow network drops frames instead of queueing them: a mask is at most a camera period and a run late.
"""

from __future__ import annotations

import threading
import time
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from vss_ros.config import SegmentConfig, VssError
from vss_ros.media.decode import ImageError, UnknownEncoding
from vss_ros.media.draw import colorize, heat, overlay
from vss_ros.nodes import messages, parameters, run
from vss_ros.nodes.segment import health
from vss_ros.nodes.segment.inbox import Newest
from vss_ros.nodes.segment.network import Start
from vss_ros.nodes.segment.rectify import Undistort
from vss_ros.stream.consistency import RING, Consistency

SENSOR: dict[str, Any] = {"depth": 1, "reliability": ReliabilityPolicy.BEST_EFFORT}  # the newest frame wins
OUTPUT: dict[str, Any] = {"depth": 2, "reliability": ReliabilityPolicy.RELIABLE}  # REP-2003
LATCHED: dict[str, Any] = {
    "depth": 1,
    "reliability": ReliabilityPolicy.RELIABLE,
    "durability": DurabilityPolicy.TRANSIENT_LOCAL,
}
LOG_PERIOD = 5.0


class SegmentNode(LifecycleNode):
    exit_code = 0

    def __init__(self) -> None:
        super().__init__("segment")
        self.config: SegmentConfig = parameters.declare(self, SegmentConfig)
        self.add_on_set_parameters_callback(self.on_parameters)
        service = self._service_change_state
        service.callback = answer_always(service.callback)
        self.stream: Any = None
        self.start: Start | None = None
        self.worker: threading.Thread | None = None
        self.subscriptions_: list[Any] = []
        self.images: list[Any] = []
        self.outputs: list[Any] = []
        self.camera_info: CameraInfo | None = None
        self.undistort = Undistort()
        self.error = ""
        self.path = self.get_fully_qualified_name().lstrip("/")
        self.hardware = self.resolve_topic_name("image")
        self.forget()
        # Not diagnostic_updater: it is not among PyPI's wheels and its FrequencyStatus ignores sim time.
        self.diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        # Steady: the reports go on while a paused simulation stops the time.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self.on_second, clock=steady)
        if self.config.autostart:
            self.starter = self.create_timer(0.0, self.on_start, clock=steady)

    # Lifecycle

    def on_start(self) -> None:
        self.starter.cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
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
        self.start = Start(self.config)
        self.stream, self.applied = self.start.stream, self.config
        if self.start.problem:
            self.get_logger().warning(self.start.problem)
        output = self.output
        self.mask = output(Image, "~/mask")
        self.confidence = output(Image, "~/confidence")
        self.color_mask = output(Image, "~/color_mask")
        self.overlay = output(Image, "~/overlay")
        self.flicker = output(Image, "~/flicker")
        self.mask_png = output(CompressedImage, "~/mask/compressed")
        self.info_out = output(CameraInfo, "~/camera_info")
        self.consistency = output(DiagnosticArray, "~/consistency")
        self.label_json = output(String, "~/label_info_json", LATCHED)
        kind = messages.label_info_type()
        self.label_info = output(kind, "~/label_info", LATCHED) if kind else None
        if not kind:
            self.get_logger().info("vision_msgs is not installed: the classes are on ~/label_info_json only")

    def activate(self) -> None:
        self.switch_over()
        self.stream.reset()
        self.forget()
        card = self.stream.card
        self.meter = Consistency(card.classes, self.config.consistency_flow)
        self.send(self.label_json, messages.label_json(self.config.model, card.classes, card.palette))
        if self.label_info:
            header = Header(stamp=self.get_clock().now().to_msg())
            self.send(self.label_info, messages.label_info(header, card.classes))
        self.worker = threading.Thread(target=self.work, args=(self.newest,), name="segment", daemon=True)
        self.worker.start()
        if self.config.transport == "raw":
            self.subscribe(Image, "image", self.on_image)
        else:
            self.subscribe(CompressedImage, "image", self.on_image)
            if not self.hardware.endswith("/compressed"):  # where image_transport publishes it
                self.subscribe(CompressedImage, f"{self.hardware}/compressed", self.on_image)
        self.images = list(self.subscriptions_)
        self.subscribe(CameraInfo, "camera_info", self.on_camera_info)

    def stop(self, timeout: float | None = None) -> bool:
        """Unsubscribe and join the worker; False if it did not end in time."""
        for subscription in self.subscriptions_:
            self.destroy_subscription(subscription)
        self.subscriptions_ = []
        self.newest.close()
        if self.worker:
            self.worker.join(timeout)
            if self.worker.is_alive():
                return False
        self.worker = None
        return True

    def release(self) -> None:
        for publisher in self.outputs:
            self.destroy_lifecycle_publisher(publisher)
        if self.start:
            self.start.close()
        self.outputs, self.stream, self.start = [], None, None

    def close(self, timeout: float) -> bool:
        """Before the process ends; False if the worker hangs."""
        if not self.stop(timeout):
            return False
        if self.state() in ("unconfigured", "inactive", "active"):
            self.trigger_shutdown()
        return True

    def state(self) -> str:
        """The lifecycle state's label; rclpy has no public way to ask for it."""
        return self._state_machine.current_state[1]

    def forget(self) -> None:
        """Counters and memory of an earlier activation."""
        self.newest = Newest()
        self.health = health.Health()
        self.last_stamp: float | None = None

    # Topics and parameters

    def output(self, kind: Any, topic: str, qos: dict[str, Any] = OUTPUT) -> Any:
        publisher = self.create_lifecycle_publisher(
            kind,
            topic,
            QoSProfile(**qos),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self.outputs.append(publisher)
        return publisher

    def subscribe(self, kind: Any, topic: str, callback: Any) -> None:
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
        self.subscriptions_.append(subscription)

    def send(self, publisher: Any, message: Any) -> None:
        try:
            publisher.publish(message)
        except RuntimeError as error:  # RCLError: a reliable writer whose reader does not keep up
            self.health.unpublished += 1
            self.get_logger().warning(
                f"{publisher.topic_name}: not published: {error}", throttle_duration_sec=LOG_PERIOD
            )

    def on_parameters(self, changes: list[Any]) -> SetParametersResult:
        try:
            self.config = parameters.change(self.config, changes, configured=self.stream is not None)
        except VssError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def on_incompatible(self, topic: str) -> None:
        name = self.resolve_topic_name(topic)
        self.get_logger().warning(
            f"a publisher on {name} offers an incompatible QoS, nothing will come from it: "
            f"set qos_overrides.{name}.subscription.* to what `ros2 topic info -v {name}` shows"
        )

    def on_image(self, message: Any) -> None:
        self.health.arrived()
        if self.newest.put((message, time.perf_counter())):
            self.health.skipped()

    def on_camera_info(self, message: CameraInfo) -> None:
        self.camera_info = message

    # The worker

    def work(self, newest: Newest) -> None:
        while (newcomer := newest.take()) is not None:
            message, arrival = newcomer
            try:
                self.segment(message, arrival)
            except UnknownEncoding as error:
                self.refuse(str(error), once=getattr(message, "encoding", "compressed"))
            except ImageError as error:
                self.refuse(str(error))
            except Exception as error:  # the network's: one frame is lost, the node lives on
                self.health.failed += 1
                self.health.window.failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
                self.get_logger().error(
                    f"a frame failed: {self.health.window.failure}", throttle_duration_sec=LOG_PERIOD
                )
                self.get_logger().debug(traceback.format_exc())

    def segment(self, message: Any, arrival: float) -> None:
        """One frame from message to network; a network that looks ahead then answers an earlier one."""
        rgb, info = messages.to_array(message), self.camera_info
        for result in self.switch_over():
            self.publish(result, *result.source)
        self.apply_changes()
        if self.config.undistort:
            rgb, info = self.undistort(rgb, info)
            if self.undistort.changed:
                self.stream.reset()
        source = (message, rgb, info, arrival)
        for result in self.stream.feed(rgb, self.stamp(message.header), source):
            self.publish(result, *result.source)

    def publish(self, result: Any, message: Any, rgb: Any, info: CameraInfo | None, arrival: float) -> None:
        """The answer for one frame to all topics, with that frame's header."""
        if self.config.undistort:
            self.undistort.hide(result)
        self.send(self.mask, messages.to_image(message.header, result.labels))
        latency = self.latency(message.header)
        result.times["node"] = (time.perf_counter() - arrival) * 1e3
        if info:
            size = result.labels.shape
            self.send(self.info_out, messages.scaled_camera_info(info, message.header, *size))
        self.publish_pictures(message.header, rgb, result)
        self.publish_consistency(message, rgb, result, latency)

    def switch_over(self) -> list[Any]:
        """Go on with the stream whose engines are built by now; answers that the old one still owed."""
        successor = self.start.take() if self.start else None
        if not successor:
            return []
        owed = self.stream.flush()
        self.stream = successor
        self.set_policy()  # it may have changed since the successor was opened
        self.get_logger().info(f"engines are built: {self.config.backend} takes over")
        return owed

    def apply_changes(self) -> None:
        """Runtime parameters take effect between two frames."""
        config = self.config
        if config is not self.applied and not config.constant_network:
            self.set_policy()
        self.meter.flow = config.consistency_flow
        # The drift costs some 5 % of a non-key frame: only with a reader.
        self.stream.measure_drift = bool(self.consistency.get_subscription_count())
        self.applied = config

    def set_policy(self) -> None:
        from vss_ros.stream.keyframes import make_policy

        policy = make_policy(self.config, self.stream.backend.interval)
        self.stream.policy, self.stream.max_gap = policy, self.config.max_gap

    def stamp(self, header: Header) -> float:
        """Seconds for the stream; a driver that leaves the stamp at zero gets the time of arrival."""
        seconds = header.stamp.sec + header.stamp.nanosec * 1e-9
        if seconds > 0:
            return seconds
        self.get_logger().warning(
            "the camera leaves header.stamp at zero: latency is unknown, gaps are judged by arrival",
            once=True,
        )
        return self.get_clock().now().nanoseconds * 1e-9

    def latency(self, header: Header) -> float | None:
        """Milliseconds from the image's stamp to now; None while either clock stands at zero."""
        stamp, now = header.stamp.sec * 1e3 + header.stamp.nanosec * 1e-6, self.get_clock().now().nanoseconds
        return now * 1e-6 - stamp if stamp > 0 and now > 0 else None

    def publish_pictures(self, header: Header, rgb: Any, result: Any) -> None:
        """What costs time and few read: only with a subscriber."""
        palette, alpha = self.stream.card.palette, self.applied.overlay_alpha
        if self.confidence.get_subscription_count():
            self.send(self.confidence, messages.to_image(header, result.confidence()))
        if self.color_mask.get_subscription_count():
            self.send(self.color_mask, messages.to_image(header, colorize(result.labels, palette)))
        if self.mask_png.get_subscription_count():
            self.send(self.mask_png, messages.to_png(header, result.labels))
        if self.overlay.get_subscription_count():
            self.send(self.overlay, messages.to_image(header, overlay(rgb, result.labels, palette, alpha)))

    def publish_consistency(self, message: Any, rgb: Any, result: Any, latency: float | None) -> None:
        """~/consistency for each frame, and the sums that /diagnostics reports each second.

        Beside `consistency.FIGURES`: latency_ms, the mask's age when it is published, and staleness_ms, the age
        that the mask before it had reached by then (both ≥ 0, None without stamps); dropped, images dropped
        since activation; reset, why the stream started anew.
        """
        last, self.last_stamp = self.last_stamp, result.stamp
        if result.reset and last is not None:
            self.health.resets += 1
            self.get_logger().info(f"the stream starts anew: {result.reset}")
        figures = self.meter(result, rgb)
        if latency is not None:
            figures["latency_ms"] = latency
            if last is not None and not result.reset:
                figures["staleness_ms"] = latency + (result.stamp - last) * 1e3
        figures["dropped"] = self.health.dropped
        values = {**figures, "reset": result.reset or None}
        line = messages.status(f"{self.path}: consistency", self.hardware, health.OK, "", values)
        self.send(self.consistency, DiagnosticArray(header=message.header, status=[line]))
        if self.flicker.get_subscription_count():
            self.send(self.flicker, messages.to_image(message.header, heat(self.meter.flicker_map, RING)))
        encoding = message.format if isinstance(message, CompressedImage) else message.encoding
        self.health.answered(encoding, result, latency, figures)

    def refuse(self, reason: str, once: str = "") -> None:
        """Count an unusable image; log it now and then, or once per unknown encoding."""
        self.health.refused(reason)
        if once and once not in self.health.unknown_encodings:
            self.get_logger().error(f"image refused: {reason}")
        elif not once:
            self.get_logger().warning(f"image skipped: {reason}", throttle_duration_sec=LOG_PERIOD)
        self.health.unknown_encodings.update({once} if once else ())

    # Once a second

    def on_second(self) -> None:
        state = self.state()
        if state == "active":
            self.watch_input()
        self.health.fallback = self.start.problem if self.start else ""
        window = self.health.next_window()
        lines = health.report(self.path, self.hardware, state, self.error, self.config, self.health, window)
        header = Header(stamp=self.get_clock().now().to_msg())
        self.diagnostics.publish(DiagnosticArray(header=header, status=lines))

    def watch_input(self) -> None:
        """Say once why no image comes, and once that they are back."""
        quiet = time.monotonic() - self.health.last_image
        if quiet > self.config.image_timeout:
            images = [item for item in self.images if self.count_publishers(item.topic_name)]
            image = (images or self.images)[0]
            kind = f"sensor_msgs/msg/{image.msg_type.__name__}"
            seen = self.health.received
            cause = health.silence_cause(self, image.topic_name, kind, image.qos_profile, seen)
            if cause != self.health.silence:
                self.get_logger().warning(f"no image for {quiet:.0f} s: {cause}")
            self.health.silence = cause
        elif self.health.silence:
            self.health.silence = ""
            self.get_logger().info("images arrive again")


def answer_always(callback: Any) -> Any:
    """Refuse an invalid transition; Humble and Jazzy raise out of the service and leave its caller waiting."""

    def change_state(request: Any, response: Any) -> Any:
        try:
            return callback(request, response)
        except RuntimeError:  # RCLError
            response.success = False
            return response

    return change_state


def make_node() -> SegmentNode:
    return SegmentNode()


def main(args: list[str] | None = None) -> int:
    return run.segment(args)


if __name__ == "__main__":
    raise SystemExit(main())
