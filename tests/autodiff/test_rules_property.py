"""Derivative rules over all attributes and sizes: random operators against the same in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.breadth import everyday
from helpers.gradients import Case, check, generator, integers, ints, normal, pad, positive
from helpers.rule_cases import REDUCERS

repeatable = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
fewer = settings(repeatable, max_examples=25)
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


@pytest.mark.parametrize("target", everyday(["cpu", "opencv"], 2))
@repeatable
@given(size=sizes, kernel=pairs, stride=strides, dilations=strides, amounts=pads, auto=auto_pads, group=groups)
def test_conv(*, target, size, kernel, stride, dilations, amounts, auto, group) -> None:
    if auto.startswith("SAME"):
        dilations = (1, 1)  # onnxruntime has no more
    layout = Layout.of(size[1:], spans(kernel, dilations), stride, amounts, auto=auto)

    def function(x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(pad(x, layout.pads), w, None, stride, 0, dilations, group)

    body = node("Conv", "x, w", strides=stride, dilations=dilations, group=group, **padding(auto, amounts))
    check(Case(body, function, {"w": normal(8, 4 // group, *kernel)}, sizes=(size,)), target)


@pytest.mark.slow
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


@pytest.mark.parametrize("target", everyday(["cpu", "opencv"], 2))
@repeatable
@given(
    size=sizes,
    kernel=pairs,
    stride=strides,
    dilations=strides,
    amounts=pads,
    auto=auto_pads,
    ceil=flags,
    rectified=flags,
)
def test_max_pool(*, target, size, kernel, stride, dilations, amounts, auto, ceil, rectified) -> None:
    stride, amounts, ceil = pooled(kernel, stride, amounts, auto, ceil)
    if auto.startswith("SAME"):
        dilations = (1, 1)
    layout = Layout.of(size[1:], spans(kernel, dilations), stride, amounts, auto=auto, ceil=ceil)

    def function(x: Tensor) -> Tensor:
        top, left, bottom, right = layout.pads
        reachable = (top, left, bottom + stride[0], right + stride[1])  # the last window may reach beyond the padding
        y = F.max_pool2d(pad(F.relu(x) if rectified else x, reachable, value=-math.inf), kernel, stride, 0, dilations)
        return y[:, :, : layout.counts[0], : layout.counts[1]]

    assume(bool(function(torch.zeros(1, 4, *size[1:])).isfinite().all()))  # no window sees only padding
    if target != "cpu":  # refused
        reaches = zip(layout.pads[2:], stride, spans(kernel, dilations), strict=True)
        assume(not ceil or all(end + s <= span for end, s, span in reaches))
    attributes = {"kernel_shape": kernel, "strides": stride, "dilations": dilations, "ceil_mode": ceil}
    body = node("MaxPool", "r", **attributes, **padding(auto, amounts))
    before = "r = Relu(x)" if rectified else "r = Identity(x)"
    check(Case(f"{before} {body}", function, draw=integers, sizes=(size,)), target)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "opencv"])
@repeatable
@given(size=sizes, kernel=pairs, stride=strides, amounts=pads, auto=auto_pads, ceil=flags, whole=flags)
def test_average_pool(*, target, size, kernel, stride, amounts, auto, ceil, whole) -> None:
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
    check(Case(body, lambda x: means[0] @ x @ means[1].T, sizes=(size,)), target)


def take(x: Tensor, places: dict[int, np.ndarray]) -> Tensor:
    """The samples at `places` of each axis."""
    for axis, at in places.items():
        x = x.index_select(axis, torch.from_numpy(at.copy()))
    return x


@pytest.mark.slow
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


@pytest.mark.slow
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
    if mode == "cubic":
        for offset in range(-1, 3):
            distance = np.abs(x - below - offset)
            near = ((1.25 * distance - 2.25) * distance) * distance + 1
            far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
            weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
            np.add.at(matrix, (at, np.clip(below + offset, 0, n - 1).astype(int)), weight)
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
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
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
        assume(mode != "nearest")  # a scale of lengths is rounded, which may move the nearest sample
        scales = [m / n for m, n in zip(lengths, size[1:], strict=True)]
    maps = [
        resize_map(n, m, s, mode=mode, transform=transform, rounding=rounding)
        for n, m, s in zip(size[1:], lengths, scales, strict=True)
    ]
    attributes = {"mode": mode, "coordinate_transformation_mode": transform, "nearest_mode": rounding, "axes": (2, 3)}
    body = node("Resize", "x, , , s" if by_size else "x, , s", **attributes)
    weights = {"s": ints(*lengths) if by_size else np.array(scales, np.float32)}
    check(Case(body, lambda x, _: maps[0] @ x @ maps[1].T, weights, sizes=(size,)))


@pytest.mark.slow
@repeatable
@given(size=sizes, order=st.permutations(range(4)))
def test_transpose(*, size, order) -> None:
    check(Case(node("Transpose", "x", perm=tuple(order)), lambda x: x.permute(order), sizes=(size,)))


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@repeatable
@given(
    size=sizes,
    samples=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    reach=st.floats(0.5, 4),
    mode=st.sampled_from(["bilinear", "nearest"]),
    padding=st.sampled_from(["zeros", "border", "reflection"]),
    align=flags,
)
def test_grid_sample(*, size, samples, reach, mode, padding, align) -> None:
    base = generator(f"{samples}").uniform(-reach, reach, (size[0], *samples, 2)).astype(np.float32)

    def function(x: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(x, grid, mode, padding, align)

    body = node("GridSample", "x, g", mode=mode, padding_mode=padding, align_corners=align)
    check(Case(body, function, {"g": base}, sizes=(size,), probe=(size[0], 24, 32)))


@pytest.mark.slow
@repeatable
@given(
    size=sizes,
    first=st.permutations("nchw"),
    second=st.lists(st.sampled_from("chdk"), unique=True),
    result=st.permutations("nchwdk"),
    how_many=st.integers(0, 6),
)
def test_einsum(*, size, first, second, result, how_many) -> None:
    """The transposed picture and a weight, which may share labels with it; height and width are not free here."""
    lengths = dict(zip("nchw", (size[0], 4, *size[1:]), strict=True)) | {"d": 3, "k": 2}
    kept = [c for c in result if c in {*first, *second}][:how_many]
    equation = f"{''.join(first)},{''.join(second)}->{''.join(kept)}"
    order = ["nchw".index(c) for c in first]
    body = f'{node("Transpose", "x", perm=tuple(order)).replace("y =", "t =")} y = Einsum<equation="{equation}">(t, k)'
    weight = normal(*(lengths[c] for c in second)) if second else np.float32(1.7)

    def function(x: Tensor, k: Tensor) -> Tensor:
        return torch.einsum(equation, x.permute(order), k)

    shape = ",".join(["N", "4", *(str(n) if c in second else c.upper() for c, n in zip("hw", size[1:], strict=True))])
    probe = (2, *(n if c in second else 20 + n for c, n in zip("hw", size[1:], strict=True)))
    check(Case(body, function, {"k": np.asarray(weight)}, shape, sizes=(size,), probe=probe))


@pytest.mark.slow
@fewer
@given(size=sizes, axis=st.integers(-4, 3), shape=st.lists(small, max_size=3), elements=flags)
def test_gather(*, size, axis, shape, elements) -> None:
    length = (size[0], 4, *size[1:])[axis]
    if elements:
        shape = [5 if a == axis % 4 else n for a, n in enumerate((1, 2, 3, 2))]
    places = generator(str(shape)).integers(-length, length, shape)

    def function(x: Tensor, i: Tensor) -> Tensor:
        i = i % length
        return x.gather(axis, i) if elements else x.index_select(axis, i.flatten()).unflatten(axis, shape or (1,))

    def reshaped(x: Tensor, i: Tensor) -> Tensor:
        return function(x, i) if elements or shape else function(x, i).squeeze(axis)

    body = node("GatherElements" if elements else "Gather", "x, i", axis=axis)
    check(Case(body, reshaped, {"i": places}, sizes=(size,), probe=(3, 24, 32)))


@pytest.mark.slow
@fewer
@given(size=sizes, axis=st.integers(-4, 3), add=flags, rows=small)
def test_scatter_elements(*, size, axis, add, rows) -> None:
    shape = (size[0], 4, *size[1:])
    rows = min(rows, shape[axis])
    places = generator("places").permutation(shape[axis])[:rows]

    def function(x: Tensor, *_: Tensor) -> Tensor:
        updates = x.narrow(axis % 4, 0, rows).exp()
        index = torch.from_numpy(places).reshape([-1 if a == axis % 4 else 1 for a in range(4)]).expand(updates.shape)
        return x.scatter_add(axis, index, updates) if add else x.scatter(axis, index, updates)

    body = "t = Slice(x, zero, rows, axis) u = Exp(t) s = Shape(u) i = Expand(p, s) "
    attributes = {"axis": axis, "reduction": "add" if add else "none"}
    weights = {"zero": ints(0), "rows": ints(rows), "axis": ints(axis)}
    weights["p"] = places.reshape([-1 if a == axis % 4 else 1 for a in range(4)])
    case = Case(body + node("ScatterElements", "x, i, u", **attributes), function, weights, sizes=(size,))
    check(replace(case, probe=(3, 24, 32)))


@pytest.mark.slow
@fewer
@given(size=sizes, axis=st.integers(-4, 3), exclusive=flags, backwards=flags)
def test_cum_sum(*, size, axis, exclusive, backwards) -> None:
    def function(x: Tensor, _: Tensor) -> Tensor:
        turned = x.flip(axis) if backwards else x
        sums = turned.cumsum(axis) - (turned if exclusive else 0)
        return sums.flip(axis) if backwards else sums

    body = node("CumSum", "x, a", exclusive=exclusive, reverse=backwards)
    check(Case(body, function, {"a": np.array(axis)}, sizes=(size,)))


@pytest.mark.slow
@fewer
@given(size=sizes, axis=st.integers(-3, -1), whole=flags)
def test_layer_normalization(*, size, axis, whole) -> None:
    weights = {name: normal(*([4, 1, 1][axis:] if whole else [1])) for name in ("s", "b")}
    size = (size[0], size[1] + 2, size[2] + 2)  # the deviation of few numbers may be almost 0

    def function(x: Tensor, s: Tensor, b: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[axis:]) * s + b

    check(Case(node("LayerNormalization", "x, s, b", axis=axis), function, weights, sizes=(size,)))


@pytest.mark.slow
@fewer
@given(size=sizes, axis=st.integers(-4, 3), p=st.integers(1, 2), ties=flags)
def test_lp_normalization(*, size, axis, p, ties) -> None:
    assume((size[0], 4, *size[1:])[axis] > 1)  # a number by its own size is constant
    draw = integers if ties else positive
    body = node("LpNormalization", "x", axis=axis, p=p)
    nonzero = np.abs(draw((size[0], 4, *size[1:]))).sum(axis).min() > 0
    assume(nonzero)  # torch divides by a small number there
    check(Case(body, lambda x: F.normalize(x, p, axis), draw=draw, sizes=(size,)))


@pytest.mark.slow
@fewer
@given(size=sizes, kernel=pairs, stride=strides, amounts=pads, auto=auto_pads, ceil=flags, p=st.integers(1, 3))
def test_lp_pool(*, size, kernel, stride, amounts, auto, ceil, p) -> None:
    stride, amounts, ceil = pooled(kernel, stride, amounts, auto, ceil)
    layout = Layout.of(size[1:], kernel, stride, amounts, auto=auto, ceil=ceil)
    if ceil:  # shape inference counts windows that start in the padding; onnxruntime believes it, but makes none
        reaches = zip(size[1:], layout.pads[:2], layout.pads[2:], kernel, stride, strict=True)
        assume(
            all(-(-(n + b + e - k) // s) + 1 == c for (n, b, e, k, s), c in zip(reaches, layout.counts, strict=True))
        )
    reachable = (*layout.pads[:2], layout.pads[2] + stride[0], layout.pads[3] + stride[1])

    def function(x: Tensor) -> Tensor:
        ones = x.new_ones(4, 1, *kernel)
        sums = F.conv2d(pad(x.abs() ** p, reachable), ones, None, stride, groups=4)
        return sums[:, :, : layout.counts[0], : layout.counts[1]] ** (1 / p)

    assume(bool((function(torch.ones(1, 4, *size[1:])) > 0).all()))  # no window sees only padding
    attributes = {"kernel_shape": kernel, "strides": stride, "ceil_mode": ceil, "p": p}
    check(Case(node("LpPool", "x", **attributes, **padding(auto, amounts)), function, sizes=(size,)))


@pytest.mark.slow
@fewer
@given(size=sizes, repeats=st.tuples(*[st.integers(1, 3)] * 4))
def test_tile(*, size, repeats) -> None:
    check(Case("y = Tile(x, r)", lambda x, _: x.tile(*repeats), {"r": ints(*repeats)}, sizes=(size,)))


@pytest.mark.slow
@fewer
@given(size=sizes, block=small, channels=st.integers(1, 3), to_depth=flags, mode=st.sampled_from(["DCR", "CRD"]))
def test_depth_and_space(*, size, block, channels, to_depth, mode) -> None:
    square = block * block

    def swapped(x: Tensor, sides: tuple[int, int]) -> Tensor:
        return x.unflatten(1, sides).transpose(1, 2).flatten(1, 2)

    if to_depth:
        fitting = (size[0], size[1] * block, size[2] * block)
        body, shape = node("SpaceToDepth", "x", blocksize=block), f"N,{channels},H,W"

        def function(x: Tensor) -> Tensor:
            return swapped(F.pixel_unshuffle(x, block), (channels, square))
    else:
        fitting = size
        body, shape = node("DepthToSpace", "x", blocksize=block, mode=mode), f"N,{channels * square},H,W"

        def function(x: Tensor) -> Tensor:
            return F.pixel_shuffle(swapped(x, (square, channels)) if mode == "DCR" else x, block)

    check(Case(body, function, input=shape, sizes=(fitting,), probe=(2, 24, 36)))


@pytest.mark.slow
@fewer
@given(
    size=sizes,
    operator=st.sampled_from(["ReduceProd", "ReduceLogSum", "ReduceLogSumExp"]),
    axes=st.sets(st.integers(-4, 3), min_size=1, max_size=2),
    keepdims=flags,
)
def test_products_and_logarithms(*, size, operator, axes, keepdims) -> None:
    axes = sorted({a % 4: a for a in axes}.values(), key=lambda a: -(a % 4))  # later axes first: prod takes one by one

    def function(x: Tensor, _: Tensor) -> Tensor:
        if operator == "ReduceLogSumExp":
            return x.logsumexp(axes, keepdim=keepdims)
        if operator == "ReduceLogSum":
            return x.sum(axes, keepdim=keepdims).log()
        for axis in axes:
            x = x.prod(axis % 4, keepdim=keepdims)
        return x

    def near_one(shape: tuple[int, ...]) -> np.ndarray:
        zeros = generator("zeros").random(shape) < 0.05 if operator == "ReduceProd" else 0
        return generator("x").uniform(0.7, 1.4, shape) * (1 - zeros)

    check(Case(node(operator, "x, a", keepdims=keepdims), function, {"a": ints(*axes)}, draw=near_one, sizes=(size,)))
