"""Rewrites that leave a network's values and gradients as they are but make both cheaper."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir


def simplify(graph: ir.Graph, keep: Iterable[ir.Value]) -> None:
    """Apply every rewrite; tensors in `keep` stay as they are."""
    kept = set(keep)
    fold_batch_norms(graph, kept)
    pool_before_relu(graph, kept)


def fold_batch_norms(graph: ir.Graph, kept: set[ir.Value]) -> None:
    """Fold each BatchNormalization into the convolution that alone feeds it."""
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
        inputs = [conv.inputs[0]]
        for part, array in folded.items():
            tensor = ir.tensor(array.astype(np.float32))
            value = ir.Value(name=f"{normed.name}/{part}", const_value=tensor)
            graph.register_initializer(value)
            inputs.append(value)
        merged = ir.Node("", "Conv", inputs, conv.attributes.values(), name=conv.name)
        graph.insert_after(conv, merged)
        normed.replace_all_uses_with(merged.outputs[0], replace_graph_outputs=True)
        name, normed.name = normed.name, None
        merged.outputs[0].name = name
        graph.remove([norm, conv], safe=True)


def pool_before_relu(graph: ir.Graph, kept: set[ir.Value]) -> None:
    """max-pool(relu(x)) = relu(max-pool(x)): the ReLU and its derivative then work on fewer numbers.

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
        graph.insert_after(pool, [inner, outer])
        pooled.replace_all_uses_with(outer.outputs[0], replace_graph_outputs=True)
        inner.outputs[0].name, outer.outputs[0].name = f"{pooled.name}/before", pooled.name
        pooled.name = None
        graph.remove([pool, relu], safe=True)


def _given(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.inputs if v is not None]


def _constant(value: ir.Value) -> np.ndarray | None:
    return None if value.const_value is None else value.const_value.numpy()
