"""Parts of the synthetic street as polygons: cars, people, poles and signs.

Coordinates of a part, in metres: x to the right, y up from the ground, z along the road; its foot is at the
origin. `light(normal)` gives the factors (3,) by which the light scales a colour.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vss_ros.data.street.paint import BICYCLIST, CAR, PEDESTRIAN, POLE, SIGN, Texture


class Mesh:
    """Polygons with one colour or texture each. `swing` moves the points by sin(phase): legs that walk."""

    def __init__(self) -> None:
        self.points: list[np.ndarray] = []
        self.colours: list[np.ndarray] = []
        self.labels: list[int] = []
        self.solid: list[bool] = []  # one side only, the outer one
        self.keys: list[float] = []  # drawn from the largest key (far along the road) to the smallest
        self.textures: list[Texture | None] = []
        self.swing: list[np.ndarray] = []

    def add(self, points, colour, label, key=0.0, inside=None, texture=None, swing=None, light=None):
        """Add a polygon; `inside` is a point behind it, which makes it one-sided; light(normal) shades it."""
        points = np.asarray(points, np.float64)
        if light is not None or inside is not None:
            # The cross product by hand: numpy's costs more than all the rest here.
            (ax, ay, az), (bx, by, bz) = (points[1] - points[0]).tolist(), (points[2] - points[0]).tolist()
            normal = np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
            normal /= max(1e-9, float(normal @ normal) ** 0.5)
            if inside is None and normal[2] > 0:
                normal = -normal
            elif inside is not None and normal @ (points[0] - inside) < 0:
                normal = -normal
                points = points[::-1]
        colour = np.asarray(colour, np.float64)
        self.points.append(points)
        self.colours.append(colour if light is None else colour * light(normal))
        self.labels.append(label)
        self.solid.append(inside is not None)
        self.keys.append(key)
        self.textures.append(texture)
        self.swing.append(np.zeros_like(points) if swing is None else np.asarray(swing, np.float64))

    def frontal(self, x, y, z, w0, w1, height, colour, label, key=0.0, light=None, swing=None):
        """A flat upright bar facing the camera: half widths w0 at the bottom and w1 at the top."""
        points = [(x - w0, y, z), (x - w1, y + height, z), (x + w1, y + height, z), (x + w0, y, z)]
        self.add(points, colour, label, key, light=light, swing=swing)

    def box(self, x0, x1, y0, y1, z0, z1, colour, label, key=0.0, light=None):
        """A box without its underside."""
        inside = np.array([(x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2])
        for x in (x0, x1):
            points = [(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)]
            self.add(points, colour, label, key, inside, light=light)
        for z in (z1, z0):
            points = [(x0, y0, z), (x0, y1, z), (x1, y1, z), (x1, y0, z)]
            self.add(points, colour, label, key, inside, light=light)
        points = [(x0, y1, z0), (x0, y1, z1), (x1, y1, z1), (x1, y1, z0)]
        self.add(points, colour, label, key, inside, light=light)

    def extend(self, part: Mesh, x: float, z: float, key: float):
        """Put a copy of a part at (x, 0, z)."""
        place = np.array([x, 0, z])
        self.points += [p + place for p in part.points]
        self.keys += [key] * len(part.points)
        self.colours += part.colours
        self.labels += part.labels
        self.solid += part.solid
        self.textures += part.textures
        self.swing += part.swing

    def pack(self, bend) -> Packed:
        """The mesh as arrays; bend(z) shifts the points to the road's curve (None: leave them)."""
        counts = np.array([len(p) for p in self.points], np.int64)
        points = np.concatenate([*self.points, np.zeros((0, 3))])
        if bend is not None:
            points[:, 0] += bend(points[:, 2])
        return Packed(
            points,
            np.concatenate([*self.swing, np.zeros((0, 3))]),
            counts,
            np.array(self.colours).reshape(-1, 3),
            np.array(self.labels, np.uint8),
            np.array(self.solid, bool),
            np.array(self.keys, np.float64),
            self.textures,
        )


class Packed(NamedTuple):
    """A mesh as arrays, V points and F faces."""

    points: np.ndarray  # (V, 3)
    swing: np.ndarray  # (V, 3)
    counts: np.ndarray  # (F,) points of each face
    colours: np.ndarray  # (F, 3)
    labels: np.ndarray  # (F,)
    solid: np.ndarray  # (F,)
    keys: np.ndarray  # (F,)
    textures: list  # F, Texture or None


def disc(x, y, z, radius, corners=10, squeeze=1.0):
    a = np.arange(corners) * 2 * np.pi / corners + np.pi / corners
    return np.stack([x + squeeze * radius * np.sin(a), y + radius * np.cos(a), np.full(corners, z)], 1)


PAINTS = [
    (200, 202, 205),
    (150, 155, 162),
    (40, 42, 46),
    (25, 25, 28),
    (150, 22, 24),
    (28, 48, 110),
    (232, 232, 230),
]
PAINTS += [
    (90, 95, 100),
    (30, 70, 50),
    (110, 60, 40),
    (190, 160, 60),
    (70, 110, 160),
    (120, 20, 40),
    (60, 64, 70),
]
# length, height, half width, bonnet, boot, rake of the windows:
# hatchback, saloon, estate, off-roader, van, bus
BODIES = [
    (3.8, 1.45, 0.84, 0.85, 0.15, 0.7),
    (4.5, 1.42, 0.88, 1.1, 0.8, 0.75),
    (4.6, 1.48, 0.88, 1.1, 0.1, 0.6),
]
BODIES += [
    (4.6, 1.75, 0.94, 1.0, 0.1, 0.45),
    (5.0, 2.15, 0.97, 0.7, 0.02, 0.5),
    (9.5, 3.1, 1.22, 0.05, 0.02, 0.1),
]


def car(rng: np.random.Generator, light, forward: bool) -> Mesh:
    """A car, van or bus at the origin; `forward` drives towards +z."""
    kind = rng.choice(6, p=[0.34, 0.26, 0.13, 0.12, 0.1, 0.05])
    length, top, half, bonnet, boot, rake = np.array(BODIES[kind]) * rng.uniform(0.95, 1.05, 6)
    paint = np.array(PAINTS[rng.integers(len(PAINTS))]) * rng.uniform(0.8, 1.1) + rng.normal(0, 6, 3)
    glass = np.array([42, 48, 54]) * rng.uniform(0.5, 1.6)
    belt = min(0.62 * top, 1.35)
    nose = belt * 0.85 if bonnet > 0.3 else belt
    mesh, way, end = Mesh(), 1.0 if forward else -1.0, length / 2
    middle = np.array([0.0, 0.6, 0.0])
    inner = half * (0.80 if kind < 4 else 0.95)

    def face(points, colour):
        points = np.array(points, np.float64) * (1, 1, way)
        mesh.add(points, colour, CAR, inside=middle, light=light)

    def across(za, ya, wa, zb, yb, wb, colour):
        face([(-wa, ya, za), (-wb, yb, zb), (wb, yb, zb), (wa, ya, za)], colour)

    rear, front = -end + boot, end - bonnet
    across(-end, 0.15, half * 0.9, -end, 0.4, half * 0.9, (22, 22, 24))
    across(end, 0.15, half * 0.9, end, 0.4, half * 0.9, (22, 22, 24))
    across(rear, belt, half, rear + 0.6 * rake, top, inner, glass)
    across(front, belt, half, front - rake, top, inner, glass * 1.3)
    across(rear + 0.6 * rake, top, inner, front - rake, top, inner, paint)
    across(-end, belt, half, rear, belt, half, paint)
    across(end, nose, half, front, belt, half, paint)
    across(-end, 0.3, half, -end, belt, half, paint)
    across(end, 0.3, half, end, nose, half, paint)
    out = end + 0.01
    lamp = np.array([170, 25, 20]) if rng.random() < 0.7 else np.array([215, 60, 40])
    for sign in (-1, 1):
        for z, y, colour in ((-out, belt * 0.72, lamp), (out, nose * 0.74, np.array([215, 218, 215]))):
            xs = np.sort([sign * half * 0.95, sign * half * 0.6])
            face([(xs[0], y, z), (xs[0], y + 0.17, z), (xs[1], y + 0.17, z), (xs[1], y, z)], colour)
            xs = np.sort([sign * half * 0.95, sign * half * 0.62])
            face([(xs[0], 0, z), (xs[0], 0.3, z), (xs[1], 0.3, z), (xs[1], 0, z)], (18, 18, 20))
    for z, plate in ((-out, (205, 180, 60)), (out, (215, 215, 210))):
        face([(-0.26, 0.48, z), (-0.26, 0.6, z), (0.26, 0.6, z), (0.26, 0.48, z)], plate)
    face(
        [
            (-half * 0.5, 0.62, out),
            (-half * 0.5, 0.74, out),
            (half * 0.5, 0.74, out),
            (half * 0.5, 0.62, out),
        ],
        (20,) * 3,
    )
    for x, xi in ((-half, -inner), (half, inner)):
        face([(x, 0.25, -end), (x, belt, -end), (x, belt, front), (x, nose, end), (x, 0.25, end)], paint)
        cabin = np.array(
            [(x, belt, rear), (xi, top, rear + 0.6 * rake), (xi, top, front - rake), (x, belt, front)]
        )
        face(cabin, paint)
        panes = 2 if kind < 5 else 6
        for k in range(panes):
            if kind == 4 and k == 0:
                continue
            a, b = (k + 0.06) / panes, (k + 0.94) / panes
            low, high = cabin[0] + (cabin[3] - cabin[0]) * 0.04, cabin[1]
            span_low, span_high = (cabin[3] - cabin[0]) * 0.92, cabin[2] - cabin[1]
            quad = [low + span_low * a, high + span_high * a, high + span_high * b, low + span_low * b]
            lift = np.array([0.01 * np.sign(x), 0, 0])
            above = [quad[1], quad[0], quad[3], quad[2]]
            face([q + (other - q) * 0.12 + lift for q, other in zip(quad, above, strict=True)], glass)
        for z in (-0.31 * length, 0.31 * length):
            for radius, shade, shift in ((0.33, (24, 24, 26), 0.01), (0.2, (140, 142, 145), 0.02)):
                ring = disc(z, 0.33, 0, radius)
                face(np.stack([np.full(10, x + np.sign(x) * shift), ring[:, 1], ring[:, 0]], 1), shade)
    return mesh


def person(mesh: Mesh, rng: np.random.Generator, light, label: int, y: float, size: float, stride: float):
    """Add a person facing along the road; feet at height y, legs swing by `stride` metres."""
    skin = np.array([[224, 180, 150], [190, 140, 110], [120, 82, 60]][rng.integers(3)])
    coat = rng.uniform(10, 210, 3) * rng.uniform(0.2, 1.0)
    legs = rng.uniform(12, 100) * rng.uniform(0.7, 1.1, 3)
    hair = np.array([40, 32, 26]) * rng.uniform(0.4, 3.0)
    wide = rng.uniform(0.9, 1.15)
    for sign in (-1, 1):
        x = sign * 0.1
        foot = np.array([[0.35 * stride * sign, 0, stride * sign]] * 4) * [[1], [0], [0], [1]]
        mesh.frontal(x, y, 0, 0.07 * wide, 0.1 * wide, 0.85 * size, legs, label, light=light, swing=foot)
        hand = np.array([[-0.12 * sign, 0, -stride * sign]] * 4) * [[1], [0], [0], [1]] * 0.6
        arm = sign * 0.25 * wide
        mesh.frontal(
            arm, y + 0.78 * size, 0, 0.05, 0.06, 0.62 * size, coat * 0.85, label, light=light, swing=hand
        )
    torso = np.array([(-0.17, 0.78), (-0.23, 1.38), (-0.1, 1.48), (0.1, 1.48), (0.23, 1.38), (0.17, 0.78)])
    points = np.stack([torso[:, 0] * wide, y + torso[:, 1] * size, np.zeros(6)], 1)
    mesh.add(points, coat, label, light=light)
    mesh.add(disc(0, y + 1.6 * size, 0, 0.13, 8, 0.8), skin, label, light=light)
    mesh.add(disc(0, y + 1.64 * size, -0.01, 0.11, 8, 0.9), hair, label, light=light)


def pedestrian(rng: np.random.Generator, light) -> Mesh:
    mesh = Mesh()
    person(mesh, rng, light, PEDESTRIAN, 0.0, rng.uniform(0.85, 1.06), rng.uniform(0.22, 0.35))
    if rng.random() < 0.3:
        mesh.frontal(0.32, 0.5, 0.0, 0.12, 0.1, 0.35, rng.uniform(20, 200, 3), PEDESTRIAN, light=light)
    return mesh


def wheel(mesh: Mesh, z: float):
    a = np.arange(17) * 2 * np.pi / 16
    outer = np.stack([np.zeros(17), 0.34 + 0.34 * np.cos(a), z + 0.34 * np.sin(a)], 1)
    inner = np.stack([np.zeros(17), 0.34 + 0.28 * np.cos(a), z + 0.28 * np.sin(a)], 1)
    mesh.add(np.concatenate([outer, inner[::-1]]), (28, 28, 30), BICYCLIST)
    mesh.frontal(0, 0, z, 0.045, 0.045, 0.68, (28, 28, 30), BICYCLIST)


def cyclist(rng: np.random.Generator, light, rider: bool = True) -> Mesh:
    """A bicycle along z with its rider, or parked without one."""
    mesh, frame = Mesh(), rng.uniform(20, 200, 3)
    wheel(mesh, 0.52)
    tubes = (((-0.5, 0.34), (0, 0.35)), ((0, 0.35), (0.4, 0.85)), ((-0.15, 0.85), (0.4, 0.85)))
    for (z0, y0), (z1, y1) in tubes:
        tube = [(0, y0, z0), (0, y0 + 0.06, z0), (0, y1 + 0.06, z1), (0, y1, z1)]
        mesh.add(tube, frame, BICYCLIST, light=light)
    mesh.frontal(0, 0.98, 0.4, 0.3, 0.3, 0.05, (40, 40, 42), BICYCLIST, light=light)
    if rider:
        person(mesh, rng, light, BICYCLIST, 0.3, rng.uniform(0.86, 0.98), 0.16)
    mesh.frontal(0, 0.5, -0.2, 0.03, 0.1, 0.45, frame, BICYCLIST, light=light)
    wheel(mesh, -0.52)  # towards the camera, so in front of the rider's legs
    mesh.frontal(0, 0.66, -0.6, 0.07, 0.07, 0.1, (190, 30, 25), BICYCLIST, light=light)
    return mesh


def lamp_post(rng: np.random.Generator, light, side: int) -> Mesh:
    """A street lamp whose arm reaches over the road; side -1 stands to the left of the road."""
    mesh, height = Mesh(), rng.uniform(5, 9.5)
    colour = np.array([[120, 124, 122], [70, 75, 72], [40, 50, 46], [165, 165, 160]][rng.integers(4)])
    width = rng.uniform(0.07, 0.12)
    mesh.frontal(0, 0, 0, width * 1.5, width * 1.5, 1.2, colour, POLE, light=light)
    mesh.frontal(0, 1.2, 0, width, width * 0.7, height - 1.2, colour, POLE, light=light)
    reach = -side * rng.uniform(0.5, 2.0)
    arm = [(0, height - 0.1, 0), (0, height, 0), (reach, height + 0.35, 0), (reach, height + 0.2, 0)]
    mesh.add(arm, colour, POLE, light=light)
    mesh.frontal(reach, height + 0.12, 0, 0.3, 0.22, 0.16, colour * 1.2, POLE, light=light)
    return mesh


def sign(rng: np.random.Generator, light) -> Mesh:
    """A traffic sign, a traffic light or a board, on its post."""
    mesh, kind = Mesh(), rng.integers(5)
    grey = np.array([130, 132, 130]) * rng.uniform(0.5, 1.1)
    height = rng.uniform(2.1, 3.0)
    mesh.frontal(0, 0, 0, 0.055, 0.05, height + 0.2, grey, POLE, light=light)
    if kind == 0:
        mesh.frontal(0, height, -0.02, 0.2, 0.2, 0.95, (24, 26, 26), SIGN, light=light)
        shining = rng.integers(3)
        for k, glow in enumerate([(255, 50, 30), (255, 170, 40), (60, 255, 140)]):
            lens = np.array(glow) * (1.0 if k == shining else 0.25)
            mesh.add(disc(0, height + 0.78 - 0.3 * k, -0.04, 0.1, 8), lens, SIGN)
    elif kind in (1, 2):
        corners = int(rng.choice([3, 12, 12, 8]))
        rim, inner = [((200, 25, 30), (235, 235, 230)), ((30, 70, 170), (225, 225, 225))][rng.integers(2)]
        mesh.add(disc(0, height, -0.02, 0.38, corners), rim, SIGN, light=light)
        mesh.add(disc(0, height, -0.04, 0.26, corners), inner, SIGN, light=light)
        mesh.frontal(0, height - 0.08, -0.05, 0.12, 0.1, 0.14, (30, 30, 34), SIGN, light=light)
    else:
        half, tall = rng.uniform(0.3, 0.9), rng.uniform(0.5, 1.3)
        boards = [(20, 60, 140), (30, 100, 60), (235, 232, 225), (170, 30, 30), (220, 180, 40)]
        colour = np.array(boards[rng.integers(5)])
        mesh.frontal(0, height - tall / 2, -0.02, half, half, tall, colour, SIGN, light=light)
        ink = 255 - colour if rng.random() < 0.5 else 240 - colour * (colour.mean() > 150)
        for k in range(3):
            y = height - tall / 2 + tall * (0.15 + 0.26 * k)
            wide = half * rng.uniform(0.4, 0.85)
            mesh.frontal(0, y, -0.04, wide, wide, tall * 0.1, ink, SIGN, light=light)
    return mesh
