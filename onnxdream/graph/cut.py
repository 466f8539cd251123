"""Cuts off what cannot be dreamed through: operators outside the standard, maps and sequences, loops and conditions.

Everything that needs a tensor that is cut off goes too, with its inner graphs; what is left ends where it began. Why
each tensor is missing is kept in the model, so that whoever asks for one learns it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .shapes import all_graphs, inputs_of, is_control_flow

if TYPE_CHECKING:
    import onnx

_KEY = "onnxdream.cut"
_NO_TENSORS = ("seq(", "optional(", "map(", "tensor(string)")


def cut(
    proto: onnx.ModelProto, why: Callable[[onnx.NodeProto], str | None], lost: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Remove nodes, and all that depends on them, in place.

    Args:
        proto: The model. Tensors that nothing reads any more become outputs, so that they stay.
        why: The reason to remove a node, in a few words; None to keep it.
        lost: Inputs of the graph to remove, each with the reason.

    Returns:
        The reasons that `why` gave, by the first output of the node. They are also added to those of `reasons`.
    """
    import onnx

    graph, found = proto.graph, {}
    gone = dict(lost or {})
    kept = []
    for node in graph.node:
        reason = next((r for n in _with_inner(node) if (r := why(n)) is not None), None)
        if reason is not None:
            found[next(o for o in node.output if o)] = reason
        reason = reason or next((gone[name] for name in sorted(inputs_of(node)) if name in gone), None)
        if reason is None:
            kept.append(node)
        else:
            gone.update({o: reason for o in node.output if o})
    if not gone:
        return {}
    read = {name for node in kept for name in inputs_of(node)}
    outputs = {o.name for o in graph.output if o.name not in gone}
    known = {v.name: v for v in graph.value_info}
    ends = [
        known.get(o) or onnx.ValueInfoProto(name=o) for n in kept for o in n.output if o and o not in read | outputs
    ]
    graph.output.extend(ends)
    for values in (graph.input, graph.output, graph.value_info):
        _retain(values, lambda value: value.name not in gone)
    _retain(graph.node, lambda node: not gone.keys() & set(node.output))
    _retain(graph.initializer, lambda weight: weight.name in read | outputs)
    entry = next((p for p in proto.metadata_props if p.key == _KEY), None) or proto.metadata_props.add(key=_KEY)
    entry.value = json.dumps({**gone, **json.loads(entry.value or "{}")})
    return found


def _with_inner(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The node, and those of the graphs that it holds."""
    yield node
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from (n for graph in all_graphs(attribute.g) for n in graph.node)


def reasons(proto: onnx.ModelProto) -> dict[str, str]:
    """Why tensors were cut off, by their names in the file; each in words that go on after "lies behind"."""
    found: dict[str, str] = json.loads(next((p.value for p in proto.metadata_props if p.key == _KEY), "{}"))
    return found


def describe(node: onnx.NodeProto, version: int | None = None) -> str:
    """How messages name a node."""
    domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
    opset = f" (opset {version})" if version else ""
    return f"node {node.name or node.output[0]!r}, operator {domain}{node.op_type}{opset},"


def of_no_tensor(node: onnx.NodeProto, version: int) -> str | None:
    """Why a node of the standard is in the way: it makes maps, sequences, optionals or texts."""
    import onnx

    if node.domain == "ai.onnx.ml":
        return f"{describe(node)} which has no derivative rule"
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return None
    for output in schema.outputs:
        if output.types and all(kind.startswith(_NO_TENSORS) for kind in output.types):
            return f"{describe(node)} which makes no tensor"
    return None


def of_control_flow(node: onnx.NodeProto) -> str | None:
    """Why a node that holds graphs of its own is in the way."""
    return f"{describe(node)} which has no derivative rule" if is_control_flow(node) else None


def _retain(field: Any, wanted: Callable[[Any], bool]) -> None:
    """Let a repeated field of a message hold only the wanted ones of its messages."""
    for index in reversed([i for i, message in enumerate(field) if not wanted(message)]):
        del field[index]
