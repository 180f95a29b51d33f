"""Where each car, pedestrian and rider of the synthetic street is in a frame: exact points for counting."""

from __future__ import annotations

import numpy as np

from vss_ros.data.street.paint import CAR
from vss_ros.data.street.street import Street
from vss_ros.data.street.view import Scene

FIRST = 32
"""Ids of instances begin above those of the classes."""
REACH = 80.0
"""Metres ahead within which something is counted."""
LEAST = 1 / 1728
"""Share of the picture's pixels that must be seen of something for it to count: 100 of 480×360, 10×10."""


def road_users(street: Street, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame number t: rgb (H, W, 3) uint8, and (N, 2) float32, column and row of the middle of what is seen of each.

    Counted are cars, parked ones too, pedestrians and riders of which enough is seen; no parked bicycles.
    """
    rgb, _ = street.frame(t)
    ids = instances(street, t)
    pixels = np.bincount(ids.ravel(), minlength=256)
    rows, columns = np.indices(ids.shape)
    seen = [i for i in range(FIRST, 256) if pixels[i] >= LEAST * ids.size]
    middle = [
        np.bincount(ids.ravel(), place.ravel(), 256)[seen] / pixels[seen] + 0.5 for place in (columns, rows)
    ]
    return rgb, np.stack(middle, 1).astype(np.float32)


def instances(street: Street, t: int) -> np.ndarray:
    """(H, W) uint8: what is drawn on top at each pixel, an id from FIRST on for each road user, else below FIRST."""
    view, chunks, moving = street.at(t)
    scene = Scene([c[2] for c in chunks], moving, street.bend)
    owner = np.zeros(len(scene.counts), np.int64)
    fixed = sum(len(c[2].counts) for c in chunks)
    # the faces of a parked car have one key, its own place along the road
    parked = np.flatnonzero(scene.labels[:fixed] == CAR)
    _, owner_of = np.unique(scene.keys[parked], return_inverse=True)
    owner[parked] = owner_of + 1
    start, last = fixed, owner.max()
    for number, (mesh, *_) in enumerate(moving, last + 1):
        owner[start : start + len(mesh.counts)] = number
        start += len(mesh.counts)
    ahead = (scene.keys > view.here - 4) & (scene.keys < view.here + REACH)
    near, short = np.unique(owner[ahead & (owner > 0)], return_inverse=True)
    scene.labels = np.array(scene.labels)
    scene.labels[ahead & (owner > 0)] = np.minimum(short + FIRST, 255) if len(near) else 0
    canvas = np.zeros((street.height, street.width, 4), np.uint8)
    street.draw_objects(canvas, view, scene)
    return np.ascontiguousarray(canvas[..., 3])
