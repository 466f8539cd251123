"""Convolutions of 3x3 taps and many channels with 2.25 times as few multiplications, in standard operators.

Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2015, arXiv:1509.09308): for each tile of 6x6 samples x, whose
middle 4x4 become y,

    y = Aᵀ [(G w Gᵀ) ⊙ (Bᵀ x B)] A

and summing the products ⊙ over the channels is one matrix product for each of the 36 places in a tile. Two transforms
flattened are one matrix: that of the tiles is a convolution with a stride of 4, that of the result a product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..graph.shapes import defer_folding

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops
    from ..graph.windows import Window
    from .rewrite import Site

_B = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
# With fewer channels on either side the transforms cost more than they save: at 427x640 on OpenVINO, VGG-16 gains 11 %
# with 512 channels or more, 17 % with 256, and 14 % with 128. On onnxruntime it gains 3 to 11 %, and takes half as much
# memory again.
_CHANNELS = 256


def winograd(op: Ops, n: Site, taps: list[Window]) -> ir.Value | None:
    """The output of a Conv node, or None where this would not pay."""
    weight = n.const(1)
    if weight is None or weight.dtype != np.float32 or n.attr("group", 1) != 1 or min(weight.shape[:2]) < _CHANNELS:
        return None
    if len(taps) != 2 or any((w.kernel, w.stride, w.dilation) != (3, 1, 1) for w in taps):
        return None
    outputs, inputs = weight.shape[:2]
    by_tap = op.Transpose(defer_folding(op.Reshape(n.x[1], [outputs * inputs, 9])), perm=[1, 0])
    kernels = op.Reshape(op.MatMul(_both(_G), by_tap), [36, 1, outputs, inputs])

    shape = op.Shape(n.x[0])
    batch, size = op.Slice(shape, [0], [1]), op.Slice(shape, [2], [4])
    planes = op.Reshape(n.x[0], op.Concat([-1, 1], size, axis=0))
    pads = [w.pad_begin for w in taps] + [w.pad_end + 3 for w in taps]
    tiles = op.Conv(planes, _both(_B).reshape(36, 1, 6, 6), kernel_shape=[6, 6], strides=[4, 4], pads=pads)
    count = op.Slice(op.Shape(tiles), [2], [4])
    each = op.Transpose(op.Reshape(tiles, op.Concat(batch, [inputs, 36, -1], axis=0)), perm=[2, 0, 1, 3])
    summed = op.Transpose(op.MatMul(kernels, each), perm=[1, 2, 0, 3])  # [N, outputs, 36, tiles]
    pixels = op.Reshape(op.MatMul(_both(_A), summed), op.Concat([-1, 16], count, axis=0))
    full = op.Reshape(op.DepthToSpace(pixels, blocksize=4), op.Concat(batch, [outputs], op.Mul(count, 4), axis=0))
    beyond = op.const([w.pad_begin + w.pad_end - 2 for w in taps])
    result = op.Slice(full, [0, 0], op.Add(size, beyond), [2, 3])
    bias = n.given(2)
    return result if bias is None else op.Add(result, op.Unsqueeze(bias, [1, 2]))


def _both(matrix: np.ndarray) -> np.ndarray:
    """The matrix of what `matrix` does to both axes of a square, flattened."""
    return np.asarray(np.kron(matrix, matrix), np.float32)
