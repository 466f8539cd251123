"""Matrix products and running sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..broadcast import unbroadcast
from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops


def _transposed(op: Ops, matrix: ir.Value, rank: int) -> ir.Value:
    """The last two axes exchanged."""
    return op.Transpose(matrix, perm=[*range(rank - 2), rank - 1, rank - 2])


def _gemm_a(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    b, alpha = n.x[1], n.attr("alpha", 1.0)
    if n.attr("transA", 0):
        return op.Gemm(b, dy, alpha=alpha, transA=n.attr("transB", 0), transB=1)
    return op.Gemm(dy, b, alpha=alpha, transB=1 - n.attr("transB", 0))


def _gemm_b(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    a, alpha = n.x[0], n.attr("alpha", 1.0)
    if n.attr("transB", 0):
        return op.Gemm(dy, a, alpha=alpha, transA=1, transB=n.attr("transA", 0))
    return op.Gemm(a, dy, alpha=alpha, transA=1 - n.attr("transA", 0))


def _gemm_c(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return unbroadcast(op, op.Mul(dy, n.attr("beta", 1.0)), n.x[2], n.y)


def _matmul(op: Ops, n: Call, dy: ir.Value, index: int) -> ir.Value:
    """Y = A B, so dA = dY Bᵀ and dB = Aᵀ dY; vectors are treated as the matrices ONNX promotes them to."""
    a, b = n.x
    ranks = n.rank(0), n.rank(1)
    promoted = [axis for axis, rank in zip((-2, -1), ranks, strict=True) if rank == 1]
    if promoted:
        dy = op.Unsqueeze(dy, promoted)
    if index == 0:
        dx = op.MatMul(dy, op.Unsqueeze(b, [0]) if ranks[1] == 1 else _transposed(op, b, ranks[1]))
    else:
        dx = op.MatMul(op.Unsqueeze(a, [1]) if ranks[0] == 1 else _transposed(op, a, ranks[0]), dy)
    # Sum over the leading axes along which this operand was broadcast.
    rank = max(2, *ranks)
    mine, other = ([1] * (rank - r) + list(n.shape(x)) for x, r in ((n.x[i], ranks[i]) for i in (index, 1 - index)))
    axes = [i for i in range(rank - 2) if mine[i] == 1 != other[i]]
    if axes:
        dx = op.ReduceSum(dx, axes, keepdims=1)
    return dx if ranks[index] == rank else op.Reshape(dx, op.Shape(n.x[index]))


def _cum_sum(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """Each sample counts in the sums after it, so the gradient runs the other way."""
    return op.CumSum(dy, n.x[1], exclusive=n.attr("exclusive", 0), reverse=1 - n.attr("reverse", 0))


rule("Gemm", _gemm_a, _gemm_b, _gemm_c)
rule("MatMul", _matmul, ...)
rule("CumSum", _cum_sum, None)
