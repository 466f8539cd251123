"""Operators that move numbers without changing them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops


def gather_adjoint(op: Ops, dy: ir.Value, places: ir.Value, x: ir.Value, axis: int) -> ir.Value:
    """Zeros like `x`, where slice i of `dy` along `axis` has been added at places[i]."""
    rank = len(op.shape(x) or ())
    zeros = op.Expand(op.CastLike(0.0, dy), _with_length(op, op.Shape(dy), op.Shape(x), axis))
    indices = op.Expand(op.Reshape(places, [1] * axis + [-1] + [1] * (rank - axis - 1)), op.Shape(dy))
    return op.ScatterElements(zeros, indices, dy, axis=axis, reduction="add")


def _with_length(op: Ops, shape: ir.Value, like: ir.Value, axis: int) -> ir.Value:
    """`shape` with its entry `axis` taken from `like`."""
    parts = [op.Slice(like, [axis], [axis + 1]), op.Slice(shape, [axis + 1], [np.iinfo(np.int64).max])]
    return op.Concat(*([op.Slice(shape, [0], [axis])] if axis else []), *parts, axis=0)


def _places(op: Ops, x: ir.Value, axis: int) -> ir.Value:
    """0, 1, 2 … along `axis` of `x`."""
    length = op.Squeeze(op.Slice(op.Shape(x), [axis], [axis + 1]), [0])
    return op.Range(np.int64(0), length, np.int64(1))


def _restored(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return op.Reshape(dy, op.Shape(n.x[0]))


def _concat(op: Ops, n: Call, dy: ir.Value, index: int) -> ir.Value:
    """The part of dy that this input became."""
    axis = n.attr("axis") % n.rank()
    widths = [_channels(x) for x in n.x[: index + 1]] if axis == 1 and n.rank() == 4 else [None]
    known = [w for w in widths if w is not None]
    if len(known) == index + 1:
        return op.internal("ConcatGrad", dy, start=sum(known[:-1]), stop=sum(known))
    # The place is found at run time, since lengths change with the picture.
    lengths = [op.Slice(op.Shape(x), [axis], [axis + 1]) for x in n.x[: index + 1]]
    start = op.const([0])
    for length in lengths[:-1]:
        start = op.Add(start, length)
    return op.Slice(dy, start, op.Add(start, lengths[-1]), [axis])


# What passes channels through one by one, as simplified networks have it between a convolution and a Concat.
_KEEPS_CHANNELS = {"Relu", "LeakyRelu", "Clip", "HardSigmoid", "Sigmoid", "Tanh", "MaxPool", "AveragePool", "LRN"}


def _channels(value: ir.Value) -> int | None:
    """The number of channels, where convolutions say so."""
    node = value.producer()
    if node is None or not node.inputs or node.inputs[0] is None:
        return None
    if node.op_type == "Conv" and node.inputs[1] is not None and node.inputs[1].const_value is not None:
        return len(node.inputs[1].const_value.numpy())
    if node.op_type == "Concat" and node.attributes.get_int("axis", 0) == 1:
        parts = [_channels(v) for v in node.inputs if v is not None]
        return None if None in parts else sum(p for p in parts if p is not None)
    return _channels(node.inputs[0]) if node.op_type in _KEEPS_CHANNELS else None


def _split(op: Ops, n: Call, dy: ir.Value | None) -> ir.Value:
    """The parts' gradients side by side; a part that is not used has none."""
    known = next(d for d in n.dys if d is not None)  # of the gradients' type, which integers in y do not tell
    zero = op.CastLike(0.0, known)
    parts = [op.Expand(zero, op.Shape(y)) if d is None else d for d, y in zip(n.dys, n.node.outputs, strict=True)]
    return op.Concat(*parts, axis=n.attr("axis", 0))


def _slice(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """Slice the positions themselves, and put the gradient back at the ones that came out."""
    rank = n.rank()
    starts, ends = (op.CastLike(v, 0) for v in n.x[1:3])  # int32 is allowed too
    axes = n.const(3) if n.given(3) is not None else np.arange(n.shape(n.x[1])[0])
    if axes is None:
        raise NotImplementedError("a Slice whose axes are computed in the graph")
    steps = n.const(4) if n.given(4) is not None else np.ones(len(axes), np.int64)
    if steps is None:
        raise NotImplementedError("a Slice whose steps are computed in the graph")
    for i, axis in reversed(list(enumerate(int(a) % rank for a in axes))):
        places = _places(op, n.x[0], axis)
        length = op.Shape(places)
        kept = op.Slice(places, *(op.Slice(v, [i], [i + 1]) for v in (starts, ends)), [0], [int(steps[i])])
        if steps[i] == 1:
            before = op.ReduceMin(op.Concat(kept, length, axis=0), keepdims=1)  # the length, where nothing was kept
            after = op.Sub(op.Sub(length, op.Shape(kept)), before)
            dy = op.Pad(dy, _pads(op, {axis: (before, after)}, rank))
        else:
            dy = gather_adjoint(op, dy, kept, n.x[0], axis)
    return dy


def _pads(op: Ops, amounts: Mapping[int, tuple[ir.Value, ...]], rank: int) -> ir.Value:
    """The pads of all axes. Pad's own `axes` are lost where a runtime moves a Transpose through the Pad."""
    none = op.const([0])
    return op.Concat(*(amounts.get(axis, (none, none))[end] for end in (0, 1) for axis in range(rank)), axis=0)


def _pad(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """Constant: cut the border off again. Reflect and edge: add each border sample to the one it copies."""
    rank, pads = n.rank(), n.x[1]
    axes = n.const(3) if n.given(3) is not None else np.arange(rank)
    if axes is None:
        raise NotImplementedError("a Pad whose axes are computed in the graph")
    if n.attr("mode", "constant") == "constant":
        cut = op.Neg(pads)
        ends = [tuple(op.Slice(cut, [j], [j + 1]) for j in (i, i + len(axes))) for i in range(len(axes))]
        return op.Pad(dy, _pads(op, dict(zip((int(a) % rank for a in axes), ends, strict=True)), rank))
    known = n.const(1)
    for i, axis in enumerate(int(a) % rank for a in axes):
        if known is not None and known[i] == known[i + len(axes)] == 0:
            continue
        amounts = op.Concat(op.Slice(pads, [i], [i + 1]), op.Slice(pads, [i + len(axes)], [i + len(axes) + 1]), axis=0)
        copied = op.Pad(_places(op, n.x[0], axis), amounts, mode=n.attr("mode"))
        dy = gather_adjoint(op, dy, copied, n.x[0], axis)
    return dy


def _transpose(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    permutation = n.attr("perm") or list(range(n.rank()))[::-1]
    return op.Transpose(dy, perm=[int(i) for i in np.argsort(permutation)])


def _tile(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """[r0 * n0, r1 * n1, …] seen as [r0, n0, r1, n1, …], summed over the repeats."""
    pairs = op.Concat(op.Unsqueeze(n.x[1], [1]), op.Unsqueeze(op.Shape(n.x[0]), [1]), axis=1)
    copies = op.Reshape(dy, op.Reshape(pairs, [-1]))
    return op.ReduceSum(copies, list(range(0, 2 * n.rank(), 2)), keepdims=0)


def _depth_to_space(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """SpaceToDepth; in mode CRD its phases are the inner part of the channels."""
    block = n.attr("blocksize")
    if n.attr("mode", "DCR") == "DCR":
        return op.SpaceToDepth(dy, blocksize=block)
    size = op.Shape(n.x[0])
    batch, height, width = (op.Slice(size, [axis], [axis + 1]) for axis in (0, 2, 3))
    split = op.Reshape(dy, op.Concat(batch, [n.shape(n.x[0])[1] // block**2], height, [block], width, [block], axis=0))
    return op.Reshape(op.Transpose(split, perm=[0, 1, 3, 5, 2, 4]), size)


def _reverse_sequence(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    axes = {"batch_axis": n.attr("batch_axis", 1), "time_axis": n.attr("time_axis", 0)}
    return op.ReverseSequence(dy, n.x[1], **axes)


rule("Reshape", _restored, None)
rule("Flatten", _restored)
rule("Squeeze", _restored, None)
rule("Unsqueeze", _restored, None)
rule("Expand", lambda op, n, dy: dy, None, broadcasts=True)
rule("Transpose", _transpose)
rule("Concat", _concat, ...)
rule("Split", _split, None, every_output=True)
rule("Slice", _slice, None, None, None, None)
rule("Pad", _pad, None, None, None)
rule("Tile", _tile, None)
rule("DepthToSpace", _depth_to_space)
rule("SpaceToDepth", lambda op, n, dy: op.DepthToSpace(dy, blocksize=n.attr("blocksize"), mode="DCR"))
rule("Trilu", lambda op, n, dy: op.Trilu(dy, n.given(1), upper=n.attr("upper", 1)), None)
rule("ReverseSequence", _reverse_sequence, None)
