"""Pictures too big for one step: the gradient is taken tile by tile and the step is made on the whole.

Neighbouring tiles overlap by the layer's receptive field where memory allows, so the part of a tile that is kept hardly
depends on where the tile ends; what is left changes place with every step, so that it cannot add up to a seam.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import PictureError
from .model import PROBE, Layer, Model

# Measured on the bundled networks: peak resident bytes of a step, over the bytes of all forward tensors up to the layer.
_BYTES_PER_TENSOR_BYTE = 1.5


@dataclass(frozen=True)
class Tiling:
    """Tiles of one size, laid over a picture so that every start is a multiple of the layer's stride."""

    tile: tuple[int, int]  # (height, width)
    halo: tuple[int, int]  # what is computed around the part that is kept, on each side
    stride: int

    def gradient(
        self,
        run: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]],
        image: np.ndarray,
        shift: Sequence[int],
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(objective [N], gradient [N,3,H,W]) of `image`, rolled by `shift` = (dy, dx) while it is computed.

        `run` evaluates a gradient model on one tile. The gradient of a mean over all tiles is the tiles' own, up to a
        factor that the step's normalisation removes.
        """
        rolled = np.roll(image, tuple(shift), (2, 3))
        gradient = np.empty_like(rolled)
        objectives = []
        rows, columns = (self._cuts(image.shape[2 + axis], axis, rng) for axis in (0, 1))
        for top, y in rows:
            for left, x in columns:
                tile = rolled[:, :, top : top + self.tile[0], left : left + self.tile[1]]
                result = run({"image": np.ascontiguousarray(tile)})
                kept = result["gradient"][:, :, y.start - top : y.stop - top, x.start - left : x.stop - left]
                gradient[:, :, y, x] = kept
                objectives.append(result["objective"])
        return np.mean(objectives, axis=0), np.roll(gradient, tuple(-s for s in shift), (2, 3))

    def _cuts(self, length: int, axis: int, rng: np.random.Generator) -> list[tuple[int, slice]]:
        """(where the tile starts, the part of it that is kept) along one axis; the parts cover it once."""
        tile, halo = self.tile[axis], self.halo[axis]
        if tile >= length:
            return [(0, slice(0, length))]
        core = tile - 2 * halo
        first = int(rng.integers(1, core // self.stride + 1)) * self.stride
        edges = [0, *range(first, length, core), length]
        cuts = []
        for begin, end in zip(edges, edges[1:], strict=False):
            start = min(max(0, begin - halo), length - tile)
            cuts.append((start, slice(begin, end)))
        return cuts


def step_bytes(model: Model, layers: Sequence[Layer], size: tuple[int, int]) -> float:
    """An estimate of the memory one step needs on a picture of `size` (height, width)."""
    last = {layer.name for layer in layers}
    total = 0.0
    for node in model.proto.graph.node:
        total += sum(math.prod(model.shapes.get(output, ())) for output in node.output)
        last -= set(node.output)
        if not last:
            break
    per_pixel = 4 * total / math.prod(PROBE) * _BYTES_PER_TENSOR_BYTE
    return per_pixel * size[0] * size[1]


def largest_tile(model: Model, layers: Sequence[Layer], size: tuple[int, int], max_memory: int) -> Tiling | None:
    """The tiling of a picture of `size` (height, width) that keeps a step within `max_memory` bytes; None: no need.

    Raises PictureError when not even the smallest useful tile fits.
    """
    if step_bytes(model, layers, size) <= max_memory:
        return None
    stride = max(1, math.ceil(max(layer.stride for layer in layers)))
    field = max(layer.receptive_field for layer in layers)
    per_pixel = step_bytes(model, layers, (1, 1))
    side = int(math.sqrt(max_memory / per_pixel)) // stride * stride
    low = model.smallest_picture([layer.name for layer in layers])
    if side < max(*low, 4 * stride):
        raise PictureError(
            f"{max_memory / 2**20:.0f} MiB is too little memory to dream with {layers[0].name}; raise --max-memory"
        )
    tile, halo = [], []
    for length in size:
        # The tile leaves the same remainder as the picture, so that the last one starts on a multiple of the stride too.
        at = min(length, side + length % stride)
        reach = math.ceil(min(field, at / 4) / stride) * stride
        tile.append(at)
        halo.append(reach)
    return Tiling((tile[0], tile[1]), (halo[0], halo[1]), stride)
