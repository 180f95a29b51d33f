"""Counting over a stream of frames: patches answered in turn, points carried along in between, counts smoothed.

A large image never blocks: each frame answers only so many patches, the one longest unanswered first. What was found
in the others moves along the optical flow of `media.motion` until it is their turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vss_ros.config import VssError, replace
from vss_ros.media.motion import STRIDE, Motion, move_points
from vss_ros.node_config import CountConfig
from vss_ros.stream.frame import NotFinite, check_frame
from vss_ros.stream.load import RuntimeOptions, model_of, open_backend
from vss_ros.stream.tiles import Tiles

if TYPE_CHECKING:
    from typing_extensions import Unpack

FLOW_SIDE = 320
"""Pixels of the longer side of the images that the flow is estimated on, at most."""


@dataclass
class CountResult:
    """points: (N, 3) float32, column, row and score; density: (h, w) float32, objects in a cell of 8×8 pixels.

    count: how many points; by_density: the density's sum; smoothed: median count of the last frames, once the whole
    image was seen; coverage: share of the patches answered since the start; answered: patches of this frame;
    age: frames since the oldest of the answers was new.
    """

    points: np.ndarray
    density: np.ndarray
    smoothed: float
    coverage: float
    answered: int
    age: int
    stamp: float
    index: int
    reset: str = ""
    times: dict[str, float] = field(default_factory=dict)
    source: Any = None

    @property
    def count(self) -> int:
        return len(self.points)

    @property
    def by_density(self) -> float:
        return float(self.density.sum())

    @property
    def is_keyframe(self) -> bool:
        """Whether every patch is of this frame."""
        return self.age == 0


class CountStream:
    """`result = stream(rgb, stamp)` for the frames of one camera; rgb (H, W, 3) uint8 of any size, stamp in seconds."""

    schedule, owed = "at_once", None

    def __init__(self, backend: Any, card: Any, config: CountConfig):
        if backend.size[0] != backend.size[1] or backend.size[0] % 16:
            raise VssError(
                f"counting: expected square patches of a multiple of 16 pixels, got {backend.size}"
            )
        self.backend, self.card = backend, card
        self.measure_drift = False
        self.configure(config)
        self.reset()

    def configure(self, config: CountConfig) -> None:
        """Take the options that may change between two frames."""
        self.config = config

    def prepare(self, config: CountConfig) -> None:
        """There are no options of a counting stream that may change only while a node is inactive."""

    def another(self) -> CountStream:
        """A stream for one more camera, over the same backend."""
        return CountStream(self.backend, self.card, self.config)

    def reset(self) -> None:
        """Forget everything: the next frame is the first one."""
        self.index, self.why = 0, "first frame"
        self.tiles: Tiles | None = None
        self.last: float | None = None
        self.motion: Motion | None = None

    def begin(self, height: int, width: int) -> Tiles:
        patch = self.backend.size[0]
        tiles = Tiles(height, width, patch, min(self.config.overlap // 16 * 16, patch // 2))
        self.points = np.zeros((0, 3), np.float32)
        self.density = np.zeros(tiles.cells, np.float32)
        self.answered_at = [-1] * len(tiles)
        self.counts: deque[int] = deque(maxlen=1000)
        self.motion = Motion((height, width), min(0.5, FLOW_SIDE / max(height, width)))
        return tiles

    def feed(self, rgb: np.ndarray, stamp: float, source: Any = None, gap: float = 0.0) -> list[CountResult]:
        """`stream(rgb, stamp)` as a list, as `Stream.feed`; source comes back in the result."""
        result = self(rgb, stamp, gap)
        result.source = source
        return [result]

    def close(self) -> None:
        """It has no thread."""

    def run(self, frames: Iterable[tuple[np.ndarray, float]]) -> Iterator[CountResult]:
        """Answers for a whole clip of (rgb, stamp), one a frame."""
        for rgb, stamp in frames:
            yield self(rgb, stamp)

    def flush(self) -> list[CountResult]:
        return []

    def __call__(self, rgb: np.ndarray, stamp: float, gap: float = 0.0) -> CountResult:
        """Points and counts of a frame, at once. Raises VssError for what is no (H, W, 3) uint8 image or no time."""
        began = time.perf_counter()
        check_frame(rgb, stamp)
        why = self.starts_anew(rgb.shape[:2], stamp, gap)
        if not why and not self.follow(rgb):
            why = "a cut: the picture is another one"
        if why or self.tiles is None:
            self.tiles, self.index = self.begin(rgb.shape[0], rgb.shape[1]), 0
            self.follow(rgb)
        tiles, self.last = self.tiles, stamp
        followed = time.perf_counter()
        order = sorted(range(len(tiles)), key=lambda i: (self.answered_at[i], i))
        chosen = order[: self.config.patches or len(tiles)]
        for i in chosen:
            self.answer(rgb, tiles, i)
        seen = [at for at in self.answered_at if at >= 0]
        complete = len(seen) == len(tiles)
        if complete:
            self.counts.append(len(self.points))
        smooth = list(self.counts)[-self.config.smooth :] or [len(self.points)]
        ended = time.perf_counter()
        result = CountResult(
            self.points.copy(),
            tiles.of_image(self.density).copy(),
            float(np.median(smooth)),
            len(seen) / len(tiles),
            len(chosen),
            self.index - min(self.answered_at) if complete else self.index + 1,
            stamp,
            self.index,
            why,
            {
                "motion": (followed - began) * 1e3,
                "propagate": (ended - followed) * 1e3,
                "total": (ended - began) * 1e3,
            },
        )
        self.index += 1
        return result

    def starts_anew(self, size: tuple[int, ...], stamp: float, gap: float) -> str:
        """Why nothing of the frames before is of use, or ""."""
        if self.tiles is None or self.last is None:
            return self.why
        if size != (self.tiles.height, self.tiles.width):
            return f"size changed from {(self.tiles.height, self.tiles.width)} to {tuple(size)}"
        if stamp < self.last:
            return f"the stamp went back by {self.last - stamp:.3f} s"
        longest = gap if gap > 0 else stamp - self.last
        if self.config.max_gap and longest > self.config.max_gap:
            return f"{longest:.3f} s without a frame"
        return ""

    def answer(self, rgb: np.ndarray, tiles: Tiles, i: int) -> None:
        """Replace what is known of a patch's core."""
        answer = self.backend.arrays(self.backend.propagate(tiles.cut(rgb, i), ()))
        if not all(np.isfinite(part).all() for part in answer):
            raise NotFinite(
                "the network's answer is not finite: set precision to f32; if it comes back, install the model again"
            )
        scores, points, density = (x[0] for x in answer)
        found = tiles.locate(i, scores, points, self.config.score)
        self.points = np.concatenate([self.points[~tiles.within(i, self.points)], found])
        if density.size:
            tiles.place_density(self.density, i, density[0])
        self.answered_at[i] = self.index

    def follow(self, rgb: np.ndarray) -> bool:
        """Move the points from the frame before to this one; those that leave the image are gone. False at a cut."""
        assert self.tiles is not None and self.motion is not None
        if not self.config.patches or self.config.patches >= len(self.tiles):
            self.motion.reset()
            return True  # all are found anew
        step = self.motion.step(rgb)
        if step is None:
            return True
        if not step.trusted:
            return False  # also where no points are: that there are none was seen in another picture
        centre = (STRIDE - 1) / 2  # of a cell, in pixels
        cells = (self.points[:, :2] - 0.5 - centre) / STRIDE
        self.points[:, :2] = move_points(cells, step.flow) * STRIDE + centre + 0.5
        x, y = self.points[:, 0], self.points[:, 1]
        inside = (x >= 0) & (x < self.tiles.width) & (y >= 0) & (y < self.tiles.height)
        self.points = self.points[inside]
        return True


class CountOptions(RuntimeOptions, total=False):
    """Also those of `CountConfig` that are not a node's."""

    score: float
    overlap: int
    patches: int
    smooth: int


def load_counter(model: str | Path | None = None, **options: Unpack[CountOptions]) -> CountStream:
    """A counting stream that is ready to be called; options: those of `CountConfig`. Raises VssError.

    counter = load_counter("runs/fish/fish.yaml", patches=1)
    result = counter(rgb, stamp)
    """
    given: dict[str, Any] = dict(options)
    if model is not None:
        given["model"] = str(model)
    return open_counter(replace(CountConfig(), **given))


def open_counter(config: CountConfig) -> CountStream:
    """`load_counter` for a config that exists already."""
    model = model_of(config)
    if model.card is None or model.card.task != "counting":
        raise VssError(
            f"model {config.model}: expected one that counts (vss models), not a segmentation model"
        )
    return CountStream(open_backend(model, config), model.card, config)
