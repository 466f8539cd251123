"""Small random moves between the picture and the network, so that what is found holds under them.

One step's shift, scale and rotation are one affine map, applied with bilinear interpolation as a sparse matrix, whose
transpose carries the gradient back exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class RandomTransform:
    """How far one step moves the picture: uniform within +-`shift` pixels, `scale` (low, high), +-`rotation` degrees.

    What comes in from outside is the opposite border with `wrap`, else grey.
    """

    shift: float
    scale: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0
    wrap: bool = False

    def sample(self, rng: np.random.Generator, size: tuple[int, int]) -> AffineWarp:
        """One step's moves of pictures of `size` (height, width)."""
        scale = np.exp(rng.uniform(*np.log(self.scale)))
        rotation = np.deg2rad(rng.uniform(-self.rotation, self.rotation))
        shift = rng.uniform(-self.shift, self.shift, 2)
        return AffineWarp(size, float(scale), float(rotation), (float(shift[0]), float(shift[1])), wrap=self.wrap)


class AffineWarp:
    """Pictures enlarged `scale` times and turned `rotation` radians about their middle, then shifted by (dy, dx)."""

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
        """Move pictures float32 [N,3,H,W] in 0..255."""
        return self._apply(self._matrix, pictures - np.float32(127.5)) + np.float32(127.5)

    def vjp(self, gradient: np.ndarray) -> np.ndarray:
        """The gradient with respect to the pictures from that with respect to the moved ones."""
        return self._apply(self._matrix.T, gradient)

    def _apply(self, matrix: sparse.sparray, pictures: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(pictures.reshape(-1, self.size[0] * self.size[1]).T)
        return np.ascontiguousarray((matrix @ planes).T).reshape(pictures.shape)
