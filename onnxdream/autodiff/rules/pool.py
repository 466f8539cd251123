"""Pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..registry import Call, rule
from .conv import Kernel, along, conv_gradient, node_kernel

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ops import Ops


def scatter_add(op: Ops, x: ir.Value, places: ir.Value, values: ir.Value) -> ir.Value:
    """Zeros like `x`, with `values` added at the flat `places` of the same shape."""
    shape = op.Shape(x)
    zeros = op.Expand(op.CastLike(0.0, x), op.ReduceProd(shape, keepdims=1))
    flat = op.ScatterElements(zeros, op.Reshape(places, [-1]), op.Reshape(values, [-1]), axis=0, reduction="add")
    return op.Reshape(flat, shape)


def _max_pool(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """Indices + ScatterElements: onnxruntime reports the first maximum of each window, as PyTorch does."""
    if len(n.node.outputs) == 1:
        attributes = {name: n.attr(name) for name in n.node.attributes if name != "storage_order"}
        indices = op.MaxPool(n.x[0], outputs=2, **attributes)[1]
    else:
        if n.attr("storage_order", 0):
            raise NotImplementedError("column-major Indices (storage_order 1) that are used in the graph")
        indices = n.node.outputs[1]
    return scatter_add(op, n.x[0], indices, dy)


def _average_pool(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    channels = n.shape(n.x[0])[1]
    taps = n.attr("kernel_shape")
    kernel = node_kernel(n, np.ones((channels, 1, *taps), np.float32))
    kernel = Kernel(kernel.weight, channels, kernel.windows, kernel.auto_pad)
    share = _window_sizes(op, n, dy, kernel)
    return conv_gradient(op, n.x[0], op.Div(dy, share), kernel)


def _window_sizes(op: Ops, n: Call, dy: ir.Value, kernel: Kernel) -> ir.Value | float:
    """How many samples each window averages: a number, or a value that broadcasts over dy's spatial axes.

    A window that starts at s covers the samples s, s + dilation, … below min(s + span, end): the end of the input, or of
    its padding where count_include_pad says so.
    """
    include_pad = bool(n.attr("count_include_pad", 0))
    ceil_mode = bool(n.attr("ceil_mode", 0))
    padded = any(w.pad_begin or w.pad_end or w.same for w in kernel.windows)
    if not ceil_mode and (include_pad or not padded):
        return float(np.prod([w.kernel for w in kernel.windows]))
    spatial = len(kernel.windows)
    product: ir.Value | None = None
    for axis, window in enumerate(kernel.windows):
        length = op.Slice(op.Shape(n.x[0]), [2 + axis], [3 + axis])
        count = op.Slice(op.Shape(dy), [2 + axis], [3 + axis])
        begin = op.const([window.pad_begin])
        end = op.Add(length, window.pad_end) if include_pad else length
        if window.same:
            reach = op.Add(op.Mul(op.Sub(count, 1), window.stride), window.span)
            total = op.Max(op.Sub(reach, length), 0)
            half = op.Div(total, 2)
            begin = half if kernel.auto_pad == "SAME_UPPER" else op.Sub(total, half)
            end = op.Add(length, op.Sub(total, begin)) if include_pad else length
        places = op.Range(np.int64(0), op.Squeeze(count, [0]), np.int64(1))
        start = op.Sub(op.Mul(places, window.stride), begin)
        first = start if include_pad else op.Add(start, _round_up(op, op.Max(op.Neg(start), 0), window.dilation))
        stop = op.Min(op.Add(start, window.span), end)
        size = op.Div(op.Add(op.Sub(stop, first), window.dilation - 1), window.dilation)
        size = along(op, op.CastLike(size, dy), axis, spatial)
        product = size if product is None else op.Mul(product, size)
    assert product is not None
    return product


def _round_up(op: Ops, value: ir.Value, step: int) -> ir.Value:
    return value if step == 1 else op.Mul(op.Div(op.Add(value, step - 1), step), step)


def _spread(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """GlobalAveragePool: every place gets an equal share."""
    size = op.Slice(op.Shape(n.x[0]), [2], [n.rank()])
    return op.Expand(op.Div(dy, op.CastLike(op.ReduceProd(size, keepdims=0), dy)), op.Shape(n.x[0]))


def _global_max(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """GlobalMaxPool: the first maximum of each channel gets everything."""
    flat = op.Reshape(n.x[0], [0, 0, -1])
    first = op.ArgMax(flat, axis=2, keepdims=1)
    zeros = op.Mul(flat, 0.0)
    return op.Reshape(op.ScatterElements(zeros, first, op.Reshape(dy, [0, 0, -1]), axis=2), op.Shape(n.x[0]))


rule("MaxPool", _max_pool)
rule("AveragePool", _average_pool)
rule("GlobalAveragePool", _spread)
rule("GlobalMaxPool", _global_max)
