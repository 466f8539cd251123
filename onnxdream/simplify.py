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
        convolved = norm.inputs[0]
        conv = convolved.producer() if convolved is not None else None
        if conv is None or conv.op_type != "Conv" or len(convolved.uses()) > 1 or kept & {convolved, norm.outputs[0]}:
            continue
        constants = [v.const_value for v in (*conv.inputs[1:], *norm.inputs[1:]) if v is not None]
        if any(c is None for c in constants) or norm.attributes.get_int("training_mode", 0):
            continue
        weight = conv.inputs[1].const_value.numpy()
        bias = conv.inputs[2].const_value.numpy() if len(conv.inputs) > 2 else np.zeros(len(weight), weight.dtype)
        scale, shift, mean, variance = (v.const_value.numpy().astype(np.float64) for v in norm.inputs[1:])
        factor = scale / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
        folded = {
            "weight": weight * factor.reshape(-1, *[1] * (weight.ndim - 1)),
            "bias": (bias - mean) * factor + shift,
        }
        inputs = [conv.inputs[0]]
        for part, array in folded.items():
            value = ir.Value(name=f"{norm.outputs[0].name}/{part}", const_value=ir.tensor(array.astype(weight.dtype)))
            graph.register_initializer(value)
            inputs.append(value)
        merged = ir.Node("", "Conv", inputs, conv.attributes.values(), name=conv.name)
        graph.insert_after(conv, merged)
        output = norm.outputs[0]
        output.replace_all_uses_with(merged.outputs[0], replace_graph_outputs=True)
        name, output.name = output.name, None
        merged.outputs[0].name = name
        graph.remove([norm, conv], safe=True)


def pool_before_relu(graph: ir.Graph, kept: set[ir.Value]) -> None:
    """max-pool(relu(x)) = relu(max-pool(x)): the ReLU and its derivative then work on fewer numbers.

    The gradient is the same too: where the largest x of a window is positive it is the first largest relu(x), and
    elsewhere nothing flows.
    """
    import onnx_ir as ir

    for pool in [n for n in graph if n.op_type == "MaxPool" and len(n.outputs) == 1]:
        rectified, pooled = pool.inputs[0], pool.outputs[0]
        relu = rectified.producer() if rectified is not None else None
        if relu is None or relu.op_type != "Relu" or len(rectified.uses()) > 1 or kept & {rectified, pooled}:
            continue
        inner = ir.Node("", "MaxPool", relu.inputs, pool.attributes.values(), name=pool.name)
        outer = ir.Node("", "Relu", inner.outputs, name=relu.name)
        graph.insert_after(pool, [inner, outer])
        pooled.replace_all_uses_with(outer.outputs[0], replace_graph_outputs=True)
        inner.outputs[0].name, outer.outputs[0].name = f"{pooled.name}/before", pooled.name
        pooled.name = None
        graph.remove([pool, relu], safe=True)
