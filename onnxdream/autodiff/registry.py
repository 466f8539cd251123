"""Which function differentiates which operator.

A rule is one function for each input of the operator, all with the same signature:

    rule(op, n, dy) -> dx

`op` builds nodes (`Ops`), `n` is the forward node (`Call`), `dy` is the gradient of its first output, and `dx` is the
gradient of that input, of that input's shape. In place of a function, None says that this input only steers the
operator (a shape, a permutation, a mask) and no gradient flows to it. A rule that ends in `...` applies its last
function to every further input, and calls it with a fourth argument, the input's position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph import Shape
    from .ops import Ops

VJP = Callable[..., "ir.Value"]


@dataclass(frozen=True)
class Call:
    """A forward node as its rule sees it."""

    node: ir.Node
    op: Ops
    target: str
    dys: tuple[ir.Value | None, ...]

    @property
    def x(self) -> tuple[ir.Value, ...]:
        """The inputs; an omitted trailing input is simply not there."""
        return self.node.inputs  # type: ignore[return-value]

    @property
    def y(self) -> ir.Value:
        """The first output."""
        return self.node.outputs[0]

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute's value as a Python object, or `default`."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        value = attribute.value
        return list(value) if isinstance(value, tuple) else value

    def given(self, index: int) -> ir.Value | None:
        """Input `index`, or None where it is omitted."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def const(self, index: int) -> np.ndarray | None:
        """The value of input `index` where it is a constant."""
        value = self.given(index)
        return None if value is None or value.const_value is None else value.const_value.numpy()

    def shape(self, value: ir.Value) -> Shape:
        """The probed shape of `value`. Raises NotImplementedError where it depends on data."""
        shape = self.op.shape(value)
        if shape is None:
            raise NotImplementedError(f"the shape of {value.name} depends on data")
        return shape

    def rank(self, index: int = 0) -> int:
        """The number of axes of input `index`."""
        return len(self.shape(self.x[index]))


@dataclass(frozen=True)
class Rule:
    """The rule of one operator.

    `broadcasts`: its inputs broadcast, which `backward` undoes. `every_output`: gradients come back from all its
    outputs, not only from the first; the rule finds them in `Call.dys`.
    """

    functions: tuple[VJP | None, ...]
    variadic: bool = False
    broadcasts: bool = False
    every_output: bool = False

    def at(self, index: int) -> VJP | None:
        """The function for input `index`. Raises NotImplementedError where there is none."""
        if self.variadic and index >= len(self.functions) - 1:
            last = self.functions[-1]
            assert last is not None
            return lambda op, n, dy: last(op, n, dy, index)
        if index >= len(self.functions):
            raise NotImplementedError("no derivative for this input")
        return self.functions[index]


RULES: dict[str, Rule] = {}

_CONSTANT = """
    And ArgMax ArgMin BitShift Ceil Constant ConstantOfShape Equal EyeLike Floor Greater GreaterOrEqual IsInf IsNaN Less
    LessOrEqual Multinomial NonZero Not OneHot Or RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range
    Round Shape Sign Size Xor
"""
# Their outputs do not change when the picture changes a little, or are not numbers to differentiate.
NON_DIFFERENTIABLE = frozenset(_CONSTANT.split())


def rule(operator: str, *functions: Any, broadcasts: bool = False, every_output: bool = False) -> None:
    """Register the rule of `operator`; see the module's docstring."""
    variadic = bool(functions) and functions[-1] is ...
    RULES[operator] = Rule(functions[:-1] if variadic else functions, variadic, broadcasts, every_output)
