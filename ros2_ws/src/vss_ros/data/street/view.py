"""The camera of the synthetic street: projection, clipping, and drawing of polygons and textures."""

from __future__ import annotations

import cv2
import numpy as np

from vss_ros.data.street.paint import Texture
from vss_ros.data.street.parts import Packed

NEAR = 0.4  # metres to the near plane
SHIFT = 4  # sub-pixel bits of OpenCV's polygon coordinates


class View:
    """The camera of one frame; looks along the road, level, with the horizon at a row of its own."""

    def __init__(self, street, here: float, slope: float, seconds: float):
        self.here, self.yaw = here, float(np.arctan(slope))
        self.x = float(street.bend(here)) + street.ego_side * 0.5 * street.lane
        self.focal, self.up = street.focal, street.camera_height
        pitch = street.wobble[1] * (np.sin(7.1 * seconds) + 0.5 * np.sin(11.3 * seconds + 1))
        self.horizon = street.horizon * street.height + pitch * street.focal
        self.centre = (street.width - 1) / 2
        self.size = (street.width, street.height)

    def turned(self, points):
        """Points (V, 3) of the world in the camera's axes: right, up, ahead."""
        dx, dz = points[:, 0] - self.x, points[:, 2] - self.here
        sin, cos = np.sin(self.yaw), np.cos(self.yaw)
        return np.stack([cos * dx - sin * dz, points[:, 1] - self.up, sin * dx + cos * dz], 1)

    def pixels(self, turned):
        scale = self.focal / turned[:, 2]
        return np.stack([self.centre + scale * turned[:, 0], self.horizon - scale * turned[:, 1]], 1)

    def project(self, points):
        """Distance ahead (V,) and pixel coordinates (V, 2); those nearer than NEAR are of no use."""
        turned = self.turned(points)
        z = turned[:, 2].copy()
        turned[:, 2] = np.maximum(z, NEAR)
        return z, np.clip(self.pixels(turned), -30000, 30000)

    def clipped(self, points):
        """The part of a polygon beyond the near plane, in fixed-point pixels (N, 2) int32, or empty."""
        turned, kept = self.turned(points), []
        for p, q in zip(turned, np.roll(turned, -1, axis=0), strict=True):
            if p[2] >= NEAR:
                kept.append(p)
            if (p[2] >= NEAR) != (q[2] >= NEAR):
                kept.append(p + (q - p) * (NEAR - p[2]) / (q[2] - p[2]))
        if not kept:
            return np.zeros((0, 2), np.int32)
        return np.round(np.clip(self.pixels(np.array(kept)), -30000, 30000) * 2**SHIFT).astype(np.int32)


class Scene:
    """Packed meshes joined for one frame; moving ones are put at their place first.

    moving: (packed mesh, x beside the road's centre line, z, phase of its swing, ...) each.
    """

    def __init__(self, fixed: list[Packed], moving: list, bend):
        points = [p.points for p in fixed]
        keys = [p.keys for p in fixed]
        for mesh, x, z, phase, *_ in moving:
            placed = mesh.points + np.sin(phase) * mesh.swing + (x, 0, z)
            placed[:, 0] += bend(placed[:, 2])
            points.append(placed)
            keys.append(mesh.keys + z)
        meshes = fixed + [m[0] for m in moving]
        self.points = np.concatenate(points)
        self.keys = np.concatenate(keys)
        self.counts = np.concatenate([m.counts for m in meshes])
        self.starts = np.cumsum(self.counts) - self.counts
        self.colours = np.concatenate([m.colours for m in meshes])
        self.labels = np.concatenate([m.labels for m in meshes])
        self.solid = np.concatenate([m.solid for m in meshes])
        self.textures = [texture for m in meshes for texture in m.textures]


class Faces:
    """The faces of a scene as one camera sees them: where, how far, and whether at all."""

    def __init__(self, view: View, scene: Scene):
        z, self.uv = view.project(scene.points)
        starts = scene.starts
        self.nearest = np.minimum.reduceat(z, starts)
        farthest = np.maximum.reduceat(z, starts)
        self.middle = (self.nearest + farthest) / 2
        low, high = np.minimum.reduceat(self.uv, starts), np.maximum.reduceat(self.uv, starts)
        following = np.arange(1, len(z) + 1)
        following[starts + scene.counts - 1] = starts
        u, v = self.uv.T
        area = np.add.reduceat(u * v[following] - u[following] * v, starts)
        across = self.nearest < NEAR
        inside = (high >= 0).all(1) & (low < view.size).all(1)
        self.seen = (farthest > NEAR) & (inside | across) & (~scene.solid | across | (area > 0))


def draw_flat(canvas, view: View, scene: Scene, reach: float):
    """Fill the faces of a scene in their order, without haze; one channel takes the first colour."""
    if not len(scene.counts):
        return
    faces = Faces(view, scene)
    fixed = np.round(faces.uv * 2**SHIFT).astype(np.int32)
    colours = np.clip(np.concatenate([scene.colours, scene.labels[:, None]], 1), 0, 255).tolist()
    for i in np.flatnonzero(faces.seen & (faces.nearest < reach)):
        a, b = scene.starts[i], scene.starts[i] + scene.counts[i]
        points = fixed[a:b] if faces.nearest[i] >= NEAR else view.clipped(scene.points[a:b])
        if len(points):
            cv2.fillConvexPoly(canvas, points, colours[i], cv2.LINE_8, SHIFT)


def draw_texture(canvas, corners, texture: Texture, clear: float, haze):
    """Warp a texture on to a face with corners bottom left, top left, top right, bottom right."""
    low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int) + 1
    x0, y0 = np.maximum(low, 0)
    x1, y1 = np.minimum(high, canvas.shape[1::-1])
    if x0 >= x1 or y0 >= y1:
        return
    wide, tall = high - low
    veil = (1 - clear) * haze
    if texture.cutout is None:
        base = [*(texture.mean[:3] * clear + veil).tolist(), texture.mean[3]]
        outline = np.round((corners - (x0, y0)) * 2**SHIFT).astype(np.int32)
        # closes seams between faces
        cv2.fillConvexPoly(canvas[y0:y1, x0:x1], outline, base, cv2.LINE_8, SHIFT)
        if wide < 4 or tall < 4:
            return
    picture = cv2.multiply(texture.shrunk(wide, tall), (clear, clear, clear, 1.0))
    picture = cv2.add(picture, (*veil.tolist(), 0.0))
    h, w = picture.shape[:2]
    source = np.array([[0, h - 1], [0, 0], [w - 1, 0], [w - 1, h - 1]], np.float32)
    warp = cv2.getPerspectiveTransform(source, corners - np.array([x0, y0], np.float32))
    region, size = canvas[y0:y1, x0:x1], (int(x1 - x0), int(y1 - y0))
    if texture.cutout is None:
        cv2.warpPerspective(picture, warp, size, region, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)
        return
    layer = cv2.warpPerspective(picture, warp, size, None, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
    opacity = layer[..., 3:].astype(np.int16)
    mixed = region[..., :3] + (((layer[..., :3].astype(np.int16) - region[..., :3]) * (opacity >> 1)) >> 7)
    region[..., :3] = mixed
    region[..., 3][layer[..., 3] > 40] = texture.cutout
