"""Elementwise arithmetic. At a kink the derivative is the one PyTorch takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops


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


def _cast(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """The identity in another type; the gradient of a quantised tensor is a float tensor, and stays one."""
    return dy if is_quantised(n.x[0]) else op.CastLike(dy, n.x[0])


def is_quantised(value: ir.Value) -> bool:
    """Whether the integers of (Dynamic)QuantizeLinear stand in `value`, perhaps moved around."""
    while (node := value.producer()) is not None and node.op_type not in ("Cast", "DequantizeLinear"):
        if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
            return True
        if not node.inputs or node.inputs[0] is None:
            break
        value = node.inputs[0]
    return False


def _mod_b(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """a mod b = a - b * k with a whole number k."""
    a, b = n.x
    return op.Neg(op.Mul(dy, op.Round(op.Div(op.Sub(a, n.y), b))))


rule("Exp", lambda op, n, dy: op.Mul(dy, n.y))
rule("Log", lambda op, n, dy: op.Div(dy, n.x[0]))
rule("Sqrt", lambda op, n, dy: op.Div(op.Mul(dy, 0.5), n.y))
rule("Reciprocal", lambda op, n, dy: op.Neg(op.Mul(dy, op.Mul(n.y, n.y))))
rule("Sin", lambda op, n, dy: op.Mul(dy, op.Cos(n.x[0])))
rule("Cos", lambda op, n, dy: op.Neg(op.Mul(dy, op.Sin(n.x[0]))))
rule("Tan", lambda op, n, dy: op.Mul(dy, op.Add(op.Mul(n.y, n.y), 1.0)))
rule("Asin", lambda op, n, dy: op.Div(dy, op.Sqrt(op.Sub(1.0, op.Mul(n.x[0], n.x[0])))))
rule("Acos", lambda op, n, dy: op.Neg(op.Div(dy, op.Sqrt(op.Sub(1.0, op.Mul(n.x[0], n.x[0]))))))
rule("Atan", lambda op, n, dy: op.Div(dy, op.Add(op.Mul(n.x[0], n.x[0]), 1.0)))
rule("Sinh", lambda op, n, dy: op.Mul(dy, op.Cosh(n.x[0])))
rule("Cosh", lambda op, n, dy: op.Mul(dy, op.Sinh(n.x[0])))
rule("Asinh", lambda op, n, dy: op.Div(dy, op.Sqrt(op.Add(op.Mul(n.x[0], n.x[0]), 1.0))))
rule("Acosh", lambda op, n, dy: op.Div(dy, op.Sqrt(op.Sub(op.Mul(n.x[0], n.x[0]), 1.0))))
rule("Atanh", lambda op, n, dy: op.Div(dy, op.Sub(1.0, op.Mul(n.x[0], n.x[0]))))
rule("Abs", lambda op, n, dy: op.Mul(dy, op.Sign(n.x[0])))
rule("Neg", lambda op, n, dy: op.Neg(dy))
rule("Erf", lambda op, n, dy: op.Mul(op.Mul(dy, 2 / math.sqrt(math.pi)), op.Exp(op.Neg(op.Mul(n.x[0], n.x[0])))))
rule("Pow", _pow, _pow_exponent, broadcasts=True)
rule("Identity", _through)
rule("Dropout", _dropout, None, None)
rule("Cast", _cast)
rule("CastLike", _cast, None)

rule("Add", _through, _through, broadcasts=True)
rule("Sub", _through, lambda op, n, dy: op.Neg(dy), broadcasts=True)
rule("Mul", lambda op, n, dy: op.Mul(dy, n.x[1]), lambda op, n, dy: op.Mul(dy, n.x[0]), broadcasts=True)
rule(
    "Div",
    lambda op, n, dy: op.Div(dy, n.x[1]),
    lambda op, n, dy: op.Neg(op.Div(op.Mul(dy, n.y), n.x[1])),
    broadcasts=True,
)
rule("Mod", _through, _mod_b, broadcasts=True)
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
