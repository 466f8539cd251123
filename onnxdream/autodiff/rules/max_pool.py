"""MaxPool: the first maximum of each window, in row-major order, gets the gradient of the window, as in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops


def _max_pool(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    attributes = {name: n.attr(name) for name in n.node.attributes}
    shape = op.shape(n.x[0])
    if shape is not None:
        attributes["channels"] = shape[1]
    return op.internal("MaxPoolGrad", dy, n.x[0], *n.node.outputs, name=f"{n.y.name}/gradient", **attributes)


rule("MaxPool", _max_pool)
