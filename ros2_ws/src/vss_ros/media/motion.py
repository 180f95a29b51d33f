"""Where everything was: optical flow from each frame to the one before, composed back to what is remembered.

Keyframe features move along it, so that a memory fits the frame that reads it; so do probabilities, which makes
answers steady and lets a frame be answered that no network saw. Feature propagation along flow is DFF's (Zhu et al.,
"Deep Feature Flow for Video Recognition", CVPR 2017), whose flow is a trained network; here it is DIS (Kroeger et
al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016) and one step of Lucas and Kanade, without training.

A flow is (h, w, 2) float32: for each cell, how far in x and y from it, in cells, the same thing lies in the map that
is moved (backward flow). Maps are channels-last since `cv2.remap` then moves all channels of a cell at once.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
CHANNELS = 512  # of one call of OpenCV
INVERSION = 5  # steps
STRIDE = 4
"""Pixels of the network's input a cell of the flow: the finest at which the networks here remember and answer."""
SMALLEST = 32
"""Pixels of the shorter side that DIS needs."""
WINDOW = (5, 5)
"""Cells that `refined` takes to move alike, the outer ones less."""
FLAT = 128.0
"""Squared gradient, of grey levels × 8, that `refined` adds: where the picture has less it moves nothing."""
TOLERANCE = 30.0
"""Grey levels of difference at which a moved pixel counts 1/e."""
ALIKE = np.exp(-np.arange(256, dtype=np.float32) / TOLERANCE)
"""Likeness by difference; 255 stands for what came from outside."""
ALIKE[255] = 0
UNEXPLAINED = 0.18
"""Share of a frame's own contrast by which it may differ from the moved one before it; more is a cut, not a motion.
Street video keeps below 0.12, with four of five frames left out, too; cuts between streets begin at 0.20."""
NOISE = 5.0
"""Grey levels that it may differ however little contrast there is."""
EXPOSURE = 3.0
"""Change of the mean grey level from which on the frame before is first matched in brightness and contrast."""


@dataclass(frozen=True)
class Step:
    """From one frame to the next.

    flow: (h, w, 2) float32, cells to where each cell was in the frame before; likeness: (h, w) float32 in [0, 1],
    exp(−|difference| / 30 grey levels) of a cell to where it came from, 0 where that is outside; residual: mean
    |difference|, grey levels; trusted: whether the flow explains the frame.
    """

    flow: np.ndarray
    likeness: np.ndarray
    residual: float
    trusted: bool

    @cached_property
    def place(self) -> np.ndarray:
        """(h, w, 2) float32: where each cell was, x and y; see `resample`."""
        return grid(self.flow.shape[:2]) + self.flow


class Motion:
    """Flow between the consecutive frames of one camera, on a grid of cells; deterministic.

    size: (height, width) of the network's input; scale: of the images that the flow is estimated on, relative to it.
    """

    def __init__(self, size: tuple[int, int], scale: float = 0.125, preset: str = "ultrafast"):
        self.cells = (-(-size[0] // STRIDE), -(-size[1] // STRIDE))
        self.image = (max(math.ceil(size[0] * scale), SMALLEST), max(math.ceil(size[1] * scale), SMALLEST))
        self.scale, self.preset, self.size = scale, preset, size
        self.dis = cv2.DISOpticalFlow.create(PRESETS[preset])
        self.dis.setFinestScale(0)
        self.dis.setUseMeanNormalization(False)  # `matched` sees to brightness
        self.reset()

    def another(self) -> Motion:
        """The same for another camera."""
        return Motion(self.size, self.scale, self.preset)

    def reset(self) -> None:
        """Forget the frames before; tracks to them end."""
        self.grey: np.ndarray | None = None  # of the newest frame, at `image`
        self.small: np.ndarray | None = None  # the same at `cells`
        self.flow = self.still()  # of the step before, at `image`: where DIS looks first
        self.tracks: weakref.WeakSet[Track] = weakref.WeakSet()
        self.carried: np.ndarray | None = None
        """What the newest `step` was given to carry, moved to its frame; None where its flow is not trusted."""

    def still(self) -> np.ndarray:
        """No motion, as a flow that DIS may begin with: without one it takes what it was given last."""
        return np.zeros((*self.image, 2), np.float32)

    def track(self) -> Track:
        """Follow the newest frame from now on, as long as the track is held."""
        track = Track(self.small)
        self.tracks.add(track)
        return track

    def likeness(self, track: Track) -> np.ndarray:
        """(h, w) float32 in [0, 1]: how much of the newest frame was seen already in the one that is tracked."""
        if track.cuts:
            return np.zeros(self.cells, np.float32)
        if track.flow is None or self.small is None or track.small is None:
            return np.ones(self.cells, np.float32)
        place = grid(self.cells) + track.flow
        return likeness(cv2.absdiff(self.small, resample(track.small, place)), place)

    def step(self, rgb: np.ndarray, carry: np.ndarray | None = None) -> Step | None:
        """Take the next frame, (H, W, 3) uint8 of any size; None for the first one. carry: maps (h, w, C) on the cells
        of the frame before, for `carried`."""
        height, width = map(max, self.image, self.cells)
        grey = resized(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (height, width))
        grey, small = resized(grey, self.image), resized(grey, self.cells)
        before, self.grey = self.grey, grey
        earlier, self.small = self.small, small
        self.carried = None
        if before is None or earlier is None:
            return None
        if not cv2.norm(grey, before, cv2.NORM_INF):  # a frozen camera
            self.flow, self.carried = self.still(), None if carry is None else carry.copy()
            return Step(np.zeros((*self.cells, 2), np.float32), np.ones(self.cells, np.float32), 0.0, True)
        before, earlier = matched(before, earlier, small)
        found = self.dis.calc(grey, before, self.flow)
        flow, difference = refined(small, earlier, resize_flow(found, self.cells))
        residual = float(cv2.mean(difference)[0])
        contrast = float(cv2.meanStdDev(small)[1].item())
        alike = likeness(difference, grid(self.cells) + flow)
        step = Step(flow, alike, residual, residual <= max(UNEXPLAINED * contrast, NOISE))
        self.flow = found.copy() if step.trusted else self.still()  # DIS writes into what it is given
        if step.trusted and carry is not None:
            self.carried = resample(carry, step.place)
        for track in self.tracks:
            track.step(step)
        return step


class Track:
    """The way back from the newest frame to one that is remembered: F(x) = f(x) + F'(x + f(x)) as frames come.

    Composing the flows of neighbours is better than one flow over many frames. flow: (h, w, 2) float32, cells; None
    on that frame itself. cuts: steps in between that could not be trusted; they are left out of the flow.
    """

    def __init__(self, small: np.ndarray | None):
        self.small = small
        self.flow: np.ndarray | None = None
        self.cuts = 0

    def move(self, values: np.ndarray) -> np.ndarray:
        """(h, w, C) on the remembered frame, moved to the newest one; always a new array."""
        return values.copy() if self.flow is None else move(values, self.flow)

    def step(self, step: Step) -> None:
        if not step.trusted:
            self.cuts += 1
        else:
            self.flow = step.flow if self.flow is None else step.flow + resample(self.flow, step.place)


def resized(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A grey image at another size, by area when it shrinks: by halves as far as they go, which OpenCV does fast."""
    while grey.shape[0] >= 2 * size[0] and grey.shape[1] >= 2 * size[1]:
        half = grey.shape[1] // 2, grey.shape[0] // 2
        grey = cv2.resize(grey, half, interpolation=cv2.INTER_AREA)
    if grey.shape == size:
        return grey
    shrinks = grey.shape[0] > size[0] and grey.shape[1] > size[1]
    return cv2.resize(grey, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def refined(now: np.ndarray, earlier: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The flow between two grey images of its size, sharper by one step of Lucas and Kanade's least squares wherever
    that is more alike; and the difference that is left, (h, w) uint8.

    Lucas, Kanade: "An Iterative Image Registration Technique", IJCAI 1981; here in a window around every cell.
    """
    cells = grid(flow.shape[:2])
    place = cells + flow
    there = resample(earlier, place)
    middle = cv2.addWeighted(there, 0.5, now, 0.5, 0)
    x, y = (gradient.astype(np.float32) for gradient in cv2.spatialGradient(middle))  # 8 × a cell's
    t = cv2.subtract(there, now, dtype=cv2.CV_32F)
    t -= cv2.mean(t)[0]  # a change of the light is no motion
    xx, xy, yy, xt, yt = (cv2.GaussianBlur(each, WINDOW, 0) for each in (x * x, x * y, y * y, x * t, y * t))
    xx += FLAT
    yy += FLAT
    scale = 8 / (xy * xy - xx * yy)
    nearer = place + cv2.merge([(yy * xt - xy * yt) * scale, (xx * yt - xy * xt) * scale])
    before, after = cv2.absdiff(there, now), cv2.absdiff(resample(earlier, nearer), now)
    place = cv2.copyTo(nearer, cv2.compare(after, before, cv2.CMP_LT), place)
    return place - cells, cv2.min(before, after)


def likeness(difference: np.ndarray, place: np.ndarray) -> np.ndarray:
    """See `Step`: of cells (h, w) that differ by so many grey levels, uint8, from what was at these places."""
    height, width = difference.shape
    inside = cv2.inRange(place, (0, 0), (width - 1, height - 1))
    return cv2.LUT(cv2.max(difference, cv2.bitwise_not(inside)), ALIKE)


def matched(image: np.ndarray, small: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An earlier frame's two grey images with the mean and spread of `now`, where the exposure jumped."""
    (mean, spread), (mean_now, spread_now) = (
        [float(value.item()) for value in cv2.meanStdDev(x)] for x in (small, now)
    )
    if abs(mean_now - mean) < EXPOSURE or spread < 1:
        return image, small
    gain = min(max(spread_now / spread, 0.25), 4.0)
    table = np.clip((np.arange(256) - mean) * gain + mean_now, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table), cv2.LUT(small, table)


@lru_cache(maxsize=16)
def grid(size: tuple[int, int]) -> np.ndarray:
    """(h, w, 2) float32: each cell's own (x, y)."""
    return np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), -1).astype(np.float32)


def move(array: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The map resampled bilinearly at x + flow(x), its border replicated. array: (h, w) or (h, w, C)."""
    return resample(array, grid(flow.shape[:2]) + flow)


def resample(array: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The map at these places (h, w, 2) float32, x and y in cells, bilinearly, its border replicated; see `move`."""
    if array.ndim < 3 or array.shape[2] <= CHANNELS:
        found = cv2.remap(array, place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return found.reshape(array.shape)  # OpenCV drops a single channel
    slices = (np.ascontiguousarray(array[..., i : i + CHANNELS]) for i in range(0, array.shape[2], CHANNELS))
    return np.concatenate([resample(each, place) for each in slices], 2)


def move_points(points: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Where points (N, 2), x and y in cells of the map that a flow leads to, lie in the map that it starts from.

    The inverse of x + flow(x), by fixed points, which five steps find where the flow changes less than its place does.
    """
    places = points = points.astype(np.float32)
    for _ in range(INVERSION if len(points) else 0):
        there = cv2.remap(
            flow, places[None], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        ).reshape(-1, 2)
        places = points - there
    return places


def move_memory(memory: Sequence[np.ndarray], flow: np.ndarray) -> tuple[np.ndarray, ...]:
    """A memory of maps (1, h, w, D), each moved along the flow resized to it."""
    return tuple(move(tensor[0], resize_flow(flow, tensor.shape[1:3]))[None] for tensor in memory)


def resize_flow(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The flow on another grid (h, w), in cells of that grid."""
    before = flow.shape[:2]
    if before == tuple(size):
        return flow
    shrinks = before[0] > size[0]
    resized = cv2.resize(flow, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    x, y = size[1] / before[1], size[0] / before[0]
    resized *= np.float32(x) if x == y else np.array([x, y], np.float32)  # by one number it takes a third
    return resized
