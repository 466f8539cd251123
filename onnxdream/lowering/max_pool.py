"""The gradient of max-pooling: the first maximum of each window, in row-major order, gets the window's gradient."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..autodiff.masks import vanishes
from ..autodiff.rules.gather import scatter_add
from ..graph.windows import Kernel, Window, same_overhang, spatial_shape, window_kernel
from .conv import crop_to
from .interleave import END, interleaved, interleaved_by_masks, repeated, zero_stuffed
from .targets import INDICES, NEW_AXES

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops
    from .rewrite import Site

# No finite number is smaller.
LOWEST = float(np.finfo(np.float32).min)


def max_pool_gradient(op: Ops, n: Site) -> ir.Value:
    """MaxPoolGrad."""
    if n.lacks(INDICES):
        return _by_masks(op, n)
    if _fits_axes(n):
        return _by_axes(op, n)
    return _by_indices(op, n)


def _fits_axes(n: Site) -> bool:
    """Whether `_by_axes` can take the node: two axes, small strides, and zeros beyond the borders do no harm.

    Nor in half precision, where runtimes round some tensors and not others: what was equal may not stay so.
    """
    _, x, y = n.x[:3]
    taps = window_kernel(n).windows
    beyond = n.attr("ceil_mode", 0) or any(w.pad_begin or w.pad_end for w in taps)
    return (
        n.blocked
        and len(taps) == 2
        and n.attr("channels") is not None
        and all(w.stride <= min(2, w.kernel) and w.dilation == 1 and not w.same for w in taps)
        and (not beyond or _is_rectified(x) or _is_rectified_next(y))
    )


def _is_rectified(value: ir.Value) -> bool:
    """Whether nothing in `value` is negative, and gradients that reach its zeros come to nothing in the ReLU before."""
    node = value.producer()
    if node is not None and node.op_type in ("Concat", "MaxPool"):
        return all(_is_rectified(v) for v in node.inputs if v is not None)
    return node is not None and node.op_type == "Relu"


def _is_rectified_next(value: ir.Value) -> bool:
    """Whether gradients that reach what is negative in `value` come to nothing in the ReLU behind."""
    return {use.node.op_type for use in value.uses()} - {"MaxPoolGrad"} == {"Relu"}


def _by_axes(op: Ops, n: Site) -> ir.Value:
    """The largest of each window is the largest over its rows of the largest over its columns.

    So the first row that holds the maximum takes the gradient, and within it the first column. All of it is depthwise
    convolutions and products, which take onnxruntime half as long as Indices and ScatterElements, or less.
    """
    dy, x, y = n.x[:3]
    ceil, channels, (rows, columns) = bool(n.attr("ceil_mode", 0)), n.attr("channels"), window_kernel(n).windows
    widest = _pooled_along(op, x, columns, 1, 2, ceil=ceil)
    across = _Axis(op, channels, 0, rows, ceil).gradient(widest, y, dy)
    return _Axis(op, channels, 1, columns, ceil).gradient(x, widest, across)


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
        kernel = Kernel(np.expand_dims(weight, 3 - self.axis), self.channels, both)
        pads = [(w.pad_begin, w.pad_end) for w in both]
        return self.op.Conv(x, kernel.weight, strides=kernel.strides, **kernel.attributes(pads))


def _by_indices(op: Ops, n: Site) -> ir.Value:
    """Indices + ScatterElements: onnxruntime reports the first maximum of each window."""
    dy, x = n.x[:2]
    indices = n.given(3)
    if indices is None:
        attributes = {name: n.attr(name) for name in n.node.attributes if name not in ("storage_order", "channels")}
        _, indices = op.many("MaxPool", 2, x, **attributes)
    elif n.attr("storage_order", 0):
        raise NotImplementedError("column-major Indices (storage_order 1) that are used in the graph")
    return scatter_add(op, x, indices, dy)


def _by_masks(op: Ops, n: Site) -> ir.Value:
    """The largest of each window is the largest over its rows of the largest over its columns, and so on.

    So the first row that holds the maximum takes the gradient, and within it the first column.
    """
    dy, x, y = n.x[:3]
    kernel = window_kernel(n)
    taps = kernel.windows
    if n.attr("ceil_mode", 0) and any(w.pad_end + w.stride > w.span for w in taps):
        raise NotImplementedError("ceil_mode with windows so far apart that runtimes disagree on how many there are")
    pooled = [_padded_for_windows(op, n, kernel)]
    for axis in reversed(range(1, len(taps))):
        inside = replace(taps[axis], pad_begin=0, pad_end=0)
        pooled.append(_pooled_along(op, pooled[-1], inside, axis, len(taps)))
    whole = all(w.dilation == 1 and w.kernel >= w.stride for w in taps)  # windows leave no phase out
    if n.lacks(NEW_AXES) and whole and len(taps) == 2 and taps[0].stride == taps[1].stride > 1:
        dy = _along_both(op, pooled[0], pooled[1], y, dy, taps)
    else:
        inputs = pooled[::-1]
        for axis, (before, after) in enumerate(zip(inputs, [y, *inputs[:-1]], strict=True)):
            dy = _along_axis(op, n, before, after, dy, taps, axis)
    return crop_to(op, dy, x, kernel)


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


def _along_axis(op: Ops, n: Site, x: ir.Value, y: ir.Value, dy: ir.Value, taps: list[Window], axis: int) -> ir.Value:
    """The gradient of pooling `x` to `y` along one axis."""
    at = 2 + axis
    parts = _phases(op, x, y, dy, taps[axis], axis)
    if taps[axis].stride == 1:
        return parts[0]
    full = interleaved_by_masks(op, parts, axis, len(taps)) if n.lacks(NEW_AXES) else interleaved(op, parts, at)
    return op.Slice(full, [0], op.Slice(op.Shape(x), [at], [at + 1]), [at])


def _along_both(op: Ops, x: ir.Value, widest: ir.Value, y: ir.Value, dy: ir.Value, taps: list[Window]) -> ir.Value:
    """The gradient of pooling `x` along its columns to `widest` and this along its rows to `y`, with equal strides.

    It is put together at the end, from every phase of both strides, and may have more rows and columns than `x`: zeros.
    """
    rows, columns = taps
    parts = []
    for row, part in enumerate(_phases(op, widest, y, dy, rows, 0, apart=True)):
        picked = op.Slice(widest, [row], [END], [2], [rows.stride])
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
                sample = op.Slice(x, [row, offset], op.Concat([END], end, axis=0), [2, at], [stride, stride])
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


def _padded_for_windows(op: Ops, n: Site, kernel: Kernel) -> ir.Value:
    """The input with a border below every maximum, wide enough for every window to lie inside."""
    dy, x = n.x[:2]
    taps, spatial = kernel.windows, len(kernel.windows)
    if not n.attr("ceil_mode", 0) and not any(w.pad_begin or w.pad_end or w.same for w in taps):
        return x
    size = spatial_shape(op, x, spatial)
    if taps[0].same:
        begin, end = same_overhang(op, size, taps, kernel.auto_pad)
    else:
        count = spatial_shape(op, dy, spatial)
        begin = op.const([w.pad_begin for w in taps])
        reach = op.Add(op.Mul(op.Sub(count, 1), kernel.strides), [w.span for w in taps])
        end = op.Max(op.Sub(op.Sub(reach, size), begin), 0)
    return op.Pad(x, op.Concat(begin, end, axis=0), op.CastLike(LOWEST, dy), list(range(2, 2 + spatial)))
