"""Leaky rectifiers, so that the gradient of an inactive unit does not vanish."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

# Operators between a rectifier and the layers that show its output.
_PASSING = {
    "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "Flatten", "Reshape",
    "Squeeze", "Dropout", "Identity", "Transpose", "BatchNormalization",
}  # fmt: skip


def make_rectifiers_leaky(network: onnx.ModelProto, tensors: Iterable[str], slope: float) -> onnx.ModelProto:
    """Replace the last rectifier before each of some tensors by a leaky one.

    Rectifiers are ReLU, and Clip, Max and Min with constants, which leak wherever they would be constant. Where
    channels stay separate from there on, as in depthwise convolutions, the rectifier before leaks too. On noise most
    filters of a deep layer are inactive: their gradient is 0, and an ascent would never start.

    Args:
        network: In canonical form; it is not changed.
        tensors: Names of the tensors whose gradient must not vanish.
        slope: The slope of a rectifier where it would be constant, in 0..1.

    Returns:
        A new network.
    """
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(network)
    makers = {name: node for node in proto.graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    pending, leaking = list(tensors), set[str]()
    while pending:
        node = makers.get(pending.pop())
        if node is None or node.output[0] in leaking:
            continue
        if node.op_type in _PASSING or _is_depthwise(node, weights):
            pending.extend(node.input)
        elif held := _held_back(node, weights):
            leaking.add(node.output[0])
            pending.append(held)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    for node in nodes:
        proto.graph.node.append(node)
        if node.output[0] in leaking:
            _leak(proto.graph, _held_back(node, weights), slope)
    return proto


def _is_depthwise(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    return node.op_type == "Conv" and node.input[1] in weights and weights[node.input[1]].dims[1] == 1


def _held_back(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> str:
    """The input of a rectifier, "" for any other operator."""
    free = [name for name in node.input if name and name not in weights]
    return free[0] if node.op_type in ("Relu", "Clip", "Max", "Min") and len(free) == 1 else ""


def _leak(graph: onnx.GraphProto, held: str, slope: float) -> None:
    """Let the last node of `graph`, a rectifier y of x = `held`, give y + slope * (x - y)."""
    from onnx import helper, numpy_helper

    node = graph.node[-1]
    if node.op_type == "Relu":
        node.op_type = "LeakyRelu"
        node.attribute.append(helper.make_attribute("alpha", slope))
        return
    name = node.output[0]
    bounds = {tensor.name: tensor for tensor in graph.initializer}
    dtype = next(numpy_helper.to_array(bounds[i]).dtype for i in node.input if i in bounds)
    graph.initializer.append(numpy_helper.from_array(np.asarray(slope, dtype), f"{name}/slope"))
    node.output[0] = f"{name}/held"
    graph.node.extend([
        helper.make_node("Sub", [held, f"{name}/held"], [f"{name}/beyond"]),
        helper.make_node("Mul", [f"{name}/beyond", f"{name}/slope"], [f"{name}/leak"]),
        helper.make_node("Add", [f"{name}/held", f"{name}/leak"], [name]),
    ])  # fmt: skip
