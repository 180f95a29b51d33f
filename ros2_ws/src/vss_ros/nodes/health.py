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


@dataclass
class Window:
    """What happened since the last report."""

    since: float = field(default_factory=time.monotonic)
    received: int = 0
    latency_ms: list[float] = field(default_factory=list)
    key_ms: list[float] = field(default_factory=list)
    nonkey_ms: list[float] = field(default_factory=list)
    label_change: list[float] = field(default_factory=list)
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
    silence: str = ""
    unknown_encodings: set[str] = field(default_factory=set)
    window: Window = field(default_factory=Window)

    def arrived(self) -> None:
        self.received += 1
        self.window.received += 1
        self.last_image = time.monotonic()

    def refused(self, reason: str) -> None:
        self.unusable += 1
        if reason not in self.window.problems:
            self.window.problems.append(reason)

    def answered(self, encoding: str, result: Any, latency: float | None, change: float | None) -> None:
        self.processed += 1
        self.encoding, self.size = encoding, result.labels.shape
        window = self.window
        (window.key_ms if result.is_keyframe else window.nonkey_ms).append(result.times["total"])
        if latency is not None:
            window.latency_ms.append(latency)
        if change is not None:
            window.label_change.append(change)

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
    level, message = OK, f"{len(window.key_ms)} key and {len(window.nonkey_ms)} non-key frames"
    if window.failure:
        level, message = ERROR, f"{window.failure}; set another backend, or report it with the log"
    elif latency is not None and latency > 3.6e6:
        level = WARN
        message = f"stamps are {latency / 3.6e6:.0f} h old: a recorded bag needs use_sim_time and --clock"
    elif latency is not None and latency > config.latency_warn * 1e3:
        level = WARN
        message = (
            f"latency {latency:.0f} ms, above {config.latency_warn * 1e3:.0f}: raise interval, "
            "lower height and width, or choose a faster backend"
        )
    values = {
        "model": config.model,
        "backend": config.backend,
        "policy": config.policy,
        "latency_ms": latency,
        "key_ms": median(window.key_ms),
        "nonkey_ms": median(window.nonkey_ms),
        "processed": health.processed,
        "failed": health.failed,
        "unpublished": health.unpublished,
    }
    return status(f"{node}: network", hardware, level, message, values)


def consistency_status(node: str, hardware: str, config: SegmentConfig, window: Window) -> DiagnosticStatus:
    change = float(np.mean(window.label_change)) if window.label_change else None
    level, message = OK, "no frame pairs" if change is None else f"{change:.1%} of labels change a frame"
    if change is not None and change > config.label_change_warn:
        level = WARN
        message += f", above {config.label_change_warn:.1%}: lower interval, or check exposure and focus"
    return status(f"{node}: consistency", hardware, level, message, {"label_change": change})


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
