"""LRN in operators that every runtime has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..autodiff.rules.norm import lrn_scale
from .targets import LRN

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops
    from .rewrite import Site


def lrn(op: Ops, n: Site) -> ir.Value | None:
    """The input times a power of the sum of squares over some channels."""
    if not n.lacks(LRN):
        return None
    return op.Mul(n.x[0], op.Pow(lrn_scale(op, n), -n.attr("beta", 0.75)))
