"""Quantised networks, differentiated straight through the rounding (Bengio et al. 2013, arXiv:1308.3432).

The gradient of an integer tensor between QuantizeLinear and DequantizeLinear is a float tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops


def _along_axis(op: Ops, n: Call, value: ir.Value) -> ir.Value:
    """A scale or zero point, one or one for each channel, shaped to broadcast over the tensor."""
    if n.shape(value) in ((), (1,)):
        return op.Reshape(value, np.empty(0, np.int64))
    after = n.rank() - 1 - n.attr("axis", 1) % n.rank()
    return op.Reshape(value, [-1] + [1] * after)


def _quantize(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """y = saturate(round(x / scale) + zero): dy / scale, and 0 where it saturates, as in PyTorch's fake_quantize."""
    scale = _along_axis(op, n, n.x[1])
    zero = n.const(2) if n.given(2) is not None else np.zeros((), np.uint8)
    if zero is None:
        raise NotImplementedError("a zero point that is computed in the graph")
    if zero.dtype not in (np.uint8, np.int8, np.uint16, np.int16):
        raise NotImplementedError(f"quantisation to {zero.dtype}")
    level = op.Add(op.Round(op.Div(n.x[0], scale)), _along_axis(op, n, op.const(zero.astype(np.float32))))
    low, high = float(np.iinfo(zero.dtype).min), float(np.iinfo(zero.dtype).max)
    represented = op.And(op.GreaterOrEqual(level, low), op.LessOrEqual(level, high))
    return op.Where(represented, op.Div(dy, scale), 0.0)


def _dequantize(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    scale = n.const(1)
    return dy if scale is not None and (scale == 1).all() else op.Mul(dy, _along_axis(op, n, n.x[1]))


def _dynamic_quantize(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """As of QuantizeLinear, whose scale fits so that nothing saturates; it and the zero point count as constants."""
    return op.Div(dy, n.node.outputs[1])


rule("QuantizeLinear", _quantize)
rule("DynamicQuantizeLinear", _dynamic_quantize)
rule("DequantizeLinear", _dequantize)
