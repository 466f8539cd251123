"""DynamicQuantizeLinear in operators that every runtime has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .targets import DYNAMIC_QUANTIZATION

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops
    from .rewrite import Site


def dynamic_quantize(op: Ops, n: Site) -> tuple[ir.Value, ...] | None:
    """The input in 256 levels from its smallest number, or 0, to its largest; their distance; and the level of 0."""
    if not n.lacks(DYNAMIC_QUANTIZATION):
        return None
    low = op.Min(op.ReduceMin(n.x[0], keepdims=0), 0.0)
    high = op.Max(op.ReduceMax(n.x[0], keepdims=0), 0.0)
    extent = op.Sub(high, low)
    scale = op.Div(op.Where(op.Equal(extent, 0.0), 1.0, extent), 255.0)
    zero = op.Cast(op.Clip(op.Round(op.Neg(op.Div(low, scale))), 0.0, 255.0), to=2)
    return op.QuantizeLinear(n.x[0], scale, zero), scale, zero
