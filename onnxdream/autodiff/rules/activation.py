"""Activation functions. At a kink the derivative is the one PyTorch takes."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from ...lowering.targets import FUSED_MASKS, lacks
from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ops import Ops

# HardSigmoid(v, alpha, beta) = max(0, min(1, alpha * v + beta)) is how masks, and affine functions of what lies in
# 0..1, are spelt here: onnxruntime keeps it in its blocked layout, which Greater, Where and scalars break. One this
# steep is the unit step, exactly, since a power of two only moves the exponent; 2^126 lifts the smallest normal float32
# to 1.
_STEEPEST = 126


def positive(op: Ops, v: ir.Value) -> ir.Value:
    """1 where v > 0, else 0."""
    return op.HardSigmoid(v, alpha=2.0**_STEEPEST, beta=0.0)


def inside(op: Ops, v: ir.Value, low: float | None, high: float | None) -> list[ir.Value]:
    """Factors whose product is 1 where low < v < high, else 0."""
    factors = []
    for bound, sign in ((low, 1.0), (high, -1.0)):
        if bound is not None:
            steep = sign * 2.0 ** min(100, _STEEPEST - math.frexp(bound)[1])  # steep * bound must not overflow
            factors.append(op.HardSigmoid(v, alpha=steep, beta=-bound * steep))
    return factors


def _clip(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    bounds = [None if n.given(i) is None else n.const(i) for i in (1, 2)]
    for index, bound in enumerate(bounds, 1):
        if bound is None and n.given(index) is not None:
            raise NotImplementedError("a bound of Clip that is computed in the graph")
    low, high = (None if b is None else b.item() for b in bounds)
    # Clip is how ReLU6 is exported, whose derivative is 0 at both bounds.
    if lacks(n.target, FUSED_MASKS):
        passes = [] if low is None else [op.Greater(n.y, low)]
        passes += [] if high is None else [op.Less(n.y, high)]
        return op.Where(functools.reduce(op.And, passes), dy, 0.0) if passes else dy
    for factor in inside(op, n.y, low, high):
        dy = op.Mul(dy, factor)
    return dy


def complement(op: Ops, v: ir.Value) -> ir.Value:
    """1 - v where v is in 0..1."""
    return op.HardSigmoid(v, alpha=-1.0, beta=1.0)


def vanishes(op: Ops, v: ir.Value) -> ir.Value:
    """1 where v = 0, else 0, for v of at least 0."""
    return op.HardSigmoid(v, alpha=-(2.0**_STEEPEST), beta=1.0)


def _hard_swish(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """y = x * h(x), h(x) = x / 6 + 1/2 within 0..1 (Howard et al. 2019, arXiv:1905.02244), so y' = h + x / 6 inside."""
    x = n.x[0]
    low, high = inside(op, x, -3.0, 3.0)
    sixth = op.HardSigmoid(op.Mul(low, high), alpha=1 / 6, beta=0.0)
    return op.Mul(dy, op.Add(op.HardSigmoid(x, alpha=1 / 6, beta=0.5), op.Mul(x, sixth)))


def _hard_sigmoid(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    low, high = inside(op, n.y, 0.0, 1.0)
    return op.Mul(op.Mul(dy, op.Mul(low, high)), n.attr("alpha", 0.2))


def _leaky_relu(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    slope = n.attr("alpha", 0.01)
    if not 0 <= slope <= 1:
        return op.Where(op.Greater(n.x[0], 0.0), dy, op.Mul(dy, slope))
    return op.Mul(dy, op.HardSigmoid(positive(op, n.x[0]), alpha=1 - slope, beta=slope))


def _elu(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return op.Where(op.Greater(n.x[0], 0.0), dy, op.Mul(dy, op.Add(n.y, n.attr("alpha", 1.0))))


def _selu(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """gamma * x above 0, gamma * alpha * (exp(x) - 1) below (Klambauer et al. 2017, arXiv:1706.02515)."""
    alpha, gamma = n.attr("alpha", 1.67326319217681884765625), n.attr("gamma", 1.05070102214813232421875)
    return op.Mul(dy, op.Where(op.Greater(n.x[0], 0.0), gamma, op.Add(n.y, gamma * alpha)))


def _celu(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """x above 0, alpha * (exp(x / alpha) - 1) below (Barron 2017, arXiv:1704.07483)."""
    return op.Where(op.Greater(n.x[0], 0.0), dy, op.Mul(dy, op.Add(op.Div(n.y, n.attr("alpha", 1.0)), 1.0)))


def _gelu(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """y = x * P(x), P the normal distribution or its approximation by tanh (Hendrycks and Gimpel, arXiv:1606.08415)."""
    x = n.x[0]
    if n.attr("approximate", "none") == "none":
        share = op.Mul(op.Add(op.Erf(op.Mul(x, math.sqrt(0.5))), 1.0), 0.5)
        density = op.Mul(op.Exp(op.Mul(op.Mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
        return op.Mul(dy, op.Add(share, op.Mul(x, density)))
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    square = op.Mul(x, x)
    t = op.Tanh(op.Mul(op.Mul(x, scale), op.Add(op.Mul(square, cubic), 1.0)))
    inner = op.Mul(op.Add(op.Mul(square, 3 * cubic), 1.0), scale)
    slope = op.Mul(op.Mul(x, op.Sub(1.0, op.Mul(t, t))), inner)
    return op.Mul(dy, op.Mul(op.Add(op.Add(t, 1.0), slope), 0.5))


def _mish(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """y = x * tanh(softplus(x)) (Misra 2019, arXiv:1908.08681)."""
    x = n.x[0]
    t = op.Tanh(op.Softplus(x))
    return op.Mul(dy, op.Add(t, op.Mul(op.Mul(x, op.Sigmoid(x)), op.Sub(1.0, op.Mul(t, t)))))


def _swish(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """y = x * sigmoid(alpha * x)."""
    scaled = op.Mul(n.x[0], n.attr("alpha", 1.0))
    s = op.Sigmoid(scaled)
    return op.Mul(dy, op.Add(s, op.Mul(op.Mul(scaled, s), complement(op, s))))


def _above(op: Ops, v: ir.Value, threshold: float, dy: ir.Value) -> ir.Value:
    return op.Where(op.Greater(v, threshold), dy, 0.0)


def _relu(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return _above(op, n.y, 0.0, dy) if lacks(n.target, FUSED_MASKS) else op.Mul(dy, positive(op, n.y))


rule("Relu", _relu)
rule("LeakyRelu", _leaky_relu)
rule(
    "PRelu",
    lambda op, n, dy: op.Where(op.Greater(n.x[0], 0.0), dy, op.Mul(dy, n.x[1])),
    lambda op, n, dy: op.Where(op.Greater(n.x[0], 0.0), 0.0, op.Mul(dy, n.x[0])),
    broadcasts=True,
)
rule("Clip", _clip, None, None)
rule("Sigmoid", lambda op, n, dy: op.Mul(dy, op.Mul(n.y, complement(op, n.y))))
rule("Tanh", lambda op, n, dy: op.Mul(dy, complement(op, op.Mul(n.y, n.y))))
rule("HardSigmoid", _hard_sigmoid)
rule("HardSwish", _hard_swish)
rule("Elu", _elu)
rule("Softplus", lambda op, n, dy: op.Mul(dy, op.Sigmoid(n.x[0])))
rule("Softsign", lambda op, n, dy: op.Div(dy, op.Pow(op.Add(op.Abs(n.x[0]), 1.0), 2.0)))
rule("Selu", _selu)
rule("Celu", _celu)
rule("Gelu", _gelu)
rule("Mish", _mish)
rule("Swish", _swish)
rule("ThresholdedRelu", lambda op, n, dy: _above(op, n.x[0], n.attr("alpha", 1.0), dy))
rule("Shrink", lambda op, n, dy: _above(op, op.Abs(n.x[0]), n.attr("lambd", 0.5), dy))
