"""Sliding windows: how nodes state them, the kernels they move, and the borders they reach beyond."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from .ops import NodeView, Ops


# Operators that slide a window over their first input.
WINDOWED = {"Conv", "MaxPool", "AveragePool", "LpPool"}


@dataclass(frozen=True)
class Window:
    """One spatial axis of a convolution or pooling node; sizes in samples of its input."""

    kernel: int
    stride: int
    dilation: int
    pad_begin: int
    pad_end: int
    same: bool = False  # auto_pad SAME_* with a stride: the padding depends on the input's size

    @property
    def span(self) -> int:
        """Samples from the first to the last tap, inclusive."""
        return (self.kernel - 1) * self.dilation + 1

    def smallest_input(self, outputs: int) -> int:
        """The fewest input samples that give `outputs` output samples."""
        if self.same:
            return (outputs - 1) * self.stride + 1
        return max(1, (outputs - 1) * self.stride + self.span - self.pad_begin - self.pad_end)


def windows(node: onnx.NodeProto, kernel_shape: tuple[int, ...] | None = None) -> list[Window]:
    """The windows of a node.

    Args:
        node: A convolution or pooling.
        kernel_shape: The spatial shape of its weight, for nodes that do not state the kernel's shape.

    Returns:
        A window for each spatial axis.
    """
    from onnx.helper import get_attribute_value

    attributes = {a.name: get_attribute_value(a) for a in node.attribute}
    kernel = list(attributes.get("kernel_shape", kernel_shape or ()))
    axes = len(kernel)
    strides = attributes.get("strides") or [1] * axes
    dilations = attributes.get("dilations") or [1] * axes
    pads = attributes.get("pads") or [0] * (2 * axes)
    auto_pad = attributes.get("auto_pad", b"NOTSET").decode()
    if auto_pad == "VALID":
        pads = [0] * (2 * axes)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        if any(s > 1 for s in strides):
            return [Window(kernel[i], strides[i], dilations[i], 0, 0, same=True) for i in range(axes)]
        less = [(k - 1) * d // 2 for k, d in zip(kernel, dilations, strict=True)]
        more = [(k - 1) * d - p for k, d, p in zip(kernel, dilations, less, strict=True)]
        pads = less + more if auto_pad == "SAME_UPPER" else more + less
    return [Window(kernel[i], strides[i], dilations[i], pads[i], pads[i + axes]) for i in range(axes)]


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
        return flip(grouped.reshape(self.group * c, m // self.group, *taps))

    def attributes(self, pads: list[tuple[int, int]]) -> dict[str, Any]:
        """Those of a convolution with this kernel and a stride of 1, padded by (begin, end) along each axis."""
        return {
            "kernel_shape": [w.kernel for w in self.windows],
            "dilations": [w.dilation for w in self.windows],
            "pads": [begin for begin, _ in pads] + [end for _, end in pads],
            "group": self.group,
        }


def flip(kernel: np.ndarray) -> np.ndarray:
    """The taps of a kernel in reverse order."""
    return np.ascontiguousarray(np.flip(kernel, tuple(range(2, kernel.ndim))))


def node_kernel(n: NodeView, weight: np.ndarray) -> Kernel:
    """The kernel of a Conv or pooling node with weight [M, C/group, k...]."""
    import onnx_ir as ir

    taps = windows(ir.to_proto(n.node), weight.shape[2:])
    return Kernel(weight, n.attr("group", 1), taps, n.attr("auto_pad", "NOTSET"))


def window_kernel(n: NodeView) -> Kernel:
    """The window of a pooling node as a kernel [1, 1, k...] of ones."""
    return node_kernel(n, np.ones((1, 1, *n.attr("kernel_shape")), np.float32))


def window_sizes(op: Ops, n: NodeView, dy: ir.Value) -> ir.Value | float:
    """How many samples each window averages: a number, or a value that broadcasts over dy's spatial axes.

    A window at s covers the samples from s to min(s + kernel, end), where the end is that of the input, or of its
    padding where count_include_pad says so.
    """
    kernel = window_kernel(n)
    taps, spatial = kernel.windows, len(kernel.windows)
    include_pad = bool(n.attr("count_include_pad", 0))
    padded = any(w.pad_begin or w.pad_end or w.same for w in taps)
    if not n.attr("ceil_mode", 0) and (include_pad or not padded):
        return float(np.prod([w.kernel for w in taps]))
    size, count = spatial_shape(op, n.x[0], spatial), spatial_shape(op, dy, spatial)
    if taps[0].same:
        before, after = same_overhang(op, size, taps, kernel.auto_pad)
    else:
        before, after = op.const([w.pad_begin for w in taps]), op.const([w.pad_end for w in taps])
    low = op.Neg(before) if include_pad else op.const([0] * spatial)
    high = op.Add(size, after) if include_pad else size
    product: ir.Value | None = None
    for axis, window in enumerate(taps):
        begin, first, last, outputs = (op.Slice(v, [axis], [axis + 1]) for v in (before, low, high, count))
        places = op.Range(np.int64(0), op.Squeeze(outputs, [0]), np.int64(1))
        start = op.Sub(op.Mul(places, window.stride), begin)
        covered = op.Sub(op.Min(op.Add(start, window.kernel), last), op.Max(start, first))
        covered = along(op, op.CastLike(covered, dy), axis, spatial)
        product = covered if product is None else op.Mul(product, covered)
    assert product is not None
    return product


def along(op: Ops, vector: ir.Value, axis: int, spatial: int) -> ir.Value:
    """`vector` [n] shaped to broadcast along spatial axis `axis` of `spatial`."""
    trailing = spatial - 1 - axis
    return op.Unsqueeze(vector, list(range(1, 1 + trailing))) if trailing else vector


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
