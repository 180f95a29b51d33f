"""The surroundings of the synthetic street: one chunk of markings, houses, trees, furniture, parked cars.

Every function adds to meshes; x is lateral from the road's centre line, `side` is -1 on the left, and k = 0, 1
indexes the street's (left, right) pairs.
"""

from __future__ import annotations

from itertools import pairwise, product

import cv2
import numpy as np

from vss_ros.data.street import parts
from vss_ros.data.street.paint import BUILDING, FENCE, PAVEMENT, POLE, ROAD, SIGN, TREE
from vss_ros.data.street.parts import Mesh

CHUNK = 40.0  # metres of road generated together


def make_chunk(street, index: int) -> tuple:
    """(flat things on the ground, shadows, everything that stands) of one chunk of road, packed."""
    rng = np.random.default_rng((street.seed, 5, index + 1000))
    ground, shadows, objects = Mesh(), Mesh(), Mesh()
    start = index * CHUNK
    markings(street, rng, ground, start)
    for k, side in enumerate((-1, 1)):
        roadside(street, rng, ground, shadows, objects, start, k, side)
    return tuple(m.pack(street.bend) for m in (ground, shadows, objects))


def strip(mesh, x0, x1, z0, z1, colour, label, step=5.0):
    """A flat strip along the road, in pieces short enough to follow its bends."""
    pieces = max(1, int(np.ceil((z1 - z0) / step)))
    z = np.linspace(z0, z1, pieces + 1)
    for a, b in pairwise(z):
        mesh.add([(x0, 0, a), (x0, 0, b), (x1, 0, b), (x1, 0, a)], colour, label)


def markings(street, rng, ground, start):
    up = street.light(np.array([0, 1.0, 0]))
    white, kerb = street.marking * up, street.kerb * up
    for z in np.arange(start, start + CHUNK - 0.1, street.dash):
        strip(ground, -0.07, 0.07, z, z + 0.5 * street.dash, white, ROAD)
    for k, side in enumerate((-1, 1)):
        edge = side * street.road_half[k]
        strip(ground, edge - side * 0.12, edge, start, start + CHUNK, street.asphalt * up * 0.7, ROAD)
        strip(ground, edge, edge + side * 0.16, start, start + CHUNK, kerb, PAVEMENT)
        paint_colour = white if street.edge == 1 else np.array([200, 170, 70]) * up
        for x in (0.3, 0.5)[: max(0, street.edge - 1) or street.edge]:
            x = side * (street.road_half[k] - x - 1.9 * street.parking[k])
            strip(ground, x - 0.045, x + 0.045, start, start + CHUNK, paint_colour, ROAD)
    if rng.random() < 0.15:  # zebra crossing with its stop lines
        z = start + rng.uniform(5, 30)
        for x in np.arange(-street.road_half[0] + 0.4, street.road_half[1] - 0.6, 1.0):
            strip(ground, x, x + 0.5, z, z + 3, white, ROAD)
        strip(ground, -street.road_half[0], street.road_half[1], z - 1.5, z - 1.2, white, ROAD)
    if rng.random() < 0.2:  # arrow
        x, z = rng.choice([-0.5, 0.5]) * street.lane, start + rng.uniform(3, 33)
        strip(ground, x - 0.08, x + 0.08, z, z + 2.5, white, ROAD)
        ground.add([(x - 0.4, 0, z + 2.5), (x, 0, z + 4), (x + 0.4, 0, z + 2.5)], white, ROAD)
    for _ in range(rng.integers(0, 4)):  # manholes and darker patches
        x, z, half = rng.uniform(-0.8, 0.8) * street.lane, start + rng.uniform(2, 36), rng.uniform(0.3, 1.0)
        colour = street.asphalt * up * rng.uniform(0.6, 1.2)
        strip(ground, x - half, x + half, z, z + 1.4 * half, colour, ROAD)


def roadside(street, rng, ground, shadows, objects, start, k, side):
    edge = street.road_half[k]
    back = edge + street.pavement[k]
    up = street.light(np.array([0, 1.0, 0]))
    kind = rng.choice(["shops", "houses", "park", "open"], p=street.kinds)
    first = 0
    if rng.random() < 0.2:  # a side street through the first eight metres
        first = 1
        strip(ground, side * (edge - 0.1), side * 70, start + 0.5, start + 7.5, street.asphalt * up, ROAD)
    units = [start + 8 * u for u in range(first, 5)]
    length = (start + 8 * first, start + CHUNK)
    if kind == "shops":
        for u in groups(rng, units):
            building(street, rng, shadows, objects, side, back, u, 2 * int(rng.integers(4)))
            if rng.random() < 0.5:
                shop_sign(street, rng, objects, side, back, u[0])
    else:
        grassy = kind == "park" or rng.random() < 0.6
        if grassy:
            strip(ground, side * (back + 0.2), side * 60, *length, street.grass * up, TREE, 8.0)
        if kind == "houses":
            setback = back + rng.uniform(1.5, 6)
            for u in groups(rng, units):
                if rng.random() < 0.8:
                    building(street, rng, shadows, objects, side, setback, u, 2 * int(rng.integers(4)) + 1)
        elif rng.random() < 0.6:
            building(street, rng, shadows, objects, side, back + rng.uniform(14, 30), units, rng.integers(8))
        border = rng.choice(4, p=[0.4, 0.25, 0.2, 0.15] if kind != "park" else [0.6, 0.15, 0.15, 0.1])
        if border < 3:
            choice = (street.fences[rng.integers(3)], street.hedges[rng.integers(2)], street.low_wall)
            texture = choice[border][k]
            label = (FENCE, TREE, BUILDING)[border]
            height = (rng.uniform(0.9, 1.9), rng.uniform(0.9, 2.2), rng.uniform(0.6, 1.8))[border]
            for z in np.arange(*length, 4.0):
                if rng.random() < 0.93:
                    panel(objects, side * back, z, z + 4, 0, height, texture, label)
        for _ in range(rng.poisson({"houses": 2, "park": 6, "open": 3}[kind])):
            x = back + (rng.uniform(0.8, 2.5) if kind == "houses" else rng.uniform(1, 18))
            tree(street, rng, shadows, objects, side * x, rng.uniform(*length))
    furniture(street, rng, ground, shadows, objects, side, k, length)


def groups(rng, units):
    """Join neighbouring eight-metre units to buildings of one to three."""
    while units:
        n = int(rng.integers(1, 4))
        yield units[:n]
        units = units[n:]


def panel(mesh, x, z0, z1, y0, y1, texture, label):
    mesh.add([(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)], (0, 0, 0), label, z1, None, texture)


def building(street, rng, shadows, objects, side, front, units, facade):
    textures, end, height = street.facades[facade]
    stretch = rng.uniform(0.9, 1.15)
    height *= stretch
    x, depth, z0, z1 = side * front, side * rng.uniform(7, 11), units[0], units[-1] + 8
    wall = [(x, 0, z0), (x, height, z0), (x + depth, height, z0), (x + depth, 0, z0)]
    objects.add(wall, (0, 0, 0), BUILDING, z0 + 0.02, None, end)
    for z in units:
        panel(objects, x, z, z + 8, 0, height, textures[0 if side < 0 else 1], BUILDING)
    inside = np.array([x + depth / 2, height / 2, (z0 + z1) / 2])
    tiles = np.array([[110, 62, 48], [78, 80, 86], [96, 84, 74]][rng.integers(3)]) * rng.uniform(0.7, 1.2)
    ridge = height + rng.uniform(1.5, 4.5)
    if rng.random() < 0.65:
        for z in units:
            roof = [(x - side * 0.3, height - 0.15, z), (x + depth / 2, ridge, z)]
            roof += [(x + depth / 2, ridge, z + 8), (x - side * 0.3, height - 0.15, z + 8)]
            objects.add(roof, tiles, BUILDING, z + 8, inside, light=street.light)
            if rng.random() < 0.4:
                c, w = x + depth * rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.6)
                top, brick = ridge + rng.uniform(0.6, 1.6), (128, 84, 66)
                chimney = (c - w, c + w, height, top, z + 1, z + 2.4)
                objects.box(*chimney, brick, BUILDING, z + 7.9, street.light)
        gable = [(x, height, z0), (x + depth / 2, ridge, z0), (x + depth, height, z0)]
        objects.add(gable, end.pixels[..., :3].mean((0, 1)), BUILDING, z0 + 0.02)
    else:
        parapet = [(x, height, z0), (x, height + 0.5, z0), (x, height + 0.5, z1), (x, height, z1)]
        objects.add(parapet, tiles * 1.3, BUILDING, z0 + 7.9, inside, light=street.light)
    dx, dz = -street.sun[0] / street.sun[1] * height, -street.sun[2] / street.sun[1] * height
    if dx * side < 0 and street.overcast < 0.8:
        dark = sunless(street)
        for z in units:
            patch = [(x, 0, z), (x, 0, z + 8), (x + dx, 0, z + 8 + dz), (x + dx, 0, z + dz)]
            shadows.add(patch, (dark, dark, dark), ROAD)


def sunless(street) -> float:
    """Brightness 0..255 of sunlit ground when something takes the sun away."""
    return 255 * float(street.ambient[1] / (street.ambient[1] + street.sunlight[1] * street.sun[1]))


def cast(street, shadows, x, z, half_x, half_z, height):
    """A thing's shadow: a dark patch under it, and the sun's shadow of its upper half."""
    strip(shadows, x - half_x, x + half_x, z - half_z, z + half_z, (130, 130, 130), ROAD)
    if street.overcast < 0.8:
        dx, dz = -street.sun[0] / street.sun[1] * height, -street.sun[2] / street.sun[1] * height
        signs = product((-1, 1), (0, 1), (-1, 1))
        corners = [(x + a * half_x + b * dx, z + c * half_z + b * dz) for a, b, c in signs]
        hull = cv2.convexHull(np.array(corners, np.float32))[:, 0]
        shadows.add(np.insert(hull, 1, 0, axis=1), (sunless(street),) * 3, ROAD)


def tree(street, rng, shadows, objects, x, z, scale=1.0):
    height = scale * rng.uniform(4.5, 13)
    half = height * rng.uniform(0.34, 0.46)
    quad = [(x - half, 0, z), (x - half, height, z), (x + half, height, z), (x + half, 0, z)]
    objects.add(quad, (0, 0, 0), TREE, z, None, street.trees[rng.integers(len(street.trees))])
    if street.overcast < 0.8:
        dx, dz = -street.sun[0] / street.sun[1] * height * 0.6, -street.sun[2] / street.sun[1] * height * 0.6
        blob = parts.disc(x + dx, z + dz, 0, half * 0.7)[:, [0, 2, 1]]
        shadows.add(blob, (sunless(street),) * 3, ROAD)


def shop_sign(street, rng, objects, side, back, z):
    colour = rng.uniform(10, 235, 3)
    x, y, half = side * (back - 0.55), rng.uniform(2.6, 3.6), rng.uniform(0.3, 0.5)
    objects.frontal(x, y, z + 3, half, half, rng.uniform(0.5, 1.1), colour, SIGN, z + 3, street.light)
    ink = (half * 0.6, half * 0.6, 0.2, 255 - colour)
    objects.frontal(x, y + 0.2, z + 2.98, *ink, SIGN, z + 2.99, street.light)


def furniture(street, rng, ground, shadows, objects, side, k, length):
    """What stands between the buildings and the road: lamps, signs, trees, railings, parked cars."""
    edge, width = street.road_half[k], street.pavement[k]
    for z in np.arange(length[0] + 2 + 10 * (side > 0), length[1], 20):
        if rng.random() < 0.6:
            objects.extend(parts.lamp_post(rng, street.light, side), side * (edge + 0.4), z, z)
    for _ in range(rng.poisson(1.6)):
        z = rng.uniform(*length)
        objects.extend(parts.sign(rng, street.light), side * (edge + rng.uniform(0.35, 0.7)), z, z)
    if width > 2.2 and rng.random() < 0.3:
        for z in np.arange(length[0] + 4, length[1], 11.0):
            tree(street, rng, shadows, objects, side * (edge + 0.9), z, 0.75)
    if rng.random() < 0.25 and not street.parking[k]:
        texture, height = street.fences[rng.integers(3)][k], rng.uniform(0.9, 1.15)
        for z in np.arange(length[0] + 2, length[1] - rng.uniform(4, 25), 4.0):
            panel(objects, side * (edge + 0.3), z, z + 4, 0, height, texture, FENCE)
    elif rng.random() < 0.15:
        for z in np.arange(length[0] + 1, length[1], rng.uniform(1.5, 3)):
            objects.frontal(side * (edge + 0.35), 0, z, 0.08, 0.08, 1.0, (60, 60, 62), POLE, z, street.light)
    if rng.random() < 0.12:
        for z in np.arange(length[0] + 3, length[0] + 8, 0.7):
            objects.extend(parts.cyclist(rng, street.light, rider=False), side * (edge + width - 0.5), z, z)
    chance = street.parked if street.parking[k] else 0.06 * street.parked
    for z in np.arange(length[0] + 3.5, length[1] - 2, 6.2):
        if rng.random() < chance:
            x = edge - 1.05 if street.parking[k] else edge + 0.5  # else half on the pavement
            x, z = side * (x + rng.normal(0, 0.06)), z + rng.uniform(-0.5, 0.5)
            vehicle = parts.car(rng, street.light, side == street.ego_side or rng.random() < 0.3)
            objects.extend(vehicle, x, z, z)
            cast(street, shadows, x, z, 0.95, 2.2, 1.2)
