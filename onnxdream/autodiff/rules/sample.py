"""GridSample (Jaderberg et al. 2015, arXiv:1506.02025)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops

_INT64 = 7  # onnx.TensorProto.INT64


@dataclass(frozen=True)
class Tap:
    """Where a sample reads along one axis, how much, and how that changes with the grid; [N, H', W'] each.

    `place` is a whole number, `weight` is 0 where it lies outside.
    """

    place: ir.Value
    weight: ir.Value
    slope: ir.Value | None  # None: constant


def _taps(op: Ops, n: Call, axis: int) -> list[Tap]:
    """The taps along the height (axis 0) or the width (axis 1) of X."""
    length = op.CastLike(op.Squeeze(op.Slice(op.Shape(n.x[0]), [2 + axis], [3 + axis]), [0]), n.x[1])
    at = op.Squeeze(op.Slice(n.x[1], [1 - axis], [2 - axis], [3]), [3])
    coordinate, slope = _coordinate(op, n, at, length)
    if n.attr("mode", "bilinear") == "nearest":
        place = op.Round(coordinate)
        return [Tap(place, _within(op, place, length), None)]
    below = op.Floor(coordinate)
    above, part = op.Add(below, 1.0), op.Sub(coordinate, below)
    low, high = _within(op, below, length), _within(op, above, length)
    return [
        Tap(below, op.Mul(op.Sub(1.0, part), low), op.Neg(op.Mul(slope, low))),
        Tap(above, op.Mul(part, high), op.Mul(slope, high)),
    ]


def _within(op: Ops, place: ir.Value, length: ir.Value) -> ir.Value:
    """1 where 0 <= place < length, else 0."""
    return op.CastLike(op.And(op.GreaterOrEqual(place, 0.0), op.Less(place, length)), place)


def _coordinate(op: Ops, n: Call, at: ir.Value, length: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The grid's -1..1 in samples, moved into the picture as padding_mode says, and the derivative of that."""
    last = op.Sub(length, 1.0)
    if n.attr("align_corners", 0):
        low, high = op.CastLike(0.0, at), last
        slope = op.Mul(last, 0.5)
        coordinate = op.Mul(op.Add(at, 1.0), slope)
    else:
        low, high = op.CastLike(-0.5, at), op.Sub(length, 0.5)
        slope = op.Mul(length, 0.5)
        coordinate = op.Sub(op.Mul(op.Add(at, 1.0), slope), 0.5)
    slope = op.Expand(slope, op.Shape(at))
    padding = n.attr("padding_mode", "zeros")
    if padding == "zeros":
        return coordinate, slope
    if padding == "reflection":
        # Back and forth between low and high: the distance from low, folded at every whole span.
        span = op.Max(op.Sub(high, low), 1e-30)  # 0 for one sample, aligned; everything falls on it then
        distance = op.Sub(coordinate, low)
        turns = op.Floor(op.Div(op.Abs(distance), span))
        rest = op.Sub(op.Abs(distance), op.Mul(turns, span))
        odd = op.Equal(op.Mod(turns, 2.0, fmod=1), 1.0)
        coordinate = op.Add(low, op.Where(odd, op.Sub(span, rest), rest))
        slope = op.Mul(op.Mul(slope, op.Where(odd, -1.0, 1.0)), op.Where(op.Less(distance, 0.0), -1.0, 1.0))
    inside = op.And(op.Greater(coordinate, 0.0), op.Less(coordinate, last))
    return op.Min(op.Max(coordinate, 0.0), last), op.Where(inside, slope, 0.0)


def _corners(op: Ops, n: Call) -> list[tuple[ir.Value, Tap, Tap]]:
    """The flat place [N, 1, H'W'] that each pair of taps reads, and the pair."""
    if n.attr("mode", "bilinear") not in ("bilinear", "linear", "nearest"):
        raise NotImplementedError(f"GridSample in mode {n.attr('mode')!r}")
    if n.rank() != 4:
        raise NotImplementedError(f"GridSample of {n.rank() - 2} spatial axes")
    size = op.Slice(op.Shape(n.x[0]), [2], [4])
    height, width = (op.Squeeze(op.Slice(size, [i], [i + 1]), [0]) for i in (0, 1))
    found = []
    for vertical, horizontal in itertools.product(_taps(op, n, 0), _taps(op, n, 1)):
        row, column = (
            op.Min(op.Max(op.Cast(tap.place, to=_INT64), np.int64(0)), op.Sub(length, 1))
            for tap, length in ((vertical, height), (horizontal, width))
        )
        place = op.Add(op.Mul(row, width), column)
        found.append((op.Unsqueeze(op.Reshape(place, [0, -1]), [1]), vertical, horizontal))
    return found


def _flat(op: Ops, value: ir.Value) -> ir.Value:
    """[N, H', W'] as [N, 1, H'W']."""
    return op.Unsqueeze(op.Reshape(value, [0, -1]), [1])


def _picture(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """What each sample got goes back to its taps, by their weights."""
    flat = op.Reshape(dy, [0, 0, -1])
    dx = op.Reshape(op.Expand(op.CastLike(0.0, dy), op.Shape(n.x[0])), [0, 0, -1])
    for place, vertical, horizontal in _corners(op, n):
        values = op.Mul(flat, _flat(op, op.Mul(vertical.weight, horizontal.weight)))
        dx = op.ScatterElements(dx, op.Expand(place, op.Shape(values)), values, axis=2, reduction="add")
    return op.Reshape(dx, op.Shape(n.x[0]))


def _grid(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """The slope of the picture under each sample; nearest samples have none."""
    if n.attr("mode", "bilinear") == "nearest":
        return op.Expand(op.CastLike(0.0, dy), op.Shape(n.x[1]))
    flat, pixels = op.Reshape(dy, [0, 0, -1]), op.Reshape(n.x[0], [0, 0, -1])
    across: list[ir.Value] = []
    down: list[ir.Value] = []
    for place, vertical, horizontal in _corners(op, n):
        seen = op.GatherElements(pixels, op.Expand(place, op.Shape(flat)), axis=2)
        value = op.ReduceSum(op.Mul(flat, seen), [1], keepdims=0)  # [N, H'W'], all channels
        for slopes, slope, weight in (
            (across, horizontal.slope, vertical.weight),
            (down, vertical.slope, horizontal.weight),
        ):
            assert slope is not None
            slopes.append(op.Mul(value, op.Reshape(op.Mul(slope, weight), [0, -1])))
    both = op.Concat(*(op.Unsqueeze(op.Sum(*slopes), [2]) for slopes in (across, down)), axis=2)
    return op.Reshape(both, op.Shape(n.x[1]))


rule("GridSample", _picture, _grid)
