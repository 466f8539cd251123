"""Mixed precision: the network computes in half precision; pictures, objective and step stay in single precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .ops import Ops
from .shapes import strip_large_initializers, tensor_types

if TYPE_CHECKING:
    import onnx_ir as ir

# Operators that are accurate in half precision: products accumulated in higher precision, moves, and choices. All
# others, above all powers and sums of many numbers, are computed in single precision between two casts.
_HALF = {
    "Conv", "ConvTranspose", "MatMul", "Gemm", "Relu", "LeakyRelu", "Clip", "HardSigmoid", "Add", "Sub", "Mul",
    "Neg", "Max", "Min", "Where", "CastLike", "MaxPool", "AveragePool", "Concat", "Split", "Slice", "Gather",
    "Pad", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile", "Identity",
    "DepthToSpace", "SpaceToDepth", "HardSwish",
}  # fmt: skip
# Comparisons of numbers that are in half precision anyway.
_COMPARISONS = {"Greater", "Less"}
_CHOICES = {"MaxPool", "Max", "Min", "Slice", "Pad"}
# The largest entry of a gradient that enters the network: room for growth by 4096, and for decay by 2^28.
LARGEST_COTANGENT = 16.0
_STEEPEST = 2.0**15


@dataclass(frozen=True)
class Region:
    """The part of a graph that computes some tensors from others.

    Attributes:
        begins: The names of the tensors it starts from.
        ends: The names of the tensors it computes.
    """

    begins: frozenset[str]
    ends: frozenset[str]

    def nodes(self, graph: ir.Graph) -> set[ir.Node]:
        """The nodes of the region."""
        values = {o.name: o for n in graph for o in n.outputs}
        found: set[ir.Node] = set()
        stack = [values[name] for name in self.ends - self.begins]
        while stack:
            node = stack.pop().producer()
            if node is not None and node not in found:
                found.add(node)
                stack += [v for v in node.inputs if v is not None and v.name not in self.begins]
        return found


def compute_in_half(graph: ir.Graph, region: Region) -> None:
    """Compute a region of a graph in half precision, in place.

    Args:
        graph: The graph.
        region: Its inputs and outputs stay in single precision.
    """
    import onnx_ir as ir

    single = _single(graph)
    exact = _compared(graph)
    between = region.nodes(graph)
    halved = [n for n in between if n.op_type in _HALF and n.outputs[0].name in single and n not in exact]
    computed = {o for n in halved for o in n.outputs}
    halved += [n for n in between if n.op_type in _COMPARISONS and computed & set(n.inputs)]
    inside = {o for n in halved for o in n.outputs if o.name in single}
    op = Ops(graph)
    nodes = list(graph)
    graph.remove(nodes)  # then append them again one by one, with casts between them
    casts: dict[tuple[ir.Value, bool], ir.Value] = {}

    def cast(value: ir.Value, half: bool) -> ir.Value:
        if (value, half) not in casts:
            if half and value.const_value is not None:
                casts[value, half] = op.const(_rounded(value.const_value.numpy()))
            else:
                casts[value, half] = op.Cast(value, to=ir.DataType.FLOAT16 if half else ir.DataType.FLOAT)
        return casts[value, half]

    chosen = set(halved)
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and value.name in single and (value in inside) != (node in chosen):
                node.replace_input_with(index, cast(value, node in chosen))
        if node in chosen and node.op_type == "HardSigmoid":
            _soften(node)
        graph.append(node)
    for value in inside:
        value.type = ir.TensorType(ir.DataType.FLOAT16)


def scale_cotangents(
    op: Ops, cotangents: dict[ir.Value, tuple[ir.Value, int]]
) -> tuple[dict[ir.Value, ir.Value], ir.Value]:
    """Scale the gradients of each picture so that their largest entry is LARGEST_COTANGENT.

    Half precision cannot represent small numbers, and the gradient of a mean over a layer is small (Micikevicius et al.
    2018, arXiv:1710.03740).

    Args:
        op: Builds onto the graph of the gradients.
        cotangents: {y: (its gradient, its rank)}, with the picture's number as the first axis.

    Returns:
        {y: its scaled gradient}, and the scale [N].
    """
    sizes = [op.ReduceMax(op.Abs(g), list(range(1, rank)), keepdims=0) for g, rank in cotangents.values()]
    largest = sizes[0] if len(sizes) == 1 else op.Max(*sizes)
    scale = op.Div(LARGEST_COTANGENT, op.Max(largest, 1e-30))
    return {y: op.Mul(g, per_picture(op, scale, rank)) for y, (g, rank) in cotangents.items()}, scale


def per_picture(op: Ops, scale: ir.Value, rank: int) -> ir.Value:
    """`scale` [N] as [N,1,...], to multiply tensors of this rank."""
    return op.Unsqueeze(scale, list(range(1, rank)))


def _compared(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that choose numbers whose origin is later found by comparison.

    Runtimes round some tensors of half precision and not others, so equal numbers are sure to stay equal only in single
    precision.
    """
    found: set[ir.Node] = set()
    stack = [v for n in graph if n.op_type == "Equal" for v in n.inputs]
    while stack:
        value = stack.pop()
        node = value.producer() if value is not None else None
        if node is not None and node.op_type in _CHOICES and node not in found:
            found.add(node)
            stack += node.inputs
    return found


def _single(graph: ir.Graph) -> set[str]:
    """Names of the tensors of single precision."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(strip_large_initializers(graph)).graph
    return {name for name, t in tensor_types(inferred).items() if t.elem_type == onnx.TensorProto.FLOAT}


def _rounded(array: np.ndarray) -> np.ndarray:
    limit = np.finfo(np.float16).max
    return np.asarray(np.clip(array, -limit, limit), np.float16)


def _soften(node: ir.Node) -> None:
    """Make the node's step as steep as half precision can express."""
    import onnx_ir as ir

    alpha, beta = (node.attributes.get_float(name, default) for name, default in (("alpha", 0.2), ("beta", 0.5)))
    factor = min(1.0, _STEEPEST / max(abs(alpha), abs(beta)))
    node.attributes["alpha"] = ir.AttrFloat32("alpha", alpha * factor)
    node.attributes["beta"] = ir.AttrFloat32("beta", beta * factor)
