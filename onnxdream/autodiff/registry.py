"""Which function differentiates which operator.

A rule is one function for each input of the operator, all with the same signature:

    rule(op, n, dy) -> dx

`op` builds nodes (`Ops`), `n` is the forward node (`Call`), `dy` is the gradient of its first output, and `dx` is the
gradient of that input, of that input's shape. In place of a function, None means that this input only steers the
operator (a shape, a permutation, a mask) and no gradient flows to it. A rule that ends in `...` applies its last
function to every further input, and calls it with a fourth argument, the input's position.

Rules know no runtime. They emit standard operators, or, where runtimes want different graphs for one gradient, a single
operation of the internal domain, which `lowering` replaces by what suits the runtime:

    ConcatGrad(dy)                      channels `start` to `stop` of dy
    ConvGrad(dy, x, weight)             dx of a strided convolution of x, with that convolution's attributes
    MaxPoolGrad(dy, x, y[, indices])    dx of y = MaxPool(x), with its attributes, and `channels` of x where known
    ClipGrad(dy, y)                     dy where `low` < y < `high`, and 0 elsewhere; a bound may be omitted
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..graph.ops import NodeView

if TYPE_CHECKING:
    import onnx_ir as ir

VJP = Callable[..., "ir.Value"]


@dataclass(frozen=True)
class Call(NodeView):
    """A forward node as its rule sees it; `dys` holds the gradients of its outputs, None for those that have none."""

    dys: tuple[ir.Value | None, ...]


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
    "it computes with integers, and is replaced by operators with the same values": """
        ConvInteger MatMulInteger QLinearConv QLinearMatMul
    """,
    "it is deprecated, and replaced where the file's opset has it": "Scatter Upsample",
    "it belongs to training": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "it belongs to detectors, after the layers to dream with": "MaxRoiPool RoiAlign",
    "it belongs to sound": "DFT STFT",
    "rarely seen in networks for pictures": "CenterCropPad Col2Im Det MaxUnpool Unique",
    "it is newer than opset 18 and cannot be expressed in older operators": "BitCast CumProd DeformConv TensorScatter",
}
# Operators of the standard that could have a rule and have none: {operator: why}.
UNSUPPORTED = {operator: why for why, operators in _WITHOUT_RULE.items() for operator in operators.split()}


def rule(operator: str, *functions: Any, broadcasts: bool = False, every_output: bool = False) -> None:
    """Register the rule of `operator`; see the module's docstring."""
    variadic = bool(functions) and functions[-1] is ...
    RULES[operator] = Rule(functions[:-1] if variadic else functions, variadic, broadcasts, every_output)
