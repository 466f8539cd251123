"""Reverse-mode differentiation of an ONNX graph (Griewank and Walther 2008, chapter 3), rule by rule.

Only nodes that lie between the input and the outputs are visited, and only for the inputs that lead there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..errors import NoGradientError
from ..graph.shapes import OPSET
from . import rules  # noqa: F401  (registers every rule)
from .broadcast import unbroadcast
from .registry import NON_DIFFERENTIABLE, RULES, UNSUPPORTED, Call

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops


def backward(op: Ops, cotangents: Mapping[ir.Value, ir.Value], wrt: ir.Value) -> ir.Value:
    """Append the gradient of Σ <y, cotangent> over `cotangents` {y: cotangent} with respect to `wrt`.

    What is appended may hold operations of the internal domain; see `registry`.

    Args:
        op: Builds onto the graph that computes each y from `wrt`, and knows its probed shapes.
        cotangents: For each output y the gradient that arrives there, of the shape of y.
        wrt: The value to differentiate by.

    Returns:
        The gradient, of the shape of `wrt`.

    Raises:
        NoGradientError: An operator on the path has no rule, or its rule does not cover this use of it. The message
            names node, operator and opset.
    """
    forward = list(op.graph)
    active = _depends_on(forward, wrt)
    gradients: dict[ir.Value, ir.Value] = dict(cotangents)
    for node in reversed(forward):
        dys = tuple(gradients.get(y) if y in active else None for y in node.outputs)
        if all(dy is None for dy in dys):
            continue
        _check(node)
        call = Call(node, op, dys)
        for index, x in enumerate(node.inputs):
            if x is None or x not in active:
                continue
            try:
                function = RULES[node.op_type].at(index)
                if function is None:
                    continue
                dx = function(op, call, dys[0])
                if RULES[node.op_type].broadcasts:
                    dx = unbroadcast(op, dx, x, node.outputs[0])
            except NotImplementedError as error:
                raise NoGradientError(f"{_where(node)}, input {index} ({x.name}): {error}") from error
            gradients[x] = op.Add(gradients[x], dx) if x in gradients else dx
    if wrt not in gradients:
        raise NoGradientError("the objective does not change with the picture: no gradient flows back to it")
    return gradients[wrt]


def _depends_on(nodes: list[ir.Node], source: ir.Value) -> set[ir.Value]:
    """The values that change smoothly with `source`."""
    active = {source}
    for node in nodes:
        if not _is_constant(node) and any(x in active for x in _reads(node)):
            found = RULES.get(node.op_type)
            active.update(node.outputs[:1] if found and not found.every_output else node.outputs)
    return active


def _is_constant(node: ir.Node) -> bool:
    """Whether the node's outputs are constant almost everywhere."""
    import onnx_ir as ir

    if node.op_type == "Cast":
        return not ir.DataType(node.attributes.get_int("to", 0)).is_floating_point()
    if node.op_type == "CastLike":
        like = node.inputs[1]
        return like is not None and like.dtype is not None and not like.dtype.is_floating_point()
    return node.op_type in NON_DIFFERENTIABLE


def _reads(node: ir.Node) -> Iterator[ir.Value | None]:
    """The inputs of the node, and of all nodes in the subgraphs it runs."""
    import onnx_ir as ir

    yield from node.inputs
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph().all_nodes():
                yield from inner.inputs


def _check(node: ir.Node) -> None:
    if node.op_type not in RULES or node.domain not in ("", "ai.onnx"):
        domain = f"{node.domain}." if node.domain else ""
        why = "" if node.domain not in ("", "ai.onnx") else UNSUPPORTED.get(node.op_type, "")
        message = f"{_where(node)} (opset {OPSET}): {domain}{node.op_type} has no derivative rule"
        raise NoGradientError(f"{message}: {why}" if why else message)


def _where(node: ir.Node) -> str:
    return f"node {node.name or node.outputs[0].name!r}, operator {node.op_type}"
