"""Operators that take values from places or put them there.

The places a value came from are found by sending the positions 0, 1, 2 … through the operator itself, wherever it only
moves numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..registry import Call, rule
from .shape import gather_adjoint

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops


def scatter_add(op: Ops, x: ir.Value, places: ir.Value, values: ir.Value) -> ir.Value:
    """Zeros like `x`, with `values` added at the flat `places` of the same shape."""
    shape = op.Shape(x)
    zeros = op.Expand(op.CastLike(0.0, x), op.ReduceProd(shape, keepdims=1))
    flat = op.ScatterElements(zeros, op.Reshape(places, [-1]), op.Reshape(values, [-1]), axis=0, reduction="add")
    return op.Reshape(flat, shape)


def _zeros(op: Ops, like: ir.Value) -> ir.Value:
    return op.Expand(op.CastLike(0.0, like), op.Shape(like))


def _put_back(op: Ops, n: Call, dy: ir.Value, taken: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """The gradient of y = taken(the first input), for a function that only moves numbers."""
    x = n.x[0]
    positions = op.Range(np.int64(0), op.Size(x), np.int64(1))
    return scatter_add(op, x, taken(op.Reshape(positions, op.Shape(x))), dy)


def _gather(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """Slice i along the axis is x's slice indices[i]; the axes of `indices` are first made one."""
    axis, size = n.attr("axis", 0) % n.rank(), op.Shape(n.x[0])
    behind = op.Slice(size, [axis + 1], [n.rank()])
    flat = op.Reshape(dy, op.Concat([0] * axis + [-1], behind, axis=0))
    return gather_adjoint(op, flat, op.Reshape(n.x[1], [-1]), n.x[0], axis)


def _gather_elements(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return _scatter(op, n.x[0], n.x[1], dy, n.attr("axis", 0))


def _scatter(op: Ops, x: ir.Value, indices: ir.Value, dy: ir.Value, axis: int) -> ir.Value:
    """Zeros like `x`, with dy added at `indices` along `axis`."""
    zeros = op.Expand(op.CastLike(0.0, dy), op.Shape(x))
    return op.ScatterElements(zeros, indices, dy, axis=axis, reduction="add")


def _gather_nd(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return _put_back(op, n, dy, lambda p: op.GatherND(p, n.x[1], batch_dims=n.attr("batch_dims", 0)))


def _compress(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    attributes = {"axis": n.attr("axis")} if "axis" in n.node.attributes else {}
    return _put_back(op, n, dy, lambda p: op.Compress(p, n.x[1], **attributes))


def _top_k(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return _scatter(op, n.x[0], n.node.outputs[1], dy, n.attr("axis", -1))


def _overwrites(n: Call) -> bool:
    """Whether a Scatter replaces what was there, or adds to it. Raises NotImplementedError for anything else."""
    reduction = n.attr("reduction", "none")
    if reduction not in ("none", "add"):
        raise NotImplementedError(f"{n.node.op_type} with reduction {reduction!r}")
    return bool(reduction == "none")


def _scatter_elements_data(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return op.ScatterElements(dy, n.x[1], _zeros(op, n.x[2]), axis=n.attr("axis", 0)) if _overwrites(n) else dy


def _scatter_elements_updates(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    _overwrites(n)
    return op.GatherElements(dy, n.x[1], axis=n.attr("axis", 0))


def _scatter_nd_data(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return op.ScatterND(dy, n.x[1], _zeros(op, n.x[2])) if _overwrites(n) else dy


def _scatter_nd_updates(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    _overwrites(n)
    return op.GatherND(dy, n.x[1])


rule("Gather", _gather, None)
rule("GatherElements", _gather_elements, None)
rule("GatherND", _gather_nd, None)
rule("Compress", _compress, None)
rule("TopK", _top_k, None)
rule("ScatterElements", _scatter_elements_data, None, _scatter_elements_updates)
rule("ScatterND", _scatter_nd_data, None, _scatter_nd_updates)
