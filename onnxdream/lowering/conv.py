"""The gradient of a strided convolution (Dumoulin and Visin 2016, arXiv:1603.07285, section 4)."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from ..graph.windows import Kernel, flip, node_kernel, same_overhang, spatial_shape
from .interleave import zero_stuffed
from .targets import TRANSPOSED

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops
    from .rewrite import Site

# Fewer of them share one convolution: runtimes compute them in blocks of 16.
_FEW_CHANNELS = 16


def conv_gradient(op: Ops, n: Site) -> ir.Value:
    """ConvGrad: `dy` must be spread out by the stride before, or while, it is convolved with the flipped kernel."""
    dy, x = n.x[:2]
    weight = n.const(2)
    assert weight is not None
    kernel = node_kernel(n, weight)
    taps = kernel.windows
    # 1. Where the runtime is as fast at it: the transposed convolution.
    if not n.lacks(TRANSPOSED):
        full = _transposed(op, dy, kernel)
    # 2. Pointwise: what every sample of dy gives, then zeros between.
    elif all(w.kernel == 1 for w in taps):
        each = op.Conv(dy, kernel.adjoint(), **kernel.attributes([(0, 0) for _ in taps]))
        full = zero_stuffed(op, each, kernel.strides)
    # 3. Dense: one small convolution for each phase of the stride, then interleave them.
    elif kernel.group == 1 and _is_square(kernel):
        full = _by_phases(op, dy, kernel)
    # 4. Anything else: zeros between the samples of dy, then the flipped kernel with full overlap.
    else:
        channels = len(kernel.weight) if n.blocked and len(taps) == 2 else None
        spread = zero_stuffed(op, dy, kernel.strides, channels)
        full = op.Conv(spread, kernel.adjoint(), **kernel.attributes([(w.span - 1, w.span - 1) for w in taps]))
    return crop_to(op, full, x, kernel)


def _transposed(op: Ops, dy: ir.Value, kernel: Kernel) -> ir.Value:
    """The gradient with respect to the padded input, and as much behind it as the last window never reached."""
    beyond = [s - 1 for s in kernel.strides]
    attributes = kernel.attributes([(0, 0) for _ in kernel.windows])
    return op.ConvTranspose(dy, kernel.weight, strides=kernel.strides, output_padding=beyond, **attributes)


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
        return op.Conv(dy, flip(weight), kernel_shape=list(taps), pads=[taps[0] - 1, taps[1] - 1, *most])

    # DepthToSpace wants the phase outermost.
    if len(adjoint) < _FEW_CHANNELS or min(w.kernel for w in kernel.windows) < stride:
        weights = np.zeros((len(phases), *adjoint.shape[:2], *most), adjoint.dtype)
        for weight, (row, column) in zip(weights, phases, strict=True):
            part = adjoint[:, :, row::stride, column::stride]
            weight[:, :, : part.shape[2], : part.shape[3]] = part
        stacked = convolved(weights.reshape(-1, *weights.shape[2:]))
    else:
        stacked = op.Concat(*(convolved(adjoint[:, :, row::stride, column::stride]) for row, column in phases), axis=1)
    return op.DepthToSpace(stacked, blocksize=stride, mode="DCR")


def crop_to(op: Ops, full: ir.Value, x: ir.Value, kernel: Kernel) -> ir.Value:
    """The part of `full`, the gradient with respect to the padded input, that is the input `x`."""
    spatial = len(kernel.windows)
    size = spatial_shape(op, x, spatial)
    if kernel.windows[0].same:
        start, _ = same_overhang(op, size, kernel.windows, kernel.auto_pad)
    else:
        start = op.const([w.pad_begin for w in kernel.windows])
    return op.Slice(full, start, op.Add(start, size), list(range(2, 2 + spatial)))
