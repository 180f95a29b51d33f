"""Every figure by name: what it is called, its unit and which direction is better; the only place that says so.

Tables, reports, plots, warnings and recordings read it; a figure that is not here is shown under its own name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """title: in words; unit: "%" is of a share, stored in 0…1; worse: 1 if more is worse, -1 if less is, 0 if neither.

    note: what the title leaves open, and the range. head: of its column, where its name would not do.
    """

    title: str
    unit: str = ""
    worse: int = 1
    note: str = ""
    head: str = ""


STAGES = (
    *("prepare", "flow", "encode", "remember", "drift", "move", "propagate", "decode", "join", "label"),
    *("part", "total"),
)
"""What a stream's time goes to, in the order of a frame's way."""
FRAME = {
    "label_change": Figure(
        "Labels that changed since the frame before", "%", note="0…1; motion counts as well"
    ),
    "motion_label_change": Figure(
        "The same along the optical flow",
        "%",
        note="0…1; pixels that it does not explain, such as occlusions, are left out",
    ),
    "flicker": Figure(
        "Labels that left for one frame and came back", "%", note="0…1; (A B A), hardly motion"
    ),
    "window_consistency_8": Figure(
        "Labels that stayed for 8 frames", "%", -1, note="0…1; VC_8 without truth"
    ),
    "window_consistency_16": Figure("Labels that stayed for 16 frames", "%", -1, note="0…1"),
    "area_jump": Figure(
        "Greatest relative change of a class's area",
        "%",
        note="|now - before| / the larger, 0…1; classes that are tiny in both frames are left out",
    ),
    "area_jump_class": Figure("Class of that change", worse=0),
    "area/<class>": Figure("Share of the frame that has this label", "%", 0, note="0…1"),
    "refresh_jump": Figure(
        "Label change that a keyframe caused",
        "%",
        note="of the last frame, a keyframe, less the mean of its two neighbours' that are not, -1…1; comes with the "
        "frame after the keyframe",
    ),
    "label_drift": Figure(
        "Labels that differ from the keyframe's",
        "%",
        note="moved along the motion, 0…1; policy consistency watches it",
    ),
    "input_drift": Figure(
        "Input's distance from the keyframe's",
        note="mean absolute difference, normalised, 0…; policy adaptive (AKS) watches it",
    ),
    "feature_drift": Figure(
        "Features' distance from the keyframe's",
        note="sum of absolute differences of the cheap features over the sum of the keyframe's, 0…",
    ),
    "keyframe": Figure("Keyframes", worse=0, note="1 if the frame is one, else 0"),
    "keyframe_age": Figure("Frames since the keyframe", "frames", note="that the answer reuses, 0…"),
    "keyframe_age_ms": Figure("Time since the keyframe", "ms", note="by the stamps, 0…"),
    "network_age_ms": Figure(
        "Time since the newest frame that the network saw", "ms", note="0…; above 0 the answer was moved"
    ),
    "motion_residual": Figure(
        "Difference to the frame before, moved along the flow", "grey levels", note="mean, 0…255"
    ),
    "motion_trusted": Figure("Frames that the flow explains", worse=-1, note="1, or 0 after a cut"),
    "<stage>_ms": Figure("Time of a stage", "ms", note="0…; of STAGES; total_ms is their sum"),
}  # fmt: skip
"""Of each frame (`stream.consistency`); one that is not known yet is left out of the frame."""
FIGURES = {
    "total_ms": Figure("Time a frame", "ms"),
    **FRAME,
    "latency_ms": Figure("From the image's stamp to its mask", "ms"),
    "staleness_ms": Figure("Age that the mask before reached", "ms"),
    "node_ms": Figure("From the image's arrival to its mask", "ms"),
    "mIoU": Figure("mIoU", "%", -1),
    "mIoU_in_force": Figure("mIoU of the newest mask at hand", "%", -1),
    "sIoU": Figure("mIoU of the newest mask at hand, at this machine's speed", "%", -1),
    "wIoU": Figure("IoU weighted by the classes' pixels", "%", -1),
    "accuracy": Figure("Pixels that are right", "%", -1),
    "mVC_8": Figure("Video consistency over 8 frames", "%", -1),
    "mVC_16": Figure("Video consistency over 16 frames", "%", -1),
    "TC": Figure("Temporal consistency along the flow", "%", -1),
    "agreement": Figure("Labels as those of float32", "%", -1),
    "keyframe_change": Figure(
        "Labels that changed at a keyframe",
        "%",
        note="0…1; how far it lies above the next is the refresh jump",
    ),
    "other_change": Figure("Labels that changed at any other frame", "%", note="0…1"),
    "drop_share": Figure("Frames that got no mask", "%"),
    "delay_ms": Figure("From the image's publication to its mask's arrival", "ms"),
    "stale_ms": Figure("Age of the newest mask when the frame was published", "ms"),
    "differs": Figure("Labels that differ from the offline answer of the same frame", "%"),
    "differs_in_force": Figure("Labels of the newest mask that differ from the offline answer", "%"),
    "frames": Figure("Frames answered", worse=0),
    "dropped": Figure("Frames without an answer"),
    "keyframes": Figure("Keyframes", worse=0),
    "interval": Figure("Frames a keyframe", worse=0, head="frames a keyframe"),
    "p50": Figure("Time a frame, median", "ms"),
    "p99": Figure("Time a frame that 99 of 100 keep", "ms"),
    "key": Figure("Time of a keyframe, median", "ms"),
    "nonkey": Figure("Time of another frame, median", "ms", head="non-key"),
    "key_ms": Figure("Time of a keyframe, median", "ms", head="key"),
    "nonkey_ms": Figure("Time of another frame, median", "ms", head="non-key"),
    "ms": Figure("Time a frame, mean", "ms", head="mean"),
    "MAE": Figure("Mean absolute error of the count", "objects"),
    "MSE": Figure("Root of the mean squared error of the count", "objects", head="MSE (its root)"),
    "NAE": Figure("Mean absolute error of the count, relative to it"),
}
PLOTS = (
    ("Latency", ("latency_ms", "node_ms", "total_ms"), True),
    ("Keyframe age", ("keyframe_age",), True),
    ("Age of what the network saw", ("network_age_ms",), True),
    ("Labels that change", ("label_change", "motion_label_change", "flicker"), True),
    ("Drift from the keyframe", ("label_drift", "input_drift", "feature_drift"), True),
    ("Steady pixels", ("window_consistency_8", "window_consistency_16"), False),
    ("Areas of the classes", ("area/<class>",), False),
    ("Keyframe age", ("keyframe_age_ms",), False),
    ("Time per stage", ("<stage>_ms",), False),
)
"""Of `vss watch`: figures that are of one kind, and whether they are shown without being asked for."""


def figure(name: str) -> Figure:
    """What the table says of a name; a figure that it does not have is called by its name."""
    kind = "area/<class>" if name.startswith("area/") else "<stage>_ms" if name.endswith("_ms") else name
    return FIGURES.get(name) or FIGURES.get(kind) or Figure(name)


def heading(name: str) -> str:
    """Of a table's column: the name, and the unit where it matters."""
    found = figure(name)
    unit = found.unit if found.unit in ("%", "ms") else ""
    return f"{found.head or name.removesuffix('_ms').removesuffix('ms')} {unit}".strip()


def shown(name: str, value: float | None) -> str:
    """A figure's value in a table, without the unit."""
    if value is None:
        return "–"
    if figure(name).unit == "%":
        return f"{100 * value:.2f}"
    return str(value) if isinstance(value, int) else f"{value:.2f}"
