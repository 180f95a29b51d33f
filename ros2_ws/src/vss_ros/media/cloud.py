"""A depth image and class labels as organised, labelled points, in the camera's optical frame (REP 103: z forward)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vss_ros.config import IGNORE, VssError, check, option
from vss_ros.media.image_size import ImageError

POINT = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("confidence", "<f4"), ("rgb", "<u4"), ("label", "<u4")]
)
"""x, y, z in metres; rgb as PCL packs it, 0x00RRGGBB; label: class id, 255 = unlabelled; confidence in 0–1. The
types are those of PCL's PointXYZRGBL."""
# rgb and label of a point at once, since both follow from its class
_CLASS = np.dtype({"names": ["class"], "formats": ["<u8"], "offsets": [16], "itemsize": POINT.itemsize})
_DEPTHS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}


@dataclass(frozen=True)
class CloudConfig:
    """Options of the `cloud` node."""

    classes: tuple[str, ...] = option((), "names of the classes whose points stay; empty: all")
    stride: int = option(1, "every how many rows and columns of the mask there is a point", low=1, high=64)
    near: float = option(0.1, "metres along z from which points stay", low=0.0, high=1e3)
    far: float = option(20.0, "metres along z up to which points stay", low=0.0, high=1e6)
    tolerance: float = option(
        0.05, "seconds that the stamps of mask and depth may lie apart", low=0.0, high=10.0
    )
    confidence: bool = option(
        True, "ask the segment node for each pixel's confidence; false saves it that work: 1 everywhere"
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.near < self.far:
            raise VssError(f"near: expected less than far ({self.far}), got {self.near}")


def depth_of(message: Any) -> np.ndarray:
    """(H, W) float32 metres of an Image with depth (REP 118): 16UC1 in millimetres or 32FC1 in metres.

    0 or NaN where the sensor measured nothing, as it came; may be a view of the message. Raises ImageError.
    """
    kind, height, width, step = message.encoding, message.height, message.width, message.step
    if kind not in _DEPTHS:
        raise ImageError(f"depth of encoding {kind!r}: expected 16UC1 (millimetres) or 32FC1 (metres)")
    dtype = np.dtype(_DEPTHS[kind]).newbyteorder(">" if message.is_bigendian else "<")
    data, row = np.frombuffer(message.data, np.uint8), width * dtype.itemsize
    if height < 1 or width < 1 or step < row or data.size < height * step:
        raise ImageError(
            f"depth of {width}x{height} pixels, {kind}: expected {height} rows of at least {row} bytes, got "
            f"{data.size} bytes in rows of {step}"
        )
    rows = data[: height * step].reshape(height, step)[:, :row]
    depth = rows.view(dtype) if step == row else np.ascontiguousarray(rows).view(dtype)
    return depth * np.float32(1e-3) if dtype.kind == "u" else depth.astype(np.float32, copy=False)


class CloudMaker:
    """Points of one camera's frames.

    classes, palette: names of the labels and one [r, g, b] each. Points that do not stay are NaN: the cloud keeps the
    mask's shape. Raises VssError where `config.classes` names none of `classes`.
    """

    def __init__(
        self, classes: Sequence[str], palette: Sequence[Sequence[int]], config: CloudConfig | None = None
    ) -> None:
        self.config = config or CloudConfig()
        ids = {name: number for number, name in enumerate(classes)} | {"unlabelled": IGNORE}
        unknown = sorted(set(self.config.classes) - set(ids))
        if unknown:
            raise VssError(f"classes: {', '.join(unknown)}: expected some of {', '.join(ids)}")
        colours = np.zeros(256, np.uint64)
        rgb = np.reshape(palette, (-1, 3)).astype(np.uint64)
        colours[: len(rgb)] = rgb @ np.array([1 << 16, 1 << 8, 1], np.uint64)
        self.of_class = colours | np.arange(256, dtype=np.uint64) << np.uint64(32)
        self.kept = np.full(256, not self.config.classes)
        self.kept[[ids[name] for name in self.config.classes]] = True

    def shape(self, labels: np.ndarray) -> tuple[int, int]:
        """(rows, columns) of the cloud for a mask."""
        height, width = labels.shape
        return -(-height // self.config.stride), -(-width // self.config.stride)

    def __call__(
        self,
        depth: np.ndarray,
        labels: np.ndarray,
        k: Any,
        confidence: np.ndarray | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """(rows, columns) of POINT for one frame.

        depth: (h, w) float32 metres, of the mask's view but in any size; labels: (H, W) uint8; k: CameraInfo's K for
        the mask's size, of a rectified image; confidence: (H, W) uint8, None for 1 everywhere; out: memory to use.
        """
        (height, width), s = labels.shape, self.config.stride
        fx, _, cx, _, fy, cy = np.asarray(k, np.float64).ravel()[:6]
        if not (fx > 0 and fy > 0):
            raise ImageError("camera_info: K is zero, the camera is not calibrated; a cloud needs its K")
        out = np.empty(self.shape(labels), POINT) if out is None else out
        v, u = np.arange(0, height, s), np.arange(0, width, s)
        if depth.shape != labels.shape:
            z = depth[v[:, None] * depth.shape[0] // height, u[None] * depth.shape[1] // width]
        else:
            z = depth[::s, ::s]
        labels = labels[::s, ::s]
        stays = (z >= np.float32(max(self.config.near, 1e-6))) & (z <= np.float32(self.config.far))
        if self.config.classes:
            stays &= np.take(self.kept, labels)
        z = np.where(stays, z, np.float32(np.nan))
        np.multiply(z, ((u - cx) / fx).astype(np.float32), out=out["x"])
        np.multiply(z, ((v - cy) / fy).astype(np.float32)[:, None], out=out["y"])
        out["z"] = z
        out.view(_CLASS)["class"] = np.take(self.of_class, labels)
        if confidence is None:
            out["confidence"] = 1.0
        else:
            np.multiply(confidence[::s, ::s], np.float32(1 / 255), out=out["confidence"])
        return out
