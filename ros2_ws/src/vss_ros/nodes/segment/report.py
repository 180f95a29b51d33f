"""A camera's counters as lines of /diagnostics: what is wrong, and what to do."""

from __future__ import annotations

import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

from vss_ros.config import share_dir
from vss_ros.node_config import NodeConfig, SegmentConfig
from vss_ros.nodes.segment.health import Health, Window
from vss_ros.nodes.segment.publish import status

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
SKEW = 0.02
"""Seconds by which an image's stamp may be ahead of this machine's clock."""
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


def lifecycle(node: str, hardware: str, state: str, error: str, doing: str = "") -> DiagnosticStatus:
    return status(
        f"{node}: lifecycle", hardware, ERROR if error else OK, error or doing or state, {"state": state}
    )


def camera(
    name: str, hardware: str, config: NodeConfig, health: Health, window: Window
) -> list[DiagnosticStatus]:
    """The lines of one camera's input and network while the node is active."""
    return [
        input_status(name, hardware, config, health, window),
        network_status(name, hardware, config, health, window),
    ]


def input_status(
    name: str, hardware: str, config: NodeConfig, health: Health, window: Window
) -> DiagnosticStatus:
    received = len(window.stamps)
    rate = received / max(time.monotonic() - window.since, 1e-3)
    lost = health.rhythm.take(window.stamps)
    period, quiet = health.rhythm.period, time.monotonic() - health.last_image
    level, message = OK, f"{rate:.1f} images/s"
    if health.silence:
        level, message = ERROR, health.silence
    elif window.problems:
        level, message = (WARN if window.answers else ERROR), "; ".join(window.problems[:3])
    elif not received and quiet > 2.5 * (period or 0.4):
        level, message = WARN, f"no image for {quiet:.1f} s"
    elif lost:
        share = lost / (lost + received)
        where = "before the node: see docs/RELIABILITY.md, shared memory and network"
        level, found = alarm(config, "drop", share, f"{share:.0%} of the images lost {where}")
        message = found or message
    values = {
        "rate_hz": rate,
        "rhythm_hz": 1 / period if period else None,
        "received": health.received,
        "lost": health.rhythm.lost if period or health.rhythm.lost else None,
        "dropped": health.dropped,
        "unusable": health.unusable,
        "encoding": health.encoding,
        "size": f"{health.size[1]}x{health.size[0]}",
        "resets": health.resets,
    }
    return status(f"{name}: input", hardware, level, message, values)


def network_status(
    name: str, hardware: str, config: NodeConfig, health: Health, window: Window
) -> DiagnosticStatus:
    latency = median([answer.latency for answer in window.answers if answer.latency is not None])
    key = [answer.spent for answer in window.answers if answer.is_keyframe]
    nonkey = [answer.spent for answer in window.answers if not answer.is_keyframe]
    network_age = median([answer.figures.get("network_age_ms", 0.0) for answer in window.answers]) or 0.0
    waiting = health.waiting
    age = time.monotonic() - waiting if waiting is not None else 0.0
    drops = window.dropped / max(len(window.stamps), 1)
    level, message = OK, f"{len(key)} key and {len(nonkey)} non-key frames"
    faster = "raise interval, lower height and width, or choose a faster backend"
    if window.failure:
        level, message = ERROR, f"{window.failure}; set another backend, or report it with the log"
    elif latency is not None and latency > 3.6e6:
        level = WARN
        message = f"stamps are {latency / 3.6e6:.0f} h old: a recorded bag needs use_sim_time and --clock"
    else:
        inside = (
            f"; the network has been computing one for {health.hang:.0f} s: a hang?"
            if health.hang > 1
            else ""
        )
        unanswered = f"no mask for {age:.1f} s while images arrive{inside}: {faster}"
        alarms = [
            (WARN if health.fallback else OK, health.fallback),
            alarm(config, "mask_age", age, unanswered),
            future(config, latency),
            alarm(config, "latency", (latency or 0) / 1e3, f"latency {latency or 0:.0f} ms: {faster}"),
            old(config, network_age, faster),
            alarm(config, "drop", drops, f"{drops:.0%} of the images dropped: {faster}"),
        ]
        level, message = worst([(level, message), *alarms])
    values = {
        "model": config.model,
        "backend": health.backend,
        "policy": getattr(config, "policy", None),
        "schedule": health.schedule,
        "schedule_reason": health.schedule_reason or None,
        "network_age_ms": network_age,
        "latency_ms": latency,
        "unanswered_s": age,
        "drop_share": drops,
        "key_ms": median(key),
        "nonkey_ms": median(nonkey),
        "processed": health.processed,
        "failed": health.failed,
        "unpublished": health.unpublished,
    }
    return status(f"{name}: network", hardware, level, message, values)


def old(config: NodeConfig, age: float, faster: str) -> tuple[bytes, str]:
    """Masks that are moved from an answer of long ago. age: in milliseconds, 0 where none is moved."""
    if not age:
        return OK, ""
    return alarm(
        config, "network_age", age / 1e3, f"masks are moved from an answer {age:.0f} ms old: {faster}"
    )


def future(config: NodeConfig, latency: float | None) -> tuple[bytes, str]:
    """A mask that is published before its image was taken: two clocks that disagree."""
    ahead = -(latency or 0.0) / 1e3
    if ahead <= SKEW:
        return OK, ""
    level = ERROR if ahead > config.latency_error else WARN
    return (
        level,
        f"stamps are {ahead:.3g} s ahead of this machine's clock: synchronise the clocks (chrony, PTP)",
    )


def consistency_status(name: str, hardware: str, config: SegmentConfig, window: Window) -> DiagnosticStatus:
    figures = {key: [a.figures[key] for a in window.answers if key in a.figures] for key in ADVICE}
    means = {key: float(np.mean(values)) for key, values in figures.items() if values}
    said = [ADVICE[key][0].format(mean) for key, mean in means.items()]
    alarms = [
        alarm(config, key, mean, f"{ADVICE[key][0].format(mean)}: {ADVICE[key][1]}")
        for key, mean in means.items()
    ]
    level, message = worst([(OK, ", ".join(said) or "no frame pairs"), *alarms])
    return status(f"{name}: consistency", hardware, level, message, means)


def alarm(config: NodeConfig, name: str, value: float, message: str) -> tuple[bytes, str]:
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
