"""Conv and ConvTranspose.

The gradient of a convolution is a convolution: with stride 1, of `dy` with the kernel flipped and its channel axes
exchanged (Dumoulin and Visin 2016, arXiv:1603.07285, section 4). With a stride, `dy` must first be spread out; see
`conv_gradient` for the spellings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...geometry import Window, windows
from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ops import Ops


@dataclass(frozen=True)
class Kernel:
    """A constant kernel [M, C/group, k...] and how it moves."""

    weight: np.ndarray
    group: int
    windows: list[Window]
    auto_pad: str = "NOTSET"

    @property
    def strides(self) -> list[int]:
        """The stride of each spatial axis."""
        return [w.stride for w in self.windows]

    def adjoint(self) -> np.ndarray:
        """[C, M/group, k...]: channel axes exchanged within each group, taps reversed."""
        m, c = self.weight.shape[:2]
        taps = self.weight.shape[2:]
        grouped = self.weight.reshape(self.group, m // self.group, c, *taps).swapaxes(1, 2)
        return _flip(grouped.reshape(self.group * c, m // self.group, *taps))


def _flip(kernel: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.flip(kernel, tuple(range(2, kernel.ndim))))


def node_kernel(n: Call, weight: np.ndarray) -> Kernel:
    """The kernel of a Conv or pooling node with weight [M, C/group, k...]."""
    import onnx_ir as ir

    taps = windows(ir.to_proto(n.node), weight.shape[2:])
    return Kernel(weight, n.attr("group", 1), taps, n.attr("auto_pad", "NOTSET"))


def conv_gradient(op: Ops, x: ir.Value, dy: ir.Value, kernel: Kernel) -> ir.Value:
    """Gradient of Σ dy * conv(x) with respect to `x` [N,C,s...], where `dy` is [N,M,o...].

    Works for windows that reach past the end of the input (ceil_mode, SAME), whatever the size of `x` at run time.
    """
    taps = kernel.windows
    flipped = [(w.span - 1 - w.pad_begin, w.span - 1 - w.pad_end) for w in taps]
    # 1. Stride 1: the flipped kernel, at the same cost and in the same layout as the forward pass.
    if all(w.stride == 1 and not w.same for w in taps) and min(map(min, flipped)) >= 0:
        return op.Conv(dy, kernel.adjoint(), **_conv_attributes(kernel, flipped))
    # 2. Dense and strided: one small convolution for each phase of the stride, then interleave them.
    square = len(taps) == 2 and kernel.strides[0] == kernel.strides[1]
    if kernel.group == 1 and square and kernel.strides[0] > 1 and all(w.dilation == 1 for w in taps):
        full = _by_phases(op, dy, kernel)
    # 3. Anything else: zeros between the samples of dy, then the flipped kernel with full overlap.
    else:
        spread = _zero_stuffed(op, dy, kernel.strides) if any(s > 1 for s in kernel.strides) else dy
        overlap = _conv_attributes(kernel, [(w.span - 1, w.span - 1) for w in taps])
        full = op.Conv(spread, kernel.adjoint(), **overlap)
    return _crop_to(op, full, x, dy, kernel)


def _conv_attributes(kernel: Kernel, pads: list[tuple[int, int]]) -> dict[str, Any]:
    return {
        "kernel_shape": [w.kernel for w in kernel.windows],
        "dilations": [w.dilation for w in kernel.windows],
        "pads": [begin for begin, _ in pads] + [end for _, end in pads],
        "group": kernel.group,
    }


def _by_phases(op: Ops, dy: ir.Value, kernel: Kernel) -> ir.Value:
    """The gradient with respect to the padded input, by sub-pixel convolution (Shi et al. 2016, arXiv:1609.07009).

    Sample i*s + r of the result is Σ_m dy[i - m] w[r + s*m]: for each phase r a stride-1 convolution with every s-th
    tap.
    """
    stride = kernel.strides[0]
    adjoint = kernel.weight.swapaxes(0, 1)  # [C, M, kh, kw]
    channels, outputs = adjoint.shape[:2]
    taps = [math.ceil(w.kernel / stride) for w in kernel.windows]
    padded = np.zeros((channels, outputs, taps[0] * stride, taps[1] * stride), adjoint.dtype)
    padded[:, :, : kernel.windows[0].kernel, : kernel.windows[1].kernel] = adjoint
    # [C, M, mh, rh, mw, rw] -> [rh, rw, C, M, mh, mw]: DepthToSpace wants the phase outermost
    phases = padded.reshape(channels, outputs, taps[0], stride, taps[1], stride).transpose(3, 5, 0, 1, 2, 4)
    weight = _flip(phases.reshape(stride * stride * channels, outputs, *taps))
    # One row and column more than the taps need, so that inputs the last window never reached are there to crop.
    pads = [taps[0] - 1, taps[1] - 1, taps[0], taps[1]]
    return op.DepthToSpace(op.Conv(dy, weight, kernel_shape=taps, pads=pads), blocksize=stride, mode="DCR")


def _zero_stuffed(op: Ops, dy: ir.Value, strides: list[int]) -> ir.Value:
    """Every sample of dy followed by stride - 1 zeros, on each axis."""
    repeated = op.Resize(
        dy,
        None,
        [1.0, 1.0, *(float(s) for s in strides)],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    mask = None
    size = op.Shape(repeated)
    for axis, stride in enumerate(strides):
        length = op.Squeeze(op.Slice(size, [2 + axis], [3 + axis]), [0])
        places = op.Mod(op.Range(np.int64(0), length, np.int64(1)), stride)
        on = along(op, op.CastLike(op.Equal(places, 0), dy), axis, len(strides))
        mask = on if mask is None else op.Mul(mask, on)
    return op.Mul(repeated, mask)


def along(op: Ops, vector: ir.Value, axis: int, spatial: int) -> ir.Value:
    """`vector` [n] shaped to broadcast along spatial axis `axis` of `spatial`."""
    trailing = spatial - 1 - axis
    return op.Unsqueeze(vector, list(range(1, 1 + trailing))) if trailing else vector


def _crop_to(op: Ops, full: ir.Value, x: ir.Value, dy: ir.Value, kernel: Kernel) -> ir.Value:
    """The part of `full`, the gradient with respect to the padded input, that is the input `x`."""
    spatial = len(kernel.windows)
    size = spatial_shape(op, x, spatial)
    if kernel.windows[0].same:
        start, _ = overhang(op, spatial_shape(op, dy, spatial), size, kernel.windows, kernel.auto_pad)
    else:
        start = op.const([w.pad_begin for w in kernel.windows])
    return op.Slice(full, start, op.Add(start, size), list(range(2, 2 + spatial)))


def spatial_shape(op: Ops, value: ir.Value, spatial: int) -> ir.Value:
    """The lengths of the axes after batch and channels."""
    return op.Slice(op.Shape(value), [2], [2 + spatial])


def overhang(
    op: Ops, count: ir.Value, size: ir.Value, taps: list[Window], auto_pad: str, *, extra: list[int] | int = 0
) -> tuple[ir.Value, ir.Value]:
    """How far `count` windows, and `extra` samples, reach beyond `size` samples: (begin, end), for each spatial axis.

    The odd sample goes to the end with SAME_UPPER and to the beginning otherwise.
    """
    reach = op.Add(op.Mul(op.Sub(count, 1), [w.stride for w in taps]), [w.span for w in taps])
    total = op.Max(op.Sub(op.Add(reach, extra), size), 0)
    half = op.Div(total, 2)
    rest = op.Sub(total, half)
    return (half, rest) if auto_pad == "SAME_UPPER" else (rest, half)


def _conv(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    weight = n.const(1)
    if weight is None:
        raise NotImplementedError("a convolution whose kernel is computed in the graph")
    return conv_gradient(op, n.x[0], dy, node_kernel(n, weight))


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
