"""The gradient of a concatenation along the channels: some channels of dy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops
    from .rewrite import Site


def concat_gradient(op: Ops, n: Site) -> ir.Value:
    """ConcatGrad: where a convolution made dy, the kernels of these channels alone make them.

    That takes as many operations, and onnxruntime stays in its blocked layout, which a Slice leaves.
    """
    return _channels(op, n.x[0], n.attr("start"), n.attr("stop"))


def _channels(op: Ops, dy: ir.Value, start: int, stop: int) -> ir.Value:
    """Channels `start` to `stop` of dy."""
    node = dy.producer()
    if node is not None and node.op_type == "Add" and _is_convolved(dy):
        return op.Add(*(_channels(op, v, start, stop) for v in node.inputs if v is not None))
    if node is None or not _is_convolved(dy):
        return op.Slice(dy, [start], [stop], [1])
    x, weight = node.inputs
    assert weight is not None
    assert weight.const_value is not None
    return op.Conv(x, weight.const_value.numpy()[start:stop], **{k: v.value for k, v in node.attributes.items()})


def _is_convolved(value: ir.Value) -> bool:
    """Whether it is a convolution by a constant in one group and without a bias, or a sum with one."""
    node = value.producer()
    if node is not None and node.op_type == "Add":
        return any(v is not None and _is_convolved(v) for v in node.inputs)
    if node is None or node.op_type != "Conv" or len(node.inputs) > 2 or node.attributes.get_int("group", 1) > 1:
        return False
    return node.inputs[1] is not None and node.inputs[1].const_value is not None
