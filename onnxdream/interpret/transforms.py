"""Random transforms between the picture and the network, so that the result is robust to them.

The shift, scale and rotation of one step form one affine map. It is applied with bilinear interpolation, as a sparse
matrix, whose transpose is the exact gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class RandomTransform:
    """A distribution of affine transforms, of which each step draws one.

    Attributes:
        shift: The picture moves by up to this many pixels in each direction, uniformly.
        scale: The lowest and the highest enlargement; its logarithm is uniform.
        rotation: The picture turns by up to this many degrees either way, uniformly.
        wrap: Whether the picture continues at its opposite border; otherwise grey comes in from outside.
    """

    shift: float
    scale: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0
    wrap: bool = False

    def sample(self, rng: np.random.Generator, size: tuple[int, int]) -> AffineWarp:
        """Draw the transform of one step, for pictures of `size` (height, width)."""
        scale = np.exp(rng.uniform(*np.log(self.scale)))
        rotation = np.deg2rad(rng.uniform(-self.rotation, self.rotation))
        shift = rng.uniform(-self.shift, self.shift, 2)
        return AffineWarp(size, float(scale), float(rotation), (float(shift[0]), float(shift[1])), wrap=self.wrap)


class AffineWarp:
    """Enlarges pictures and rotates them about their centre, then shifts them.

    Args:
        size: (height, width) of the pictures, in pixels.
        scale: The enlargement.
        rotation: The angle in radians.
        shift: (down, right) in pixels.
        wrap: Whether the picture continues at its opposite border; otherwise grey comes in from outside.
    """

    def __init__(
        self, size: tuple[int, int], scale: float, rotation: float, shift: tuple[float, float], *, wrap: bool = False
    ) -> None:
        self.size = height, width = size
        middle = (np.array(size, np.float32) - 1) / 2
        y = np.arange(height, dtype=np.float32)[:, None] - np.float32(middle[0] + shift[0])
        x = np.arange(width, dtype=np.float32)[None] - np.float32(middle[1] + shift[1])
        cos, sin = np.float32(np.cos(rotation) / scale), np.float32(np.sin(rotation) / scale)
        rows = (cos * y - sin * x + np.float32(middle[0])).ravel()
        columns = (sin * y + cos * x + np.float32(middle[1])).ravel()
        top, left = np.floor(rows), np.floor(columns)
        down, right = rows - top, columns - left
        top, left = top.astype(np.int32), left.astype(np.int32)
        at = np.empty((height * width, 4), np.int32)
        weights = np.empty((height * width, 4), np.float32)
        for corner, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            v, u = top + np.int32(dy), left + np.int32(dx)
            weights[:, corner] = (down if dy else 1 - down) * (right if dx else 1 - right)
            if wrap:
                v, u = v % height, u % width
            else:
                weights[:, corner] *= (v >= 0) & (v < height) & (u >= 0) & (u < width)
                np.clip(v, 0, height - 1, out=v)
                np.clip(u, 0, width - 1, out=u)
            at[:, corner] = v * width + u
        starts = np.arange(0, 4 * height * width + 1, 4, dtype=np.int32)
        self._matrix = sparse.csr_array((weights.ravel(), at.ravel(), starts), shape=(height * width,) * 2)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Transform pictures, float32 [N,3,H,W] in 0..255."""
        return self._apply(self._matrix, pictures - np.float32(127.5)) + np.float32(127.5)

    def vjp(self, gradient: np.ndarray) -> np.ndarray:
        """The gradient with respect to the pictures, from the `gradient` with respect to the transformed ones."""
        return self._apply(self._matrix.T, gradient)

    def _apply(self, matrix: sparse.sparray, pictures: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(pictures.reshape(-1, self.size[0] * self.size[1]).T)
        return np.ascontiguousarray((matrix @ planes).T).reshape(pictures.shape)
