"""Options of the nodes: those of the network that runs in them, and of what comes in and goes out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields

from vss_ros.config import (
    CAMERA,
    InputConfig,
    RuntimeConfig,
    StreamConfig,
    VssError,
    option,
    warning,
)
from vss_ros.data.figures import FIGURES

SEGMENT_TOPICS = (
    "mask",
    "mask/compressed",
    "confidence",
    "color_mask",
    "overlay",
    "overlay/compressed",
    "image",
    "flicker",
    "camera_info",
    "label_info",
    "label_info_json",
    "consistency",
)
COUNT_TOPICS = ("points", "count", "counts", "density", "overlay", "camera_info")
"""What the nodes publish, below their names."""
DROPPED = "share of the images dropped because the network was busy, or lost before"
DISAGREEMENT = "difference of the counts by points and by density, as a share of the greater one"


@dataclass(frozen=True)
class NodeConfig(RuntimeConfig, InputConfig):
    """What every node that runs a network on a camera's images asks."""

    cameras: tuple[str, ...] = option(
        (),
        "names of several cameras, such as [front, left]: image and camera_info are read and all answers published "
        "below each name, by one network; empty: one camera without a name",
    )
    transport: str = option("raw", "message type of the image topic", choices=("raw", "compressed"))
    undistort: bool = option(
        False,
        "rectify each image by its camera_info before the network; mask and camera_info are rectified, too",
    )
    image_timeout: float = option(
        5.0,
        "seconds without an image after which the node warns and says why",
        low=0.1,
        high=3600.0,
        runtime=True,
    )
    overlay_alpha: float = option(0.5, "opacity of the classes in ~/overlay", low=0.0, high=1.0, runtime=True)
    latency_warn: float = warning(0.5, "seconds from image stamp to mask", 60.0)
    latency_error: float = warning(2.0, "seconds from image stamp to mask", 3600.0)
    mask_age_warn: float = warning(1.0, "seconds without a new mask while images arrive", 3600.0)
    mask_age_error: float = warning(5.0, "seconds without a new mask while images arrive", 3600.0)
    drop_warn: float = warning(0.5, DROPPED)
    drop_error: float = warning(0.95, DROPPED)
    allow_fallback: bool = option(
        False, "run on torch with CUDA, or on the CPU, while backend tensorrt has no engines"
    )
    build_on_start: bool = option(
        False, "build missing engines beside the fallback and switch over to them between two frames"
    )
    autostart: bool = option(False, "configure and activate at start, without a lifecycle manager")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.cameras:
            if not isinstance(name, str) or not CAMERA.fullmatch(name) or self.cameras.count(name) > 1:
                raise VssError(
                    "cameras: expected names of letters, digits and _ that begin with a letter, each once; "
                    f"got {', '.join(map(repr, self.cameras))}"
                )
        if self.build_on_start and not (self.allow_fallback and self.backend == "tensorrt"):
            raise VssError(
                "build_on_start: needs allow_fallback and backend tensorrt; to build before the start, run `vss build`"
            )
        for item in fields(self):
            name = item.name.removesuffix("_warn")
            if name != item.name and getattr(self, item.name) > getattr(self, f"{name}_error"):
                high = getattr(self, f"{name}_error")
                raise VssError(
                    f"{item.name}: expected at most {name}_error ({high}), got {getattr(self, item.name)}"
                )


@dataclass(frozen=True)
class SegmentConfig(StreamConfig, NodeConfig):
    """Options of the `segment` node."""

    schedule: str = dataclasses.field(
        default="auto",
        metadata={**StreamConfig.__dataclass_fields__["schedule"].metadata, "inactive": True},
    )
    network_age_warn: float = warning(0.5, "age in seconds of the newest frame that the network saw", 60.0)
    network_age_error: float = warning(2.0, "age in seconds of the newest frame that the network saw", 3600.0)
    label_change_warn: float = warning(0.2, FIGURES["label_change"].title)
    label_change_error: float = warning(0.6, FIGURES["label_change"].title)
    flicker_warn: float = warning(0.05, FIGURES["flicker"].title)
    flicker_error: float = warning(0.2, FIGURES["flicker"].title)
    refresh_jump_warn: float = warning(0.1, FIGURES["refresh_jump"].title)
    refresh_jump_error: float = warning(0.3, FIGURES["refresh_jump"].title)
    constant_network: bool = option(
        False, "replace the network by a constant answer: measures the cost of everything around it"
    )


@dataclass(frozen=True)
class CountConfig(NodeConfig):
    """Options of the `count` node, and of `stream.count.load_counter`."""

    model: str = option(
        "street_count", "name of a counting model in models/, or the path of a model card (.yaml)"
    )
    score: float = option(
        0.35, "least score of an object, as in the published evaluation", low=0.0, high=1.0, runtime=True
    )
    overlap: int = option(
        32,
        "pixels, rounded down to 16, that neighbouring patches share, so that what lies on a border is seen whole",
        low=0,
        high=128,
    )
    patches: int = option(
        0,
        "patches of an image that one frame answers, in turn; points of the others move along; 0: all",
        low=0,
        high=1000,
        runtime=True,
    )
    smooth: int = option(5, "frames whose median count is count_smoothed", low=1, high=1000, runtime=True)
    disagreement_warn: float = warning(0.5, DISAGREEMENT)
    disagreement_error: float = warning(1.0, DISAGREEMENT)
