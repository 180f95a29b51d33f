"""What the segment node reports about itself: counters, /diagnostics, and why no image arrives."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

from vss_ros.config import SegmentConfig, share_dir
from vss_ros.nodes.messages import status

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


# consistency figure: what a second's mean says, and what to do where it is too high
ADVICE = {
    "label_change": (
        "{:.1%} of labels change a frame",
        "lower interval, or check exposure, focus and frame rate",
    ),
    "flicker": (
        "{:.1%} flicker",
        "look where on ~/flicker; check exposure and focus, or take a steadier model",
    ),
    "refresh_jump": ("keyframes change {:.1%} more", "lower interval, or set policy to consistency"),
}


@dataclass
class Window:
    """What happened since the last report."""

    since: float = field(default_factory=time.monotonic)
    received: int = 0
    latency_ms: list[float] = field(default_factory=list)
    key_ms: list[float] = field(default_factory=list)
    nonkey_ms: list[float] = field(default_factory=list)
    dropped: int = 0
    figures: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in ADVICE})
    problems: list[str] = field(default_factory=list)
    """Why images were unusable, each reason once."""
    failure: str = ""
    """The last exception of the network."""


@dataclass
class Health:
    """Counters since activation, and the window; the callback and the worker write, the timer reads."""

    received: int = 0
    processed: int = 0
    dropped: int = 0
    unusable: int = 0
    failed: int = 0
    unpublished: int = 0
    resets: int = 0
    encoding: str = ""
    size: tuple[int, int] = (0, 0)
    last_image: float = field(default_factory=time.monotonic)
    waiting: float | None = None
    """When the first image came that is not answered yet."""
    silence: str = ""
    fallback: str = ""
    """Why another backend answers than the one that is configured."""
    unknown_encodings: set[str] = field(default_factory=set)
    window: Window = field(default_factory=Window)

    def arrived(self) -> None:
        self.received += 1
        self.window.received += 1
        self.last_image = time.monotonic()
        if self.waiting is None:
            self.waiting = self.last_image

    def skipped(self) -> None:
        self.dropped += 1
        self.window.dropped += 1

    def refused(self, reason: str) -> None:
        self.unusable += 1
        self.waiting = None
        if reason not in self.window.problems:
            self.window.problems.append(reason)

    def answered(self, encoding: str, result: Any, latency: float | None, figures: dict[str, Any]) -> None:
        self.processed += 1
        self.waiting = None
        self.encoding, self.size = encoding, result.labels.shape
        window = self.window
        (window.key_ms if result.is_keyframe else window.nonkey_ms).append(result.times["total"])
        if latency is not None:
            window.latency_ms.append(latency)
        for name in ADVICE.keys() & figures.keys():
            window.figures[name].append(figures[name])

    def next_window(self) -> Window:
        """The window that ends now."""
        ended, self.window = self.window, Window()
        return ended


def report(
    node: str, hardware: str, state: str, error: str, config: SegmentConfig, health: Health, window: Window
) -> list[DiagnosticStatus]:
    """The node's lines of /diagnostics: lifecycle always, the others once it is active."""
    level = ERROR if error else OK
    lines = [status(f"{node}: lifecycle", hardware, level, error or state, {"state": state})]
    if state != "active":
        return lines
    lines.append(input_status(node, hardware, health, window))
    lines.append(network_status(node, hardware, config, health, window))
    lines.append(consistency_status(node, hardware, config, window))
    return lines


def input_status(node: str, hardware: str, health: Health, window: Window) -> DiagnosticStatus:
    rate = window.received / max(time.monotonic() - window.since, 1e-3)
    level, message = OK, f"{rate:.1f} images/s"
    if health.silence:
        level, message = ERROR, health.silence
    elif window.problems:
        level, message = (
            (WARN if window.key_ms or window.nonkey_ms else ERROR),
            "; ".join(window.problems[:3]),
        )
    values = {
        "rate_hz": rate,
        "received": health.received,
        "dropped": health.dropped,
        "unusable": health.unusable,
        "encoding": health.encoding,
        "size": f"{health.size[1]}x{health.size[0]}",
        "resets": health.resets,
    }
    return status(f"{node}: input", hardware, level, message, values)


def network_status(
    node: str, hardware: str, config: SegmentConfig, health: Health, window: Window
) -> DiagnosticStatus:
    latency = median(window.latency_ms)
    waiting = health.waiting
    age = time.monotonic() - waiting if waiting is not None else 0.0
    drops = window.dropped / max(window.received, 1)
    level, message = OK, f"{len(window.key_ms)} key and {len(window.nonkey_ms)} non-key frames"
    faster = "raise interval, lower height and width, or choose a faster backend"
    if window.failure:
        level, message = ERROR, f"{window.failure}; set another backend, or report it with the log"
    elif latency is not None and latency > 3.6e6:
        level = WARN
        message = f"stamps are {latency / 3.6e6:.0f} h old: a recorded bag needs use_sim_time and --clock"
    else:
        alarms = [
            (WARN if health.fallback else OK, health.fallback),
            alarm(config, "mask_age", age, f"no mask for {age:.1f} s while images arrive: {faster}"),
            alarm(config, "latency", (latency or 0) / 1e3, f"latency {latency or 0:.0f} ms: {faster}"),
            alarm(config, "drop", drops, f"{drops:.0%} of the images dropped: {faster}"),
        ]
        level, message = worst([(level, message), *alarms])
    values = {
        "model": config.model,
        "backend": config.backend,
        "policy": config.policy,
        "latency_ms": latency,
        "unanswered_s": age,
        "drop_share": drops,
        "key_ms": median(window.key_ms),
        "nonkey_ms": median(window.nonkey_ms),
        "processed": health.processed,
        "failed": health.failed,
        "unpublished": health.unpublished,
    }
    return status(f"{node}: network", hardware, level, message, values)


def consistency_status(node: str, hardware: str, config: SegmentConfig, window: Window) -> DiagnosticStatus:
    means = {name: float(np.mean(values)) for name, values in window.figures.items() if values}
    said = [ADVICE[name][0].format(mean) for name, mean in means.items()]
    alarms = [
        alarm(config, name, mean, f"{ADVICE[name][0].format(mean)}: {ADVICE[name][1]}")
        for name, mean in means.items()
    ]
    level, message = worst([(OK, ", ".join(said) or "no frame pairs"), *alarms])
    return status(f"{node}: consistency", hardware, level, message, means)


def alarm(config: SegmentConfig, name: str, value: float, message: str) -> tuple[bytes, str]:
    """Level of a value by the thresholds NAME_warn and NAME_error, and the message with the one it is above."""
    for level, kind in ((ERROR, "error"), (WARN, "warn")):
        threshold = getattr(config, f"{name}_{kind}")
        if value > threshold:
            return level, f"{message} ({name}_{kind} is {threshold:g})"
    return OK, ""


def worst(alarms: list[tuple[bytes, str]]) -> tuple[bytes, str]:
    """The greatest level, and every message of that level."""
    level = max(level for level, _ in alarms)
    return level, "; ".join(message for of, message in alarms if of == level and message)


def median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def silence_cause(node: Node, topic: str, kind: str, qos: QoSProfile, received: int) -> str:
    """The likely cause of no images of type `kind` on `topic` (resolved name), and what to do."""
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        others = sorted(
            name
            for name, kinds in node.get_topic_names_and_types()
            if kind in kinds
            and any(info.node_name != node.get_name() for info in node.get_publishers_info_by_topic(name))
        )
        there = f"; published images: {', '.join(others)}" if others else f"; no node publishes {kind}"
        gone = (
            "the camera's node is gone, restart it" if received else "remap image:=TOPIC or start the camera"
        )
        return f"no publisher on {topic}: {gone}{there}"
    kinds = sorted({info.topic_type for info in publishers})
    if kind not in kinds:
        transport = "compressed" if "sensor_msgs/msg/CompressedImage" in kinds else "raw"
        fix = f"set transport:={transport}" if "Image" in kinds[0] else "remap image:= to a camera's topic"
        return f"{topic} carries {', '.join(kinds)}, expected {kind}: {fix}"
    refusals = [
        reason.strip()
        for info in publishers
        if info.topic_type == kind
        for verdict, reason in [qos_check_compatible(info.qos_profile, qos)]
        if verdict == QoSCompatibility.ERROR
    ]
    if len(refusals) == sum(info.topic_type == kind for info in publishers):
        return f"incompatible QoS on {topic}: {refusals[0]} set qos_overrides.{topic}.subscription.*"
    if received:
        return f"the camera on {topic} stopped: its publisher is there but sends nothing"
    profile = share_dir() / "config" / "fastdds.xml"
    return (
        f"a compatible publisher is on {topic} but nothing arrives: it sends nothing, or Fast DDS loses "
        f"images above 512 kB; set FASTDDS_DEFAULT_PROFILES_FILE={profile} (Humble, Jazzy: "
        "FASTRTPS_DEFAULT_PROFILES_FILE) for both processes, or publish reliably"
    )
