"""Rolling a picture around its borders, like numpy.roll."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .targets import HOST_COPIES

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops
    from .rewrite import Site


def roll(op: Ops, n: Site) -> ir.Value:
    """Roll: the picture [N,3,H,W] rolled down by shift[0] and right by shift[1].

    Where copies to the host cost time, places are computed where the picture lies.
    """
    image, shift = n.x
    rolled = image
    for axis, position in ((2, 0), (3, 1)):
        length = op.Slice(op.Shape(image), [axis], [axis + 1])
        back = op.Neg(op.Slice(shift, [position], [position + 1]))
        if n.lacks(HOST_COPIES):
            places = op.Range(np.int64(0), op.Squeeze(length, [0]), np.int64(1))
            rolled = op.Gather(rolled, op.Mod(op.Add(places, back), length), axis=axis)
            continue
        cut = op.Mod(back, length)
        rolled = op.Concat(op.Slice(rolled, cut, length, [axis]), op.Slice(rolled, [0], cut, [axis]), axis=axis)
    return op.Reshape(rolled, op.Shape(image))  # the shape has not changed, which inference cannot see
