"""Parts of the synthetic street: procedural textures, and meshes of cars, people, poles and signs.

Coordinates of a part, in metres: x to the right, y up from the ground, z along the road.
Class ids are those of `vss_ros.data.street.street.CLASSES`.
"""

from __future__ import annotations

import cv2
import numpy as np

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)


def noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Smooth noise (height, width) float32 in about 0..1 that repeats without a seam; cell in pixels."""
    rows, cols = max(2, round(height / cell)), max(2, round(width / cell))
    grid = np.pad(rng.random((rows, cols), dtype=np.float32), 2, mode="wrap")
    pixels = ((cols + 4) * width // cols, (rows + 4) * height // rows)
    grown = cv2.resize(grid, pixels, interpolation=cv2.INTER_LINEAR)
    return grown[2 * height // rows :, 2 * width // cols :][:height, :width]


class Texture:
    """A picture for a four-cornered face, (h, w, 4) uint8, with its smaller copies.

    Channel 3 is the class id of an opaque texture, or the opacity of a cut-out one (`cutout` = its class id;
    pixels more opaque than 40/255 carry the label).
    """

    def __init__(self, pixels: np.ndarray, cutout: int | None = None):
        self.pixels = pixels
        self.cutout = cutout
        self.mean = np.array(cv2.mean(pixels))
        self.levels: dict[tuple[int, int], np.ndarray] = {}

    def shrunk(self, width: float, height: float) -> np.ndarray:
        """The copy for a face of about this size on the screen, in pixels: prevents flicker from aliasing."""
        h, w = self.pixels.shape[:2]
        across = down = 0
        while w >> across > 1.4 * width and w >> across > 4:
            across += 1
        while h >> down > 1.4 * height and h >> down > 4:
            down += 1
        if (across, down) not in self.levels:
            size = (w >> across, h >> down)
            self.levels[across, down] = cv2.resize(self.pixels, size, interpolation=cv2.INTER_AREA)
        return self.levels[across, down]

    def shaded(self, light: np.ndarray) -> Texture:
        """The texture under a light given as three factors."""
        factors = (float(light[0]), float(light[1]), float(light[2]), 1.0)
        return Texture(cv2.multiply(self.pixels, factors), self.cutout)


def with_fourth(rgb: np.ndarray, fourth: np.ndarray | int) -> np.ndarray:
    pixels = np.empty((*rgb.shape[:2], 4), np.uint8)
    pixels[..., :3] = np.clip(rgb, 0, 255)
    pixels[..., 3] = fourth
    return pixels


WALLS = [(150, 82, 62), (176, 120, 86), (196, 170, 128), (214, 205, 186), (128, 104, 88), (168, 160, 150)]
WALLS += [(120, 62, 50), (226, 222, 214), (140, 140, 146), (190, 150, 120), (98, 92, 90), (205, 185, 150)]


def wall(rng: np.random.Generator, height: int, width: int, colour: np.ndarray) -> np.ndarray:
    """Brick, stone or render, (height, width, 3) float32."""
    grain = 0.75 + 0.25 * noise(rng, height, width, 40) + 0.25 * noise(rng, height, width, 3)
    picture = colour * grain[..., None]
    course = int(rng.choice([0, 3, 4, 8]))
    if course:
        picture[::course] *= rng.uniform(0.8, 1.12)
    return picture.astype(np.float32)


def facade(rng: np.random.Generator, storeys: int, shop: bool) -> Texture:
    """Eight metres of a house front, 3 metres a storey, 16 pixels a metre."""
    width, storey = 128, 48
    height = storey * storeys
    colour = np.array(WALLS[rng.integers(len(WALLS))]) * rng.uniform(0.7, 1.15) + rng.normal(0, 8, 3)
    picture = wall(rng, height, width, colour)
    bays = int(rng.integers(2, 5))
    bay = width / bays
    window_w, window_h = bay * rng.uniform(0.35, 0.75), storey * rng.uniform(0.4, 0.72)
    frame = rng.choice([245, 230, 60, 120]) * np.ones(3)
    glass = np.array([70, 80, 95]) * rng.uniform(0.3, 1.3) + rng.normal(0, 8, 3)
    bars, ledge = int(rng.integers(0, 3)), rng.random() < 0.5
    for floor in range(storeys):
        top = floor * storey
        ground_floor = floor == storeys - 1
        if ledge and not ground_floor:
            cv2.rectangle(picture, (0, top + storey - 3), (width, top + storey - 1), tuple(colour * 1.25), -1)
        if ground_floor and shop:
            front = rng.uniform(20, 210, 3)
            cv2.rectangle(picture, (0, top), (width, height), tuple(front * 0.8), -1)
            cv2.rectangle(picture, (2, top + 2), (width - 3, top + 9), tuple(rng.uniform(20, 230, 3)), -1)
            for x in range(6, width - 20, 30):
                inside = rng.uniform(0.4, 1.6) * glass + rng.uniform(0, 40, 3)
                cv2.rectangle(picture, (x, top + 13), (x + 25, height - 6), tuple(inside), -1)
                for _ in range(4):
                    gx, gy = x + int(rng.integers(0, 20)), top + int(rng.integers(15, 36))
                    cv2.rectangle(picture, (gx, gy), (gx + 4, gy + 5), tuple(rng.uniform(10, 230, 3)), -1)
            continue
        for k in range(bays):
            x0 = int((k + 0.5) * bay - window_w / 2)
            y0 = int(top + (storey - window_h) * 0.45)
            x1, y1 = int(x0 + window_w), int(y0 + window_h)
            if ground_floor and k == bays - 1:
                cv2.rectangle(picture, (x0, top + 10), (x1, height), tuple(rng.uniform(20, 180, 3)), -1)
                continue
            cv2.rectangle(picture, (x0 - 2, y0 - 2), (x1 + 2, y1 + 2), tuple(frame), -1)
            pane = glass * rng.uniform(0.6, 1.5)
            if rng.random() < 0.25:
                pane = rng.uniform(120, 220) * np.array([1, 0.97, 0.9])
            cv2.rectangle(picture, (x0, y0), (x1, y1), tuple(pane), -1)
            cv2.rectangle(picture, (x0, y0), (x1, (y0 + y1) // 2), tuple(pane * 1.25), -1)
            for b in range(1, bars + 1):
                bar = x0 + (x1 - x0) * b // (bars + 1)
                cv2.line(picture, (bar, y0), (bar, y1), tuple(frame))
            cv2.rectangle(picture, (x0 - 3, y1 + 2), (x1 + 3, y1 + 3), tuple(colour * 0.6), -1)
    return Texture(with_fourth(picture, BUILDING))


def branch(
    canvas: np.ndarray, rng: np.random.Generator, at: np.ndarray, angle: float, length: float, width: float
):
    end = at + length * np.array([np.sin(angle), -np.cos(angle)])
    start, stop = tuple(at.astype(int).tolist()), tuple(end.astype(int).tolist())
    cv2.line(canvas, start, stop, 255.0, max(1, round(width)), cv2.LINE_AA)
    if length > 9:
        for turn in rng.uniform(0.15, 0.6, 3) * (-1, 1, rng.choice([-0.5, 0.5])):
            branch(canvas, rng, end, angle + turn, length * rng.uniform(0.62, 0.85), width * 0.62)


def tree(rng: np.random.Generator, bare: float) -> Texture:
    """A tree with its trunk, (160, 128) pixels, cut out; `bare` is the chance that it has no leaves."""
    height, width = 160, 128
    y, x = np.mgrid[:height, :width].astype(np.float32)
    fine, coarse = noise(rng, height, width, 3), noise(rng, height, width, rng.uniform(9, 20))
    trunk_colour = np.array([74, 62, 50]) * rng.uniform(0.5, 1.4)
    wood = np.zeros((height, width), np.float32)
    if rng.random() < bare:
        branch(wood, rng, np.array([64.0, 159.0]), 0.0, rng.uniform(30, 39), rng.uniform(5, 8))
        twigs = cv2.GaussianBlur(cv2.dilate(wood, np.ones((7, 7))), (0, 0), 3) * (0.55 + 0.45 * coarse)
        outline = np.clip((1.02 - np.hypot((x - 64) / 62, (y - 80) / 79)) * 6, 0, 1)
        outline = np.where(y > 110, np.clip((62 - abs(x - 64)) / 8, 0, 1), outline)
        opacity = outline * np.maximum(wood, np.minimum(twigs * 0.62, 110) * (0.55 + 0.6 * fine))
        picture = trunk_colour * (0.7 + 0.6 * fine[..., None])
        return Texture(with_fourth(picture, np.clip(opacity, 0, 255).astype(np.uint8)), TREE)
    branch(wood, rng, np.array([64.0, 159.0]), 0.0, rng.uniform(26, 34), rng.uniform(4, 8))
    if rng.random() < 0.2:
        outline = 1.1 - np.abs(x - 64) / (6 + 46 * y / 150) - 3 * np.maximum(0, (y - 150) / 20)
    else:
        outline = np.full((height, width), -9, np.float32)
        for _ in range(rng.integers(4, 9)):
            r = rng.uniform(18, 36)
            cx, cy = 64 + rng.uniform(-1, 1) * (60 - r), rng.uniform(r + 4, 92)
            outline = np.maximum(outline, 1 - np.hypot(x - cx, (y - cy) * rng.uniform(0.9, 1.3)) / r)
    border = np.minimum(np.minimum(x, 127 - x), y)
    leaves = (
        np.minimum(outline, 0.09 * (border - 2)) * 2.2 + 1.3 * coarse + 1.1 * fine - rng.uniform(1.1, 1.5)
    )
    cover = np.clip(leaves * 3, 0, 1)
    green = np.array(
        [[62, 84, 34], [84, 100, 44], [48, 70, 38], [110, 96, 40], [92, 70, 44]][rng.integers(5)]
    )
    light = (0.35 + 0.75 * coarse * (1.15 - y / 190)) * (0.6 + 0.8 * fine)
    crown = (green * rng.uniform(0.6, 1.3))[None, None] * light[..., None] * 1.25
    picture = np.where(cover[..., None] > 0.3, crown, trunk_colour * (0.6 + 0.5 * fine[..., None]))
    return Texture(with_fourth(picture, (255 * np.maximum(cover, wood / 255)).astype(np.uint8)), TREE)


def hedge(rng: np.random.Generator) -> Texture:
    light = 0.4 + 0.6 * noise(rng, 32, 128, 3) + 0.5 * noise(rng, 32, 128, 10)
    green = np.array([58, 78, 34]) * rng.uniform(0.6, 1.3) + rng.normal(0, 6, 3)
    return Texture(with_fourth(green * light[..., None], TREE))


def fence(rng: np.random.Generator) -> Texture:
    """Four metres of fence: boards (opaque) or railings (cut out, the gaps belong to the fence)."""
    height, width = 48, 128
    if rng.random() < 0.4:
        picture = wall(rng, height, width, np.array([130, 98, 66]) * rng.uniform(0.5, 1.3))
        picture[:, :: int(rng.choice([4, 6, 8]))] *= 0.55
        return Texture(with_fourth(picture, FENCE))
    picture = np.ones((height, width, 3)) * rng.choice([25, 45, 120, 200]) + rng.normal(0, 8, 3)
    opacity = np.full((height, width), 60, np.uint8)
    step, thick = int(rng.integers(5, 11)), int(rng.integers(1, 4))
    for k in range(thick):
        opacity[:, k::step] = 255
    opacity[2:5] = 255
    opacity[-7:-4] = 255
    return Texture(with_fourth(picture, opacity), FENCE)
