"""An image as square patches that a counting network answers one by one, and one answer out of theirs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

FILL = (124, 116, 104)
"""ImageNet's mean colour, zero after normalisation, beyond the image's edges."""
CELL = 8
"""Pixels a side of a cell of the density."""


@dataclass(frozen=True)
class Tiles:
    """Patches of an image of height × width; what is lacking to whole patches is added at the left and the top.

    patch: pixels a side, a multiple of 16; overlap: pixels that neighbours share, a multiple of 16. Each patch answers
    for its own core alone, and the cores lie side by side: nothing is counted twice.
    """

    height: int
    width: int
    patch: int = 256
    overlap: int = 32

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        step = self.patch - self.overlap
        rows, columns = (max(1, math.ceil((n - self.overlap) / step)) for n in (self.height, self.width))
        return rows, columns

    def __len__(self) -> int:
        return self.grid[0] * self.grid[1]

    @cached_property
    def padding(self) -> tuple[int, int]:
        """Pixels added at the top and at the left."""
        step = self.patch - self.overlap
        top, left = (
            n * step + self.overlap - side
            for n, side in zip(self.grid, (self.height, self.width), strict=True)
        )
        return top, left

    def corner(self, i: int) -> tuple[int, int]:
        """Row and column of a patch's first pixel, in the image: negative in the padding."""
        step = self.patch - self.overlap
        row, column = divmod(i, self.grid[1])
        return row * step - self.padding[0], column * step - self.padding[1]

    def core(self, i: int) -> tuple[int, int, int, int]:
        """First row, end row, first column, end column of what a patch answers for, in the image."""
        bounds: list[int] = []
        for place, start, count in zip(divmod(i, self.grid[1]), self.corner(i), self.grid, strict=True):
            first = start + (self.overlap // 2 if place else 0)
            end = start + self.patch - (self.overlap // 2 if place + 1 < count else 0)
            bounds += [first, end]
        return bounds[0], bounds[1], bounds[2], bounds[3]

    def cut(self, rgb: np.ndarray, i: int) -> np.ndarray:
        """The i-th patch (patch, patch, 3) of the image (height, width, 3), uint8."""
        row, column = self.corner(i)
        part = rgb[max(row, 0) : row + self.patch, max(column, 0) : column + self.patch]
        if part.shape[:2] == (self.patch, self.patch):
            return np.ascontiguousarray(part)
        whole = np.empty((self.patch, self.patch, 3), np.uint8)
        whole[:] = FILL
        whole[max(-row, 0) :, max(-column, 0) :] = part
        return whole

    def locate(self, i: int, scores: np.ndarray, points: np.ndarray, threshold: float) -> np.ndarray:
        """A patch's scores (Q,) and points (Q, 2), row and column as shares of it → (N, 3) float32: column, row in
        pixels of the image, score; those of at least `threshold` within its core and the image."""
        keep = scores >= threshold
        placed = points[keep] * self.patch + np.array(self.corner(i))
        found = np.column_stack([placed[:, 1], placed[:, 0], scores[keep]]).astype(np.float32)
        return found[self.within(i, found) & (found[:, 0] >= 0) & (found[:, 1] >= 0)]

    def within(self, i: int, points: np.ndarray) -> np.ndarray:
        """Which points (N, 2…), column and row, lie in the i-th core."""
        top, bottom, left, right = self.core(i)
        x, y = points[:, 0], points[:, 1]
        return (x >= left) & (x < right) & (y >= top) & (y < bottom)

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the density of the padded image."""
        rows, columns = (
            (side + pad) // CELL for side, pad in zip((self.height, self.width), self.padding, strict=True)
        )
        return rows, columns

    def place_density(self, whole: np.ndarray, i: int, density: np.ndarray) -> None:
        """Write the core of a patch's density (patch / 8, patch / 8) to that of the padded image."""
        (top, bottom, left, right), (row, column) = self.core(i), self.corner(i)
        own = density[
            (top - row) // CELL : (bottom - row) // CELL, (left - column) // CELL : (right - column) // CELL
        ]
        y, x = (top + self.padding[0]) // CELL, (left + self.padding[1]) // CELL
        whole[y : y + own.shape[0], x : x + own.shape[1]] = own

    def of_image(self, whole: np.ndarray) -> np.ndarray:
        """The density of the padded image without the cells that hold none of the image."""
        return whole[self.padding[0] // CELL :, self.padding[1] // CELL :]
