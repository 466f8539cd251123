"""Masks: factors of 1 where something holds and 0 elsewhere, as arithmetic that breaks no layout of convolutions.

HardSigmoid(v, alpha, beta) = max(0, min(1, alpha * v + beta)) stands for masks, and for affine functions of what lies
in 0..1. One this steep is the unit step, exactly, since a power of two only moves the exponent; 2^126 lifts the
smallest normal float32 to 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops

_STEEPEST = 126


def positive(op: Ops, v: ir.Value) -> ir.Value:
    """1 where v > 0, else 0."""
    return inside(op, v, 0.0, None)[0]


def inside(op: Ops, v: ir.Value, low: float | None, high: float | None) -> list[ir.Value]:
    """Factors whose product is 1 where low < v < high, else 0; a bound that is None does not hold v back."""
    factors = []
    for bound, sign in ((low, 1.0), (high, -1.0)):
        if bound == 0:
            factors.append(op.HardSigmoid(v, alpha=sign * 2.0**_STEEPEST, beta=0.0))
        elif bound is not None:
            steep = sign * 2.0 ** min(100, _STEEPEST - math.frexp(bound)[1])  # steep * bound must not overflow
            factors.append(op.HardSigmoid(v, alpha=steep, beta=-bound * steep))
    return factors


def complement(op: Ops, v: ir.Value) -> ir.Value:
    """1 - v where v is in 0..1."""
    return op.HardSigmoid(v, alpha=-1.0, beta=1.0)


def vanishes(op: Ops, v: ir.Value) -> ir.Value:
    """1 where v = 0, else 0, for v of at least 0."""
    return op.HardSigmoid(v, alpha=-(2.0**_STEEPEST), beta=1.0)
