"""A street seen by its camera: sky, ground and all that stands or moves on it, drawn from far to near."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from vss_ros.data.street.paint import SKY
from vss_ros.data.street.parts import Mesh
from vss_ros.data.street.view import NEAR, SHIFT, Faces, Scene, draw_flat, draw_texture
from vss_ros.data.street.world import cast

VIEW = 190.0  # metres drawn ahead of the camera
DETAIL = 20.0  # ground texture: pixels a metre
PERIOD = 32.0  # metres after which the ground texture repeats along the road
GROUND_HALF = 16.0  # metres of ground texture to either side of the road's centre


class Drawing:
    """What `Street` draws; its attributes are the scene's look."""

    backdrop_label: Any
    bend: Any
    camera_height: Any
    detail: Any
    focal: Any
    ground_colours: Any
    haze: Any
    haze_length: Any
    height: Any
    sky: Any
    width: Any

    def _draw_sky(self, canvas, view):
        h, w = self.sky.shape[:2]
        across = (self.width - w) / 2 - view.yaw * self.focal
        move = np.array([[1, 0, across], [0, 1, view.horizon - h + 1]])
        size = (self.width, self.height)
        canvas[:] = cv2.warpAffine(
            self.sky, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        # Between two ids the interpolated one is nobody's: decide for the nearer.
        canvas[..., 3] = np.where(2 * canvas[..., 3] > self.backdrop_label, self.backdrop_label, SKY)

    def _draw_ground(self, canvas, view, chunks, moving):
        first = int(np.floor(view.horizon)) + 1
        down = np.arange(first, self.height) - view.horizon
        z = np.minimum(self.focal * self.camera_height / down, 600.0)  # of each row, ahead
        u = (np.arange(self.width) - (self.width - 1) / 2)[None].astype(np.float32)
        sin, cos = np.sin(view.yaw), np.cos(view.yaw)
        s = view.here + cos * z
        slope = self.bend(s + 0.5) - self.bend(s - 0.5)
        lateral = (view.x + sin * z - self.bend(s))[:, None].astype(np.float32)
        lateral = lateral + ((cos + slope * sin) * z / self.focal)[:, None].astype(np.float32) * u
        along = (s - PERIOD * np.floor(view.here / PERIOD))[:, None].astype(np.float32)
        along = along - (sin * z / self.focal)[:, None].astype(np.float32) * u
        column = np.clip((lateral + GROUND_HALF) * DETAIL, 0, 2 * GROUND_HALF * DETAIL - 1)
        ground = canvas[first:]
        ground[:] = self.ground_colours[column.astype(np.int32)].view(np.uint8).reshape(*column.shape, 4)

        marks = Scene([c[0] for c in chunks], [], self.bend)
        draw_flat(canvas, view, marks, 80.0)
        shadow = np.full(canvas.shape[:2], 255, np.uint8)
        darkness = [c[1] for c in chunks] + [self._mover_shadows(moving)]
        draw_flat(shadow, view, Scene(darkness, [], self.bend), 90.0)
        shadow = cv2.blur(shadow[first:], (5, 3))

        bright = np.full(column.shape, 128, np.uint8)
        wanted = np.log2(np.maximum(1.0, 0.6 * DETAIL * z * z / (self.focal * self.camera_height)))
        for level, picture in enumerate(self.detail):
            rows = np.flatnonzero((wanted >= level) & (wanted < level + 1))
            if len(rows):
                r = slice(rows[0], rows[-1] + 1)
                at = (column[r] * 0.5**level, along[r] * np.float32(DETAIL * 0.5**level))
                cv2.remap(picture, *at, cv2.INTER_LINEAR, dst=bright[r], borderMode=cv2.BORDER_WRAP)
        bright = cv2.multiply(bright, shadow, scale=1 / 255)
        ground[:] = cv2.multiply(
            ground, cv2.merge([bright, bright, bright, np.full_like(bright, 128)]), scale=1 / 128
        )
        clear = np.exp(-z / self.haze_length)[:, None]
        keep = np.concatenate([clear, clear, clear, np.ones_like(clear)], 1)
        veil = np.concatenate([self.haze * (1 - clear), np.zeros_like(clear)], 1)
        keep, veil = (256 * keep).astype(np.uint16)[:, None], (256 * veil).astype(np.uint16)[:, None]
        ground[:] = np.minimum((ground * keep + veil) >> 8, 255)

    def _mover_shadows(self, moving):
        mesh = Mesh()
        for _, x, z, _, half_x, half_z in moving:
            cast(self, mesh, x, z, half_x, half_z, 1.2)
        return mesh.pack(self.bend)

    def draw_objects(self, canvas, view, scene):
        """Draw all that stands or moves over what is on the canvas (H, W, 4)."""
        faces = Faces(view, scene)
        distance = np.maximum(faces.middle, 0)
        clear = np.exp(-distance / self.haze_length)[:, None]
        colours = np.clip(scene.colours * clear + self.haze * (1 - clear), 0, 255)
        colours = np.concatenate([colours, scene.labels[:, None]], 1).tolist()
        fixed = np.round(faces.uv * 2**SHIFT).astype(np.int32)
        visible = np.flatnonzero(faces.seen & (distance < VIEW))
        for i in visible[np.argsort(-scene.keys[visible], kind="stable")]:
            a, b = scene.starts[i], scene.starts[i] + scene.counts[i]
            texture = scene.textures[i]
            if faces.nearest[i] < NEAR:
                if texture is None:
                    points = view.clipped(scene.points[a:b])
                    if len(points):
                        cv2.fillPoly(canvas, [points], colours[i], cv2.LINE_8, SHIFT)
            elif texture is not None:
                draw_texture(canvas, faces.uv[a:b].astype(np.float32), texture, float(clear[i, 0]), self.haze)
            elif b - a <= 12:
                cv2.fillConvexPoly(canvas, fixed[a:b], colours[i], cv2.LINE_8, SHIFT)
            else:
                cv2.fillPoly(canvas, [fixed[a:b]], colours[i], cv2.LINE_8, SHIFT)
