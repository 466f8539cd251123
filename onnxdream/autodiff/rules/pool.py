"""Pooling, but for MaxPool, which has a file of its own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ...graph.windows import window_kernel, window_sizes
from ..registry import Call, rule
from .conv import conv_gradient

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops


def _average_pool(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """A depthwise convolution with ones, after each window's share has been divided by its size."""
    channels = n.shape(n.x[0])[1]
    kernel = window_kernel(n)
    ones = np.ones((channels, *kernel.weight.shape[1:]), np.float32)
    kernel = dataclasses.replace(kernel, weight=ones, group=channels)
    return conv_gradient(op, n, op.Div(dy, window_sizes(op, n, dy)), kernel)


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
