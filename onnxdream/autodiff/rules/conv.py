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
    def dense(self) -> bool:
        return self.group == 1

    @property
    def strides(self) -> list[int]:
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
    # 1. Stride 1: the flipped kernel, at the same cost and in the same layout as the forward pass.
    if all(w.stride == 1 and not w.same and _flipped_pads(w)[0] >= 0 and _flipped_pads(w)[1] >= 0 for w in kernel.windows):
        return op.Conv(dy, kernel.adjoint(), **_conv_attributes(kernel, [_flipped_pads(w) for w in kernel.windows]))
    # 2. Dense and strided: one small convolution for each phase of the stride, then interleave them.
    square = len(kernel.windows) == 2 and kernel.strides[0] == kernel.strides[1]
    if kernel.dense and square and kernel.strides[0] > 1 and all(w.dilation == 1 for w in kernel.windows):
        full = _by_phases(op, dy, kernel)
    # 3. Anything else: zeros between the samples of dy, then the flipped kernel with full overlap.
    else:
        spread = _zero_stuffed(op, dy, kernel.strides) if any(s > 1 for s in kernel.strides) else dy
        full = op.Conv(spread, kernel.adjoint(), **_conv_attributes(kernel, [(w.span - 1, w.span - 1) for w in kernel.windows]))
    return _crop_to(op, full, x, dy, kernel)


def _flipped_pads(window: Window) -> tuple[int, int]:
    return window.span - 1 - window.pad_begin, window.span - 1 - window.pad_end


def _conv_attributes(kernel: Kernel, pads: list[tuple[int, int]]) -> dict[str, Any]:
    return {
        "kernel_shape": [w.kernel for w in kernel.windows],
        "dilations": [w.dilation for w in kernel.windows],
        "pads": [begin for begin, _ in pads] + [end for _, end in pads],
        "group": kernel.group,
    }


def _by_phases(op: Ops, dy: ir.Value, kernel: Kernel) -> ir.Value:
    """The gradient with respect to the padded input, by sub-pixel convolution (Shi et al. 2016, arXiv:1609.07009).

    Sample i*s + r of the result is Σ_m dy[i - m] w[r + s*m]: for each phase r a stride-1 convolution with every s-th tap.
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
    axes = list(range(2, 2 + spatial))
    size = op.Slice(op.Shape(x), [2], [2 + spatial])
    if kernel.windows[0].same:
        # SAME padding: Σ = max(0, (outputs - 1) * stride + span - inputs), the odd one at the end (UPPER) or start
        outputs = op.Slice(op.Shape(dy), [2], [2 + spatial])
        reach = op.Add(op.Mul(op.Sub(outputs, 1), kernel.strides), [w.span for w in kernel.windows])
        total = op.Max(op.Sub(reach, size), 0)
        half = op.Div(total, 2)
        start = half if kernel.auto_pad == "SAME_UPPER" else op.Sub(total, half)
        short = 0
    else:
        start = op.const([w.pad_begin for w in kernel.windows])
        # Inputs after the last window have no gradient; `full` may end before them where the end was cropped, not padded.
        short = max(0, *(-w.pad_end for w in kernel.windows))
    if short:
        full = op.Pad(full, [0] * spatial + [short] * spatial, None, axes)
    return op.Slice(full, start, op.Add(start, size), axes)


def _conv(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    weight = n.const(1)
    if weight is None:
        raise NotImplementedError("a convolution whose kernel is computed in the graph")
    return conv_gradient(op, n.x[0], dy, node_kernel(n, weight))


def _conv_transpose(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    weight = n.const(1)
    if weight is None:
        raise NotImplementedError("a convolution whose kernel is computed in the graph")
    taps = node_kernel(n, weight).windows
    extra = n.attr("output_padding", [0] * len(taps))
    begins, ends = [w.pad_begin for w in taps], [w.pad_end for w in taps]
    if n.attr("output_shape"):
        x, y = n.shape(n.x[0])[2:], n.attr("output_shape")
        totals = [w.stride * (x[i] - 1) + extra[i] + w.span - y[i] for i, w in enumerate(taps)]
    elif taps[0].same:
        totals = [max(0, w.span + extra[i] - w.stride) for i, w in enumerate(taps)]
    else:
        totals = []
    if totals:
        halves = [t // 2 for t in totals]
        rest = [t - h for t, h in zip(totals, halves, strict=True)]
        begins, ends = (halves, rest) if n.attr("auto_pad") == "SAME_UPPER" else (rest, halves)
    return op.Conv(
        dy,
        n.x[1],
        kernel_shape=[w.kernel for w in taps],
        strides=[w.stride for w in taps],
        dilations=[w.dilation for w in taps],
        group=n.attr("group", 1),
        pads=[*begins, *ends],
    )


rule("Conv", _conv)
rule("ConvTranspose", _conv_transpose)
