"""What every graph pass needs: constants folded, single nodes evaluated, shapes, and dead nodes removed.

Shapes are found by *probing*: the graph is inferred once with a concrete picture size, which gives every tensor a
concrete shape even where symbolic inference gives up.
"""

from __future__ import annotations

import math
import warnings
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import first_line
from .windows import WINDOWED, windows

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

OPSET = 18
# The ONNX IR that goes with it.
IR_VERSION = 8

Shape = tuple[int, ...]

# A weight of at most so many numbers may be one that shapes are computed with.
SMALL = 64


def is_control_flow(node: onnx.NodeProto) -> bool:
    """Whether the node holds graphs of its own: If, Loop or Scan."""
    return any(a.HasField("g") or a.graphs for a in node.attribute)


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and the graphs of its control-flow nodes, however deep."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from all_graphs(inner)


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The weights and constants of a graph, without those of inner graphs."""
    yield from graph.initializer
    for node in graph.node:
        yield from (a.t for a in node.attribute if a.HasField("t"))


def inputs_of(node: onnx.NodeProto) -> set[str]:
    """Names of the tensors the node reads, those that only its inner graphs read included."""
    inner = [a.g for a in node.attribute if a.HasField("g")]
    return set(node.input) | {name for g in inner for n in g.node for name in inputs_of(n)} - {""}


def of_sizes_alone(graph: onnx.GraphProto) -> set[str]:
    """The names of the tensors that follow from shapes and constants, weights included."""
    found = {t.name for t in graph.initializer}
    for node in graph.node:
        inner = [g for a in node.attribute if a.HasField("g") for g in all_graphs(a.g)]
        own = {o for g in inner for n in g.node for o in n.output} | {t.name for g in inner for t in g.initializer}
        if node.op_type in ("Shape", "Size") or inputs_of(node) - own <= found:
            found.update(node.output)
    return found


def evaluate(node: onnx.NodeProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of one node, computed by onnx's reference evaluator; none where that cannot compute them."""
    from onnx import ValueInfoProto, helper
    from onnx.reference import ReferenceEvaluator

    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    graph = helper.make_graph([node], "node", infos, [ValueInfoProto(name=output) for output in node.output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(model).run(None, dict(inputs))
    except Exception:  # it raises whatever its operators happen to
        return []
    return [np.asarray(result) for result in results]


_DEFERRED = "onnxdream.deferred"  # marks a node that is computed when the graph is loaded


def defer_folding(value: ir.Value) -> ir.Value:
    """Leave `value`, and what follows from it, to the runtime to compute as it loads the graph: the file is smaller."""
    node = value.producer()
    assert node is not None
    node.meta[_DEFERRED] = True
    return value


def fold_constants(graph: ir.Graph) -> None:
    """Replace each node whose inputs are all constant by its value, where it can be computed here."""
    import onnx_ir as ir

    for node in list(graph):
        constants = {v.name: v.const_value for v in node.inputs if v is not None}
        if not constants or None in node.inputs or None in constants.values() or node.meta.get(_DEFERRED):
            continue
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            continue
        inputs = {str(name): tensor.numpy() for name, tensor in constants.items() if tensor is not None}
        results = evaluate(ir.to_proto(node), inputs)
        if not results:
            continue
        for output, result in zip(node.outputs, results, strict=True):
            value = ir.Value(name=f"{output.name}/folded", const_value=ir.tensor(result))
            graph.register_initializer(value)
            output.replace_all_uses_with(value, replace_graph_outputs=False)
        if not any(o.is_graph_output() for o in node.outputs):
            graph.remove(node, safe=True)


def replace(graph: ir.Graph, node: ir.Node, results: Sequence[ir.Value]) -> None:
    """Let `results` take the place, and where they can the names, of the node's outputs, and remove the node."""
    for output, result in zip(node.outputs, results, strict=True):
        if result.producer() is not None:
            result.name = output.name
        output.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def keep_only(graph: ir.Graph, outputs: Iterable[ir.Value]) -> None:
    """Make `outputs` the graph's only outputs and remove every node and weight they do not need."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph.outputs[:] = outputs
    RemoveUnusedNodesPass()(ir.Model(graph, ir_version=IR_VERSION))


def strip_large_initializers(graph: ir.Graph) -> onnx.ModelProto:
    """The graph with large weights as inputs: as much of it as inference needs."""
    import onnx_ir as ir

    large = [v for v in graph.initializers.values() if v.const_value is not None and v.const_value.size > SMALL]
    for value in large:
        assert value.const_value is not None
        value.type = ir.TensorType(value.const_value.dtype)
        value.shape = ir.Shape(list(value.const_value.shape.numpy()))
        del graph.initializers[str(value.name)]
        graph.inputs.append(value)
    try:
        return ir.to_proto(ir.Model(graph, ir_version=IR_VERSION))
    finally:
        for value in large:
            graph.inputs.remove(value)
            graph.register_initializer(value)


def tensor_types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Element type and shape of every tensor, by name, as far as the graph declares or inference has added them."""
    import onnx

    types = {t.name: onnx.helper.make_tensor_type_proto(t.data_type, t.dims) for t in graph.initializer}
    types |= {v.name: v.type for v in [*graph.value_info, *graph.output, *graph.input]}
    return {name: t.tensor_type for name, t in types.items() if t.HasField("tensor_type")}


def known_shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    """The shape of every tensor, by name, whose shape the graph states in full; see `tensor_types`."""
    return {
        name: tuple(d.dim_value for d in tensor.shape.dim)
        for name, tensor in tensor_types(graph).items()
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)
    }


def shape_constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """The constants that shapes may be computed with: few numbers, or any that are int64 or bool, as indices are."""
    import onnx

    indices = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
    chosen = [t for t in graph.initializer if t.data_type in indices or math.prod(t.dims) <= SMALL]
    return {t.name: a for t in chosen if (a := onnx.numpy_helper.to_array(t)).dtype.kind in "iufb"}


def computed_sizes(
    nodes: Iterable[onnx.NodeProto], given: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> dict[str, np.ndarray]:
    """The tensors that `nodes`, in order, compute from `shapes` and the constants `given` alone."""
    found: dict[str, np.ndarray] = {}
    known = ChainMap(found, dict(given))
    for node in nodes:
        if node.op_type == "If" and node.input[0] in known:
            taken = "then_branch" if known[node.input[0]].item() else "else_branch"
            branch = next(a.g for a in node.attribute if a.name == taken)
            inner = computed_sizes(branch.node, {**known, **shape_constants(branch)}, shapes)
            results = [inner.get(o.name, known.get(o.name)) for o in branch.output]
            found.update((o, r) for o, r in zip(node.output, results, strict=True) if r is not None)
            continue
        if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
            inputs = {node.input[0]: np.empty(shapes[node.input[0]], np.bool_)}
        elif (node.input or node.op_type == "Constant") and all(n in known for n in inputs_of(node)):
            inputs = {n: known[n] for n in node.input if n}
        else:
            continue
        if not is_control_flow(node):
            found.update(zip(node.output, evaluate(node, inputs), strict=False))
    return found


def _settle_sizes(graph: onnx.GraphProto, inferred: onnx.GraphProto) -> bool:
    """Turn what only depends on shapes that are known into constants; False where there is nothing of that kind.

    Shape inference follows a size through few operators, and loses it at a Div or a Gather, as attention has them.
    """
    import onnx

    shapes = known_shapes(inferred)
    if all(o in shapes for n in graph.node for o in n.output if o):
        return False
    outputs = {o.name for o in graph.output}
    nodes = [n for n in graph.node if not outputs & set(n.output)]
    settled = computed_sizes(nodes, shape_constants(graph), shapes)
    graph.initializer.extend(onnx.numpy_helper.from_array(settled[name], name) for name in sorted(settled))
    left = [n for n in graph.node if not settled.keys() & set(n.output)]
    del graph.node[:]
    graph.node.extend(left)
    return bool(settled)


def floating_tensors(proto: onnx.ModelProto) -> set[str]:
    """The names of the tensors that hold floating-point numbers."""
    import onnx

    types = tensor_types(onnx.shape_inference.infer_shapes(without_weights(proto)).graph)
    return {name for name, tensor in types.items() if tensor.elem_type == onnx.TensorProto.FLOAT}


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without inner shapes, whose weights, but for the constants of shapes, are inputs."""
    import onnx

    probe = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    graph, kept = probe.graph, shape_constants(proto.graph)
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    for tensor in proto.graph.initializer:
        if tensor.name in kept:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return probe


def _inferred(probe: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes that follow from its inputs'. Raises ValueError where they do not match."""
    from onnx.shape_inference import infer_shapes

    try:
        return infer_shapes(probe, check_type=True, strict_mode=True, data_prop=True)
    except Exception:  # as it also does where a size goes into both branches of an If
        pass
    try:
        return infer_shapes(probe, check_type=True, strict_mode=True)
    except Exception as error:
        raise ValueError(first_line(error)) from error


def _check_windows(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> None:
    """Raise ValueError where a window is larger than its padded input; shape inference rounds that up to one output."""
    if node.op_type not in WINDOWED or node.input[0] not in shapes:
        return
    kernel = shapes.get(node.input[1]) if node.op_type == "Conv" else None
    lengths, taps = shapes[node.input[0]][2:], windows(node, kernel and kernel[2:])
    for length, tap in zip(lengths, taps, strict=len(taps) > 0):
        if length < tap.smallest_input(1):
            raise ValueError(f"nothing would be left of {node.output[0]}")


def probe_shapes(proto: onnx.ModelProto, size: Mapping[str, Shape]) -> dict[str, Shape]:
    """Infer the concrete shape of every tensor.

    Args:
        proto: The graph; it is not changed.
        size: The shapes of the graph's inputs, by name.

    Returns:
        Shapes by the tensors' names, those of weights included; tensors whose shape depends on data are left out.

    Raises:
        ValueError: The graph does not accept inputs of these shapes.
    """
    probe = without_weights(proto)
    for value in [*(i for i in probe.graph.input if i.name in size), *probe.graph.output]:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    for value in probe.graph.input:
        for dim in size.get(value.name, ()):
            value.type.tensor_type.shape.dim.add().dim_value = dim
    inferred = _inferred(probe)
    while _settle_sizes(probe.graph, inferred.graph):
        inferred = _inferred(probe)
    shapes = known_shapes(inferred.graph)
    for name, shape in shapes.items():
        if any(d < 0 for d in shape):
            raise ValueError(f"{name} would have the shape {list(shape)}")
    for node in probe.graph.node:
        _check_windows(node, shapes)
        sizes = [math.prod(shapes[n]) for n in (node.input[0], node.output[0]) if n in shapes] if node.input else []
        if node.op_type == "Reshape" and len(set(sizes)) == 2:
            raise ValueError(f"{node.output[0]} would turn {sizes[0]} numbers into {sizes[1]}")
        if node.op_type == "Conv" and node.input[0] in shapes and node.input[1] in shapes:
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            given, wanted = shapes[node.input[0]][1], shapes[node.input[1]][1] * groups
            if given != wanted:
                raise ValueError(f"the convolution {node.output[0]} takes {wanted} channels, not {given}")
    return shapes
