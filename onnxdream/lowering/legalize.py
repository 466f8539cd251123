"""Respells what a finished graph holds and its target cannot run; `targets` lists what that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autodiff.ops import Ops
from ..autodiff.registry import Call
from ..autodiff.rules.conv import same_overhang, spatial_shape
from ..autodiff.rules.max_pool import LOWEST
from ..autodiff.rules.norm import lrn
from ..autodiff.rules.pool import window_sizes
from ..graph.windows import Window, windows
from .targets import FEW_PRODUCTS, HARD_SIGMOID, LRN, POINTWISE_PADS, SAME_PADS, lacks
from .winograd import winograd

if TYPE_CHECKING:
    import onnx_ir as ir


def lower(graph: ir.Graph, target: str) -> None:
    """Replace, in place, the operators that `target` cannot run by others with the same result."""
    nodes = list(graph)
    values = [*graph.inputs, *graph.initializers.values(), *(o for n in nodes for o in n.outputs)]
    op = Ops(graph, taken={v.name for v in values})
    graph.remove(nodes)  # and back one by one, each behind what it needs
    for node in nodes:
        replacement = None
        if node.op_type in _REWRITES:
            replacement = _REWRITES[node.op_type](op, Call(node, op, target, ()))
        if replacement is None:
            graph.append(node)
            continue
        old = node.outputs[0]
        name, old.name = old.name, None
        old.replace_all_uses_with(replacement, replace_graph_outputs=True)
        replacement.name = name


def _lrn(op: Ops, n: Call) -> ir.Value | None:
    return lrn(op, n) if lacks(n.target, LRN) else None


def _hard_sigmoid(op: Ops, n: Call) -> ir.Value | None:
    """max(0, min(1, alpha * x + beta)), which OpenVINO computes in one pass together with its neighbours."""
    if not lacks(n.target, HARD_SIGMOID):
        return None
    alpha, beta = n.attr("alpha", 0.2), n.attr("beta", 0.5)
    line = op.Mul(n.x[0], op.CastLike(alpha, n.x[0]))
    if beta:
        line = op.Add(line, op.CastLike(beta, n.x[0]))
    return op.Clip(line, op.CastLike(0.0, n.x[0]), op.CastLike(1.0, n.x[0]))


def _windows(n: Call) -> list[Window]:
    import onnx_ir as ir

    weight = n.const(1)
    return windows(ir.to_proto(n.node), None if weight is None else weight.shape[2:])


def _padded(op: Ops, n: Call, taps: list[Window], value: float) -> ir.Value:
    """The input inside the border that its windows reach into, filled with `value`."""
    spatial = len(taps)
    if taps[0].same:
        pads = op.Concat(*same_overhang(op, spatial_shape(op, n.x[0], spatial), taps, n.attr("auto_pad")), axis=0)
    else:
        pads = op.const([*(w.pad_begin for w in taps), *(w.pad_end for w in taps)])
    return op.Pad(n.x[0], pads, op.CastLike(value, n.x[0]), list(range(2, 2 + spatial)))


def _without(n: Call, *dropped: str) -> dict[str, Any]:
    return {name: n.attr(name) for name in n.node.attributes if name not in dropped}


def _conv(op: Ops, n: Call) -> ir.Value | None:
    if not any(lacks(n.target, feature) for feature in (SAME_PADS, POINTWISE_PADS, FEW_PRODUCTS)):
        return None
    taps = _windows(n)
    if lacks(n.target, FEW_PRODUCTS) and (fewer := winograd(op, n, taps)) is not None:
        return fewer
    same = lacks(n.target, SAME_PADS) and taps[0].same
    padded_pointwise = all(w.kernel == 1 for w in taps) and any(w.pad_begin or w.pad_end for w in taps)
    if not same and not (lacks(n.target, POINTWISE_PADS) and padded_pointwise):
        return None
    return op.Conv(_padded(op, n, taps, 0.0), *n.x[1:], **_without(n, "auto_pad", "pads"))


def _max_pool(op: Ops, n: Call) -> ir.Value | None:
    taps = _windows(n)
    if not (lacks(n.target, SAME_PADS) and taps[0].same) or len(n.node.outputs) > 1:
        return None
    return op.MaxPool(_padded(op, n, taps, LOWEST), **_without(n, "auto_pad"))


def _average_pool(op: Ops, n: Call) -> ir.Value | None:
    """The sum over each window, divided by the samples that exist."""
    taps = _windows(n)
    if not (lacks(n.target, SAME_PADS) and taps[0].same):
        return None
    mean = op.AveragePool(_padded(op, n, taps, 0.0), **_without(n, "auto_pad", "count_include_pad"))
    return op.Mul(mean, op.Div(float(np.prod([w.kernel for w in taps])), window_sizes(op, n, mean)))


_REWRITES: dict[str, Callable[[Ops, Call], ir.Value | None]] = {
    "LRN": _lrn,
    "HardSigmoid": _hard_sigmoid,
    "Conv": _conv,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
}
