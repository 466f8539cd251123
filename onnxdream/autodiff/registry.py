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

from ..lowering.targets import HOST_COPIES, lacks

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.shapes import Shape
    from .ops import Ops

VJP = Callable[..., "ir.Value"]


def constant(value: ir.Value) -> np.ndarray | None:
    """The value where it is a constant, quantised weights included: what DequantizeLinear makes of constants."""
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear":
        return None
    given = [v for v in map(constant, (v for v in node.inputs if v is not None)) if v is not None]
    if len(given) < len(node.inputs):
        return None
    x, scale, zero = [*given, np.zeros((), np.int32)][:3]
    shape = [-1] + [1] * (x.ndim - 1 - node.attributes.get_int("axis", 1) % max(1, x.ndim))
    scale, zero = (v.reshape(shape) if v.size > 1 else v.reshape(()) for v in (scale, zero))
    return np.asarray((x.astype(np.int32) - zero.astype(np.int32)) * scale, scale.dtype)


@dataclass(frozen=True)
class Call:
    """A forward node as its rule sees it."""

    node: ir.Node
    op: Ops
    target: str
    dys: tuple[ir.Value | None, ...]
    half: bool = False

    @property
    def blocked(self) -> bool:
        """Whether to spell for onnxruntime's blocked layout, which its CPU has in single precision."""
        return self.target == "cpu" and not self.half

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
        return None if value is None else constant(value)

    def shape(self, value: ir.Value) -> Shape:
        """The probed shape of `value`. Raises NotImplementedError where it depends on data."""
        shape = self.op.shape(value)
        if shape is None:
            raise NotImplementedError(f"the shape of {value.name} depends on data")
        return shape

    def count(self, value: ir.Value) -> ir.Value:
        """How many numbers `value` holds, int64 []."""
        # The product is known when the graph is loaded. On the CPU that would move the objective, which then nothing
        # waits for, to the end of the step, and what it is computed from would take up memory until then.
        if lacks(self.target, HOST_COPIES):
            return self.op.ReduceProd(self.op.Shape(value), keepdims=0)
        return self.op.Size(value)

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
    And ArgMax ArgMin Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Ceil Constant
    ConstantOfShape Equal EyeLike Floor Greater GreaterOrEqual HammingWindow HannWindow Hardmax IsInf IsNaN Less
    LessOrEqual MelWeightMatrix Multinomial NonMaxSuppression NonZero Not OneHot OptionalHasElement Or RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Round SequenceLength Shape Sign Size StringNormalizer
    TfIdfVectorizer Xor
"""
# Their outputs do not change when the picture changes a little, or are not numbers to differentiate.
NON_DIFFERENTIABLE = frozenset(_CONSTANT.split())

_WITHOUT_RULE = {
    "it runs a graph of its own, as the data decides": "If Loop Scan",
    "recurrent networks have no rules": "GRU LSTM RNN",
    "a sequence or an optional is no tensor": """
        ConcatFromSequence Optional OptionalGetElement SequenceAt SequenceConstruct SequenceEmpty SequenceErase
        SequenceInsert SequenceMap SplitToSequence
    """,
    "it computes with integers; export the network with QuantizeLinear and DequantizeLinear, or in float32": """
        ConvInteger DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul
    """,
    "it is deprecated, and replaced where the file says an opset that had it": "Scatter Upsample",
    "it belongs to training": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "it belongs to detectors, after the layers to dream with": "MaxRoiPool RoiAlign",
    "it belongs to sound": "DFT STFT",
    "rarely seen in networks for pictures": "CenterCropPad Col2Im Det MaxUnpool Unique",
    "it is newer than opset 18 and cannot be said in older operators": "BitCast CumProd DeformConv TensorScatter",
}
# Operators of the standard that could have a rule and have none: {operator: why}.
UNSUPPORTED = {operator: why for why, operators in _WITHOUT_RULE.items() for operator in operators.split()}


def rule(operator: str, *functions: Any, broadcasts: bool = False, every_output: bool = False) -> None:
    """Register the rule of `operator`; see the module's docstring."""
    variadic = bool(functions) and functions[-1] is ...
    RULES[operator] = Rule(functions[:-1] if variadic else functions, variadic, broadcasts, every_output)
