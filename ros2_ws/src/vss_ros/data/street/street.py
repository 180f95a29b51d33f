"""A synthetic street seen by a driving camera, with the exact class of every pixel.

The scene is three-dimensional and static but for its traffic, made of polygons in front of an endless gently
curving road, and drawn from far to near (painter's algorithm). It serves the demo, training, and
the evaluation of temporal consistency: its labels do not flicker as drawn ones do, and nobody's licence
restricts it.

World coordinates, in metres: X to the right, Y up, Z = s along the road. The road's centre line is
X = bend(s); everything is laid out at a lateral offset from it, so that a curve shears the world.
"""

from __future__ import annotations

import cv2
import numpy as np

from vss_ros.data.street import paint, parts
from vss_ros.data.street.drawing import DETAIL, GROUND_HALF, PERIOD, VIEW, Drawing
from vss_ros.data.street.paint import BUILDING, PAVEMENT, ROAD, SKY, TREE, Texture, noise
from vss_ros.data.street.view import Scene, View
from vss_ros.data.street.world import CHUNK, make_chunk

CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign", "fence", "car", "pedestrian", "bicyclist"),
)
PALETTE = np.array(
    [
        *([128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0]),
        *([192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]),
    ],
    np.uint8,
)


class Street(Drawing):
    """An endless street; everything in it follows from `seed` (an int >= 0).

    size is (height, width) in pixels: another size shows the same scene through the same horizontal field of
    view. frame(t) may be asked in any order and gives the same every time.
    """

    def __init__(self, seed: int = 0, size: tuple[int, int] = (360, 480), fps: float = 30.0):
        if seed < 0 or min(size) < 32 or fps <= 0:
            raise ValueError(f"expected seed >= 0, size >= (32, 32), fps > 0; got {seed}, {size}, {fps}")
        self.seed, self.fps = int(seed), float(fps)
        self.height, self.width = int(size[0]), int(size[1])
        rng = np.random.default_rng(self.seed)
        self._look(rng)
        self._layout(rng)
        self.detail = self._ground_detail(np.random.default_rng((self.seed, 1)))
        self.sky = self._sky_picture(np.random.default_rng((self.seed, 2)))
        self._finish(np.random.default_rng((self.seed, 3)))
        self._textures(np.random.default_rng((self.seed, 4)))
        self.ground_colours = self._cross_section()
        self.chunks: dict[int, tuple] = {}
        self.movers: dict[tuple, tuple | None] = {}

    def _look(self, rng):
        """Camera, light and weather."""
        self.focal = self.width / 2 / np.tan(np.radians(rng.uniform(48, 68)) / 2)
        self.camera_height = rng.uniform(1.15, 1.75)
        self.horizon = rng.uniform(0.46, 0.56)  # of the height, at rest
        self.speed = rng.uniform(4, 13)
        self.wobble = rng.uniform(0.0, 0.004, 2)
        self.bend_size = rng.uniform(-7, 7, 2) * (1.0, 0.25)
        self.bend_length = rng.uniform((300, 160), (500, 220))
        self.bend_phase = rng.uniform(0, 2 * np.pi, 2)
        overcast = float(rng.choice([0.0, 0.4, 0.85, 1.0]))
        azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(18, 60))
        self.sun = np.array([np.sin(azimuth), np.tan(elevation), np.cos(azimuth)])
        self.sun /= np.linalg.norm(self.sun)
        warm = rng.uniform(0, 1)
        self.sunlight = (
            (1 - overcast) * rng.uniform(0.6, 1.0) * np.array([1.0, 1 - 0.1 * warm, 1 - 0.3 * warm])
        )
        self.ambient = (0.42 + 0.38 * overcast) * np.array([0.95, 0.98, 1.06])
        self.overcast = overcast
        self.sky_top = (1 - overcast) * np.array([95, 145, 215]) + overcast * np.array([205, 210, 216])
        glare = rng.uniform(0.2, 1)
        self.sky_top = np.clip(self.sky_top + glare * (250 - self.sky_top) + rng.normal(0, 6, 3), 0, 255)
        self.haze = np.array([243, 246, 250]) * rng.uniform(0.88, 1.12) * (1, 1 - 0.03 * warm, 1 - 0.1 * warm)
        self.haze = np.clip(self.haze, 0, 255)
        self.haze_length = float(np.exp(rng.uniform(np.log(120), np.log(3000))))

    def _layout(self, rng):
        """Cross-section of the road and what stands beside it."""
        self.ego_side = -1 if rng.random() < 0.7 else 1  # -1: drives on the left
        self.lane = rng.uniform(2.8, 4.2)
        self.parking = rng.random(2) < 0.4  # left, right
        self.road_half = self.lane + 2.1 * self.parking  # left, right
        self.pavement = rng.uniform(2.0, 5.5, 2)
        self.kinds = rng.dirichlet([2.0, 1.1, 0.5, 0.3])  # shops, houses, park, open
        self.crowd, self.traffic, self.bikes, self.parked = rng.uniform(
            (0.05, 0.1, 0.0, 0.2), (0.5, 0.6, 0.5, 0.8)
        )
        self.bare = float(rng.choice([0.0, 0.4, 1.0]))
        self.asphalt = rng.uniform(62, 120) * (1 + rng.normal(0, 0.03, 3))
        self.flags = rng.uniform(60, 155) * (1 + rng.normal(0, 0.05, 3))
        self.grass = np.array([86, 100, 50]) * rng.uniform(0.6, 1.3) + rng.normal(0, 8, 3)
        self.kerb = rng.uniform(130, 200) * np.ones(3)
        self.marking = np.array([225, 225, 218]) * rng.uniform(0.75, 1.0)
        self.dash = rng.choice([4.0, 5.0, 8.0, 10.0])
        self.edge = int(rng.integers(4))  # none, white, yellow, double yellow
        self.storeys = rng.integers(2, 6)

    def light(self, normal) -> np.ndarray:
        """Factors (3,) by which the light scales the colour of a surface with this normal."""
        up = 0.85 + 0.15 * normal[1]
        return self.ambient * up + self.sunlight * max(0.0, float(normal @ self.sun))

    def bend(self, s):
        """Lateral position of the road's centre line, metres."""
        s = np.asarray(s)[..., None]
        return (self.bend_size * np.sin(2 * np.pi * s / self.bend_length + self.bend_phase)).sum(-1)

    def travelled(self, seconds):
        """Where the camera is along the road, metres: nearly constant speed."""
        return self.speed * (seconds + 0.8 * np.sin(0.5 * seconds + self.bend_phase[0]))

    # ---- textures, made once -------------------------------------------------------------------------------

    def _ground_detail(self, rng):
        """Brightness of the ground, 128 = unchanged, from fine to coarse: (rows along s, columns across)."""
        h, w = int(PERIOD * DETAIL), int(2 * GROUND_HALF * DETAIL)
        grain = np.float32(rng.uniform(0.04, 0.1)) * rng.standard_normal((h, w), np.float32)
        detail = (
            0.8
            + 0.12 * noise(rng, h, w, 8)
            + 0.18 * noise(rng, h, w, 50)
            + 0.12 * noise(rng, h, w, 150)
            + grain
        )
        x = (np.arange(w) / DETAIL - GROUND_HALF).astype(np.float32)
        for wheel in (-0.75, 0.75):  # polished or darkened by tyres
            for lane in (-0.5, 0.5):
                track = np.exp(-(((x - lane * self.lane - wheel) / 0.3) ** 2))
                detail *= 1 + rng.uniform(-0.12, 0.08) * track
        for _ in range(rng.integers(0, 9)):  # repairs and cracks
            x0, y0, dx, dy = (rng.uniform((6, 0, 0.5, 0.5), (26, 28, 3, 6)) * DETAIL).astype(int)
            if rng.random() < 0.5:
                detail[y0 : y0 + dy, x0 : x0 + dx] *= rng.uniform(0.75, 1.15)
            else:
                cv2.line(detail, (int(x0), int(y0)), (int(x0 + dx), int(y0 + dy)), 0.6, 1, cv2.LINE_AA)
        step = int(DETAIL * rng.choice([0.4, 0.6, 0.8]))
        if rng.random() < 0.7:  # flagstones
            for columns in (x < -self.road_half[0], x > self.road_half[1]):
                stones = detail[:, columns]
                stones[::step] *= 0.82
                stones[:, ::step] *= 0.82
                detail[:, columns] = stones
        levels = [np.clip(detail * 128, 0, 255).astype(np.uint8)]
        for _ in range(4):
            levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        return levels

    def _sky_picture(self, rng):
        """Sky around the heading, wider than the view so that it can turn; the bottom row is the horizon."""
        h, w = int(self.height * 0.7), int(self.width * 2)
        small = noise(rng, 96, 256, 32) * 0.5 + noise(rng, 96, 256, 12) * 0.3 + noise(rng, 96, 256, 4) * 0.2
        level = np.linspace(1, 0, 96, dtype=np.float32)[:, None, None]
        glow = np.clip(level * rng.uniform(1.0, 2.2), 0, 1) ** rng.uniform(0.5, 1.2)
        picture = self.haze + (self.sky_top - self.haze) * glow
        cover = np.clip((small - rng.uniform(0.35, 0.75)) * rng.uniform(2, 6), 0, 1)[..., None]
        cloud = np.array([235, 236, 240]) * (
            1 - 0.35 * self.overcast * (small[..., None] > 0.55) * small[..., None]
        )
        picture = picture + (cloud - picture) * cover * rng.uniform(0.2, 0.9) * np.minimum(1, level * 3)
        picture = cv2.resize(np.clip(picture, 0, 255).astype(np.uint8), (w, h), interpolation=cv2.INTER_CUBIC)
        # What is farther than VIEW: low hills and roofs, so that things do not appear out of nothing.
        self.backdrop_label = TREE if rng.random() < 0.5 else BUILDING
        colour = self.grass * 0.7 if self.backdrop_label == TREE else rng.uniform(80, 150, 3)
        colour = colour * self.light(np.array([0, 0.3, -0.9]))
        veil = np.exp(-VIEW / self.haze_length)
        top = 0.012 + 0.03 * noise(rng, 2, 256, 8)[0] + 0.012 * noise(rng, 2, 256, 3)[0]
        top = cv2.resize(
            top[None], (w, 1), interpolation=[cv2.INTER_NEAREST, cv2.INTER_LINEAR][rng.integers(2)]
        )[0]
        skyline = h - top * self.focal
        self.backdrop = np.arange(h)[:, None] > skyline
        picture[self.backdrop] = np.clip(colour * veil + self.haze * (1 - veil), 0, 255)
        label = np.where(self.backdrop, self.backdrop_label, SKY)
        return paint.with_fourth(picture, label)

    def _finish(self, rng):
        """What the camera does to the picture: exposure, white balance, vignette, blur, noise."""
        h, w = self.height, self.width
        white = 1 + rng.normal(0, 0.04, 3)
        # A high power darkens the street under a sky that stays bright, as a camera exposed for the sky does.
        power, lift, top = rng.uniform(0.85, 2.2), rng.uniform(0, 8), rng.choice([255, 255, 255, 215])
        ramp = (np.arange(256)[:, None] / 255 * rng.uniform(1.0, 1.3) * white) ** power
        curve = lift + (top - lift) * (1 - np.exp(-1.8 * ramp)) / (1 - np.exp(-1.8))
        self.curve = np.clip(curve, 0, 255).astype(np.uint8)[None]
        y, x = np.mgrid[:h, :w].astype(np.float32)
        radius = ((x / w - 0.5) ** 2 + (y / h - 0.5) ** 2) * 2
        self.vignette = cv2.merge([(255 * (1 - rng.uniform(0, 0.25) * radius)).astype(np.uint8)] * 3)
        self.blur = rng.uniform(0.35, 0.75) * w / 480
        strength = rng.uniform(0.5, 4.0)
        self.noise = np.clip(rng.standard_normal((h + 64, w + 64, 3), np.float32) * strength, -12, 12).astype(
            np.int16
        )

    def _textures(self, rng):
        shade = [self.light(np.array([1.0, 0, 0])), self.light(np.array([-1.0, 0, 0]))]  # left, right side
        self.end_light = self.light(np.array([0, 0, -1.0]))
        self.facades = []
        for k in range(8):
            shop = k % 2 == 0
            texture = paint.facade(rng, int(np.clip(self.storeys + rng.integers(-1, 2), 1, 5)), shop)
            plain = paint.wall(rng, 48, 64, texture.pixels[8:24, :, :3].reshape(-1, 3).mean(0))
            end = Texture(paint.with_fourth(plain, BUILDING)).shaded(self.end_light)
            self.facades.append(([texture.shaded(s) for s in shade], end, texture.pixels.shape[0] / 16))
        tree_light = 0.5 * (self.end_light + self.light(np.array([0, 1.0, 0])))
        self.trees = [paint.tree(rng, self.bare).shaded(tree_light) for _ in range(5)]
        fences, hedges = [paint.fence(rng) for _ in range(3)], [paint.hedge(rng) for _ in range(2)]
        self.fences = [[f.shaded(s) for s in shade] for f in fences]
        self.hedges = [[f.shaded(s) for s in shade] for f in hedges]
        stone = paint.wall(rng, 32, 128, np.array(paint.WALLS[rng.integers(len(paint.WALLS))]))
        self.low_wall = [Texture(paint.with_fourth(stone, BUILDING)).shaded(s) for s in shade]

    def _cross_section(self):
        """Colour and class of the bare ground for each column of the ground texture, as uint32."""
        x = (np.arange(int(2 * GROUND_HALF * DETAIL)) + 0.5) / DETAIL - GROUND_HALF
        road = ((x > -self.road_half[0]) & (x < self.road_half[1]))[:, None]
        up = self.light(np.array([0, 1.0, 0]))
        colour = np.where(road, self.asphalt * up, self.flags * up)
        row = paint.with_fourth(colour[None], np.where(road[:, 0], ROAD, PAVEMENT))
        return row[0].copy().view(np.uint32)[:, 0]

    # ---- what moves ----------------------------------------------------------------------------------------

    def _chunk(self, index: int) -> tuple:
        if index not in self.chunks:
            if len(self.chunks) > 12:
                self.chunks.clear()
            self.chunks[index] = make_chunk(self, index)
        return self.chunks[index]

    def _mover(self, stream: int, slot: int, chance: float, make, *args):
        """(mesh, three random numbers) of the traffic's slot, or None where the slot is empty; made once."""
        if (stream, slot) not in self.movers:
            if len(self.movers) > 1000:
                self.movers.clear()
            rng = np.random.default_rng((self.seed, 6, stream, slot + 100000))
            empty, luck = rng.random() > chance, rng.random(3)
            self.movers[stream, slot] = None if empty else (make(rng, self.light, *args).pack(None), luck)
        return self.movers[stream, slot]

    def _traffic(self, seconds: float, here: float) -> list:
        """(packed mesh, x, z, phase of the legs, half width, half length) of all that moves in view."""
        side, moving = self.ego_side, []
        kerb = self.lane - 0.5

        def stream(number, speed, gap, reach, chance, make, *args):
            offset = speed * seconds
            for slot in range(int((here - 4 - offset) // gap), int((here + reach - offset) // gap) + 1):
                mover = self._mover(number, slot, chance, make, *args)
                if mover is not None:
                    yield mover[0], mover[1], (slot + 0.6 * mover[1][0]) * gap + offset

        for mesh, luck, z in stream(0, -0.9 * self.speed - 2, 17, VIEW, self.traffic, parts.car, False):
            moving.append((mesh, -side * (0.5 * self.lane + 0.3 * luck[1]), z, 0.0, 0.95, 2.2))
        for slot in range(5):
            mover = self._mover(1, slot, self.traffic, parts.car, True)
            if mover is not None:
                sway = 3 * np.sin(0.3 * seconds + 6 * mover[1][1])
                z = here + 13 + 19 * slot + 9 * mover[1][0] + sway
                moving.append((mover[0], side * 0.5 * self.lane, z, 0.0, 0.95, 2.2))
        for number, speed, x in ((2, 4.0, side * kerb), (3, -4.5, -side * kerb)):
            for mesh, luck, z in stream(number, speed, 24, 100, self.bikes, parts.cyclist):
                moving.append((mesh, x + 0.2 * luck[1] - 0.1, z, 5 * seconds + 6 * luck[2], 0.25, 0.7))
        for number, speed in ((4, 1.4), (5, -1.3), (6, 1.2), (7, -1.5)):
            k = number % 2
            for mesh, luck, z in stream(number, speed, 8, 80, self.crowd, parts.pedestrian):
                x = (2 * k - 1) * (self.road_half[k] + 0.5 + (self.pavement[k] - 0.9) * luck[1])
                moving.append((mesh, x, z, 6 * seconds + 6 * luck[2], 0.2, 0.2))
        for mesh, luck, z in stream(8, 0.0, 40, 100, self.crowd, parts.pedestrian):
            # Crosses the road and is over before the camera comes by.
            width = 2 + self.road_half.sum()
            starts = (z - 12 - 10 * luck[1]) / self.speed - 1 - width / 1.5
            walked = np.clip(1.5 * (seconds - starts), 0, width)
            x = -self.road_half[0] - 1 + walked
            moving.append((mesh, x if luck[2] < 0.5 else -x, z, 6 * walked, 0.2, 0.2))
        return moving

    # ---- the picture ---------------------------------------------------------------------------------------

    def frame(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame number t >= 0: rgb (H, W, 3) uint8 and the class ids (H, W) uint8."""
        view, chunks, moving = self.at(t)
        canvas = np.empty((self.height, self.width, 4), np.uint8)  # red, green, blue, class
        self._draw_sky(canvas, view)
        self._draw_ground(canvas, view, chunks, moving)
        self.draw_objects(canvas, view, Scene([c[2] for c in chunks], moving, self.bend))
        labels = np.ascontiguousarray(canvas[..., 3])
        rgb = cv2.cvtColor(canvas, cv2.COLOR_RGBA2RGB)
        rgb = cv2.LUT(cv2.GaussianBlur(rgb, (5, 5), self.blur), self.curve)
        rgb = cv2.multiply(rgb, self.vignette, scale=1 / 255)
        y, x = np.random.default_rng((self.seed, 8, t)).integers(0, 64, 2)
        grain = self.noise[y : y + self.height, x : x + self.width]
        return cv2.add(rgb, grain, dtype=cv2.CV_8U), labels

    def at(self, t: int) -> tuple[View, list, list]:
        """The camera at frame number t, the chunks of road in view, and all that moves there."""
        if t < 0:
            raise ValueError(f"expected a frame number >= 0, got {t}")
        seconds = t / self.fps
        here = self.travelled(seconds)
        slope = (self.bend(here + 8.0) - self.bend(here)) / 8.0
        view = View(self, here, slope + self.wobble[0] * np.sin(1.7 * seconds), seconds)
        chunks = [self._chunk(i) for i in range(int((here - 10) // CHUNK), int((here + VIEW) // CHUNK) + 1)]
        return view, chunks, self._traffic(seconds, here)
