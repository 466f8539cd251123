"""Rewrites that make a network and its gradient cheaper without changing their values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from .shapes import replace

if TYPE_CHECKING:
    import onnx_ir as ir


def fuse(graph: ir.Graph, *, keep: Iterable[ir.Value]) -> None:
    """Apply all rewrites in place.

    Args:
        graph: The network.
        keep: Tensors that must stay in the graph.
    """
    kept = set(keep)
    fold_batch_norms(graph, kept)
    fold_preprocessing(graph, kept)
    pool_before_concat(graph, kept)
    pool_before_relu(graph, kept)


def fold_batch_norms(graph: ir.Graph, kept: set[ir.Value]) -> None:
    """Fold each BatchNormalization into the convolution before it, if nothing else reads that."""
    import onnx_ir as ir

    for norm in [n for n in graph if n.op_type == "BatchNormalization"]:
        convolved, normed = _given(norm)[0], norm.outputs[0]
        conv = convolved.producer()
        if conv is None or conv.op_type != "Conv" or len(convolved.uses()) > 1 or kept & {convolved, normed}:
            continue
        constants = [_constant(v) for v in (*_given(conv)[1:], *_given(norm)[1:])]
        if any(c is None for c in constants) or norm.attributes.get_int("training_mode", False):
            continue
        weight, *biases, scale, shift, mean, variance = [c.astype(np.float64) for c in constants if c is not None]
        bias = biases[0] if biases else np.zeros(len(weight))
        factor = scale / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
        folded = {
            "weight": weight * factor.reshape(-1, *[1] * (weight.ndim - 1)),
            "bias": (bias - mean) * factor + shift,
        }
        inputs = [conv.inputs[0], *(_weight(graph, f"{normed.name}/{part}", array) for part, array in folded.items())]
        merged = ir.Node("", "Conv", inputs, conv.attributes.values(), name=conv.name)
        graph.insert_after(conv, merged)
        replace(graph, norm, merged.outputs)
        graph.remove(conv, safe=True)


def fold_preprocessing(graph: ir.Graph, kept: set[ir.Value]) -> None:
    """Fold the scales and order of channels into the first convolution, so that only a shift remains before it.

    W * (A x + b) = (W A) * (x + b / A), also if W is padded, since the meaning of its zeros stays the same.
    """
    import onnx_ir as ir

    first = next((n for n in graph if n.outputs[0].name == "preprocess"), None)
    readers = first.outputs[0].uses() if first is not None else ()
    if first is None or first.op_type != "Conv" or first.outputs[0] in kept or len(readers) != 1:
        return
    conv = next(iter(readers)).node
    image, matrix, bias = first.inputs[0], *(_constant(v) for v in _given(first)[1:])
    weight = _constant(_given(conv)[1]) if conv.op_type == "Conv" else None
    grouped = conv.attributes.get_int("group", 1) != 1
    if matrix is None or bias is None or weight is None or grouped:
        return
    if len(matrix) != matrix.shape[1] or np.linalg.matrix_rank(matrix[:, :, 0, 0]) < len(matrix):
        return
    a = matrix[:, :, 0, 0].astype(np.float64)
    shift, folded = np.linalg.solve(a, bias), np.einsum("oi...,ij->oj...", weight, a)
    shifted = ir.Node("", "Add", [image, _weight(graph, "preprocess/shift", shift[:, None, None])])
    graph.insert_after(first, shifted)
    conv.replace_input_with(1, _weight(graph, f"{conv.outputs[0].name}/folded", folded))
    replace(graph, first, shifted.outputs)


def pool_before_concat(graph: ir.Graph, kept: set[ir.Value]) -> None:
    """Move pooling before a concatenation of channels; the gradient then need not be split."""
    import onnx_ir as ir

    for pool in [n for n in graph if n.op_type == "MaxPool" and len(n.outputs) == 1]:
        pooled = pool.outputs[0]
        concat = _given(pool)[0].producer()
        if concat is None or concat.op_type != "Concat" or concat.attributes.get_int("axis", 0) != 1 or pooled in kept:
            continue
        pools = [ir.Node("", "MaxPool", [x], pool.attributes.values()) for x in concat.inputs]
        stacked = ir.Node("", "Concat", [p.outputs[0] for p in pools], concat.attributes.values(), name=pool.name)
        for number, part in enumerate(pools):
            part.name = part.outputs[0].name = f"{pooled.name}/{number}"
        graph.insert_after(pool, [*pools, stacked])
        replace(graph, pool, stacked.outputs)


def pool_before_relu(graph: ir.Graph, kept: set[ir.Value]) -> None:
    """max-pool(relu(x)) = relu(max-pool(x)): the ReLU and its derivative then process fewer numbers.

    The gradient is the same too: where the largest x of a window is positive it is the first largest relu(x), and
    elsewhere nothing flows.
    """
    import onnx_ir as ir

    for pool in [n for n in graph if n.op_type == "MaxPool" and len(n.outputs) == 1]:
        rectified, pooled = _given(pool)[0], pool.outputs[0]
        relu = rectified.producer()
        if relu is None or relu.op_type != "Relu" or len(rectified.uses()) > 1 or kept & {rectified, pooled}:
            continue
        inner = ir.Node("", "MaxPool", relu.inputs, pool.attributes.values(), name=pool.name)
        outer = ir.Node("", "Relu", inner.outputs, name=relu.name)
        inner.outputs[0].name = f"{pooled.name}/before"
        graph.insert_after(pool, [inner, outer])
        replace(graph, pool, outer.outputs)
        graph.remove(relu, safe=True)


def _weight(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A new weight of the graph, as float32."""
    import onnx_ir as ir

    value = ir.Value(name=name, const_value=ir.tensor(array.astype(np.float32)))
    graph.register_initializer(value)
    return value


def _given(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.inputs if v is not None]


def _constant(value: ir.Value) -> np.ndarray | None:
    return None if value.const_value is None else value.const_value.numpy()
