"""Activation functions. At a kink the derivative is the one PyTorch takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..masks import complement, inside, positive
from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops


def _clip(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    bounds = [None if n.given(i) is None else n.const(i) for i in (1, 2)]
    for index, bound in enumerate(bounds, 1):
        if bound is None and n.given(index) is not None:
            raise NotImplementedError("a bound of Clip that is computed in the graph")
    low, high = (None if b is None else b.item() for b in bounds)
    return _within(op, n, dy, low, high)  # Clip is how ReLU6 is exported, whose derivative is 0 at both bounds


def _within(op: Ops, n: Call, dy: ir.Value, low: float | None, high: float | None) -> ir.Value:
    """dy where the output lies between the bounds, and 0 elsewhere."""
    bounds = {name: float(bound) for name, bound in (("low", low), ("high", high)) if bound is not None}
    return op.internal("ClipGrad", dy, n.y, **bounds) if bounds else dy


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


rule("Relu", lambda op, n, dy: _within(op, n, dy, 0.0, None))
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
