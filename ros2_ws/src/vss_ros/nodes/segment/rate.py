"""Schedule auto once the camera is known: chosen anew by the rate at which its images really come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vss_ros.nodes.segment.camera import Camera
from vss_ros.nodes.segment.health import Window
from vss_ros.stream.keyframes import make_policy

ENOUGH = 2.0
"""Seconds between the first and the last stamp after which a camera's period is believed."""


class Rate:
    """Looks at the cameras' periods once a second until all that send images are known, and again once another one
    begins to: that is more work, so that no schedule flaps.

    The costs measured at the start are first made those of the answers of that second, which other processes on the
    machine slow down.
    """

    def __init__(self, cameras: Sequence[Camera], start: Any) -> None:
        self.cameras, self.start = cameras, start
        self.auto: Any = getattr(cameras[0].stream, "auto", None)
        self.counted = 0
        """Cameras by whose rate the schedule is chosen."""

    def look(self, windows: Sequence[Window]) -> str:
        """What the log is to say, once a choice. windows: of the last second, one a camera."""
        if self.auto is None or self.auto.costs is None or self.start.problem:
            return ""
        if self.cameras[0].stream.schedule != self.auto.schedule:
            return ""  # what was chosen before is being opened
        rhythms = [camera.health.rhythm for camera in self.cameras if camera.health.received]
        if len(rhythms) <= self.counted:
            return ""
        if not all(rhythm.period and rhythm.seconds >= ENOUGH for rhythm in rhythms):
            return ""
        self.counted = len(rhythms)
        rate = sum(1 / rhythm.period for rhythm in rhythms if rhythm.period)
        before = self.auto
        answers = [answer for window in windows for answer in window.answers]
        slower = slowdown(before, answers)
        interval = make_policy(self.start.config, 0).longest
        auto = before.costs.times(slower).choose(interval, 1 / rate)
        self.auto = auto = replace(auto, why=f"images come at {rate:.1f} Hz, {auto.why}")
        if auto.schedule != before.schedule:
            self.start.reschedule(auto)
            return f"schedule {auto.schedule} instead of {before.schedule}: {auto.why}"
        for camera in self.cameras:
            camera.stream.auto, camera.health.schedule_reason = auto, auto.why
        return f"schedule {before.schedule} stays: {auto.why}"


def slowdown(auto: Any, answers: Sequence[Any]) -> float:
    """How many times as long as measured at the start the answers take, at least 1."""
    if auto.schedule == "beside":
        return 1.0  # its answers do not wait for the network
    waits = auto.schedule == "at_once"
    spent = [answer.spent for answer in answers if answer.is_keyframe or not waits]
    return (
        max(float(np.median(spent)) / (auto.costs.key if waits else auto.costs.nonkey), 1.0) if spent else 1.0
    )
