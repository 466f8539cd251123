"""Elementwise operators. At a kink the derivative is the one PyTorch takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ops import Ops

# A HardSigmoid this steep is the unit step, exactly, since a power of two only moves the exponent; and onnxruntime
# keeps it in its blocked layout, which Greater and Where break. 2^126 lifts the smallest normal float32 to 1.
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
    for factor in inside(op, n.y, low, high):
        dy = op.Mul(dy, factor)
    return dy


def _pow(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """p * x^(p - 1), and 0 for p = 0 even where x is 0."""
    x, exponent = n.x[0], n.const(1)
    if exponent is not None and exponent.size == 1:
        p = float(exponent.item())
        if p == 2:
            return op.Mul(dy, op.Mul(x, 2.0))
        if p == 0:
            return op.Mul(dy, 0.0)
        return op.Mul(dy, op.Mul(op.Pow(x, p - 1), p))
    powers = op.CastLike(n.x[1], x)
    slope = op.Mul(powers, op.Pow(x, op.Sub(powers, 1.0)))
    return op.Mul(dy, op.Where(op.Equal(powers, 0.0), 0.0, slope))


def _pow_exponent(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """x^p * log(x), and 0 where x is 0."""
    return op.Mul(dy, op.Where(op.Equal(n.x[0], 0.0), 0.0, op.Mul(n.y, op.Log(n.x[0]))))


def _hard_swish(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    x = n.x[0]
    slope = op.Add(op.Div(x, 3.0), 0.5)
    slope = op.Where(op.Less(x, 3.0), slope, 1.0)
    return op.Mul(dy, op.Where(op.Greater(x, -3.0), slope, 0.0))


def _hard_sigmoid(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    low, high = inside(op, n.y, 0.0, 1.0)
    return op.Mul(op.Mul(dy, op.Mul(low, high)), n.attr("alpha", 0.2))


def _elu(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    return op.Where(op.Greater(n.x[0], 0.0), dy, op.Mul(dy, op.Add(n.y, n.attr("alpha", 1.0))))


def _share(op: Ops, n: Call, dy: ir.Value, index: int) -> ir.Value:
    """Max and Min: the gradient goes to the inputs that attain the result, in equal shares."""
    attained = [op.CastLike(op.Equal(x, n.y), n.y) for x in n.x]
    if len(attained) == 1:
        return dy
    return op.Mul(dy, op.Div(attained[index], op.Sum(*attained)))


def _through(op: Ops, n: Call, dy: ir.Value, index: int = 0) -> ir.Value:
    return dy


def _dropout(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """The identity, as it is outside training."""
    training = n.const(2)
    if n.given(2) is not None and (training is None or training.item()):
        raise NotImplementedError("Dropout in training mode; export the network in evaluation mode")
    return dy


rule("Relu", lambda op, n, dy: op.Mul(dy, positive(op, n.y)))
rule("LeakyRelu", lambda op, n, dy: op.Where(op.Greater(n.x[0], 0.0), dy, op.Mul(dy, n.attr("alpha", 0.01))))
rule(
    "PRelu",
    lambda op, n, dy: op.Where(op.Greater(n.x[0], 0.0), dy, op.Mul(dy, n.x[1])),
    lambda op, n, dy: op.Where(op.Greater(n.x[0], 0.0), 0.0, op.Mul(dy, n.x[0])),
    broadcasts=True,
)
rule("Clip", _clip, None, None)
rule("Sigmoid", lambda op, n, dy: op.Mul(dy, op.Mul(n.y, op.Sub(1.0, n.y))))
rule("Tanh", lambda op, n, dy: op.Mul(dy, op.Sub(1.0, op.Mul(n.y, n.y))))
rule("HardSigmoid", _hard_sigmoid)
rule("HardSwish", _hard_swish)
rule("Elu", _elu)
rule("Softplus", lambda op, n, dy: op.Mul(dy, op.Sigmoid(n.x[0])))
rule("Softsign", lambda op, n, dy: op.Div(dy, op.Pow(op.Add(op.Abs(n.x[0]), 1.0), 2.0)))
rule("Exp", lambda op, n, dy: op.Mul(dy, n.y))
rule("Log", lambda op, n, dy: op.Div(dy, n.x[0]))
rule("Sqrt", lambda op, n, dy: op.Div(op.Mul(dy, 0.5), n.y))
rule("Reciprocal", lambda op, n, dy: op.Neg(op.Mul(dy, op.Mul(n.y, n.y))))
rule("Sin", lambda op, n, dy: op.Mul(dy, op.Cos(n.x[0])))
rule("Cos", lambda op, n, dy: op.Neg(op.Mul(dy, op.Sin(n.x[0]))))
rule("Abs", lambda op, n, dy: op.Mul(dy, op.Sign(n.x[0])))
rule("Neg", lambda op, n, dy: op.Neg(dy))
rule("Erf", lambda op, n, dy: op.Mul(op.Mul(dy, 2 / math.sqrt(math.pi)), op.Exp(op.Neg(op.Mul(n.x[0], n.x[0])))))
rule("Pow", _pow, _pow_exponent, broadcasts=True)
rule("Identity", _through)
rule("Dropout", _dropout, None, None)
rule("Cast", lambda op, n, dy: op.CastLike(dy, n.x[0]))

rule("Add", _through, _through, broadcasts=True)
rule("Sub", _through, lambda op, n, dy: op.Neg(dy), broadcasts=True)
rule("Mul", lambda op, n, dy: op.Mul(dy, n.x[1]), lambda op, n, dy: op.Mul(dy, n.x[0]), broadcasts=True)
rule(
    "Div",
    lambda op, n, dy: op.Div(dy, n.x[1]),
    lambda op, n, dy: op.Neg(op.Div(op.Mul(dy, n.y), n.x[1])),
    broadcasts=True,
)
rule("Sum", _through, ..., broadcasts=True)
rule("Mean", lambda op, n, dy, i: op.Mul(dy, 1 / len(n.x)), ..., broadcasts=True)
rule("Max", _share, ..., broadcasts=True)
rule("Min", _share, ..., broadcasts=True)
rule(
    "Where",
    None,
    lambda op, n, dy: op.Where(n.x[0], dy, 0.0),
    lambda op, n, dy: op.Where(n.x[0], 0.0, dy),
    broadcasts=True,
)
