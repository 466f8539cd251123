"""Conv and ConvTranspose.

The gradient of a convolution is a convolution: with stride 1, of `dy` with the kernel flipped and its channel axes
exchanged (Dumoulin and Visin 2016, arXiv:1603.07285, section 4). With a stride, `dy` must first be spread out; see
`conv_gradient` for the spellings.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...graph.windows import Window, windows
from ...lowering.targets import TRANSPOSED, lacks
from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ops import Ops


# Fewer of them share one convolution: runtimes compute them in blocks of 16.
_FEW_CHANNELS = 16


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


def window_kernel(n: Call) -> Kernel:
    """The window of a pooling node as a kernel [1, 1, k...] of ones."""
    return node_kernel(n, np.ones((1, 1, *n.attr("kernel_shape")), np.float32))


def conv_gradient(op: Ops, n: Call, dy: ir.Value, kernel: Kernel) -> ir.Value:
    """Gradient of Σ dy * conv(x) with respect to the node's input `x` [N,C,s...], where `dy` is [N,M,o...].

    Works for windows that reach past the end of the input (ceil_mode, SAME), whatever the size of `x` at run time.
    """
    taps = kernel.windows
    flipped = [(w.span - 1 - w.pad_begin, w.span - 1 - w.pad_end) for w in taps]
    # 1. Stride 1: the flipped kernel, at the same cost and in the same layout as the forward pass.
    if all(w.stride == 1 and not w.same for w in taps) and min(map(min, flipped)) >= 0:
        return op.Conv(dy, kernel.adjoint(), **_conv_attributes(kernel, flipped))
    # 2. With a stride, where the runtime is as fast at it: the transposed convolution.
    if not lacks(n.target, TRANSPOSED):
        full = _transposed(op, dy, kernel)
    # 3. Pointwise and strided: what every sample of dy gives, then zeros between.
    elif all(w.kernel == 1 for w in taps):
        each = op.Conv(dy, kernel.adjoint(), **_conv_attributes(kernel, [(0, 0) for _ in taps]))
        full = zero_stuffed(op, each, kernel.strides)
    # 4. Dense and strided: one small convolution for each phase of the stride, then interleave them.
    elif kernel.group == 1 and _is_square(kernel):
        full = _by_phases(op, dy, kernel)
    # 5. Anything else: zeros between the samples of dy, then the flipped kernel with full overlap.
    else:
        channels = len(kernel.weight) if n.blocked and len(taps) == 2 else None
        spread = zero_stuffed(op, dy, kernel.strides, channels)
        overlap = _conv_attributes(kernel, [(w.span - 1, w.span - 1) for w in taps])
        full = op.Conv(spread, kernel.adjoint(), **overlap)
    return crop_to(op, full, n.x[0], kernel)


def _transposed(op: Ops, dy: ir.Value, kernel: Kernel) -> ir.Value:
    """The gradient with respect to the padded input, and as much behind it as the last window never reached."""
    beyond = [s - 1 for s in kernel.strides]
    attributes = _conv_attributes(kernel, [(0, 0) for _ in kernel.windows])
    return op.ConvTranspose(dy, kernel.weight, strides=kernel.strides, output_padding=beyond, **attributes)


def conv(op: Ops, x: ir.Value, kernel: Kernel) -> ir.Value:
    """The convolution of `x` with `kernel`, which must not be padded as SAME."""
    pads = [(w.pad_begin, w.pad_end) for w in kernel.windows]
    return op.Conv(x, kernel.weight, strides=kernel.strides, **_conv_attributes(kernel, pads))


def _conv_attributes(kernel: Kernel, pads: list[tuple[int, int]]) -> dict[str, Any]:
    return {
        "kernel_shape": [w.kernel for w in kernel.windows],
        "dilations": [w.dilation for w in kernel.windows],
        "pads": [begin for begin, _ in pads] + [end for _, end in pads],
        "group": kernel.group,
    }


def _is_square(kernel: Kernel) -> bool:
    """Whether it strides alike along two axes, by more than 1, over neighbouring samples."""
    alike = len(kernel.windows) == 2 and len(set(kernel.strides)) == 1 and kernel.strides[0] > 1
    return alike and all(w.dilation == 1 for w in kernel.windows)


def _by_phases(op: Ops, dy: ir.Value, kernel: Kernel) -> ir.Value:
    """The gradient with respect to the padded input, by sub-pixel convolution (Shi et al. 2016, arXiv:1609.07009).

    Sample i*s + r of the result is Σ_m dy[i - m] w[r + s*m]: for each phase r a stride-1 convolution with every s-th
    tap.
    """
    stride = kernel.strides[0]
    adjoint = kernel.weight.swapaxes(0, 1)  # [C, M, kh, kw]
    phases = list(itertools.product(range(stride), repeat=2))
    most = [math.ceil(w.kernel / stride) for w in kernel.windows]

    def convolved(weight: np.ndarray) -> ir.Value:
        taps = weight.shape[2:]
        # One row and column more than the taps need, so that inputs the last window never reached are there to crop.
        return op.Conv(dy, _flip(weight), kernel_shape=list(taps), pads=[taps[0] - 1, taps[1] - 1, *most])

    # DepthToSpace wants the phase outermost.
    if len(adjoint) < _FEW_CHANNELS or min(w.kernel for w in kernel.windows) < stride:
        weights = np.zeros((len(phases), *adjoint.shape[:2], *most), adjoint.dtype)
        for weight, (row, column) in zip(weights, phases, strict=True):
            part = adjoint[:, :, row::stride, column::stride]
            weight[:, :, : part.shape[2], : part.shape[3]] = part
        beside = convolved(weights.reshape(-1, *weights.shape[2:]))
    else:
        beside = op.Concat(*(convolved(adjoint[:, :, row::stride, column::stride]) for row, column in phases), axis=1)
    return op.DepthToSpace(beside, blocksize=stride, mode="DCR")


def zero_stuffed(op: Ops, dy: ir.Value, strides: list[int], channels: int | None = None) -> ir.Value:
    """Every sample of dy followed by stride - 1 zeros, on each axis.

    With the number of `channels` of dy known, onnxruntime stays in its blocked layout: a convolution makes the mask.
    """
    if all(s == 1 for s in strides):
        return dy
    samples = repeated(op, dy, strides)
    mask = None
    for axis, stride in enumerate(strides):
        on = comb(op, samples, axis, stride, 0, len(strides))
        mask = on if mask is None else op.Mul(mask, on)
    assert mask is not None
    if channels is not None:
        # Times a 1 that only the picture can tell is one, lest the runtime keep the mask of all channels as a constant.
        first = op.Slice(op.Reshape(op.graph.inputs[0], [-1]), [0], [1])
        size = op.Shape(samples)
        one_channel = op.Concat(op.Slice(size, [0], [1]), [1], op.Slice(size, [2], [4]), axis=0)
        mask = op.Mul(op.Expand(mask, one_channel), op.HardSigmoid(first, alpha=0.0, beta=1.0))
        mask = op.Conv(mask, np.ones((channels, 1, 1, 1), np.float32), kernel_shape=[1, 1])
    return op.Mul(samples, mask)


def comb(op: Ops, v: ir.Value, axis: int, stride: int, phase: int, spatial: int) -> ir.Value:
    """1 at every stride-th sample of `v` along spatial axis `axis` of `spatial`, from `phase` on, else 0."""
    length = op.Squeeze(op.Slice(op.Shape(v), [2 + axis], [3 + axis]), [0])
    places = op.Mod(op.Range(np.int64(0), length, np.int64(1)), stride)
    return along(op, op.CastLike(op.Equal(places, phase), v), axis, spatial)


def repeated(op: Ops, v: ir.Value, times: list[int]) -> ir.Value:
    """Every sample as often in a row as `times` says for each axis."""
    scales = [1.0, 1.0, *map(float, times)]
    options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return op.Resize(v, None, scales, mode="nearest", **options)


def along(op: Ops, vector: ir.Value, axis: int, spatial: int) -> ir.Value:
    """`vector` [n] shaped to broadcast along spatial axis `axis` of `spatial`."""
    trailing = spatial - 1 - axis
    return op.Unsqueeze(vector, list(range(1, 1 + trailing))) if trailing else vector


def crop_to(op: Ops, full: ir.Value, x: ir.Value, kernel: Kernel) -> ir.Value:
    """The part of `full`, the gradient with respect to the padded input, that is the input `x`."""
    spatial = len(kernel.windows)
    size = spatial_shape(op, x, spatial)
    if kernel.windows[0].same:
        start, _ = same_overhang(op, size, kernel.windows, kernel.auto_pad)
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


def same_overhang(op: Ops, size: ir.Value, taps: list[Window], auto_pad: str) -> tuple[ir.Value, ir.Value]:
    """How far the windows that auto_pad SAME lays over `size` samples reach beyond them: (begin, end) of each axis."""
    strides = [w.stride for w in taps]
    return overhang(op, op.Div(op.Add(size, [s - 1 for s in strides]), strides), size, taps, auto_pad)


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
