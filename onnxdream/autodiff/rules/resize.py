"""Resize: a linear map, the same along each row and each column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops


def _resize(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """Resizing a unit matrix gives the matrix R of the map along one axis; the gradient is Rᵀ dy, axis by axis.

    This holds for every mode and coordinate transformation, since R comes from the operator itself.
    """
    if n.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotImplementedError("Resize that keeps the aspect ratio")
    if n.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise NotImplementedError("Resize that crops")
    rank = n.rank()
    axes = [int(a) % rank for a in n.attr("axes", list(range(rank)))]
    for position, axis in enumerate(axes):
        if _keeps(n, axis, position):
            continue
        dy = _apply(op, _matrix(op, n, dy, axis, position), dy, axis, rank)
    return dy


def _apply(op: Ops, matrix: ir.Value, dy: ir.Value, axis: int, rank: int) -> ir.Value:
    """`matrix` times `dy` along `axis`."""
    if axis == rank - 2:
        return op.MatMul(matrix, dy)
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    moved = op.Transpose(dy, perm=order) if axis < rank - 1 else dy
    product = op.MatMul(moved, op.Transpose(matrix, perm=[1, 0]))
    return op.Transpose(product, perm=order) if axis < rank - 1 else product


def _keeps(n: Call, axis: int, position: int) -> bool:
    """Whether `axis` keeps its length, whatever the picture's size."""
    scales = n.const(2)
    if scales is not None and scales.size:
        return bool(scales[position] == 1)
    # Height and width may happen to agree at the probe's size, where the size wanted is another tensor's.
    return axis < n.rank() - 2 and n.shape(n.x[0])[axis] == n.shape(n.y)[axis]


def _matrix(op: Ops, n: Call, dy: ir.Value, axis: int, position: int) -> ir.Value:
    """Rᵀ [inputs, outputs], of dy's type, of the resize along `axis`, whose size or scale stands at `position`."""
    length = op.Slice(op.Shape(n.x[0]), [axis], [axis + 1])
    square = op.Concat(length, length, axis=0)
    unit = op.EyeLike(op.Expand(op.CastLike(0.0, dy), square))
    unit = op.Reshape(unit, op.Concat([1, 1], square, axis=0))
    attributes: dict[str, Any] = {name: n.attr(name) for name in n.node.attributes if name != "axes"}
    if n.given(3) is not None:
        wanted = op.Slice(n.x[3], [position], [position + 1])
        resized = op.Resize(unit, None, None, op.Concat([1, 1], length, wanted, axis=0), **attributes)
    else:
        scale = op.Slice(n.x[2], [position], [position + 1])
        resized = op.Resize(unit, None, op.Concat(np.ones(3, np.float32), scale, axis=0), **attributes)
    return op.Squeeze(resized, [0, 1])


rule("Resize", _resize, None, None, None)
