"""Operators that move numbers without changing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ops import Ops


def gather_adjoint(op: Ops, dy: ir.Value, places: ir.Value, x: ir.Value, axis: int) -> ir.Value:
    """Zeros like `x`, where slice i of `dy` along `axis` has been added at places[i]; `places` is int64 [dy's length]."""
    rank = len(op.shape(x) or ())
    zeros = op.Expand(op.CastLike(0.0, dy), _with_length(op, op.Shape(dy), op.Shape(x), axis))
    indices = op.Expand(op.Reshape(places, [1] * axis + [-1] + [1] * (rank - axis - 1)), op.Shape(dy))
    return op.ScatterElements(zeros, indices, dy, axis=axis, reduction="add")


def _with_length(op: Ops, shape: ir.Value, like: ir.Value, axis: int) -> ir.Value:
    """`shape` with its entry `axis` taken from `like`."""
    parts = [op.Slice(like, [axis], [axis + 1]), op.Slice(shape, [axis + 1], [np.iinfo(np.int64).max])]
    return op.Concat(*([op.Slice(shape, [0], [axis])] if axis else []), *parts, axis=0)


def _length(op: Ops, x: ir.Value, axis: int) -> ir.Value:
    return op.Squeeze(op.Slice(op.Shape(x), [axis], [axis + 1]), [0])


def _restored(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return op.Reshape(dy, op.Shape(n.x[0]))


def _concat(op: Ops, n: Call, dy: ir.Value, index: int) -> ir.Value:
    axis = n.attr("axis") % n.rank()
    lengths = [n.shape(x)[axis] for x in n.x]
    if axis in (0, 2, 3) and n.rank() == 4:  # lengths along batch, height and width change with the picture
        start: ir.Value | list[int] = [0]
        for x in n.x[:index]:
            start = op.Add(start, op.Slice(op.Shape(x), [axis], [axis + 1]))
        return op.Slice(dy, start, op.Add(start, op.Slice(op.Shape(n.x[index]), [axis], [axis + 1])), [axis])
    start_at = sum(lengths[:index])
    return op.Slice(dy, [start_at], [start_at + lengths[index]], [axis])


def _split(op: Ops, n: Call, dy: ir.Value | None) -> ir.Value:
    parts = [op.Mul(y, 0.0) if d is None else d for d, y in zip(n.dys, n.node.outputs, strict=True)]
    return op.Concat(*parts, axis=n.attr("axis", 0))


def _slice(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """Slice the positions themselves, and put the gradient back at the ones that came out."""
    rank = n.rank()
    starts, ends = n.x[1], n.x[2]
    axes = n.const(3) if n.given(3) is not None else np.arange(n.shape(starts)[0])
    if axes is None:
        raise NotImplementedError("a Slice whose axes are computed in the graph")
    steps = n.const(4) if n.given(4) is not None else np.ones(len(axes), np.int64)
    for i, axis in reversed(list(enumerate(int(a) % rank for a in axes))):
        places = op.Range(np.int64(0), _length(op, n.x[0], axis), np.int64(1))
        step = [n.x[4]] if steps is None else [[int(steps[i])]]
        if steps is None:
            step = [op.Slice(n.x[4], [i], [i + 1])]
        kept = op.Slice(places, op.Slice(starts, [i], [i + 1]), op.Slice(ends, [i], [i + 1]), [0], *step)
        if steps is not None and steps[i] == 1:
            before = op.Slice(kept, [0], [1])
            after = op.Sub(op.Sub(op.Unsqueeze(_length(op, n.x[0], axis), [0]), op.Shape(kept)), before)
            dy = op.Pad(dy, op.Concat(before, after, axis=0), None, [axis])
        else:
            dy = gather_adjoint(op, dy, kept, n.x[0], axis)
    return dy


def _pad(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """Constant: cut the border off again. Reflect and edge: add each border sample to the one it copies."""
    rank, pads = n.rank(), n.x[1]
    axes = n.const(3) if n.given(3) is not None else np.arange(rank)
    if axes is None:
        raise NotImplementedError("a Pad whose axes are computed in the graph")
    axes = [int(a) % rank for a in axes]
    if n.attr("mode", "constant") == "constant":
        return op.Pad(dy, op.Neg(pads), None, axes)
    known = n.const(1)
    for i, axis in enumerate(axes):
        if known is not None and known[i] == known[i + len(axes)] == 0:
            continue
        amounts = op.Concat(op.Slice(pads, [i], [i + 1]), op.Slice(pads, [i + len(axes)], [i + len(axes) + 1]), axis=0)
        places = op.Range(np.int64(0), _length(op, n.x[0], axis), np.int64(1))
        dy = gather_adjoint(op, dy, op.Pad(places, amounts, mode=n.attr("mode")), n.x[0], axis)
    return dy


def _transpose(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    permutation = n.attr("perm", list(range(n.rank()))[::-1])
    return op.Transpose(dy, perm=[int(i) for i in np.argsort(permutation)])


def _expand(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    from ..backward import unbroadcast

    return unbroadcast(op, dy, n.x[0], n.y)


rule("Reshape", _restored, None)
rule("Flatten", _restored)
rule("Squeeze", _restored, None)
rule("Unsqueeze", _restored, None)
rule("Expand", _expand, None)
rule("Transpose", _transpose)
rule("Concat", _concat, ...)
rule("Split", _split, None)
rule("Slice", _slice, None, None, None, None)
rule("Pad", _pad, None, None, None)
