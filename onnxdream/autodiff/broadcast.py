"""Undoing the broadcast of an operand in its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops


def unbroadcast(op: Ops, dx: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    """Sum `dx`, shaped like `y`, over the axes along which `x` was broadcast to the shape of `y`."""
    small, large = op.shape(x), op.shape(y)
    if small is None or large is None:
        raise NotImplementedError(f"the shape of {(x if small is None else y).name} depends on data")
    if small == large:
        return dx
    lead = len(large) - len(small)
    axes = [lead + i for i, (a, b) in enumerate(zip(small, large[lead:], strict=True)) if a == 1 and b != 1]
    if axes:
        dx = op.ReduceSum(dx, axes, keepdims=1)
    if lead:
        dx = op.ReduceSum(dx, list(range(lead)), keepdims=0)
    return dx
