"""Replaces every operation of the internal domain by the standard operators that suit the target best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..graph.ops import INTERNAL
from .activation import clip_gradient
from .concat import concat_gradient
from .conv import conv_gradient
from .max_pool import max_pool_gradient
from .rewrite import Rewrite, rewrite
from .roll import roll

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.mixed_precision import Region

LOWERED: dict[tuple[str, str], Rewrite] = {
    (INTERNAL, "ClipGrad"): clip_gradient,
    (INTERNAL, "ConcatGrad"): concat_gradient,
    (INTERNAL, "ConvGrad"): conv_gradient,
    (INTERNAL, "MaxPoolGrad"): max_pool_gradient,
    (INTERNAL, "Roll"): roll,
}


def lower(graph: ir.Graph, target: str, half: Region | None = None) -> None:
    """Replace the internal operations in place; those in the region `half` are to be computed in half precision."""
    rewrite(graph, LOWERED, target, () if half is None else half.nodes(graph))
