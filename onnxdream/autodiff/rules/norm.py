"""Normalisation and softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..broadcast import unbroadcast
from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import NodeView, Ops


def _batch_norm(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """y = (x - mean) / sqrt(var + eps) * scale + bias, with the statistics of training."""
    if n.attr("training_mode", 0):
        raise NotImplementedError("BatchNormalization in training mode; export the network in evaluation mode")
    scale, variance = n.const(1), n.const(4)
    if scale is None or variance is None:
        raise NotImplementedError("BatchNormalization whose statistics are computed in the graph")
    factor = scale / np.sqrt(variance.astype(np.float64) + n.attr("epsilon", 1e-5))
    return op.Mul(dy, factor.astype(scale.dtype).reshape(-1, *[1] * (n.rank() - 2)))


def _standardised(op: Ops, x: ir.Value, axes: list[int], epsilon: float) -> tuple[ir.Value, ir.Value]:
    """(x - mean) / deviation over `axes`, and 1 / deviation."""
    centred = op.Sub(x, op.ReduceMean(x, axes, keepdims=1))
    variance = op.ReduceMean(op.Mul(centred, centred), axes, keepdims=1)
    inverse = op.Reciprocal(op.Sqrt(op.Add(variance, epsilon)))
    return op.Mul(centred, inverse), inverse


def _standardise_gradient(op: Ops, x: ir.Value, dz: ir.Value, axes: list[int], epsilon: float) -> ir.Value:
    """dx = (dz - mean(dz) - z * mean(dz * z)) / deviation for z = (x - mean) / deviation over `axes`.

    Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.
    """
    z, inverse = _standardised(op, x, axes, epsilon)
    along = op.Mul(z, op.ReduceMean(op.Mul(dz, z), axes, keepdims=1))
    return op.Mul(op.Sub(op.Sub(dz, op.ReduceMean(dz, axes, keepdims=1)), along), inverse)


def _per_channel(op: Ops, n: Call, value: ir.Value) -> ir.Value:
    """[C] shaped to broadcast over [N, C, s...]."""
    return op.Reshape(value, [-1] + [1] * (n.rank() - 2))


def _all_but_channels(n: Call) -> list[int]:
    return [axis for axis in range(n.rank()) if axis != 1]


def _instance_norm(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """Over the places of each channel (Ulyanov et al. 2016, arXiv:1607.08022)."""
    axes = list(range(2, n.rank()))
    return _standardise_gradient(op, n.x[0], op.Mul(dy, _per_channel(op, n, n.x[1])), axes, n.attr("epsilon", 1e-5))


def _instance_norm_scale(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    z, _ = _standardised(op, n.x[0], list(range(2, n.rank())), n.attr("epsilon", 1e-5))
    return op.ReduceSum(op.Mul(dy, z), _all_but_channels(n), keepdims=0)


def _instance_norm_bias(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return op.ReduceSum(dy, _all_but_channels(n), keepdims=0)


def _group_norm(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """Over the places of each group of channels (Wu and He 2018, arXiv:1803.08494).

    The scale is one number for each group (opset 18) or for each channel (opset 21).
    """
    groups = n.attr("num_groups")
    grouped = [0, groups, -1]
    if n.shape(n.x[1]) == (groups,):
        dz = op.Mul(op.Reshape(dy, grouped), op.Unsqueeze(n.x[1], [1]))
    else:
        dz = op.Reshape(op.Mul(dy, _per_channel(op, n, n.x[1])), grouped)
    dx = _standardise_gradient(op, op.Reshape(n.x[0], grouped), dz, [2], n.attr("epsilon", 1e-5))
    return op.Reshape(dx, op.Shape(n.x[0]))


def _layer_axes(n: Call) -> list[int]:
    if any(y.uses() for y in n.node.outputs[1:]):
        raise NotImplementedError("LayerNormalization whose mean or deviation is used in the graph")
    return list(range(n.attr("axis", -1) % n.rank(), n.rank()))


def _layer_norm(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """Over all axes from `axis` on (Ba et al. 2016, arXiv:1607.06450)."""
    return _standardise_gradient(op, n.x[0], op.Mul(dy, n.x[1]), _layer_axes(n), n.attr("epsilon", 1e-5))


def _layer_norm_scale(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    z, _ = _standardised(op, n.x[0], _layer_axes(n), n.attr("epsilon", 1e-5))
    return unbroadcast(op, op.Mul(dy, z), n.x[1], n.y)


def _layer_norm_bias(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return unbroadcast(op, dy, n.x[2], n.y)


def _mean_variance(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """Over the given axes; the epsilon of 1e-9 the operator adds to the deviation is far below one of a picture."""
    return _standardise_gradient(op, n.x[0], dy, n.attr("axes", [0, 2, 3]), 1e-18)


def _lrn(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """y = x * s^-beta, s = bias + alpha/size * W(x²), W the sum over some channels (Krizhevsky et al. 2012, 3.3).

    dx = dy * s^-beta - 2 * alpha * beta / size * x * Wᵀ(dy * x * s^(-beta - 1))
    """
    x, size = n.x[0], n.attr("size")
    alpha, beta = n.attr("alpha", 1e-4), n.attr("beta", 0.75)
    s = lrn_scale(op, n)
    direct = op.Mul(dy, op.Pow(s, -beta))
    inner = op.Mul(op.Mul(dy, x), op.Pow(s, -beta - 1))
    through = op.Mul(op.Mul(x, _channel_mean(op, inner, size, size // 2, (size - 1) // 2)), 2 * alpha * beta)
    return op.Sub(direct, through)


def lrn_scale(op: Ops, n: NodeView) -> ir.Value:
    """s = bias + alpha/size * W(x²)."""
    x, size = n.x[0], n.attr("size")
    mean = _channel_mean(op, op.Mul(x, x), size, (size - 1) // 2, size // 2)
    return op.Add(op.Mul(mean, n.attr("alpha", 1e-4)), n.attr("bias", 1.0))


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
rule("InstanceNormalization", _instance_norm, _instance_norm_scale, _instance_norm_bias)
rule("GroupNormalization", _group_norm)
rule("LayerNormalization", _layer_norm, _layer_norm_scale, _layer_norm_bias)
rule("MeanVarianceNormalization", _mean_variance)
rule("LRN", _lrn)
rule("Softmax", _softmax)
rule("LogSoftmax", _log_softmax)
