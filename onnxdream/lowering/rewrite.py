"""Rewriting a graph for a target: each operator has a rewrite, which checks the node and returns what replaces it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import NoGradientError
from ..graph.ops import NodeView, Ops
from .targets import BLOCKED_LAYOUT, lacks

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Site(NodeView):
    """A node that may be rewritten, the target it is for, and whether it will be computed in half precision."""

    target: str
    half: bool

    def lacks(self, feature: str) -> bool:
        """Whether the target must do without `feature`."""
        return lacks(self.target, feature)

    @property
    def blocked(self) -> bool:
        """Whether convolutions here have a blocked layout, which is one of single precision."""
        return not self.half and not self.lacks(BLOCKED_LAYOUT)


# Returns what takes the place of the node's outputs, or of the only one, or None to leave the node as it is.
Rewrite = Callable[[Ops, Site], "ir.Value | tuple[ir.Value, ...] | None"]


def rewrite(
    graph: ir.Graph,
    rewrites: Mapping[tuple[str, str], Rewrite],
    target: str,
    in_half: Collection[ir.Node] = (),
) -> None:
    """Apply to each node the rewrite of its (domain, operator), in place.

    Args:
        graph: The graph to change. Values keep their names.
        rewrites: What to do by domain and operator; other nodes stay.
        target: One of `targets.TARGETS`.
        in_half: The nodes that will be computed in half precision.

    Raises:
        NoGradientError: A gradient cannot be computed on this target.
    """
    nodes = list(graph)
    op = Ops(graph)
    graph.remove(nodes)  # and back one by one, each behind what it needs
    for node in nodes:
        apply = rewrites.get((node.domain, node.op_type))
        try:
            replacement = apply(op, Site(node, op, target, node in in_half)) if apply is not None else None
        except NotImplementedError as error:
            name = node.name or node.outputs[0].name
            raise NoGradientError(f"node {name!r}, operator {node.op_type}: {error}") from error
        if replacement is None:
            graph.append(node)
            continue
        results = replacement if isinstance(replacement, tuple) else (replacement,)
        for old, result in zip(node.outputs, results, strict=False):
            new = op.Identity(result) if result in node.inputs else result  # that one is not the node's to rename
            name, old.name = old.name, None
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            new.name, new.type, new.shape = name, old.type, old.shape
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
