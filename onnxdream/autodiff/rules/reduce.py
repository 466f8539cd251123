"""Reductions over axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops


def _kept(op: Ops, n: Call, value: ir.Value) -> ir.Value:
    """`value`, shaped like the reduction's output, with the reduced axes back as axes of length 1."""
    if n.attr("keepdims", 1):
        return value
    if n.given(1) is None:
        return op.Reshape(value, [1] * n.rank())
    return op.Unsqueeze(value, n.x[1])


def _is_noop(n: Call) -> bool:
    empty = n.given(1) is None or n.shape(n.x[1]) == (0,)
    return empty and bool(n.attr("noop_with_empty_axes", 0))


def _sum(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return dy if _is_noop(n) else op.Expand(_kept(op, n, dy), op.Shape(n.x[0]))


def _mean(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    if _is_noop(n):
        return dy
    count = op.Div(op.Size(n.x[0]), op.Size(n.y))
    return _sum(op, n, op.Div(dy, op.CastLike(count, dy)))


def _extreme(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """ReduceMax and ReduceMin: equal shares to the places that attain the result."""
    if _is_noop(n):
        return dy
    attained = op.CastLike(op.Equal(n.x[0], _kept(op, n, n.y)), dy)
    axes = [n.x[1]] if n.given(1) is not None else []
    share = op.Div(_kept(op, n, dy), op.ReduceSum(attained, *axes, keepdims=1))
    return op.Mul(attained, share)


def _l2(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """y = sqrt(Σ x²), so dx = dy * x / y, and 0 where y is 0."""
    if _is_noop(n):
        return op.Mul(dy, op.Sign(n.x[0]))
    zero = op.Equal(n.y, 0.0)
    share = op.Where(zero, 0.0, op.Div(dy, op.Where(zero, 1.0, n.y)))
    return op.Mul(n.x[0], _kept(op, n, share))


def _prod(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """dy times the product of all the other factors, whether or not this one is 0."""
    x = n.x[0]
    if _is_noop(n):
        return dy
    axes = [n.x[1]] if n.given(1) is not None else []
    zero = op.Equal(x, 0.0)
    factors, zeros = op.Where(zero, 1.0, x), op.CastLike(zero, x)
    others = op.Div(op.ReduceProd(factors, *axes, keepdims=1), factors)
    free = op.Equal(op.ReduceSum(zeros, *axes, keepdims=1), zeros)  # no other factor is 0
    return op.Mul(_sum(op, n, dy), op.Where(free, others, 0.0))


def _log_sum(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """y = log Σ x, so dx = dy * exp(-y)."""
    return _sum(op, n, op.Mul(dy, op.Exp(op.Neg(n.y))))


def _log_sum_exp(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """y = log Σ exp(x), so dx = dy * exp(x - y)."""
    return op.Mul(_sum(op, n, dy), op.Exp(op.Sub(n.x[0], n.y if _is_noop(n) else _kept(op, n, n.y))))


rule("ReduceSum", _sum, None)
rule("ReduceMean", _mean, None)
rule("ReduceMax", _extreme, None)
rule("ReduceMin", _extreme, None)
rule("ReduceL2", _l2, None)
rule("ReduceSumSquare", lambda op, n, dy: op.Mul(_sum(op, n, dy), op.Mul(n.x[0], 2.0)), None)
rule("ReduceL1", lambda op, n, dy: op.Mul(_sum(op, n, dy), op.Sign(n.x[0])), None)
rule("ReduceProd", _prod, None)
rule("ReduceLogSum", _log_sum, None)
rule("ReduceLogSumExp", _log_sum_exp, None)
