"""The gradient of a ReLU or a Clip, and masks without HardSigmoid."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ..autodiff.masks import inside
from .targets import FUSED_MASKS, HARD_SIGMOID

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops
    from .rewrite import Site


def clip_gradient(op: Ops, n: Site) -> ir.Value:
    """ClipGrad: by a selection, or by a factor for each bound."""
    dy, y = n.x
    low, high = n.attr("low"), n.attr("high")
    if not n.lacks(FUSED_MASKS):
        return functools.reduce(op.Mul, inside(op, y, low, high), dy)
    passes = [] if low is None else [op.Greater(y, low)]
    passes += [] if high is None else [op.Less(y, high)]
    return op.Where(functools.reduce(op.And, passes), dy, 0.0)


def hard_sigmoid(op: Ops, n: Site) -> ir.Value | None:
    """max(0, min(1, alpha * x + beta)), which OpenVINO computes in one pass together with its neighbours."""
    if not n.lacks(HARD_SIGMOID):
        return None
    alpha, beta = n.attr("alpha", 0.2), n.attr("beta", 0.5)
    line = op.Mul(n.x[0], op.CastLike(alpha, n.x[0]))
    if beta:
        line = op.Add(line, op.CastLike(beta, n.x[0]))
    return op.Clip(line, op.CastLike(0.0, n.x[0]), op.CastLike(1.0, n.x[0]))
