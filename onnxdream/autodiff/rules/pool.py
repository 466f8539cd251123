"""Pooling, but for MaxPool, which has a file of its own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ..registry import Call, rule
from .conv import along, conv_gradient, same_overhang, spatial_shape, window_kernel

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ops import Ops


def _average_pool(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """A depthwise convolution with ones, after each window's share has been divided by its size."""
    channels = n.shape(n.x[0])[1]
    kernel = window_kernel(n)
    ones = np.ones((channels, *kernel.weight.shape[1:]), np.float32)
    kernel = dataclasses.replace(kernel, weight=ones, group=channels)
    return conv_gradient(op, n, op.Div(dy, window_sizes(op, n, dy)), kernel)


def window_sizes(op: Ops, n: Call, dy: ir.Value) -> ir.Value | float:
    """How many samples each window averages: a number, or a value that broadcasts over dy's spatial axes.

    A window at s covers the samples from s to min(s + kernel, end), where the end is that of the input, or of its
    padding where count_include_pad says so.
    """
    kernel = window_kernel(n)
    taps, spatial = kernel.windows, len(kernel.windows)
    include_pad = bool(n.attr("count_include_pad", 0))
    padded = any(w.pad_begin or w.pad_end or w.same for w in taps)
    if not n.attr("ceil_mode", 0) and (include_pad or not padded):
        return float(np.prod([w.kernel for w in taps]))
    size, count = spatial_shape(op, n.x[0], spatial), spatial_shape(op, dy, spatial)
    if taps[0].same:
        before, after = same_overhang(op, size, taps, kernel.auto_pad)
    else:
        before, after = op.const([w.pad_begin for w in taps]), op.const([w.pad_end for w in taps])
    low = op.Neg(before) if include_pad else op.const([0] * spatial)
    high = op.Add(size, after) if include_pad else size
    product: ir.Value | None = None
    for axis, window in enumerate(taps):
        begin, first, last, outputs = (op.Slice(v, [axis], [axis + 1]) for v in (before, low, high, count))
        places = op.Range(np.int64(0), op.Squeeze(outputs, [0]), np.int64(1))
        start = op.Sub(op.Mul(places, window.stride), begin)
        covered = op.Sub(op.Min(op.Add(start, window.kernel), last), op.Max(start, first))
        covered = along(op, op.CastLike(covered, dy), axis, spatial)
        product = covered if product is None else op.Mul(product, covered)
    assert product is not None
    return product


def _spread(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """GlobalAveragePool: every place gets an equal share."""
    size = op.Slice(op.Shape(n.x[0]), [2], [n.rank()])
    return op.Expand(op.Div(dy, op.CastLike(op.ReduceProd(size, keepdims=0), dy)), op.Shape(n.x[0]))


def _global_max(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """GlobalMaxPool: the first maximum of each channel gets everything."""
    flat = op.Reshape(n.x[0], [0, 0, -1])
    first = op.ArgMax(flat, axis=2, keepdims=1)
    places = op.Range(np.int64(0), op.Squeeze(op.Slice(op.Shape(flat), [2], [3]), [0]), np.int64(1))
    dx = op.Mul(op.Reshape(dy, [0, 0, -1]), op.CastLike(op.Equal(places, first), dy))
    return op.Reshape(dx, op.Shape(n.x[0]))


rule("AveragePool", _average_pool)
rule("GlobalAveragePool", _spread)
rule("GlobalMaxPool", _global_max)
