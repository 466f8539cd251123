"""Replaces standard operators that the target cannot run, or runs slowly; `targets` lists what that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph.windows import Window, same_overhang, spatial_shape, window_sizes, windows
from .activation import hard_sigmoid
from .max_pool import LOWEST
from .norm import lrn
from .quantize import dynamic_quantize
from .rewrite import Rewrite, rewrite
from .targets import FEW_PRODUCTS, HOST_COPIES, POINTWISE_PADS, SAME_PADS
from .winograd import winograd

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops
    from .rewrite import Site


def legalize(graph: ir.Graph, target: str) -> None:
    """Replace, in place, the operators that `target` cannot run by others with the same result."""
    rewrite(graph, LEGALIZED, target)


def _windows(n: Site) -> list[Window]:
    import onnx_ir as ir

    weight = n.const(1)
    return windows(ir.to_proto(n.node), None if weight is None else weight.shape[2:])


def _padded(op: Ops, n: Site, taps: list[Window], value: float) -> ir.Value:
    """The input inside the border that its windows reach into, filled with `value`."""
    spatial = len(taps)
    if taps[0].same:
        pads = op.Concat(*same_overhang(op, spatial_shape(op, n.x[0], spatial), taps, n.attr("auto_pad")), axis=0)
    else:
        pads = op.const([*(w.pad_begin for w in taps), *(w.pad_end for w in taps)])
    return op.Pad(n.x[0], pads, op.CastLike(value, n.x[0]), list(range(2, 2 + spatial)))


def _without(n: Site, *dropped: str) -> dict[str, Any]:
    return {name: n.attr(name) for name in n.node.attributes if name not in dropped}


def _conv(op: Ops, n: Site) -> ir.Value | None:
    if not any(n.lacks(feature) for feature in (SAME_PADS, POINTWISE_PADS, FEW_PRODUCTS)):
        return None
    taps = _windows(n)
    if n.lacks(FEW_PRODUCTS) and (fewer := winograd(op, n, taps)) is not None:
        return fewer
    same = n.lacks(SAME_PADS) and taps[0].same
    padded_pointwise = all(w.kernel == 1 for w in taps) and any(w.pad_begin or w.pad_end for w in taps)
    if not same and not (n.lacks(POINTWISE_PADS) and padded_pointwise):
        return None
    return op.Conv(_padded(op, n, taps, 0.0), *n.x[1:], **_without(n, "auto_pad", "pads"))


def _max_pool(op: Ops, n: Site) -> ir.Value | None:
    taps = _windows(n)
    if not (n.lacks(SAME_PADS) and taps[0].same) or len(n.node.outputs) > 1:
        return None
    return op.MaxPool(_padded(op, n, taps, LOWEST), **_without(n, "auto_pad"))


def _average_pool(op: Ops, n: Site) -> ir.Value | None:
    """The sum over each window, divided by the samples that exist."""
    taps = _windows(n)
    if not (n.lacks(SAME_PADS) and taps[0].same):
        return None
    mean = op.AveragePool(_padded(op, n, taps, 0.0), **_without(n, "auto_pad", "count_include_pad"))
    return op.Mul(mean, op.Div(float(np.prod([w.kernel for w in taps])), window_sizes(op, n, mean)))


def _size(op: Ops, n: Site) -> ir.Value | None:
    """The product of the lengths, which is known when the graph is loaded.

    On the CPU that would move the objective, which then nothing waits for, to the end of the step, and what it is
    computed from would take up memory until then.
    """
    if not n.lacks(HOST_COPIES):
        return None
    return op.ReduceProd(op.Shape(n.x[0]), keepdims=0)


LEGALIZED: dict[tuple[str, str], Rewrite] = {
    ("", "AveragePool"): _average_pool,
    ("", "Conv"): _conv,
    ("", "DynamicQuantizeLinear"): dynamic_quantize,
    ("", "HardSigmoid"): hard_sigmoid,
    ("", "LRN"): lrn,
    ("", "MaxPool"): _max_pool,
    ("", "Size"): _size,
}
