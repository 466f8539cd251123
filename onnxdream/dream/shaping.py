"""From a gradient to a step: its colour, its balance of coarse and fine, and room near black and white.

A plain step, g / mean|g|, is dominated by the finest structure and by strong colours, since a network answers to both
readily. Three means against that, each by itself and in this order:

1. Colour: a 3x3 matrix on each pixel of the gradient, which keeps grey and lessens red-blue and green-magenta. With
   "natural" a picture that has no colours gets none.
2. Bands: a Laplacian pyramid (Burt and Adelson 1983) whose bands all get the same strength before they are weighed and
   summed again, as Mordvintsev's notebook of 2015 did ("DeepDreaming with TensorFlow").
3. Headroom: a step towards black or white becomes smaller the nearer a pixel is to it, so that nothing burns out.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..graph.ops import NodeView
from ..settings import Settings, opponent_gains

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops

# What decorrelates the colours of photographs (the first step of a principal component analysis over ImageNet, as in
# Lucid's `color.py`), times its transpose: the covariance of their colours.
_NATURAL = np.array([[0.0761, 0.0692, 0.0627], [0.0692, 0.0754, 0.0714], [0.0627, 0.0714, 0.0819]])
# Grey, red against blue, green against magenta: an orthonormal basis of colours.
_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
_GAINS = {"vivid": (0.28, 0.13), "ink": (0.0, 0.0)}  # of red-blue and green-magenta
_COLORFUL = 3.0  # mean distance from grey, in 0..255, from which a picture takes all the colours of "natural"
_COMMON = 0.35  # of a step that headroom scales for all channels alike
_TINY = 1e-30
# Convolutions that a gradient comes from: which input is the kernel, and how a matrix mixes what it yields.
_WEIGHTS = {"Conv": (1, "ij,jm...->im..."), "ConvGrad": (2, "ij,mj...->mi...")}


def color_matrix(colors: str) -> np.ndarray | None:
    """What the colours of a gradient are multiplied with.

    Args:
        colors: "free" for nothing; "natural" for the colours of photographs; "vivid" for few but strong ones; "ink" for
            none; or two gains "R,G" of red-blue and green-magenta.

    Returns:
        A matrix [3,3], or None.
    """
    if colors == "free":
        return None
    if colors == "natural":
        return np.array(_NATURAL / _NATURAL.sum(axis=1).mean())
    gains = _GAINS.get(colors) or opponent_gains(colors)
    assert gains is not None
    return np.array(_OPPONENT.T @ np.diag([1.0, *gains]) @ _OPPONENT)


def gaussian_cascade(sigma: float) -> np.ndarray:
    """The sum of Gaussians of half, once and twice `sigma` pixels, as a depthwise kernel [3,1,k,k] of sum 1."""
    radius = int(np.ceil(4 * sigma))
    at = np.arange(-radius, radius + 1, dtype=np.float64)
    kernel = np.zeros((at.size, at.size))
    for width in (sigma / 2, sigma, sigma * 2):
        bell = np.exp(-(at**2) / (2 * width**2))
        kernel += np.outer(bell, bell) / bell.sum() ** 2
    return np.broadcast_to((kernel / kernel.sum()).astype(np.float32), (3, 1, *kernel.shape)).copy()


@dataclass(frozen=True)
class Shaping:
    """What becomes of a gradient before it is added to the picture.

    Attributes:
        smooth: The standard deviation in pixels of the Gaussian cascade the gradient is blurred with; 0 for none.
        bands: The gains of the pyramid's levels, fine to coarse; the last is that of what remains. Empty: no pyramid.
        colors: See `color_matrix`.
        headroom: From how near to black and white, in 0..255, steps towards them become smaller; 0 for nowhere.

    Raises:
        OptionError: One of them is out of range.
    """

    smooth: float = 0.0
    bands: tuple[float, ...] = ()
    colors: str = "free"
    headroom: float = 0.0
    matrix: np.ndarray | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        Settings.check(smooth=self.smooth, bands=self.bands, colors=self.colors, headroom=self.headroom)
        object.__setattr__(self, "matrix", color_matrix(self.colors))

    def options(self) -> dict[str, Any]:
        """The arguments it is made of, by name."""
        return {"smooth": self.smooth, "bands": self.bands, "colors": self.colors, "headroom": self.headroom}

    def recolor(self, op: Ops, gradient: ir.Value) -> ir.Value:
        """Append the colours: the matrix times the gradient, within the convolution that the gradient comes from."""
        if self.matrix is None:
            return gradient
        convolution = gradient.producer()
        if convolution is not None and convolution.op_type in _WEIGHTS:
            n = NodeView(convolution, op)
            at, mixed = _WEIGHTS[convolution.op_type]
            weight = n.const(at)
            if weight is not None and n.attr("group", 1) == 1 and len(n.x) == at + 1:
                weight = np.einsum(mixed, self.matrix, weight).astype(np.float32)
                attributes = {name: n.attr(name) for name in convolution.attributes}
                return op.many(convolution.op_type, 1, *n.x[:at], weight, domain=convolution.domain, **attributes)[0]
        return op.Conv(gradient, self.matrix.astype(np.float32)[:, :, None, None])

    def append(
        self, op: Ops, image: ir.Value, gradient: ir.Value, step_size: ir.Value, mask: ir.Value | None
    ) -> tuple[ir.Value, ir.Value]:
        """Append the step to a graph: `clip(image + step_size * d / mean|d|, 0, 255)`, d the shaped gradient.

        The gradient's colours are the business of `recolor`; blurring and mixing colours commute.

        Args:
            op: Where nodes are appended.
            image: The picture, float32 [N,3,H,W] in 0..255.
            gradient: d objective / d image, of the same shape.
            step_size: The mean change of a pixel, a scalar.
            mask: What scales the step at each pixel, [1,1,H,W] in 0..1.

        Returns:
            The picture after the step, and the mean size of the gradient, [N,1,1,1], which is finite where that is.
        """
        if self.smooth > 0:
            gradient = op.Conv(gradient, gaussian_cascade(self.smooth), group=3, auto_pad="SAME_UPPER")
        if self.colors == "natural":
            gradient = self._as_colorful(op, image, gradient)
        size = magnitude = _magnitude(op, gradient)
        if self.bands:
            gradient = self._balanced(op, gradient, magnitude)
            size = _magnitude(op, gradient)
        # A picture nothing responds to has no gradient; it stays as it is instead of turning into NaN.
        step = op.Mul(gradient, op.Div(step_size, op.Max(size, _TINY)))
        if self.headroom:
            step = self._damped(op, image, step)
        dreamed = op.Clip(op.Add(image, op.Mul(step, mask) if mask is not None else step), 0.0, 255.0)
        return dreamed, magnitude

    def _as_colorful(self, op: Ops, image: ir.Value, gradient: ir.Value) -> ir.Value:
        """The gradient without its colours where the picture has none, [N,3,H,W] both."""
        off_grey = op.Abs(op.Sub(image, op.ReduceMean(image, [1], keepdims=1)))
        share = op.Clip(op.Mul(op.ReduceMean(off_grey, [1, 2, 3], keepdims=1), 1 / _COLORFUL), 0.0, 1.0)
        grey = op.ReduceMean(gradient, [1], keepdims=1)
        return op.Add(grey, op.Mul(op.Sub(gradient, grey), share))

    def _balanced(self, op: Ops, gradient: ir.Value, magnitude: ir.Value) -> ir.Value:
        """The bands of the gradient, each at the same root mean square times its gain, summed."""
        level = op.Div(gradient, op.Max(magnitude, _TINY))  # so that squares neither vanish nor overflow
        scaled = []
        for number, gain in enumerate(self.bands):
            band = level
            if number + 1 < len(self.bands):
                coarser = op.AveragePool(level, kernel_shape=[4, 4], strides=[2, 2], pads=[1, 1, 2, 2])
                band = op.Sub(level, _enlarged(op, coarser, level))
                level = coarser
            power = op.ReduceMean(op.Mul(band, band), [1, 2, 3], keepdims=1)
            scaled.append(op.Mul(band, op.Div(float(gain), op.Sqrt(op.Max(power, _TINY)))))
        total = scaled.pop()
        while scaled:
            band = scaled.pop()
            total = op.Add(band, _enlarged(op, total, band))
        return total

    def _damped(self, op: Ops, image: ir.Value, step: ir.Value) -> ir.Value:
        """The step, smaller near black and white.

        One part of it shrinks channel by channel, and only towards the end that is near; that alone would pull strong
        colours towards grey. The other shrinks with the channel that is nearest to an end, in both directions and for
        all channels alike.
        """
        scale = 1 / self.headroom
        below = op.HardSigmoid(image, alpha=scale, beta=0.0)
        above = op.HardSigmoid(image, alpha=-scale, beta=255 * scale)
        own = op.Add(op.Mul(op.Relu(step), above), op.Mul(op.Clip(step, None, 0.0), below))
        farthest = op.ReduceMax(op.Abs(op.Sub(image, 127.5)), [1], keepdims=1)
        common = op.Mul(op.HardSigmoid(farthest, alpha=-scale, beta=127.5 * scale), _COMMON)
        return op.Add(op.Mul(own, 1 - _COMMON), op.Mul(step, common))

    def climb(self, image: np.ndarray, gradient: np.ndarray, step_size: float, mask: np.ndarray | None) -> None:
        """What `append` does within a graph, in place, for a gradient put together from tiles.

        Args:
            image: The picture, float32 [N,3,H,W] in 0..255; takes the step.
            gradient: d objective / d image; overwritten.
            step_size: The mean change of a pixel.
            mask: What scales the step at each pixel, [1,1,H,W] in 0..1.
        """
        if self.smooth > 0:
            kernel = gaussian_cascade(self.smooth)[0, 0]
            for plane in gradient.reshape(-1, *gradient.shape[2:]):
                plane[:] = cv2.filter2D(plane, -1, kernel, borderType=cv2.BORDER_CONSTANT)
        for g, x in zip(gradient, image, strict=True):
            if self.matrix is not None:
                g[:] = np.tensordot(self.matrix.astype(np.float32), g, 1)
            if self.colors == "natural":
                share = min(float(np.abs(x - x.mean(axis=0)).mean()) / _COLORFUL, 1)
                grey = g.mean(axis=0)
                np.add((g - grey) * np.float32(share), grey, out=g)
            if self.bands:
                self._balance(g)
            np.multiply(g, np.float32(step_size / max(_mean_size(g), _TINY)), out=g)
            if self.headroom:
                scale = np.float32(1 / self.headroom)
                common = np.clip((127.5 - np.abs(x - 127.5).max(axis=0)) * scale, 0, 1) * np.float32(_COMMON)
                for plane, pixels in zip(g, x, strict=True):
                    room = np.clip(np.where(plane > 0, 255 - pixels, pixels) * scale, 0, 1)
                    np.multiply(plane, room * np.float32(1 - _COMMON) + common, out=plane)
        if mask is not None:
            gradient *= mask
        image += gradient
        np.clip(image, 0, 255, out=image)

    def _balance(self, gradient: np.ndarray) -> None:
        """`_balanced`, in place, for one gradient [3,H,W]."""
        np.divide(gradient, np.float32(max(_mean_size(gradient), _TINY)), out=gradient)
        levels = [gradient]
        for _ in self.bands[1:]:
            levels.append(np.stack([_reduced(plane) for plane in levels[-1]]))
        for finer, coarser in itertools.pairwise(levels):
            _add_enlarged(finer, coarser, -1)
        for band, gain in zip(levels, self.bands, strict=True):
            power = float(np.mean([np.square(plane).mean(dtype=np.float64) for plane in band]))
            np.multiply(band, np.float32(gain / math.sqrt(max(power, _TINY))), out=band)
        for finer, coarser in reversed(list(itertools.pairwise(levels))):
            _add_enlarged(finer, coarser, 1)


def _magnitude(op: Ops, gradient: ir.Value) -> ir.Value:
    """The mean absolute value of each picture's gradient, [N,1,1,1]."""
    return op.ReduceMean(op.Abs(gradient), [1, 2, 3], keepdims=1)


def _enlarged(op: Ops, coarse: ir.Value, like: ir.Value) -> ir.Value:
    """`coarse` scaled linearly to the height and width of `like`."""
    sizes = op.Concat(op.Slice(op.Shape(coarse), [0], [2]), op.Slice(op.Shape(like), [2], [4]), axis=0)
    return op.Resize(coarse, None, None, sizes, mode="linear")


def _add_enlarged(fine: np.ndarray, coarse: np.ndarray, sign: int) -> None:
    """Add to `fine` [3,H,W] what `_enlarged` makes of `coarse` [3,h,w], or subtract it, in place."""
    for plane, small in zip(fine, coarse, strict=True):
        np.add(plane, sign * cv2.resize(small, plane.shape[::-1], interpolation=cv2.INTER_LINEAR), out=plane)


def _reduced(plane: np.ndarray) -> np.ndarray:
    """AveragePool of 4x4 with stride 2 from one before the first sample; what lies beyond the borders is left out."""
    height, width = ((length + 1) // 2 for length in plane.shape)
    sums = cv2.boxFilter(plane, -1, (4, 4), anchor=(1, 1), normalize=False, borderType=cv2.BORDER_CONSTANT)
    rows, columns = (_counts(n, length) for n, length in zip((height, width), plane.shape, strict=True))
    means: np.ndarray = sums[::2, ::2][:height, :width] / (rows[:, None] * columns)
    return means


def _counts(windows: int, length: int) -> np.ndarray:
    """How many samples lie in each of the windows along an axis."""
    first = 2 * np.arange(windows) - 1
    return (np.minimum(first + 4, length) - np.maximum(first, 0)).astype(np.float32)


def _mean_size(planes: np.ndarray) -> float:
    """The mean absolute value, without a copy of the whole."""
    return float(np.mean([np.abs(plane).mean(dtype=np.float64) for plane in planes]))
