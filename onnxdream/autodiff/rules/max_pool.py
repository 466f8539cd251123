"""MaxPool: the first maximum of each window, in row-major order, gets the gradient of the window, as in PyTorch."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...graph.windows import Window
from ...lowering.targets import INDICES, NEW_AXES, lacks
from ..registry import Call, rule
from .activation import vanishes
from .conv import Kernel, comb, conv, crop_to, repeated, same_overhang, spatial_shape, window_kernel, zero_stuffed
from .gather import scatter_add

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ops import Ops


# No finite number is smaller.
LOWEST = float(np.finfo(np.float32).min)
_END = int(np.iinfo(np.int64).max)  # of any axis


def _max_pool(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    if lacks(n.target, INDICES):
        return _by_masks(op, n, dy)
    return _by_axes(op, n, dy) if _fits_axes(op, n) else _by_indices(op, n, dy)


def _fits_axes(op: Ops, n: Call) -> bool:
    """Whether `_by_axes` can take the node: two axes, small strides, and zeros beyond the borders do no harm.

    Nor in half precision, where runtimes round some tensors and not others: what was equal may not stay so.
    """
    taps = window_kernel(n).windows
    beyond = n.attr("ceil_mode", 0) or any(w.pad_begin or w.pad_end for w in taps)
    return (
        n.blocked
        and len(taps) == 2
        and op.shape(n.x[0]) is not None
        and all(w.stride <= min(2, w.kernel) and w.dilation == 1 and not w.same for w in taps)
        and (not beyond or _is_rectified(n.x[0]) or _is_rectified_next(n.y))
    )


def _is_rectified(value: ir.Value) -> bool:
    """Whether nothing in `value` is negative, and gradients that reach its zeros come to nothing in the ReLU before."""
    node = value.producer()
    if node is not None and node.op_type in ("Concat", "MaxPool"):
        return all(_is_rectified(v) for v in node.inputs if v is not None)
    return node is not None and node.op_type == "Relu"


def _is_rectified_next(value: ir.Value) -> bool:
    """Whether gradients that reach what is negative in `value` come to nothing in the ReLU behind."""
    return {use.node.op_type for use in value.uses()} == {"Relu"}


def _by_axes(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """The largest of each window is the largest over its rows of the largest over its columns.

    So the first row that holds the maximum takes the gradient, and within it the first column. All of it is depthwise
    convolutions and products, which take onnxruntime half as long as Indices and ScatterElements, or less.
    """
    ceil, (rows, columns) = bool(n.attr("ceil_mode", 0)), window_kernel(n).windows
    widest = _pooled_along(op, n.x[0], columns, 1, 2, ceil=ceil)
    channels = n.shape(n.x[0])[1]
    across = _Axis(op, channels, 0, rows, ceil).gradient(widest, n.y, dy)
    return _Axis(op, channels, 1, columns, ceil).gradient(n.x[0], widest, across)


@dataclass(frozen=True)
class _Axis:
    """Pooling along one axis: window i takes the samples i * stride + tap - pad_begin, one for each tap."""

    op: Ops
    channels: int
    axis: int
    window: Window
    ceil: bool

    def gradient(self, x: ir.Value, y: ir.Value, dy: ir.Value) -> ir.Value:
        """Each tap, in turn, takes the gradient of the windows whose maximum `y` it is the first to attain."""
        op, w = self.op, self.window
        phases: list[list[ir.Value]] = [[] for _ in range(w.stride)]
        left = dy
        for tap in range(w.kernel):
            taken = left
            if tap + 1 < w.kernel:
                end = w.pad_end + (w.stride - 1 if self.ceil else 0)  # where ceil_mode's last window may end
                behind = op.Add(y, self._copied(x, tap, Window(w.kernel, w.stride, 1, w.pad_begin, end), sign=-1))
                taken = op.Mul(left, vanishes(op, behind))
                left = op.Add(left, self._copied(taken, 0, Window(1, 1, 1, 0, 0), sign=-1))
            shift, phase = divmod(tap - w.pad_begin, w.stride)
            phases[phase].append(self._shifted(taken, shift))
        if w.stride == 1:
            return functools.reduce(op.Add, phases[0])
        return self._cropped(self._interleaved(phases[0], phases[1]), x)

    def _samples(self) -> int:
        """How many samples more than windows there are in each phase of the stride, at most."""
        w = self.window
        reach = w.kernel - w.pad_begin - w.pad_end + (0 if self.ceil else w.stride - 1)
        return -(-reach // w.stride) - 1

    def _shifted(self, v: ir.Value, shift: int) -> ir.Value:
        """What lies at window i, at sample i + shift."""
        more, lead, skip = self._samples(), max(0, shift), max(0, -shift)
        kernel = skip + 1 + max(0, lead - more - skip)
        if (more, shift) == (0, 0):
            return v
        return self._copied(v, skip, Window(kernel, 1, 1, lead, more - lead + kernel - 1))

    def _interleaved(self, even: list[ir.Value], odd: list[ir.Value]) -> ir.Value:
        """The sums of `even` and of `odd`, sample by sample in turn: odd, repeated, + (even - odd) between zeros."""
        op = self.op
        odds = functools.reduce(op.Add, odd)
        difference = functools.reduce(op.Add, [*even, self._copied(odds, 0, Window(1, 1, 1, 0, 0), sign=-1)])
        strides = [2, 1] if self.axis == 0 else [1, 2]
        return op.Add(zero_stuffed(op, difference, strides, self.channels), repeated(op, odds, strides))

    def _cropped(self, full: ir.Value, x: ir.Value) -> ir.Value:
        """As much of `full` as there is of `x`, by way of a convolution, whose padding can be trimmed."""
        op = self.op
        copied = self._copied(full, 0, Window(3, 1, 1, 0, 2))  # there are at most two samples too many
        return op.Slice(copied, [0, 0], spatial_shape(op, x, 2), [2, 3])

    def _copied(self, x: ir.Value, tap: int, window: Window, sign: int = 1) -> ir.Value:
        """The tap of each window, times the sign, with zeros beyond the borders."""
        weight = np.zeros((self.channels, 1, window.kernel), np.float32)
        weight[:, :, tap] = sign
        still = Window(1, 1, 1, 0, 0)
        both = [window, still] if self.axis == 0 else [still, window]
        return conv(self.op, x, Kernel(np.expand_dims(weight, 3 - self.axis), self.channels, both))


def _by_indices(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """Indices + ScatterElements: onnxruntime reports the first maximum of each window."""
    if len(n.node.outputs) == 1:
        attributes = {name: n.attr(name) for name in n.node.attributes if name != "storage_order"}
        _, indices = op.many("MaxPool", 2, n.x[0], **attributes)
    else:
        if n.attr("storage_order", 0):
            raise NotImplementedError("column-major Indices (storage_order 1) that are used in the graph")
        indices = n.node.outputs[1]
    return scatter_add(op, n.x[0], indices, dy)


def _by_masks(op: Ops, n: Call, dy: ir.Value) -> ir.Value:
    """The largest of each window is the largest over its rows of the largest over its columns, and so on.

    So the first row that holds the maximum takes the gradient, and within it the first column.
    """
    kernel = window_kernel(n)
    taps = kernel.windows
    if n.attr("ceil_mode", 0) and any(w.pad_end + w.stride > w.span for w in taps):
        raise NotImplementedError("ceil_mode with windows so far apart that runtimes disagree on how many there are")
    pooled = [_padded_for_windows(op, n, dy, kernel)]
    for axis in reversed(range(1, len(taps))):
        inside = replace(taps[axis], pad_begin=0, pad_end=0)
        pooled.append(_pooled_along(op, pooled[-1], inside, axis, len(taps)))
    whole = all(w.dilation == 1 and w.kernel >= w.stride for w in taps)  # windows leave no phase out
    if lacks(n.target, NEW_AXES) and whole and len(taps) == 2 and taps[0].stride == taps[1].stride > 1:
        dy = _along_both(op, pooled[0], pooled[1], n.y, dy, taps)
    else:
        for axis, (x, y) in enumerate(zip(reversed(pooled), [n.y, *reversed(pooled[1:])], strict=True)):
            dy = _along_axis(op, n, x, y, dy, taps[axis], axis)
    return crop_to(op, dy, n.x[0], kernel)


def _pooled_along(op: Ops, x: ir.Value, w: Window, axis: int, spatial: int, *, ceil: bool = False) -> ir.Value:
    """The largest of each window along one axis."""

    def only(value: int, other: int) -> list[int]:
        return [value if a == axis else other for a in range(spatial)]

    return op.MaxPool(
        x,
        kernel_shape=only(w.kernel, 1),
        strides=only(w.stride, 1),
        dilations=only(w.dilation, 1),
        pads=[*only(w.pad_begin, 0), *only(w.pad_end, 0)],
        ceil_mode=int(ceil),
    )


def _along_axis(op: Ops, n: Call, x: ir.Value, y: ir.Value, dy: ir.Value, w: Window, axis: int) -> ir.Value:
    """The gradient of pooling `x` to `y` along one axis."""
    at = 2 + axis
    parts = _phases(op, x, y, dy, w, axis)
    if w.stride == 1:
        return parts[0]
    full = _chosen(op, parts, axis, n.rank() - 2) if lacks(n.target, NEW_AXES) else _interleaved(op, parts, at)
    return op.Slice(full, [0], op.Slice(op.Shape(x), [at], [at + 1]), [at])


def _along_both(op: Ops, x: ir.Value, widest: ir.Value, y: ir.Value, dy: ir.Value, taps: list[Window]) -> ir.Value:
    """The gradient of pooling `x` along its columns to `widest` and this along its rows to `y`, with equal strides.

    It is put together at the end, from every phase of both strides, and may have more rows and columns than `x`: zeros.
    """
    rows, columns = taps
    parts = []
    for row, part in enumerate(_phases(op, widest, y, dy, rows, 0, apart=True)):
        picked = op.Slice(widest, [row], [_END], [2], [rows.stride])
        parts += _phases(op, x, picked, part, columns, 1, row=row)
    return op.DepthToSpace(op.Concat(*parts, axis=1), blocksize=rows.stride, mode="DCR")


def _phases(
    op: Ops,
    x: ir.Value,
    y: ir.Value,
    dy: ir.Value,
    w: Window,
    axis: int,
    *,
    apart: bool = False,
    row: int | None = None,
) -> list[ir.Value]:
    """What the samples of `x` get along one axis, phase by phase of the stride.

    Each tap of the window, in turn, takes the gradient where it equals the maximum and no earlier tap has taken it.
    What tap k of window i took belongs to sample i * stride + k * dilation of `x`. All phases are made as long as the
    first, but for those that stay `apart`. With `row`, y and dy are those of every stride-th row of `x` from there on.
    """
    at, stride = 2 + axis, w.stride
    count, size = (op.Slice(op.Shape(v), [at], [at + 1]) for v in (dy, x))
    length = op.Add(op.Mul(op.Sub(count, 1), stride), 1)  # from the first window's sample to the last one's
    below = None
    if row is not None:  # rows fewer than in the first phase
        tall, mine = (op.Slice(op.Shape(v), [2], [3]) for v in (x, dy))
        below = op.Sub(op.Div(op.Add(tall, stride - 1), stride), mine)
    phases: dict[int, ir.Value] = {}
    left = dy
    for tap in range(w.kernel):
        offset, taken = tap * w.dilation, left
        if tap + 1 < w.kernel:
            end = op.Add(length, offset)
            if row is None:
                sample = op.Slice(x, [offset], end, [at], [stride])
            else:
                sample = op.Slice(x, [row, offset], op.Concat([_END], end, axis=0), [2, at], [stride, stride])
            taken = op.Mul(left, op.CastLike(op.Equal(sample, y), dy))
            left = op.Sub(left, taken)
        shift, phase = divmod(offset, stride)
        samples = op.Div(op.Add(size, stride - 1 - (phase if apart else 0)), stride)
        behind = op.Sub(samples, op.Add(count, shift))
        if below is None:
            shifted = op.Pad(taken, op.Concat([shift], behind, axis=0), None, [at])
        else:
            shifted = op.Pad(taken, op.Concat([0, shift], below, behind, axis=0), None, [2, at])
        phases[phase] = op.Add(phases[phase], shifted) if phase in phases else shifted
    nothing = op.Mul(phases[0], 0.0) if len(phases) < stride else phases[0]
    return [phases.get(p, nothing) for p in range(stride)]


def _padded_for_windows(op: Ops, n: Call, dy: ir.Value, kernel: Kernel) -> ir.Value:
    """The input with a border below every maximum, wide enough for every window to lie inside."""
    taps, spatial = kernel.windows, len(kernel.windows)
    if not n.attr("ceil_mode", 0) and not any(w.pad_begin or w.pad_end or w.same for w in taps):
        return n.x[0]
    size = spatial_shape(op, n.x[0], spatial)
    if taps[0].same:
        begin, end = same_overhang(op, size, taps, kernel.auto_pad)
    else:
        count = spatial_shape(op, dy, spatial)
        begin = op.const([w.pad_begin for w in taps])
        reach = op.Add(op.Mul(op.Sub(count, 1), kernel.strides), [w.span for w in taps])
        end = op.Max(op.Sub(op.Sub(reach, size), begin), 0)
    return op.Pad(n.x[0], op.Concat(begin, end, axis=0), op.CastLike(LOWEST, dy), list(range(2, 2 + spatial)))


def _interleaved(op: Ops, parts: list[ir.Value], axis: int) -> ir.Value:
    """The first samples of all parts along `axis`, then the second ones, and so on."""
    beside = op.Concat(*(op.Unsqueeze(p, [axis + 1]) for p in parts), axis=axis + 1)
    shape = op.Shape(parts[0])
    after = op.Slice(shape, [axis + 1], [_END])
    return op.Reshape(beside, op.Concat(op.Slice(shape, [0], [axis]), [-1], after, axis=0))


def _chosen(op: Ops, parts: list[ir.Value], axis: int, spatial: int) -> ir.Value:
    """The same along spatial axis `axis`, by masks over the samples of each part repeated."""
    times = [len(parts) if a == axis else 1 for a in range(spatial)]
    samples = [repeated(op, p, times) for p in parts]
    masks = [comb(op, s, axis, len(parts), phase, spatial) for phase, s in enumerate(samples)]
    return functools.reduce(op.Add, map(op.Mul, samples, masks))


rule("MaxPool", _max_pool)
