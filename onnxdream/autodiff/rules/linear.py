"""Matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..backward import unbroadcast
from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ops import Ops


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
    shapes = [n.shape(v) for v in n.x]
    a = op.Unsqueeze(n.x[0], [0]) if len(shapes[0]) == 1 else n.x[0]
    b = op.Unsqueeze(n.x[1], [1]) if len(shapes[1]) == 1 else n.x[1]
    if len(shapes[0]) == 1:
        dy = op.Unsqueeze(dy, [-1 if len(shapes[1]) == 1 else -2])
    if len(shapes[1]) == 1:
        dy = op.Unsqueeze(dy, [-1])
    if index == 0:
        dx = op.MatMul(dy, _transposed(op, b, max(2, len(shapes[1]))))
        mine = (1, *shapes[0]) if len(shapes[0]) == 1 else shapes[0]
    else:
        dx = op.MatMul(_transposed(op, a, max(2, len(shapes[0]))), dy)
        mine = (*shapes[1], 1) if len(shapes[1]) == 1 else shapes[1]
    batch = max((s[:-2] for s in shapes), key=len)
    lead = len(batch) - len(mine[:-2])
    other = shapes[1 - index][:-2]
    widened = [i for i, d in enumerate(mine[:-2]) if d == 1 and other[i - len(mine[:-2]) :] and other[i - len(mine[:-2])] != 1]
    axes = [*range(lead), *(lead + i for i in widened)]
    if axes:
        dx = op.ReduceSum(dx, axes, keepdims=0)
    return op.Reshape(dx, op.Shape(n.x[index])) if axes or len(shapes[index]) == 1 else dx


rule("Gemm", _gemm_a, _gemm_b, _gemm_c)
rule("MatMul", _matmul, ...)
