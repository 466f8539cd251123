"""Conv and ConvTranspose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...graph.windows import Kernel, node_kernel, overhang, spatial_shape, windows
from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops


def conv_gradient(op: Ops, n: Call, dy: ir.Value, kernel: Kernel) -> ir.Value:
    """Gradient of Σ dy * conv(x) with respect to the node's input `x` [N,C,s...], where `dy` is [N,M,o...].

    With stride 1 it is a convolution at the same cost as the forward one: of `dy` with the kernel flipped and its
    channel axes exchanged (Dumoulin and Visin 2016, arXiv:1603.07285, section 4). Otherwise it is the internal ConvGrad
    of windows that may reach past the end of the input (ceil_mode, SAME), whatever the size of `x` at run time.
    """
    taps = kernel.windows
    flipped = [(w.span - 1 - w.pad_begin, w.span - 1 - w.pad_end) for w in taps]
    if all(w.stride == 1 and not w.same for w in taps) and min(map(min, flipped)) >= 0:
        return op.Conv(dy, kernel.adjoint(), **kernel.attributes(flipped))
    names = ("kernel_shape", "strides", "dilations", "pads", "auto_pad")
    attributes = {name: n.attr(name) for name in names if name in n.node.attributes}
    return op.internal("ConvGrad", dy, n.x[0], kernel.weight, group=kernel.group, **attributes)


def _conv(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    weight = n.const(1)
    if weight is None:
        raise NotImplementedError("a convolution whose kernel is computed in the graph")
    return conv_gradient(op, n, dy, node_kernel(n, weight))


def _conv_transpose(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """The convolution that this operator transposes, over the padded dy."""
    import onnx_ir as ir

    taps = windows(ir.to_proto(n.node), n.shape(n.x[1])[2:])
    spatial = len(taps)
    axes = list(range(2, 2 + spatial))
    extra = n.attr("output_padding", [0] * spatial)
    pads = [*(w.pad_begin for w in taps), *(w.pad_end for w in taps)]
    if n.attr("output_shape") or taps[0].same:
        inputs, outputs = spatial_shape(op, n.x[0], spatial), spatial_shape(op, dy, spatial)
        ends = overhang(op, inputs, outputs, taps, n.attr("auto_pad", "NOTSET"), extra=extra)
        dy = op.Pad(dy, op.Concat(*ends, axis=0), None, axes)
        pads = [0] * (2 * spatial)
    dx = op.Conv(
        dy,
        n.x[1],
        kernel_shape=[w.kernel for w in taps],
        strides=[w.stride for w in taps],
        dilations=[w.dilation for w in taps],
        group=n.attr("group", 1),
        pads=pads,
    )
    if any(e >= w.stride for e, w in zip(extra, taps, strict=True)):  # one window more fits into the output padding
        dx = op.Slice(dx, [0] * spatial, spatial_shape(op, n.x[0], spatial), axes)
    return dx


rule("Conv", _conv)
rule("ConvTranspose", _conv_transpose)
