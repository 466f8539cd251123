"""Derivative rules over all attributes and sizes: random operators against the same in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from test_rules import REDUCERS, Case, check, integers, ints, normal, pad, positive

repeatable = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
sizes = st.tuples(st.integers(1, 3), st.integers(3, 12), st.integers(3, 12))
small = st.integers(1, 4)
pairs = st.tuples(small, small)
strides = st.tuples(st.integers(1, 3), st.integers(1, 3))
pads = st.tuples(*[st.integers(0, 3)] * 4)
auto_pads = st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
groups = st.sampled_from([1, 2, 4])
flags = st.booleans()


def node(operator: str, inputs: str, **attributes: object) -> str:
    """One node y = operator(inputs) in ONNX text."""
    texts = {str: '"{}"', bool: "{:d}", tuple: "[{}]", int: "{}"}

    def text(value: object) -> str:
        return texts[type(value)].format(", ".join(map(str, value)) if isinstance(value, tuple) else value)

    return f"y = {operator}<{', '.join(f'{k}={text(v)}' for k, v in attributes.items())}>({inputs})"


def spans(kernel: tuple[int, int], dilations: tuple[int, int]) -> tuple[int, int]:
    return (kernel[0] - 1) * dilations[0] + 1, (kernel[1] - 1) * dilations[1] + 1


@dataclass(frozen=True)
class Layout:
    """How windows lie over height and width: the padding, begins first, and how many windows there are."""

    pads: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, lengths, span, stride, pads, *, auto, ceil=False) -> Layout:
        """By the definition of auto_pad and ceil_mode. Hypothesis draws again where no window fits."""
        axes = []
        for axis, (n, reach, step) in enumerate(zip(lengths, span, stride, strict=True)):
            if auto.startswith("SAME"):
                count = -(-n // step)
                total = max(0, (count - 1) * step + reach - n)
                begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
                axes.append((begin, total - begin, count))
                continue
            begin, end = (pads[axis], pads[axis + 2]) if auto == "NOTSET" else (0, 0)
            room = n + begin + end - reach
            assume(room >= 0)
            count = (-(-room // step) if ceil else room // step) + 1
            if ceil and (count - 1) * step >= n + begin:  # none starts in the padding at the end
                count -= 1
            axes.append((begin, end, count))
        begins, ends, counts = zip(*axes, strict=True)
        return cls((*begins, *ends), counts)


def padding(auto: str, amounts: tuple[int, ...]) -> dict[str, object]:
    return {"pads": amounts} if auto == "NOTSET" else {"auto_pad": auto}


@repeatable
@given(size=sizes, kernel=pairs, stride=strides, dilations=strides, amounts=pads, auto=auto_pads, group=groups)
def test_conv(*, size, kernel, stride, dilations, amounts, auto, group) -> None:
    if auto.startswith("SAME"):
        dilations = (1, 1)  # onnxruntime has no more
    layout = Layout.of(size[1:], spans(kernel, dilations), stride, amounts, auto=auto)

    def function(x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(pad(x, layout.pads), w, None, stride, 0, dilations, group)

    body = node("Conv", "x, w", strides=stride, dilations=dilations, group=group, **padding(auto, amounts))
    check(Case(body, function, {"w": normal(8, 4 // group, *kernel)}, sizes=(size,)))


@repeatable
@given(size=sizes, kernel=pairs, stride=strides, dilations=strides, amounts=pads, more=pairs, group=groups)
def test_conv_transpose(*, size, kernel, stride, dilations, amounts, more, group) -> None:
    more = tuple(m % s for m, s in zip(more, stride, strict=True))
    top, left, bottom, right = amounts
    lengths = [(n - 1) * s + m + k for n, s, m, k in zip(size[1:], stride, more, spans(kernel, dilations), strict=True)]
    assume(lengths[0] > top + bottom and lengths[1] > left + right)

    def function(x: Tensor, w: Tensor) -> Tensor:
        full = F.conv_transpose2d(x, w, None, stride, 0, more, group, dilations)
        return full[:, :, top : full.shape[2] - bottom, left : full.shape[3] - right]

    attributes = {"strides": stride, "dilations": dilations, "pads": amounts, "output_padding": more, "group": group}
    weights = {"w": normal(4, 6 // math.gcd(group, 2), *kernel)}
    check(Case(node("ConvTranspose", "x, w", **attributes), function, weights, sizes=(size,)))


def pooled(kernel, stride, amounts, auto, ceil):
    """What onnxruntime allows: padding less than the kernel, and with SAME no stride beyond it and no ceil_mode."""
    amounts = tuple(min(p, k - 1) for p, k in zip(amounts, kernel * 2, strict=True))
    if auto.startswith("SAME"):
        stride = (min(stride[0], kernel[0]), min(stride[1], kernel[1]))
    return stride, amounts, ceil and auto == "NOTSET"


@repeatable
@given(size=sizes, kernel=pairs, stride=strides, dilations=strides, amounts=pads, auto=auto_pads, ceil=flags)
def test_max_pool(*, size, kernel, stride, dilations, amounts, auto, ceil) -> None:
    stride, amounts, ceil = pooled(kernel, stride, amounts, auto, ceil)
    if auto.startswith("SAME"):
        dilations = (1, 1)
    layout = Layout.of(size[1:], spans(kernel, dilations), stride, amounts, auto=auto, ceil=ceil)

    def function(x: Tensor) -> Tensor:
        top, left, bottom, right = layout.pads
        reachable = (top, left, bottom + stride[0], right + stride[1])  # the last window may reach beyond the padding
        y = F.max_pool2d(pad(x, reachable, value=-math.inf), kernel, stride, 0, dilations)
        return y[:, :, : layout.counts[0], : layout.counts[1]]

    assume(bool(function(torch.zeros(1, 4, *size[1:])).isfinite().all()))  # no window sees only padding
    attributes = {"kernel_shape": kernel, "strides": stride, "dilations": dilations, "ceil_mode": ceil}
    body = node("MaxPool", "x", **attributes, **padding(auto, amounts))
    check(Case(body, function, draw=integers, sizes=(size,)))


@repeatable
@given(size=sizes, kernel=pairs, stride=strides, amounts=pads, auto=auto_pads, ceil=flags, whole=flags)
def test_average_pool(*, size, kernel, stride, amounts, auto, ceil, whole) -> None:
    stride, amounts, ceil = pooled(kernel, stride, amounts, auto, ceil)
    layout = Layout.of(size[1:], kernel, stride, amounts, auto=auto, ceil=ceil)
    means = []  # a matrix for each axis
    for axis, (n, k, s) in enumerate(zip(size[1:], kernel, stride, strict=True)):
        start = np.arange(layout.counts[axis])[:, None] * s - layout.pads[axis]
        covers = (np.arange(n) >= start) & (np.arange(n) < start + k)
        with_padding = np.minimum(start + k, n + layout.pads[axis + 2]) - start
        means.append(torch.from_numpy(covers / (with_padding if whole else covers.sum(1, keepdims=True))))
    attributes = {"kernel_shape": kernel, "strides": stride, "ceil_mode": ceil, "count_include_pad": whole}
    body = node("AveragePool", "x", **attributes, **padding(auto, amounts))
    check(Case(body, lambda x: means[0] @ x @ means[1].T, sizes=(size,)))


def take(x: Tensor, places: dict[int, np.ndarray]) -> Tensor:
    """The samples at `places` of each axis."""
    for axis, at in places.items():
        x = x.index_select(axis, torch.from_numpy(at.copy()))
    return x


@repeatable
@given(
    size=sizes,
    order=st.permutations([1, 2, 3]),
    how_many=small,
    parts=st.lists(st.tuples(*[st.integers(-14, 14)] * 2, small, flags), min_size=3),
)
def test_slice(*, size, order, how_many, parts) -> None:
    axes = order[: min(how_many, 3)]
    chosen = [(begin, end, -step if backwards else step) for begin, end, step, backwards in parts[: len(axes)]]
    shape = (size[0], 4, *size[1:])
    places = {a: np.arange(shape[a])[slice(*part)] for a, part in zip(axes, chosen, strict=True)}
    assume(all(len(p) for p in places.values()))
    weights = dict(zip("bes", (ints(*column) for column in zip(*chosen, strict=True)), strict=True))
    weights["a"] = ints(*(a - 4 if a % 2 else a for a in axes))
    check(Case("y = Slice(x, b, e, a, s)", lambda x, *_: take(x, places), weights, sizes=(size,)))


@repeatable
@given(
    size=sizes,
    mode=st.sampled_from(["constant", "reflect", "edge"]),
    amounts=st.tuples(*[st.integers(-1, 3)] * 4),
    with_axes=flags,
)
def test_pad(*, size, mode, amounts, with_axes) -> None:
    if mode != "constant":
        amounts = tuple(max(0, min(p, n - 1)) for p, n in zip(amounts, size[1:] * 2, strict=True))

    def function(x: Tensor, *_: Tensor) -> Tensor:
        if mode == "constant":
            return pad(x, amounts, value=2.0)
        spatial = zip((2, 3), size[1:], amounts[:2], amounts[2:], strict=True)
        return take(x, {axis: np.pad(np.arange(n), (b, e), mode=mode) for axis, n, b, e in spatial})

    weights = {"p": ints(*amounts) if with_axes else ints(0, 0, *amounts[:2], 0, 0, *amounts[2:])}
    weights |= {"v": np.array(2, np.float32)} | ({"a": ints(2, -1)} if with_axes else {})
    check(Case(node("Pad", ", ".join(weights).join(("x, ", "")), mode=mode), function, weights, sizes=(size,)))


def resize_map(n: int, m: int, scale: float, *, mode: str, transform: str, rounding: str) -> Tensor:
    """The matrix [m, n] that resizes an axis of n samples to m, by the operator's definition."""
    at = np.arange(m)
    half = (at + 0.5) / scale - 0.5
    x = {
        "half_pixel": half,
        "half_pixel_symmetric": half + n / 2 * (1 - m / (n * scale)),
        "pytorch_half_pixel": half if m > 1 else half * 0,
        "align_corners": at * (n - 1) / max(1, m - 1),
        "asymmetric": at / scale,
    }[transform]
    matrix = np.zeros((m, n))
    below = np.floor(x)
    if mode == "linear":
        for places, weight in ((below, 1 - x + below), (below + 1, x - below)):
            matrix[at, np.clip(places, 0, n - 1).astype(int)] += weight
        return torch.from_numpy(matrix)
    nearest = {"floor": below, "ceil": np.ceil(x), "round_prefer_floor": np.ceil(x - 0.5)}.get(
        rounding, np.floor(x + 0.5)
    )
    matrix[at, np.clip(nearest, 0, n - 1).astype(int)] = 1
    return torch.from_numpy(matrix)


TRANSFORMS = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
ROUNDINGS = ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]


@repeatable
@given(
    size=sizes,
    mode=st.sampled_from(["nearest", "linear"]),
    transform=st.sampled_from(TRANSFORMS),
    rounding=st.sampled_from(ROUNDINGS),
    scales=st.tuples(*[st.sampled_from([0.5, 0.75, 1, 1.5, 2, 3])] * 2),
    by_size=flags,
)
def test_resize(*, size, mode, transform, rounding, scales, by_size) -> None:
    lengths = [math.floor(n * s) for n, s in zip(size[1:], scales, strict=True)]
    if transform not in ("half_pixel", "asymmetric"):  # others depend on n * s, which not everybody rounds
        assume(lengths == [n * s for n, s in zip(size[1:], scales, strict=True)])
    if by_size:
        assume(mode == "linear")  # a scale of lengths is rounded, which may move the nearest sample
        scales = [m / n for m, n in zip(lengths, size[1:], strict=True)]
    maps = [
        resize_map(n, m, s, mode=mode, transform=transform, rounding=rounding)
        for n, m, s in zip(size[1:], lengths, scales, strict=True)
    ]
    attributes = {"mode": mode, "coordinate_transformation_mode": transform, "nearest_mode": rounding, "axes": (2, 3)}
    body = node("Resize", "x, , , s" if by_size else "x, , s", **attributes)
    weights = {"s": ints(*lengths) if by_size else np.array(scales, np.float32)}
    check(Case(body, lambda x, _: maps[0] @ x @ maps[1].T, weights, sizes=(size,)))


@repeatable
@given(size=sizes, order=st.permutations(range(4)))
def test_transpose(*, size, order) -> None:
    check(Case(node("Transpose", "x", perm=tuple(order)), lambda x: x.permute(order), sizes=(size,)))


@repeatable
@given(
    size=sizes,
    operator=st.sampled_from(sorted(REDUCERS)),
    axes=st.sets(st.integers(-4, 3), min_size=1),
    keepdims=flags,
    ties=flags,
)
def test_reductions(*, size, operator, axes, keepdims, ties) -> None:
    axes = sorted({a % 4: a for a in axes}.values())

    def function(x: Tensor, _: Tensor) -> Tensor:
        return REDUCERS[operator](x, axes, keepdim=keepdims)

    draw: Callable[[tuple[int, ...]], np.ndarray] = integers if ties else positive
    check(Case(node(operator, "x, a", keepdims=keepdims), function, {"a": ints(*axes)}, draw=draw, sizes=(size,)))


operands = st.tuples(st.sets(st.integers(0, 1)), st.integers(0, 3))


@repeatable
@given(size=sizes, left=operands, right=operands)
def test_matmul(*, size, left, right) -> None:
    """x times its transpose, either averaged over leading axes, which then stay as ones or are dropped."""

    def mean(x: Tensor, ones: set[int], dropped: int) -> Tensor:
        kept = x.mean(sorted(ones), keepdim=True) if ones else x
        return kept.mean(tuple(range(dropped))) if dropped else kept

    def function(x: Tensor, *_: Tensor) -> Tensor:
        a, b = mean(x, *left), mean(x, *right)
        return a @ (b.mT if b.ndim > 1 else b)

    weights, body = {}, ""
    for name, (ones, dropped) in (("a", left), ("b", right)):
        weights |= {f"{name}1": ints(*sorted(ones)), f"{name}2": ints(*range(dropped))}
        body += f"{name}p = ReduceMean<noop_with_empty_axes=1>(x, {name}1) "
        body += f"{name} = ReduceMean<keepdims=0, noop_with_empty_axes=1>({name}p, {name}2) "
    rank = 4 - right[1]
    body += f"t = Transpose<perm={[*range(rank - 2), rank - 1, rank - 2]}>(b) " if rank > 1 else "t = Identity(b) "
    check(Case(f"{body} y = MatMul(a, t)", function, weights, sizes=(size,)))
