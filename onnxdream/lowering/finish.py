"""From a graph with its outputs to one that a target runs: every pass, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ..graph.mixed_precision import Region, compute_in_half
from ..graph.shapes import IR_VERSION, fold_constants
from ..graph.specialize import specialize
from .legalize import legalize
from .lower import lower
from .targets import HOST_COPIES, lacks

if TYPE_CHECKING:
    import onnx_ir as ir

# A pass changes a graph in place, and neither its inputs nor what its outputs compute.
Pass = Callable[["ir.Graph"], None]


def passes(target: str, lengths: Mapping[str, int] | None, half: Region | None) -> list[Pass]:
    """The passes that every finished graph goes through, in order; see `finish`."""
    from onnx_ir.passes import common

    remove_unused = _as_pass(common.RemoveUnusedNodesPass())
    compute: list[Pass] = [] if half is None else [partial(compute_in_half, region=half)]
    # Where copies to the host cost time, even what only follows from types is worth computing beforehand.
    known = lengths is not None or lacks(target, HOST_COPIES)
    fit: list[Pass] = [partial(specialize, lengths=lengths or {})] if known else []
    return [
        partial(lower, target=target, half=half),
        remove_unused,
        *compute,
        partial(legalize, target=target),
        fold_constants,
        *fit,
        _as_pass(common.DeduplicateInitializersPass()),
        _as_pass(common.CommonSubexpressionEliminationPass()),
        remove_unused,
        # The network's nodes, from whatever exporter, may bear the names that ours are given, or each other's.
        _as_pass(common.NameFixPass()),
    ]


def finish(
    graph: ir.Graph,
    target: str,
    *,
    lengths: Mapping[str, int] | None = None,
    half: Region | None = None,
) -> None:
    """Make the graph one of standard operators that `target` runs well, in place.

    Args:
        graph: The graph, with its inputs and outputs typed; it may hold internal operations.
        target: The runtime to finish it for, one of `targets.TARGETS`.
        lengths: The lengths of the free axes N, H and W, where the graph is for one size alone.
        half: What to compute in half precision.

    Raises:
        NoGradientError: A gradient cannot be computed on this target.
        OptionError: The graph does not accept pictures of these lengths.
    """
    for apply in passes(target, lengths, half):
        apply(graph)


def _as_pass(library_pass: ir.passes.InPlacePass) -> Pass:
    """A pass of onnx_ir, which takes models, as one of ours."""
    import onnx_ir as ir

    def apply(graph: ir.Graph) -> None:
        library_pass(ir.Model(graph, ir_version=IR_VERSION))

    return apply
