"""p-norms: y = (Σ |x|^p)^(1/p), so dx = dy * sign(x) * (|x| / y)^(p - 1), and 0 where y is 0."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ...graph.windows import node_kernel
from ..registry import Call, rule
from .conv import conv_gradient

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops


def _power(op: Ops, x: ir.Value, p: int) -> ir.Value:
    """sign(x) * |x|^(p - 1)."""
    if p == 1:
        return op.Sign(x)
    return x if p == 2 else op.Mul(op.Sign(x), op.Pow(op.Abs(x), float(p - 1)))


def _share(op: Ops, y: ir.Value, dy: ir.Value, p: int) -> ir.Value:
    """dy * y^(1 - p), and 0 where y is 0."""
    zero = op.Equal(y, 0.0)
    return op.Where(zero, 0.0, op.Mul(dy, op.Pow(op.Where(zero, 1.0, y), float(1 - p))))


def _global_lp_pool(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    p = n.attr("p", 2)
    return op.Mul(_power(op, n.x[0], p), _share(op, n.y, dy, p))


def _lp_pool(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """The sum over windows is a depthwise convolution with ones."""
    p, channels = n.attr("p", 2), n.shape(n.x[0])[1]
    ones = np.ones((channels, 1, *n.attr("kernel_shape")), np.float32)
    kernel = dataclasses.replace(node_kernel(n, ones), group=channels)
    return op.Mul(_power(op, n.x[0], p), conv_gradient(op, n, _share(op, n.y, dy, p), kernel))


def _lp_normalization(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """y = x / |x|_p, so dx = (dy - sign(y) * |y|^(p - 1) * Σ dy * y) / |x|_p, and 0 where all of x is 0."""
    p, axis = n.attr("p", 2), [n.attr("axis", -1)]
    norm = op.ReduceL1(n.x[0], axis, keepdims=1) if p == 1 else op.ReduceL2(n.x[0], axis, keepdims=1)
    along = op.ReduceSum(op.Mul(dy, n.y), axis, keepdims=1)
    zero = op.Equal(norm, 0.0)
    dx = op.Div(op.Sub(dy, op.Mul(_power(op, n.y, p), along)), op.Where(zero, 1.0, norm))
    return op.Where(zero, 0.0, dx)


rule("GlobalLpPool", _global_lp_pool)
rule("LpPool", _lp_pool)
rule("LpNormalization", _lp_normalization)
