"""Pictures too big for one step: the gradient is taken tile by tile and the step is made on the whole.

Neighbouring tiles overlap by the layer's receptive field where memory allows, so the part of a tile that is kept hardly
depends on where the tile ends; what is left changes place with every step, so that it cannot add up to a seam.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import PictureError
from ..graph.shapes import probe_shapes
from ..networks.model import Layer

if TYPE_CHECKING:
    import onnx

# What a step holds at its peak beyond the objective's own tensors, in multiples of the largest of them. Measured as
# peak resident memory of ONNX Runtime 1.32, pictures of 0.25 to 4.8 million pixels: SqueezeNet 1.1 conv1 to fire8 up to
# 4.4, EfficientNet-Lite0 stem to block10 up to 6.9, GoogLeNet up to 3.9, VGG-16 up to 2.7, ResNet-50 less than nothing.
_BACKWARD = 7
# Five float32 pictures: the octave's source, what the step starts from, its copy, the gradient, and what is fetched.
# So measured, the whole command stays within --max-memory and 70 MiB (3000x2000 at 1G, 2G, 4G, fire6: 965, 1483 and,
# untiled, 2783 MiB; block5: 1100, 1834, 3714 MiB), 170 MiB on 6000x5000.
_PICTURE_BYTES = 60

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Tiling:
    """Tiles of one size, laid over a picture so that every start is a multiple of the layer's stride.

    Attributes:
        tile: (height, width) in pixels.
        halo: Pixels that are computed around the part that is kept, above and below, and left and right.
        stride: Of the layer, in pixels.
    """

    tile: tuple[int, int]
    halo: tuple[int, int]
    stride: int

    def gradient(
        self, run: Run, image: np.ndarray, shift: Sequence[int], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The gradient of a picture from those of its tiles.

        That of a mean over all tiles is the tiles' own, up to a factor that the step's normalisation removes.

        Args:
            run: Evaluates a gradient model on one tile.
            image: float32 [N,3,H,W] in 0..255.
            shift: (dy, dx) that the picture is rolled by while its gradient is computed.
            rng: Draws where tiles end.

        Returns:
            (objective [N], gradient [N,3,H,W]).
        """
        gradient = np.empty_like(image)
        objectives = []
        for corner, y, x in self._tiles(image.shape[2:], rng):
            result = run({"image": _cut(image, corner, self.tile, shift)})
            kept = result["gradient"][
                :, :, y.start - corner[0] : y.stop - corner[0], x.start - corner[1] : x.stop - corner[1]
            ]
            rows, columns = (np.arange(s.start, s.stop) - by for s, by in zip((y, x), shift, strict=True))
            gradient[:, :, rows[:, None] % image.shape[2], columns % image.shape[3]] = kept
            objectives.append(result["objective"])
        return np.mean(objectives, axis=0), gradient

    def objective(self, run: Run, image: np.ndarray) -> np.ndarray:
        """The objective [N] of a picture, the mean over its tiles.

        Args:
            run: Evaluates an objective model on one tile.
            image: float32 [N,3,H,W] in 0..255.
        """
        total = np.zeros(image.shape[0])
        for corner, y, x in self._tiles(image.shape[2:], np.random.default_rng(0)):
            share = (y.stop - y.start) * (x.stop - x.start) / (image.shape[2] * image.shape[3])
            total += share * run({"image": _cut(image, corner, self.tile, (0, 0))})["objective"]
        return total

    def _tiles(self, size: tuple[int, ...], rng: np.random.Generator) -> Iterator[tuple[tuple[int, int], slice, slice]]:
        """(top left corner, rows and columns of the picture that are kept) of each tile; those cover it once."""
        rows, columns = (self._cuts(size[axis], axis, rng) for axis in (0, 1))
        for (top, y), (left, x) in itertools.product(rows, columns):
            yield (top, left), y, x

    def _cuts(self, length: int, axis: int, rng: np.random.Generator) -> list[tuple[int, slice]]:
        """(where the tile starts, the part of it that is kept) along one axis; the parts cover it once."""
        tile, halo = self.tile[axis], self.halo[axis]
        if tile >= length:
            return [(0, slice(0, length))]
        core = tile - tile % self.stride - 2 * halo
        first = int(rng.integers(1, core // self.stride + 1)) * self.stride
        edges = [0, *range(first, length, core), length]
        return [(min(max(0, a - halo), length - tile), slice(a, b)) for a, b in itertools.pairwise(edges)]


def _cut(image: np.ndarray, corner: tuple[int, int], tile: tuple[int, int], shift: Sequence[int]) -> np.ndarray:
    """The tile of numpy.roll(image, shift) at `corner`."""
    for axis in (0, 1):
        places = np.arange(tile[axis]) + corner[axis] - shift[axis]
        image = np.take(image, places, axis + 2, mode="wrap")
    return image


def bytes_per_pixel(objective_model: onnx.ModelProto, size: tuple[int, int, int, int]) -> float:
    """An estimate of the memory that one step takes for each pixel of the picture, by the objective's own tensors.

    They are counted at the size [N,C,H,W].
    """
    shapes = probe_shapes(objective_model, {"image": (size[0], 3, *size[2:])})
    numbers = [math.prod(shapes.get(name, ())) for node in objective_model.graph.node for name in node.output]
    return 4 * (sum(numbers) + _BACKWARD * max(numbers)) / (size[0] * size[2] * size[3])


def step_bytes(per_pixel: float, size: tuple[int, ...], batch: int = 1) -> float:
    """An estimate of the memory that one step on pictures of `size` (height, width) takes, the pictures included."""
    return (per_pixel + _PICTURE_BYTES) * batch * size[0] * size[1]


def plan_tiles(
    layers: Sequence[Layer],
    smallest: tuple[int, int],
    size: tuple[int, int],
    per_pixel: float,
    max_memory: int,
    *,
    batch: int = 1,
    multiple: int = 1,
) -> Tiling | None:
    """The tiling of pictures of `size` (height, width) that keeps a step within `max_memory` bytes; None: no need.

    `smallest` is the smallest picture that `layers` work on, which take multiples of `multiple`; `per_pixel` is what a
    step takes by `bytes_per_pixel`. Raises
    PictureError when not even the smallest useful tile fits.
    """
    if step_bytes(per_pixel, size, batch) <= max_memory:
        return None
    stride = math.lcm(multiple, max(1, math.ceil(max(layer.stride for layer in layers))))
    field = max(layer.receptive_field for layer in layers)
    pixels = (max_memory - _PICTURE_BYTES * batch * size[0] * size[1]) / (per_pixel * batch)
    least = max(*smallest, 4 * stride) + stride
    if pixels < least**2:
        more = (least**2 - pixels) * per_pixel * batch / 2**20
        raise PictureError(
            f"too little memory to dream a picture of {size[1]}x{size[0]} with {layers[0].name}; make it smaller or "
            f"raise --max-memory by {math.ceil(more)}M"
        )
    side = math.sqrt(pixels)
    tile, halo = [], []
    for length, other in (size, size[::-1]):
        # The tile leaves the same remainder as the picture: the last one starts on a multiple of the stride too.
        longest = (int(max(side, pixels / other)) - stride + 1) // stride * stride
        at = min(length, longest + length % stride)
        tile.append(at)
        halo.append(math.ceil(min(field, at / 4) / stride) * stride)
    return Tiling((tile[0], tile[1]), (halo[0], halo[1]), stride)
