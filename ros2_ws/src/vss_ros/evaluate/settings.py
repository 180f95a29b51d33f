"""What `vss evaluate` is asked to compare: keyframe policies, their settings, modes; and how far it can be believed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from vss_ros.config import VssError

POLICIES = ("fixed", "adaptive", "consistency")  # adaptive also as aks, its paper's name

STREAM_OPTIONS = ("motion", "between", "steady", "schedule", "delay", "parts")
"""Of StreamConfig, one for all rows."""


LONGEST = 30
"""Default of --max-interval: a policy that chooses by itself is shown as it does."""


def flattery(card: Any, data: str, split: str) -> list[str]:
    """A remark where the model has seen what it is measured on."""
    if split not in ("train", "val") or not str(card.training.get("data", "")).startswith(data):
        return []
    role = "trained on" if split == "train" else "used to choose the checkpoint"
    return [f"{data} {split} was {role}: the figures flatter the model"]


def variants(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(what to call the setting, its stream options, mode) of all that are to be compared."""
    modes = parse_modes(args.mode)
    for setting, options in settings(args):
        for mode in modes:
            if setting != "K = 1" or mode == "P" or "P" not in modes:  # K = 1 in B mode is the same as in P
                yield setting, options, mode


def settings(args: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """What to call each setting of each policy, and its stream options; one without a name if none is asked for."""
    if not args.k and args.policy == "fixed":
        return [("", {})]  # the network's own interval
    found: list[tuple[str, dict[str, Any]]] = []
    for policy in args.policy.split(","):
        policy = {"aks": "adaptive"}.get(policy, policy)
        if policy not in POLICIES:
            raise VssError(
                f"--policy: expected some of {', '.join(POLICIES)} with commas; got {args.policy!r}"
            )
        if policy == "fixed":
            found += [(f"K = {k}", {"policy": policy, "interval": k}) for k in parse_intervals(args.k)]
            continue
        field, values = (
            ("threshold", args.thresholds) if policy == "adaptive" else ("drift_threshold", args.drifts)
        )
        for value in parse_thresholds(values):
            intervals = {"min_interval": args.min_interval, "max_interval": args.max_interval}
            options = {"policy": policy, field: value, **intervals}
            found.append((f"≥ {value:g}", options))
    return found


def parse_thresholds(text: str) -> list[float]:
    try:
        thresholds = [float(part) for part in text.split(",")]
    except ValueError:
        thresholds = []
    if not thresholds or not min(thresholds) >= 0:
        raise VssError(
            f"--thresholds, --drifts: expected numbers of at least 0 with commas, such as 0.2,0.5; got {text!r}"
        )
    return thresholds


def parse_intervals(text: str) -> list[int]:
    try:
        intervals = [int(part) for part in text.split(",")]
    except ValueError:
        intervals = []
    if not intervals or min(intervals) < 1:
        raise VssError(f"--k: expected whole numbers of at least 1 with commas, such as 1,2,5; got {text!r}")
    return intervals


def parse_modes(text: str) -> list[str]:
    modes = text.split(",")
    if not set(modes) <= {"P", "B"}:
        raise VssError(f"--mode: expected P, B or P,B; got {text!r}")
    return modes
