"""Where everything was: optical flow from each frame to the one before, composed back to what is remembered.

Keyframe features move along it, so that a memory fits the frame that reads it; so do probabilities, which makes
answers steady and lets a frame be answered that no network saw. Feature propagation along flow is DFF's (Zhu et al.,
"Deep Feature Flow for Video Recognition", CVPR 2017), whose flow is a trained network; here it is DIS (Kroeger et
al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016), which needs no training and 0.4 ms of one core.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import cv2
import numpy as np

from vss_ros.backends.move import grid, move, resize_flow

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
STRIDE = 4
"""Pixels of the network's input a cell of the flow: the finest at which the networks here remember and answer."""
SMALLEST = 32
"""Pixels of the shorter side that DIS needs."""
TOLERANCE = 30.0
"""Grey levels of difference at which a moved pixel counts 1/e."""
UNEXPLAINED = 0.3
"""Share of a frame's own contrast by which it may differ from the moved one before it; more is a cut, not a motion.
Street video keeps below 0.2, 0.27 with four of five frames left out; cuts between streets begin at 0.34."""
NOISE = 8.0
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


class Motion:
    """Flow between the consecutive frames of one camera, on a grid of cells; deterministic.

    size: (height, width) of the network's input; scale: of the images that the flow is estimated on, relative to it.
    """

    def __init__(self, size: tuple[int, int], scale: float = 0.5, preset: str = "ultrafast"):
        self.cells = (-(-size[0] // STRIDE), -(-size[1] // STRIDE))
        self.image = (max(round(size[0] * scale), SMALLEST), max(round(size[1] * scale), SMALLEST))
        self.scale, self.preset, self.size = scale, preset, size
        self.dis = cv2.DISOpticalFlow.create(PRESETS[preset])
        self.reset()

    def another(self) -> Motion:
        """The same for another camera."""
        return Motion(self.size, self.scale, self.preset)

    def reset(self) -> None:
        """Forget the frames before; tracks to them end."""
        self.grey: np.ndarray | None = None  # of the newest frame, at `image`
        self.small: np.ndarray | None = None  # the same at `cells`
        self.tracks: weakref.WeakSet[Track] = weakref.WeakSet()

    def track(self) -> Track:
        """Follow the newest frame from now on, as long as the track is held."""
        track = Track(self.small)
        self.tracks.add(track)
        return track

    def fit(self, values: np.ndarray) -> np.ndarray:
        """Maps (h', w', C) on the grid of the cells."""
        if values.shape[:2] == self.cells:
            return values
        kind = cv2.INTER_AREA if values.shape[0] > self.cells[0] else cv2.INTER_LINEAR
        return cv2.resize(values, self.cells[::-1], interpolation=kind).reshape(*self.cells, -1)

    def steady(
        self, values: np.ndarray, before: np.ndarray | None, step: Step | None, strength: float
    ) -> np.ndarray:
        """A frame's probabilities (h', w', C) on the cells, drawn towards those of the frame before, see `blend`."""
        values = self.fit(values)
        if before is None or step is None or not step.trusted or not strength:
            return values
        return blend(values, move(before, step.flow), step.likeness, strength)

    def likeness(self, track: Track) -> np.ndarray:
        """(h, w) float32 in [0, 1]: how much of the newest frame was seen already in the one that is tracked."""
        if track.cuts:
            return np.zeros(self.cells, np.float32)
        if track.flow is None or self.small is None or track.small is None:
            return np.ones(self.cells, np.float32)
        return likeness(self.small, track.small, track.flow)[0]

    def step(self, rgb: np.ndarray) -> Step | None:
        """Take the next frame, (H, W, 3) uint8 of any size; None for the first one."""
        shrinks = rgb.shape[0] > self.image[0] and rgb.shape[1] > self.image[1]
        kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        grey = cv2.cvtColor(cv2.resize(rgb, self.image[::-1], interpolation=kind), cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, self.cells[::-1], interpolation=cv2.INTER_AREA)
        before, self.grey = self.grey, grey
        earlier, self.small = self.small, small
        if before is None or earlier is None:
            return None
        if not cv2.norm(grey, before, cv2.NORM_INF):  # a frozen camera
            return Step(np.zeros((*self.cells, 2), np.float32), np.ones(self.cells, np.float32), 0.0, True)
        before, earlier = matched(before, earlier, small)
        flow = resize_flow(self.dis.calc(grey, before, None), self.cells)
        alike, residual = likeness(small, earlier, flow)
        contrast = float(cv2.meanStdDev(small)[1].item())
        step = Step(flow, alike, residual, residual <= max(UNEXPLAINED * contrast, NOISE))
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
            self.flow = step.flow if self.flow is None else step.flow + move(self.flow, step.flow)


def likeness(now: np.ndarray, earlier: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, float]:
    """See `Step`: how like each cell is to where the flow says it came from, and the mean difference in grey levels."""
    difference = cv2.absdiff(now, move(earlier, flow))
    alike = cv2.exp(difference.astype(np.float32) * np.float32(-1 / TOLERANCE))
    height, width = flow.shape[:2]
    x, y = cv2.split(grid((height, width)) + flow)
    alike *= (cv2.inRange(x, 0, width - 1) & cv2.inRange(y, 0, height - 1)).astype(np.float32) / 255
    return alike, float(cv2.mean(difference)[0])


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


def blend(now: np.ndarray, moved: np.ndarray, alike: np.ndarray, strength: float) -> np.ndarray:
    """Probabilities filtered along the motion: (1 − g) · now + g · moved, g = strength · alike.

    now: (h, w, C) float32; moved: earlier ones moved to this frame, overwritten with the answer; alike: (h, w), see
    `Step.likeness`; strength in [0, 1).
    """
    weight = (strength * alike)[..., None]
    moved -= now
    moved *= weight
    moved += now
    return moved
