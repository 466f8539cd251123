"""Normalisation and softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ops import Ops


def _batch_norm(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """y = (x - mean) / sqrt(var + eps) * scale + bias, with the statistics of training."""
    if n.attr("training_mode", 0):
        raise NotImplementedError("BatchNormalization in training mode; export the network in evaluation mode")
    scale, variance = n.const(1), n.const(4)
    if scale is None or variance is None:
        raise NotImplementedError("BatchNormalization whose statistics are computed in the graph")
    factor = scale / np.sqrt(variance.astype(np.float64) + n.attr("epsilon", 1e-5))
    return op.Mul(dy, factor.astype(scale.dtype).reshape(-1, *[1] * (n.rank() - 2)))


def _lrn(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """y = x * s^-beta, s = bias + alpha/size * W(x²), W the sum over some channels (Krizhevsky et al. 2012, 3.3).

    dx = dy * s^-beta - 2 * alpha * beta / size * x * Wᵀ(dy * x * s^(-beta - 1))
    """
    x, size = n.x[0], n.attr("size")
    alpha, beta, bias = n.attr("alpha", 1e-4), n.attr("beta", 0.75), n.attr("bias", 1.0)
    before, after = (size - 1) // 2, size // 2
    s = op.Add(op.Mul(_channel_mean(op, op.Mul(x, x), size, before, after), alpha), bias)
    direct = op.Mul(dy, op.Pow(s, -beta))
    inner = op.Mul(op.Mul(dy, x), op.Pow(s, -beta - 1))
    through = op.Mul(op.Mul(x, _channel_mean(op, inner, size, after, before)), 2 * alpha * beta)
    return op.Sub(direct, through)


def _channel_mean(op: Ops, x: ir.Value, size: int, before: int, after: int) -> ir.Value:
    """Σ over channels c - before … c + after, divided by `size`; channels that do not exist count as 0."""
    shape = op.Shape(x)
    rows = op.Reshape(x, op.Concat(op.Slice(shape, [0], [1]), [1], op.Slice(shape, [1], [2]), [-1], axis=0))
    mean = op.AveragePool(rows, kernel_shape=[size, 1], pads=[before, 0, after, 0], count_include_pad=1)
    return op.Reshape(mean, shape)


def _softmax(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    axis = n.attr("axis", -1)
    return op.Mul(n.y, op.Sub(dy, op.ReduceSum(op.Mul(dy, n.y), [axis], keepdims=1)))


def _log_softmax(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    axis = n.attr("axis", -1)
    return op.Sub(dy, op.Mul(op.Exp(n.y), op.ReduceSum(dy, [axis], keepdims=1)))


rule("BatchNormalization", _batch_norm)
rule("LRN", _lrn)
rule("Softmax", _softmax)
rule("LogSoftmax", _log_softmax)
