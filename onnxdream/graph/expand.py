"""Operators that are functions of standard ones, replaced by these: quantised ones, and those that runtimes fuse.

ONNX Runtime's optimiser leaves the latter in files, in the domain com.microsoft; see its ContribOperators.md. Integers
that are computed with become floating-point numbers with the same values, so that a gradient can flow through them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .ops import NodeView, Ops

if TYPE_CHECKING:
    import onnx_ir as ir

CONTRIB = "com.microsoft"
# An expansion returns what takes the place of the node's outputs, or of the first alone.
Expansion = Callable[[Ops, NodeView], "ir.Value | tuple[ir.Value | None, ...]"]


class _Within(Ops):
    """Names what it builds after the output that it is part of."""

    output = ""

    def _name(self, stem: str) -> str:
        return super()._name(f"{self.output}/{stem}")


def expand(graph: ir.Graph) -> bool:
    """Replace, in place, every node that has an expansion; one that it does not cover stays.

    Returns:
        Whether a node was replaced.
    """
    nodes = list(graph)
    if not any((node.domain, node.op_type) in EXPANSIONS for node in nodes):
        return False
    op, found = _Within(graph), False
    whole: set[ir.Value] = set()  # floating-point numbers in place of integers
    graph.remove(nodes)  # and back one by one, each behind what it needs
    for node in nodes:
        op.output = str(node.outputs[0].name)
        _with_floats(op, node, whole)
        try:
            function = EXPANSIONS.get((node.domain, node.op_type), _stays)
            results = function(op, NodeView(node, op))
        except NotImplementedError:
            results = ()
        if results == ():
            graph.append(node)
            continue
        found = True
        results = results if isinstance(results, tuple) else (results,)
        for output, result in zip(node.outputs, results, strict=False):
            if result is None or not (output.uses() or output.is_graph_output()):
                continue
            if node.op_type in _TO_INTEGERS:
                whole.add(result)
            name, output.name = output.name, None
            output.replace_all_uses_with(result, replace_graph_outputs=True)
            result.name = name
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
    return found


def _stays(op: Ops, n: NodeView) -> tuple[()]:
    return ()


def _with_floats(op: Ops, node: ir.Node, whole: set[ir.Value]) -> None:
    """Let a node that reads numbers of `whole` compute with them, or give it integers."""
    import onnx_ir as ir

    read = [index for index, value in enumerate(node.inputs) if value in whole]
    if not read or node.op_type == "Cast":
        return
    if node.op_type not in _MOVES | _SUMS:
        for index in read:
            node.replace_input_with(index, op.Cast(node.inputs[index], to=ir.DataType.INT32.value))
        return
    if node.op_type in _SUMS:
        for index, value in enumerate(node.inputs):
            if value is not None and index not in read:
                node.replace_input_with(index, op.Cast(value, to=ir.DataType.FLOAT.value))
    whole.update(node.outputs)
    for output in node.outputs:
        output.type = ir.TensorType(ir.DataType.FLOAT)


_SUMS = {"Add", "Sub", "Mul"}
_MOVES = {"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "Split", "Expand"}
_TO_INTEGERS = {"ConvInteger", "MatMulInteger"}


def _attributes(n: NodeView, *names: str) -> dict[str, Any]:
    return {name: n.attr(name) for name in names if name in n.node.attributes}


def _convolution(n: NodeView) -> dict[str, Any]:
    return _attributes(n, "kernel_shape", "strides", "dilations", "pads", "auto_pad", "group")


def _rank(n: NodeView, index: int) -> int:
    value = n.x[index]
    shape = value.const_value.shape if value.const_value is not None else value.shape
    if shape is None:
        raise NotImplementedError(f"the rank of {value.name} is not known")
    return len(shape)


def _levels(op: Ops, n: NodeView, index: int, zero: int, axis: int = 1) -> ir.Value:
    """Input `index`, integers, less their zero point in input `zero`, as floating-point numbers."""
    x, point = n.x[index], n.given(zero)
    if point is None:
        return op.Cast(x, to=1)
    known = n.const(zero)
    if known is None:  # computed, as by DynamicQuantizeLinear: one for all
        return op.DequantizeLinear(x, 1.0, point)
    if known.size == 1:
        return op.DequantizeLinear(x, 1.0, known.reshape(()))
    return op.DequantizeLinear(x, np.ones(known.size, np.float32), known.reshape(-1), axis=axis)


def _conv_integer(op: Ops, n: NodeView) -> ir.Value:
    return op.Conv(_levels(op, n, 0, 2), _levels(op, n, 1, 3, axis=0), **_convolution(n))


def _matmul_integer(op: Ops, n: NodeView) -> ir.Value:
    return op.MatMul(_levels(op, n, 0, 2, axis=-2), _levels(op, n, 1, 3, axis=-1))


def _dequantized(op: Ops, n: NodeView, index: int, **axis: int) -> ir.Value:
    """Inputs `index` to `index` + 2, integers with scale and zero point, as the numbers they stand for."""
    x, scale, zero = n.x[index], n.x[index + 1], n.given(index + 2)
    return op.DequantizeLinear(x, scale, zero, **(axis if _is_row(n, index + 1) else {}))


def _is_row(n: NodeView, index: int) -> bool:
    known = n.const(index)
    return known is None or known.size > 1


def _quantized(op: Ops, n: NodeView, y: ir.Value, index: int) -> ir.Value:
    """`y` in integers of the scale and the zero point in inputs `index` and `index` + 1."""
    return op.QuantizeLinear(y, n.x[index], n.given(index + 1))


def _qlinear_conv(op: Ops, n: NodeView) -> ir.Value:
    x, weight = _dequantized(op, n, 0), _dequantized(op, n, 3, axis=0)
    biases = [] if n.given(8) is None else [op.DequantizeLinear(n.x[8], op.Mul(n.x[1], n.x[4]), None, axis=0)]
    y = _channels_first(op, n, lambda x: op.Conv(x, weight, *biases, **_convolution(n)), x)
    return _quantized(op, n, y, 6)


def _channels_first(op: Ops, n: NodeView, compute: Callable[[ir.Value], ir.Value], x: ir.Value) -> ir.Value:
    """`compute`, which wants the channels first, of `x`, which has them last where the attribute channels_last is 1."""
    if not n.attr("channels_last", 0):
        return compute(x)
    return op.Transpose(compute(op.Transpose(x, perm=[0, 3, 1, 2])), perm=[0, 2, 3, 1])


def _qlinear_matmul(op: Ops, n: NodeView) -> ir.Value:
    return _quantized(op, n, op.MatMul(_dequantized(op, n, 0), _dequantized(op, n, 3, axis=1)), 6)


def _qlinear_binary(operator: str) -> Expansion:
    def expansion(op: Ops, n: NodeView) -> ir.Value:
        y = getattr(op, operator)(_dequantized(op, n, 0), _dequantized(op, n, 3))
        return _quantized(op, n, y, 6)

    return expansion


def _qlinear_unary(operator: str, *attributes: str) -> Expansion:
    def expansion(op: Ops, n: NodeView) -> ir.Value:
        kept = _attributes(n, *attributes)
        y = _channels_first(op, n, lambda x: getattr(op, operator)(x, **kept), _dequantized(op, n, 0))
        return _quantized(op, n, y, 3)

    return expansion


def _qlinear_concat(op: Ops, n: NodeView) -> ir.Value:
    parts = [_dequantized(op, n, index) for index in range(2, len(n.x), 3)]
    return _quantized(op, n, op.Concat(*parts, axis=n.attr("axis")), 0)


def _qgemm(op: Ops, n: NodeView) -> ir.Value:
    """alpha * scales * (A B + C), with C in units of both scales."""
    a, b = _dequantized(op, n, 0), _dequantized(op, n, 3, axis=0 if n.attr("transB", 0) else 1)
    bias = [] if n.given(6) is None else [op.Mul(op.Cast(n.x[6], to=1), op.Mul(n.x[1], n.x[4]))]
    y = op.Gemm(a, b, *bias, **_attributes(n, "alpha", "transA", "transB"), beta=float(n.attr("alpha", 1.0)))
    return y if n.given(7) is None else _quantized(op, n, y, 7)


def _integer_matmul(op: Ops, n: NodeView, a: ir.Value, b: ir.Value, bias: int) -> ir.Value:
    y = op.MatMul(a, b)
    return y if n.given(bias) is None else op.Add(y, n.x[bias])


def _matmul_integer_to_float(op: Ops, n: NodeView) -> ir.Value:
    a = op.Mul(_levels(op, n, 0, 4, axis=-2), n.x[2])
    return _integer_matmul(op, n, a, op.Mul(_levels(op, n, 1, 5, axis=-1), n.x[3]), 6)


def _dynamic_quantize_matmul(op: Ops, n: NodeView) -> ir.Value:
    x, scale, zero = op.many("DynamicQuantizeLinear", 3, n.x[0])
    a = op.DequantizeLinear(x, scale, zero)
    return _integer_matmul(op, n, a, op.Mul(_levels(op, n, 1, 3, axis=-1), n.x[2]), 4)


def _activated(op: Ops, n: NodeView, y: ir.Value, parameters: Sequence[float]) -> ir.Value:
    """`y` behind the activation that the node names."""
    name = n.attr("activation", "")
    names = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}.get(name, ())
    if name in ("", "Identity"):
        return y
    if name == "Clip":
        return op.Clip(y, *(float(p) for p in parameters[:2]))
    if name not in ("Relu", "Tanh", "Sigmoid", "LeakyRelu", "HardSigmoid"):
        raise NotImplementedError(f"the activation {name}")
    return getattr(op, name)(y, **dict(zip(names, map(float, parameters), strict=False)))  # type: ignore[no-any-return]


def _fused_conv(op: Ops, n: NodeView) -> ir.Value:
    """activation(conv(x) + z)."""
    return _after_convolution(op, n, op.Conv(n.x[0], *_kernel(n), **_convolution(n)))


def _nhwc_fused_conv(op: Ops, n: NodeView) -> ir.Value:
    """FusedConv with the channels of pictures last."""
    y = op.Conv(op.Transpose(n.x[0], perm=[0, 3, 1, 2]), *_kernel(n), **_convolution(n))
    return _after_convolution(op, n, op.Transpose(y, perm=[0, 2, 3, 1]))


def _kernel(n: NodeView) -> tuple[ir.Value, ...]:
    """A convolution's weights, and its bias if it has one."""
    return n.x[1:2] if n.given(2) is None else n.x[1:3]


def _after_convolution(op: Ops, n: NodeView, y: ir.Value) -> ir.Value:
    """activation(y + z)."""
    if n.given(3) is not None:
        y = op.Add(y, n.x[3])
    return _activated(op, n, y, n.attr("activation_params", []))


def _fused_gemm(op: Ops, n: NodeView) -> ir.Value:
    y = op.Gemm(*n.x, **_attributes(n, "alpha", "beta", "transA", "transB"))
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    return _activated(op, n, y, [n.attr(name) for name in names if name in n.node.attributes])


def _fused_matmul(op: Ops, n: NodeView) -> ir.Value:
    """alpha * A B, with the axes of both moved beforehand."""
    factors = []
    for index, letter in enumerate("AB"):
        turned, batch = n.attr(f"trans{letter}", 0), n.attr(f"transBatch{letter}", 0)
        if not (turned or batch) or _rank(n, index) == 1:
            factors.append(n.x[index])
            continue
        axes = list(range(_rank(n, index)))
        if batch:
            axes = [*axes[1:-1], axes[0], axes[-1]]
        if turned:
            axes[-2:] = axes[-1], axes[-2]
        factors.append(op.Transpose(n.x[index], perm=axes))
    y = op.MatMul(*factors)
    return op.Mul(y, float(n.attr("alpha", 1.0))) if n.attr("alpha", 1.0) != 1 else y


def _gelu(op: Ops, x: ir.Value) -> ir.Value:
    """x Φ(x)."""
    return op.Mul(op.Mul(x, 0.5), op.Add(op.Erf(op.Mul(x, math.sqrt(0.5))), 1.0))


def _bias_gelu(op: Ops, n: NodeView) -> ir.Value:
    return _gelu(op, n.x[0] if n.given(1) is None else op.Add(n.x[0], n.x[1]))


def _fast_gelu(op: Ops, n: NodeView) -> ir.Value:
    """GELU with tanh in place of erf."""
    x = n.x[0] if n.given(1) is None else op.Add(n.x[0], n.x[1])
    inner = op.Mul(op.Add(x, op.Mul(op.Mul(x, op.Mul(x, x)), 0.044715)), math.sqrt(2 / math.pi))
    return op.Mul(op.Mul(x, 0.5), op.Add(op.Tanh(inner), 1.0))


def _quick_gelu(op: Ops, n: NodeView) -> ir.Value:
    return op.Mul(n.x[0], op.Sigmoid(op.Mul(n.x[0], float(n.attr("alpha", 1.702)))))


def _bias_add(op: Ops, n: NodeView) -> ir.Value:
    return op.Add(op.Add(n.x[0], n.x[1]), n.x[2])


def _layer_norm(op: Ops, n: NodeView) -> ir.Value:
    if len([o for o in n.node.outputs if o.uses()]) > 1:
        raise NotImplementedError("mean and deviation as outputs")
    return op.LayerNormalization(*n.x, **_attributes(n, "axis", "epsilon"))


def _skip_layer_norm(op: Ops, n: NodeView) -> tuple[ir.Value | None, ...]:
    """A layer normalisation of the sum of two tensors and a bias; the fourth output is the sum."""
    total = op.Add(n.x[0], n.x[1])
    if n.given(4) is not None:
        total = op.Add(total, n.x[4])
    offset = [] if n.given(3) is None else [n.x[3]]
    y = op.LayerNormalization(total, n.x[2], *offset, axis=-1, epsilon=float(n.attr("epsilon", 1e-12)))
    return y, None, None, total


def _root_mean_square_norm(op: Ops, x: ir.Value, gain: ir.Value, axes: list[int], epsilon: float) -> ir.Value:
    square = op.ReduceMean(op.Mul(x, x), axes, keepdims=1)
    return op.Mul(op.Div(x, op.Sqrt(op.Add(square, epsilon))), gain)


def _simplified_layer_norm(op: Ops, n: NodeView) -> ir.Value:
    axis = n.attr("axis", -1)
    axes = [-1] if axis == -1 else list(range(axis % _rank(n, 0), _rank(n, 0)))
    return _root_mean_square_norm(op, n.x[0], n.x[1], axes, float(n.attr("epsilon", 1e-5)))


def _skip_simplified_layer_norm(op: Ops, n: NodeView) -> tuple[ir.Value | None, ...]:
    total = op.Add(n.x[0], n.x[1])
    if n.given(3) is not None:
        total = op.Add(total, n.x[3])
    return _root_mean_square_norm(op, total, n.x[2], [-1], float(n.attr("epsilon", 1e-12))), None, None, total


_POOLING = ("kernel_shape", "strides", "dilations", "pads", "auto_pad", "ceil_mode", "count_include_pad")

EXPANSIONS: dict[tuple[str, str], Expansion] = {
    ("", "ConvInteger"): _conv_integer,
    ("", "MatMulInteger"): _matmul_integer,
    ("", "QLinearConv"): _qlinear_conv,
    ("", "QLinearMatMul"): _qlinear_matmul,
    (CONTRIB, "BiasAdd"): _bias_add,
    (CONTRIB, "BiasGelu"): _bias_gelu,
    (CONTRIB, "DynamicQuantizeMatMul"): _dynamic_quantize_matmul,
    (CONTRIB, "FastGelu"): _fast_gelu,
    (CONTRIB, "FusedConv"): _fused_conv,
    (CONTRIB, "FusedGemm"): _fused_gemm,
    (CONTRIB, "FusedMatMul"): _fused_matmul,
    (CONTRIB, "Gelu"): _bias_gelu,
    (CONTRIB, "LayerNormalization"): _layer_norm,
    (CONTRIB, "MatMulIntegerToFloat"): _matmul_integer_to_float,
    (CONTRIB, "NhwcFusedConv"): _nhwc_fused_conv,
    (CONTRIB, "QGemm"): _qgemm,
    (CONTRIB, "QLinearAdd"): _qlinear_binary("Add"),
    (CONTRIB, "QLinearAveragePool"): _qlinear_unary("AveragePool", *_POOLING),
    (CONTRIB, "QLinearConcat"): _qlinear_concat,
    (CONTRIB, "QLinearConv"): _qlinear_conv,
    (CONTRIB, "QLinearGlobalAveragePool"): _qlinear_unary("GlobalAveragePool"),
    (CONTRIB, "QLinearLeakyRelu"): _qlinear_unary("LeakyRelu", "alpha"),
    (CONTRIB, "QLinearMul"): _qlinear_binary("Mul"),
    (CONTRIB, "QLinearSigmoid"): _qlinear_unary("Sigmoid"),
    (CONTRIB, "QLinearSoftmax"): _qlinear_unary("Softmax", "axis"),
    (CONTRIB, "QuickGelu"): _quick_gelu,
    (CONTRIB, "SimplifiedLayerNormalization"): _simplified_layer_norm,
    (CONTRIB, "SkipLayerNormalization"): _skip_layer_norm,
    (CONTRIB, "SkipSimplifiedLayerNormalization"): _skip_simplified_layer_norm,
}
