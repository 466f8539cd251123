"""The derivative rules of the less common operators, against torch's float64 autograd, as in test_rules.py.

Then: attention as torch exports it, the tables of operators without a rule, and a case for every rule.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx.defs import get_all_schemas_with_history
from torch import Tensor

from helpers.gradients import (
    Case,
    case,
    check,
    check_slope,
    floats,
    generator,
    gradient_model,
    integers,
    ints,
    normal,
    pad,
    positive,
    same,
    scalar,
)
from helpers.rule_cases import CASES, MAX, OVER, PARTS, broadcast, reductions_of
from onnxdream.autodiff import rules  # noqa: F401  (registers every rule)
from onnxdream.autodiff.registry import NON_DIFFERENTIABLE, RULES, UNSUPPORTED
from onnxdream.errors import NoGradientError
from onnxdream.graph.shapes import OPSET


def within(shape: tuple[int, ...]) -> np.ndarray:
    """-0.9 … 0.9."""
    return generator("x").uniform(-0.9, 0.9, shape)


def distinct(shape: tuple[int, ...]) -> np.ndarray:
    """No two numbers are alike."""
    return generator("x").permutation(int(np.prod(shape))).reshape(shape) / 100 - 1


def beyond_one(shape: tuple[int, ...]) -> np.ndarray:
    return generator("x").uniform(1.1, 3, shape)


SHRUNK = "<lambd=1.5, bias=0.5>"
# The tables have a row for each case, which the formatter would spread over many.
# fmt: off
ELEMENTWISE = [
    case("y = Selu(x)", F.selu, draw=integers),
    case("y = Selu<alpha=1.5, gamma=2.0>(x)", lambda x: 2 * F.elu(x, 1.5), draw=integers),
    case("y = Celu(x)", F.celu, draw=integers),
    case("y = Celu<alpha=0.4>(x)", lambda x: F.celu(x, 0.4), draw=integers),
    case("y = Gelu(x)", F.gelu, opset=20),
    case('y = Gelu<approximate="tanh">(x)', lambda x: F.gelu(x, approximate="tanh"), opset=20),
    case("y = Mish(x)", F.mish),
    case("y = Swish<alpha=1.7>(x)", lambda x: x * (1.7 * x).sigmoid(), opset=24, onnxruntime=False),
    case("y = Swish(x)", F.silu, opset=24, onnxruntime=False),
    case("y = ThresholdedRelu(x)", lambda x: F.threshold(x, 1, 0), draw=integers),
    case("y = ThresholdedRelu<alpha=-2.0>(x)", lambda x: F.threshold(x, -2, 0), draw=integers),
    case("y = Shrink(x)", F.hardshrink, draw=integers),
    case("y = Shrink<lambd=2.0, bias=2.0>(x)", lambda x: F.softshrink(x, 2), draw=integers),
    case(f"y = Shrink{SHRUNK}(x)", lambda x: torch.where(x.abs() > 1.5, x - 0.5 * x.sign(), 0.0), draw=integers),
    case("y = Tan(x)", torch.tan, draw=within),
    case("y = Asin(x)", torch.asin, draw=within),
    case("y = Acos(x)", torch.acos, draw=within),
    case("y = Atan(x)", torch.atan),
    case("y = Sinh(x)", torch.sinh),
    case("y = Cosh(x)", torch.cosh),
    case("y = Asinh(x)", torch.asinh),
    case("y = Acosh(x)", torch.acosh, draw=beyond_one),
    case("y = Atanh(x)", torch.atanh, draw=within),
    *broadcast("Mod<fmod=1>", torch.fmod),
    case("y = Mod<fmod=1>(x, k)", torch.fmod, "Mod, negative", k=scalar(-0.7)),
    case("y = CastLike(x, k)", lambda x, _: x * 1, k=scalar(1)),
    case("d = CastLike(x, k) e = Mul(d, k) y = CastLike(e, x)", lambda x, k: x * k, "CastLike, double",
         k=np.array(3.0)),
    case("i = CastLike(x, k) j = CastLike(i, x) y = Mul(j, x)", lambda x, _: x.trunc().detach() * x,
         "CastLike, integer", k=ints(1)),
    case("h = Hardmax<axis=1>(x) y = Mul(h, x)",
         lambda x: F.one_hot(x.argmax(1), 4).permute(0, 3, 1, 2) * x, "Hardmax", draw=distinct),
]
# fmt: on


def mean_variance(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return (x - x.mean(axes, keepdim=True)) / (x.std(axes, correction=0, keepdim=True) + 1e-9)


def group_norm(x: Tensor, scale: Tensor, bias: Tensor, groups: int, epsilon: float = 1e-5) -> Tensor:
    """With a scale and a bias for each group."""
    each = x.shape[1] // groups
    return F.group_norm(x, groups, scale.repeat_interleave(each), bias.repeat_interleave(each), epsilon)


def styled(x: Tensor) -> Tensor:
    """Instance normalisation with the scale and bias that the picture itself gives."""
    style = x.mean((0, 2, 3))
    return F.instance_norm(x, weight=style.exp(), bias=style)


TOKENS = "r = Reshape(x, s) t = Transpose<perm=[0,2,1]>(r) "


def tokens(x: Tensor) -> Tensor:
    """[N, HW, 4]."""
    return x.flatten(2).mT


# fmt: off
NORMS = [
    case("y = InstanceNormalization<epsilon=0.01>(x, s, b)",
         lambda x, s, b: F.instance_norm(x, weight=s, bias=b, eps=0.01), s=(4,), b=(4,)),
    case("y = InstanceNormalization(x, s, b)", lambda x, s, b: F.instance_norm(x, weight=s, bias=b), "1-D", s=(4,),
         b=(4,), input="N,4,W"),
    case(PARTS + "e = Exp(vector) y = InstanceNormalization(x, e, vector)", lambda x, *_: styled(x),
         "InstanceNormalization, styled", **OVER),
    case("y = GroupNormalization<num_groups=2, epsilon=0.01>(x, s, b)",
         lambda x, s, b: group_norm(x, s, b, 2, 0.01), s=(2,), b=(2,), onnxruntime=False),
    case("y = GroupNormalization<num_groups=1>(x, s, b)", lambda x, s, b: group_norm(x, s, b, 1), s=(1,), b=(1,),
         input="N,4,W", onnxruntime=False),
    case("y = GroupNormalization<num_groups=2>(x, s, b)", lambda x, s, b: F.group_norm(x, 2, s, b), opset=21, s=(4,),
         b=(4,)),
    case("y = GroupNormalization<num_groups=4>(x, s, b)", lambda x, s, b: F.group_norm(x, 4, s, b), opset=21, s=(4,),
         b=(4,)),
    case(TOKENS + "y = LayerNormalization(t, k, b)", lambda x, s, k, b: F.layer_norm(tokens(x), (4,), k, b),
         "LayerNormalization of tokens", s=ints(0, 4, -1), k=(4,), b=(4,)),
    case("y = LayerNormalization<axis=1, epsilon=0.01>(x, k)",
         lambda x, k: F.layer_norm(x, x.shape[1:], eps=0.01) * k, k=(4, 1, 1)),
    case("y = LayerNormalization<axis=-2>(x, k, b)", lambda x, k, b: F.layer_norm(x, x.shape[2:]) * k + b, k=(1,),
         b=(1, 1)),
    case("m = ReduceMean<keepdims=0>(x, lead) e = Exp(m) y = LayerNormalization<axis=2>(x, e, m)",
         lambda x, _: F.layer_norm(x, x.shape[2:], x.mean((0, 1)).exp(), x.mean((0, 1))),
         "LayerNormalization, styled", lead=ints(0, 1)),
    case("y = MeanVarianceNormalization<axes=[0,2,3]>(x)", lambda x: mean_variance(x, (0, 2, 3))),
    case("y = MeanVarianceNormalization<axes=[0,1,2,3]>(x)", lambda x: mean_variance(x, (0, 1, 2, 3))),
    case("y = MeanVarianceNormalization<axes=[2,3]>(x)", lambda x: mean_variance(x, (2, 3)), onnxruntime=False),
    case("y = LpNormalization(x)", lambda x: F.normalize(x, dim=-1)),
    case("y = LpNormalization<axis=1, p=1>(x)", lambda x: F.normalize(x, 1, dim=1)),
    case("y = LpNormalization<axis=-3, p=2>(x)", lambda x: F.normalize(x, dim=1)),
]
# fmt: on


def lp_pool(x: Tensor, p: int, kernel: tuple[int, ...], stride: int | tuple[int, ...] = 1, dilation: int = 1) -> Tensor:
    """(Σ |x|^p)^(1/p) over windows."""
    sums = F.conv2d(x.abs() ** p, x.new_ones(4, 1, *kernel), None, stride, 0, dilation, groups=4)
    return sums ** (1 / p)


# fmt: off
POOLS = [
    case("y = LpPool<kernel_shape=[3,2], strides=[2,1]>(x)", lambda x: lp_pool(x, 2, (3, 2), (2, 1))),
    case("y = LpPool<kernel_shape=[3,3], p=1, pads=[1,0,1,2]>(x)", lambda x: lp_pool(pad(x, (1, 0, 1, 2)), 1, (3, 3))),
    case("y = LpPool<kernel_shape=[2,3], p=3, pads=[1,0,0,1], strides=[2,2]>(x)",
         lambda x: lp_pool(pad(x, (1, 0, 0, 1)), 3, (2, 3), 2)),
    case("y = LpPool<kernel_shape=[2,2], dilations=[2,2]>(x)", lambda x: lp_pool(x, 2, (2, 2), 1, 2)),
    case('y = LpPool<kernel_shape=[3,4], strides=[2,2], auto_pad="SAME_UPPER">(x)',
         lambda x: lp_pool(same(x, (3, 4), (2, 2)), 2, (3, 4), 2)),
    case('y = LpPool<kernel_shape=[3,4], strides=[2,2], auto_pad="SAME_LOWER", p=3>(x)',
         lambda x: lp_pool(same(x, (3, 4), (2, 2), lower=True), 3, (3, 4), 2)),
    case("y = LpPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)",
         lambda x: lp_pool(pad(x, (0, 0, (x.shape[2] - 3) % 2, (x.shape[3] - 3) % 2)), 2, (3, 3), 2)),
    case("y = GlobalLpPool(x)", lambda x: torch.linalg.vector_norm(x, 2, (2, 3), keepdim=True)),
    case("y = GlobalLpPool<p=1>(x)", lambda x: x.abs().sum((2, 3), keepdim=True)),
    case("y = GlobalLpPool<p=3>(x)", lambda x: torch.linalg.vector_norm(x, 3, (2, 3), keepdim=True)),
]
# fmt: on


def product(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdim)
    return x


def near_one(shape: tuple[int, ...]) -> np.ndarray:
    return generator("x").uniform(0.7, 1.4, shape)


def with_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Rows with no zero, one and more."""
    return near_one(shape) * (generator("zeros").random(shape) > 0.1)


# fmt: off
REDUCTIONS = [
    *reductions_of("ReduceProd", product, near_one),
    *reductions_of("ReduceLogSum", lambda x, axes, keepdim: x.sum(axes, keepdim=keepdim).log(), positive),
    *reductions_of("ReduceLogSumExp", torch.logsumexp, integers),
    case("y = ReduceProd(x, a)", lambda x, _: product(x, (3,), True), "ReduceProd, zeros", draw=with_zeros, a=ints(3)),
    case("y = ReduceProd(x, a)", lambda x, _: product(x, (1, 2), True), "ReduceProd, zeros, two axes", draw=with_zeros,
         a=ints(1, 2)),
    case("y = CumSum(x, a)", lambda x, _: x.cumsum(2), a=np.array(2)),
    case("y = CumSum<reverse=1>(x, a)", lambda x, _: x.flip(3).cumsum(3).flip(3), a=np.array(-1, np.int32)),
    case("y = CumSum<exclusive=1>(x, a)", lambda x, _: x.cumsum(1) - x, a=np.array(1)),
    case("y = CumSum<exclusive=1, reverse=1>(x, a)", lambda x, _: x.flip(2).cumsum(2).flip(2) - x, a=np.array(2)),
]
# fmt: on


def einsum(equation: str, operands: str = "x", **weights) -> object:
    """Of x, the picture again as e = exp(x), and weights."""

    def compare(x: Tensor, *given: Tensor) -> Tensor:
        known = {"x": x, "e": x.exp()} | dict(zip(weights, given, strict=True))
        return torch.einsum(equation, *(known[name] for name in operands.split(", ")))

    body = f'e = Exp(x) y = Einsum<equation="{equation}">({operands})'
    return case(body, compare, f"Einsum {equation}", **weights)


# fmt: off
EINSUMS = [
    einsum("nchw->nhwc"),
    einsum("nchw->nc"),
    einsum("nchw->"),
    einsum("nchw->cw"),
    einsum("nchw"),
    einsum("zyab"),
    einsum("nchw,dc->ndhw", "x, k", k=(5, 4)),
    einsum("nchw, nchv -> nhwv", "x, e"),
    einsum("nchw,nchw->", "x, e"),
    einsum("nchw,nchw->nchw", "x, x"),
    einsum("nchw,ndhw->ncd", "x, e"),
    einsum("nchw,kc", "x, k", k=(5, 4)),
    einsum("nchw,cd,dn->hw", "x, k, l", k=(4, 3), l=(3, 1)),
    einsum("nchw,k->nc", "x, k", k=(3,)),
    einsum("...hw->...wh"),
    einsum("...hw,...hv->...wv", "x, e"),
    einsum("n...,d...->nd...", "x, k", k=(2, 4, 1, 1)),
    einsum("...hw,...->...h", "x, k", k=(1, 4)),
    einsum("...hw,k...", "x, k", k=(3, 1, 4)),
    einsum("...", "x"),
    einsum("nchw,c->", "x, k", k=(4,)),
]
# fmt: on


def reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """[time, batch, ...] with the first samples of each batch in reverse."""
    return torch.stack([torch.cat([x[:n, i].flip(0), x[n:, i]]) for i, n in enumerate(lengths)], 1)


MASK = np.array([True, False, True, True])
WEAVE = np.array([[2, 0, 1, 3], [0, 0, 3, 1], [1, 2, 2, 0]])


def scattered(x: Tensor, updates: Tensor, add: bool) -> Tensor:
    """x with updates at rows 3 and 1."""
    rows = torch.tensor([3, 1])[None, None, :, None].expand(updates.shape)
    return x.scatter_add(2, rows, updates) if add else x.scatter(2, rows, updates)


ROWS = "t = Slice(x, zero, two, a) u = Exp(t) s = Shape(u) r = Expand(q, s) "
ROW_WEIGHTS = {"zero": ints(0), "two": ints(2), "a": ints(2), "q": ints(3, 1).reshape(1, 1, 2, 1)}
# The first two pictures' planes [0, 1] and [2, 3] of one picture.
PLANES = {"i": np.array([[0, 3], [0, 1]])}
ONE = ((1, 7, 10), (1, 13, 9))


def planes(x: Tensor, updates: Tensor, add: bool) -> Tensor:
    return x.index_put((torch.tensor([0, 0]), torch.tensor([3, 1])), updates, accumulate=add)


# fmt: off
GATHERS = [
    case("y = Gather<axis=1>(x, i)", lambda x, i: x[:, i], "Gather one", i=np.array(2)),
    case("y = Gather<axis=1>(x, i)", lambda x, i: x[:, i], "Gather, twice the same", i=ints(2, 0, -1, 2)),
    case("y = Gather<axis=-1>(x, i)", lambda x, i: x[..., i], "Gather [2,3]", i=np.array([[0, 5, 1], [-2, 5, 5]])),
    case("y = Gather<axis=2>(x, i)", lambda x, i: x[:, :, i.long()], "Gather, int32", i=np.array([[3], [1]], np.int32)),
    case("y = Gather(x, i)", lambda x, i: x[i], "Gather, batch", i=ints(0, 0)),
    case("s = Shape<start=2, end=3>(x) i = Sub(s, one) y = Gather<axis=2>(x, i)", lambda x, _: x[:, :, -1:],
         "Gather, computed", one=ints(1)),
    case("y = GatherElements<axis=1>(x, i)", lambda x, i: x.gather(1, i % 4), "GatherElements",
         i=np.array([2, 2, -1]).reshape(1, 3, 1, 1)),
    case("s = Shape(x) r = Expand(i, s) y = GatherElements<axis=-3>(x, r)", lambda x, i: x.gather(1, i.expand(x.shape)),
         "GatherElements, all", i=np.array([2, 2, 1, 0]).reshape(1, 4, 1, 1)),
    case("y = GatherND(x, i)", lambda x, i: x[i[:, 0], i[:, 1]], "GatherND", i=np.array([[0, 2], [0, 1], [0, 2]])),
    case("y = GatherND(x, i)", lambda x, i: x[0, 1, i[..., 2], i[..., 3]], "GatherND to numbers",
         i=np.array([[[0, 1, 3, 4], [0, 1, 2, 2]], [[0, 1, 3, 4], [0, 1, -1, 0]]])),
    case("y = GatherND<batch_dims=1>(x, i)", lambda x, i: x[:, i[0, :, 0], i[0, :, 1]], "GatherND, batch_dims",
         i=np.array([[[1, 3], [0, 2], [1, 3]]]), sizes=ONE, probe=(1, 24, 32)),
    case("t = Transpose<perm=[1,0,2,3]>(x) y = GatherND<batch_dims=1>(t, i)", lambda x, i: x[0, range(4), i[:, 1]],
         "GatherND, batch_dims 1", i=np.array([[0, 2], [0, 1], [0, 2], [0, 6]]), sizes=ONE, probe=(1, 24, 32)),
    case("y = Compress<axis=1>(x, m)", lambda x, m: x[:, m], "Compress", m=MASK),
    case("y = Compress<axis=-2>(x, m)", lambda x, m: x[:, :, : len(m)][:, :, m], "Compress, shorter", m=MASK),
    case("y = Compress(x, m)", lambda x, m: x.flatten()[: len(m)][m], "Compress, flat", m=MASK),
    case("y, i = TopK(x, k)", lambda x, _: x.topk(3).values, k=ints(3), draw=distinct),
    case("y, i = TopK<axis=1, largest=0>(x, k)", lambda x, _: x.topk(2, 1, False).values, k=ints(2), draw=distinct),
    case("v, i = TopK<axis=2>(x, k) f = Cast<to=1>(i) y = Mul(v, f)",
         lambda x, _: x.topk(4, 2).values * x.topk(4, 2).indices, "TopK, both", k=ints(4), draw=distinct),
    case(ROWS + "y = ScatterElements<axis=2>(x, r, u)", lambda x, *_: scattered(x, x[:, :, :2].exp(), False),
         "ScatterElements", **ROW_WEIGHTS),
    case(ROWS + 'y = ScatterElements<axis=-2, reduction="add">(x, r, u)',
         lambda x, *_: scattered(x, x[:, :, :2].exp(), True), "ScatterElements add", **ROW_WEIGHTS),
    case("t = Slice(x, zero, two, a) u = Exp(t) p = Squeeze(u, b) y = ScatterND(x, i, p)",
         lambda x, *_: planes(x, x[0, :2].exp(), False), "ScatterND", zero=ints(0), two=ints(2), a=ints(1), b=ints(0),
         **PLANES, sizes=ONE, probe=(1, 24, 32)),
    case('t = Slice(x, zero, two, a) u = Exp(t) p = Squeeze(u, b) y = ScatterND<reduction="add">(x, i, p)',
         lambda x, *_: planes(x, x[0, :2].exp(), True), "ScatterND add", zero=ints(0), two=ints(2), a=ints(1),
         b=ints(0), **{"i": np.array([[0, 3], [0, 1]])}, sizes=ONE, probe=(1, 24, 32)),
]

MOVES = [
    case("y = Tile(x, r)", lambda x, _: x.tile(1, 2, 1, 3), r=ints(1, 2, 1, 3)),
    case("y = Tile(x, r)", lambda x, _: x.tile(2, 1, 3, 1), "Tile, batch", r=ints(2, 1, 3, 1)),
    case("s = Shape<start=1, end=2>(x) r = Concat<axis=0>(one, one, s, one) y = Tile(x, r)",
         lambda x, _: x.tile(1, 1, 4, 1), "Tile, computed", one=ints(1)),
    case("y = DepthToSpace<blocksize=2>(x)",
         lambda x: F.pixel_shuffle(x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2), 2), input="N,12,H,W"),
    case('y = DepthToSpace<blocksize=2, mode="CRD">(x)', lambda x: F.pixel_shuffle(x, 2), input="N,12,H,W"),
    case("y = SpaceToDepth<blocksize=3>(x)",
         lambda x: F.pixel_unshuffle(x, 3).unflatten(1, (4, 9)).transpose(1, 2).flatten(1, 2),
         sizes=((1, 9, 12), (2, 6, 15)), probe=(2, 24, 33)),
    case("y = Trilu(x)", torch.triu),
    case("y = Trilu<upper=0>(x, k)", lambda x, _: x.tril(-2), k=np.array(-2)),
    case("y = Trilu(x, k)", lambda x, _: x.triu(3), k=np.array(3)),
    case("t = Transpose<perm=[2,1,0,3]>(x) y = ReverseSequence(t, n)", lambda x, n: reverse(x.permute(2, 1, 0, 3), n),
         "ReverseSequence", n=ints(1, 3, 7, 4)),
    case("t = Transpose<perm=[1,2,0,3]>(x) y = ReverseSequence<batch_axis=0, time_axis=1>(t, n)",
         lambda x, n: reverse(x.permute(2, 1, 0, 3), n).transpose(0, 1), "ReverseSequence, batch first",
         n=ints(1, 3, 7, 4)),
]

TURNED = "t = Transpose<perm=[0,2,3,1]>(x) {} y = Transpose<perm=[0,3,1,2]>(u)"
# Transposes on both sides: onnxruntime moves them through a Pad, and takes its amounts for those of all axes.
TURNS = [
    case(TURNED.format("u = Slice(t, b, e, a)"), lambda x, *_: x[:, :, 1:], "Slice between transposes", b=ints(1),
         e=ints(MAX), a=ints(1)),
    case(TURNED.format("u = Slice(t, b, e, a)"), lambda x, *_: x[:, 1:, :, 2:], "Slices between transposes",
         b=ints(2, 1), e=ints(MAX, MAX), a=ints(-2, 3)),
    case(TURNED.format("u = Slice(t, b, e, a, s)"), lambda x, *_: x[:, :, ::2], "steps between transposes", b=ints(0),
         e=ints(MAX), a=ints(1), s=ints(2)),
    case(TURNED.format("u = Pad(t, p)"), lambda x, _: pad(x, (1, 0, 2, 3)), "Pad between transposes",
         p=ints(0, 1, 0, 0, 0, 2, 3, 0)),
    case("u = Pad(x, p, , a) y = Exp(u)", lambda x, *_: pad(x, (2, 1, 0, 1)).exp(), "Pad, axes in any order",
         p=ints(1, 2, 1, 0), a=ints(3, -2)),
]

CUBIC = {"mode": "bicubic"}
ASYMMETRIC = 'coordinate_transformation_mode="asymmetric"'
RESIZES = [
    case('y = Resize<mode="cubic", cubic_coeff_a=-0.5, antialias=1, exclude_outside=1, axes=[2,3]>(x, , , s)',
         lambda x, _: F.interpolate(x, size=(5, 4), antialias=True, **CUBIC), "cubic, antialias", s=ints(5, 4)),
    case('y = Resize<mode="cubic", coordinate_transformation_mode="align_corners", axes=[2,3]>(x, , , s)',
         lambda x, _: F.interpolate(x, size=(12, 7), align_corners=True, **CUBIC), "cubic, align_corners",
         s=ints(12, 7)),
    case('y = Resize<mode="cubic", exclude_outside=1>(x, , k)', lambda x, _: x @ cubic_excluding(x.shape[3], 2).T,
         "cubic, exclude_outside", k=floats(1, 1, 1, 2)),
    case('y = Resize<mode="linear">(x, , k)', lambda x, _: F.interpolate(x, scale_factor=2, mode="trilinear"), "3-D",
         k=floats(1, 1, 2, 2, 2), input="N,4,3,H,W"),
    case('y = Resize<mode="linear", axes=[2,3,4]>(x, , , s)',
         lambda x, _: F.interpolate(x, size=(5, 8, 6), mode="trilinear"), "3-D, sizes", s=ints(5, 8, 6),
         input="N,4,3,H,W", sizes=((1, 7, 9), (2, 5, 6))),
    case(f'y = Resize<mode="nearest", nearest_mode="floor", {ASYMMETRIC}>(x, , k)',
         lambda x, _: x.repeat_interleave(3, 1), "along the channels", k=floats(1, 3, 1, 1)),
    case('t = Transpose<perm=[0,2,3,1]>(x) '
         f'y = Resize<mode="nearest", nearest_mode="floor", {ASYMMETRIC}>(t, , k)',
         lambda x, _: F.interpolate(x, scale_factor=2).permute(0, 2, 3, 1), "channels last", k=floats(1, 2, 2, 1)),
    case("y = Upsample(x, k)", lambda x, _: F.interpolate(x, scale_factor=2), "Upsample", k=floats(1, 1, 2, 2),
         opset=9),
    case('y = Upsample<mode="linear">(x, k)', lambda x, _: x @ asymmetric(x.shape[3]).T, "Upsample, linear",
         k=floats(1, 1, 1, 2), opset=9),
    case('y = Resize<mode="linear">(x, k)', lambda x, _: x @ asymmetric(x.shape[3]).T, "linear, opset 10",
         k=floats(1, 1, 1, 2), opset=10),
    case("y = Resize(x, k)", lambda x, _: F.interpolate(x, scale_factor=(1, 1.5)), "nearest, opset 10",
         k=floats(1, 1, 1, 1.5), opset=10),
]
# fmt: on


def cubic_excluding(n: int, scale: int) -> Tensor:
    """The matrix of cubic interpolation (a = -0.75) whose weights outside the picture go to those inside."""
    matrix = np.zeros((n * scale, n))
    for row, at in enumerate((np.arange(n * scale) + 0.5) / scale - 0.5):
        distance = np.abs(np.arange(n) - at)
        near = ((1.25 * distance - 2.25) * distance) * distance + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        matrix[row] = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    return torch.from_numpy(matrix / matrix.sum(1, keepdims=True))


def asymmetric(n: int) -> Tensor:
    """The matrix to twice as many samples: each, then its mean with the next; the last is repeated."""
    matrix = np.zeros((2 * n, n))
    for i in range(n):
        matrix[2 * i, i] = 1
        for at in (i, min(i + 1, n - 1)):
            matrix[2 * i + 1, at] += 0.5
    return torch.from_numpy(matrix)


def sampled(mode: str, padding: str, align: int, onto: str = "x") -> object:
    """A grid that reaches far beyond the picture; `onto` "g" makes it depend on the picture instead."""
    attributes = f'mode="{mode}", padding_mode="{padding}", align_corners={align}'

    def compare(x: Tensor, *weights: Tensor) -> Tensor:
        *_, base = weights
        flow = x[:, :2].permute(0, 2, 3, 1) if onto == "both" else torch.zeros(1, dtype=x.dtype)
        grid = flow * 0.7 + (base if onto == "both" else base.expand(len(x), -1, -1, -1))
        return F.grid_sample(x, grid, mode, padding, bool(align))

    if onto == "both":
        body = "f = Slice(x, zero, two, one) t = Transpose<perm=[0,2,3,1]>(f) h = Mul(t, k) g = Add(h, b)"
        weights = {"zero": ints(0), "two": ints(2), "one": ints(1), "k": scalar(0.7), "b": floats(0.21, -0.33)}
    else:
        body = "n = Shape<end=1>(x) s = Concat<axis=0>(n, r) g = Expand(b, s)"
        weights = {"r": ints(5, 6, 2), "b": generator("grid").uniform(-2.7, 2.7, (1, 5, 6, 2)).astype(np.float32)}
    name = f"GridSample {mode}, {padding}, {'aligned' if align else 'not aligned'}, {onto}"
    return case(f"{body} y = GridSample<{attributes}>(x, g)", compare, name, **weights)


PADDINGS = ("zeros", "border", "reflection")
SAMPLES = [
    *(sampled(mode, padding, align) for mode in ("bilinear", "nearest") for padding in PADDINGS for align in (0, 1)),
    *(sampled("bilinear", padding, align, "both") for padding in PADDINGS for align in (0, 1)),
    sampled("nearest", "border", 0, "both"),
]


def fake(x: Tensor, scale: float, zero: int, low: int = 0, high: int = 255) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, low, high)


def wide(shape: tuple[int, ...]) -> np.ndarray:
    """Past both ends of 8 bits at a scale of 0.02."""
    return generator("x").normal(size=shape) * 2.5


def dynamic_scale(x: Tensor) -> Tensor:
    low, high = x.detach().min().clamp(max=0), x.detach().max().clamp(min=0)
    return (high - low) / 255


def dynamic(x: Tensor) -> Tensor:
    """x in 256 levels between its extremes, and its gradient straight through them."""
    scale = dynamic_scale(x)
    zero = (-x.detach().min().clamp(max=0) / scale).round()
    levels = (x.detach() / scale).round() + zero
    return x + ((levels.clamp(0, 255) - zero) * scale - x).detach()


def dynamic_conv(x: Tensor, k: Tensor, v: Tensor, z: Tensor, b: Tensor) -> Tensor:
    weight = (k - z[:, None, None, None].double()) * v
    return F.conv2d(dynamic(x), weight, padding=1, stride=2) + b


SCALES = floats(0.02, 0.03, 0.01, 0.05)
DYNAMIC = "q, s, z = DynamicQuantizeLinear(x)"
# fmt: off
QUANTISED = [
    case("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)", lambda x, *_: fake(x, 0.02, 100), "uint8",
         s=scalar(0.02), z=np.array(100, np.uint8), draw=wide),
    case("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
         lambda x, *_: fake(x, 0.02, -7, -128, 127), "int8", s=scalar(0.02), z=np.array(-7, np.int8), draw=wide),
    case("q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)", lambda x, *_: fake(x, 0.02, 0), "no zero point",
         s=floats(0.02), draw=wide),
    case("q = QuantizeLinear<axis=-3>(x, s, z) y = DequantizeLinear<axis=1>(q, s, z)",
         lambda x, s, z: torch.fake_quantize_per_channel_affine(x, s.float(), z.int(), 1, -128, 127),
         "for each channel", s=SCALES, z=np.array([0, 5, -9, 3], np.int8), draw=wide),
    case("q = QuantizeLinear(x, s, z) t = Transpose<perm=[0,2,3,1]>(q) a, b = Split<axis=-1, num_outputs=2>(t) "
         "c = Concat<axis=1>(a, b) y = DequantizeLinear(c, s, z)",
         lambda x, *_: torch.cat(fake(x, 0.02, 100).permute(0, 2, 3, 1).chunk(2, -1), 1), "moved as integers",
         s=scalar(0.02), z=np.array(100, np.uint8), draw=wide),
    case("q = QuantizeLinear(x, s, z) t = Transpose(q) a, b = Split<axis=2, num_outputs=2>(t) "
         "y = DequantizeLinear(a, s, z)",
         lambda x, *_: fake(x, 0.02, 100).permute(3, 2, 1, 0)[:, :, :2], "half of it", s=scalar(0.02),
         z=np.array(100, np.uint8), draw=wide),
    case("q = QuantizeLinear(x, s, z) g = Gather<axis=1>(q, i) p = Pad(g, e, z) c = Cast<to=1>(p) d = Cast<to=1>(z) "
         "f = Sub(c, d) y = Mul(f, s)",
         lambda x, *_: pad(fake(x, 0.02, 100)[:, [2, 0, 2]], (1, 0, 0, 2)), "dequantised by hand", s=scalar(0.02),
         z=np.array(100, np.uint8), i=ints(2, 0, 2), e=ints(0, 0, 1, 0, 0, 0, 0, 2), draw=wide),
    case("q = QuantizeLinear(x, s, z) e = DequantizeLinear(q, s, z) w = DequantizeLinear<axis=0>(k, v) "
         "c = Conv(e, w) a = Relu(c) r = QuantizeLinear(a, t) y = DequantizeLinear(r, t)",
         lambda x, s, z, k, v, t: fake(F.conv2d(fake(x, 0.02, 100), k * v[:, None, None, None]).relu(), 0.07, 0),
         "a quantised convolution",
         s=scalar(0.02), z=np.array(100, np.uint8),
         k=generator("k").integers(-128, 128, (3, 4, 2, 3)).astype(np.int8), v=floats(0.01, 0.02, 0.005),
         t=scalar(0.07), draw=wide),
    case(f"{DYNAMIC} y = DequantizeLinear(q, s, z)", dynamic, "dynamic", draw=wide),
    case(f"{DYNAMIC} i = ConvInteger<strides=[2,2], pads=[1,1,1,1]>(q, k, z, p) c = Cast<to=1>(i) f = Mul(s, v) "
         "m = Mul(c, f) y = Add(m, b)", dynamic_conv, "dynamic convolution",
         k=generator("k").integers(-128, 128, (3, 4, 3, 3)).astype(np.int8), v=scalar(0.01),
         p=np.array([0, 3, -2], np.int8), b=(1, 3, 1, 1), draw=wide),
    case(f"{DYNAMIC} j = MatMulInteger(q, k, z, p) i = Add(j, e) c = Cast<to=1>(i) f = Mul(s, v) y = Mul(c, f)",
         lambda x, k, p, e, v: dynamic(x) @ ((k.double() - p) * v) + e * v * dynamic_scale(x), "dynamic product",
         k=generator("k").integers(-128, 128, (4, 5)).astype(np.int8), p=np.array([0, 3, -2, 1, 0], np.int8),
         e=np.array([90, -300, 0, 7, 500], np.int32), v=floats(0.01, 0.02, 0.01, 0.03, 0.01), input="N,3,W,4",
         draw=wide),
]
# fmt: on

# Multi-head self-attention over the places of the picture, as torch.nn.MultiheadAttention is exported: 2 heads of 3.
ATTENTION = """
    r = Reshape(x, s) t = Transpose<perm=[0,2,1]>(r) n = LayerNormalization(t, one, zero)
    m = MatMul(n, w) p = Add(m, b) q, k, v = Split<axis=-1, num_outputs=3>(p)
    q4 = Reshape(q, h) k4 = Reshape(k, h) v4 = Reshape(v, h)
    qt = Transpose<perm=[0,2,1,3]>(q4) kt = Transpose<perm=[0,2,3,1]>(k4) vt = Transpose<perm=[0,2,1,3]>(v4)
    qs = Mul(qt, c) a = MatMul(qs, kt) l = Softmax<axis=-1>(a) o = MatMul(l, vt)
    ot = Transpose<perm=[0,2,1,3]>(o) of = Reshape(ot, f) z = MatMul(of, u) y = Add(t, z)
"""


def attention(x: Tensor, w: Tensor, b: Tensor, u: Tensor) -> Tensor:
    t = tokens(x)
    parts = (F.layer_norm(t, (4,)) @ w + b).chunk(3, -1)
    q, k, v = (part.unflatten(-1, (2, 3)).transpose(1, 2) for part in parts)
    return t + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2) @ u


# Swin: the picture rolled, cut into windows of 3x3, attention with a bias for each offset of two places, and back.
ROLLED = """
    xa = Slice(x, one1, max1, axis2) xb = Slice(x, zero1, one1, axis2) xr = Concat<axis=2>(xa, xb)
    xc = Slice(xr, one1, max1, axis3) xd = Slice(xr, zero1, one1, axis3) xs = Concat<axis=3>(xc, xd)
"""
WINDOWS = f"""
    {ROLLED} x6 = Reshape(xs, six) xw = Transpose<perm=[0,2,4,3,5,1]>(x6) win = Reshape(xw, flat)
    wt = Transpose<perm=[0,2,1]>(win) sc = MatMul(win, wt)
    i = Reshape(index, any) g = Gather(table, i) gb = Reshape(g, nine) sb = Add(sc, gb)
    at = Softmax<axis=-1>(sb) aw = MatMul(at, win)
    a6 = Reshape(aw, back) at6 = Transpose<perm=[0,5,1,3,2,4]>(a6) y = Reshape(at6, whole)
"""


def offsets() -> np.ndarray:
    """[9, 9]: which of the 5x5 offsets lies between two places of a 3x3 window."""
    places = np.stack(np.meshgrid(range(3), range(3), indexing="ij"), -1).reshape(9, 2)
    delta = places[:, None] - places[None] + 2
    return delta[..., 0] * 5 + delta[..., 1]


WINDOW_WEIGHTS = {
    **{"one1": ints(1), "zero1": ints(0), "max1": ints(MAX), "axis2": ints(2), "axis3": ints(3)},
    **{"six": ints(-1, 4, 3, 3, 4, 3), "flat": ints(-1, 9, 4), "any": ints(-1), "nine": ints(9, 9)},
    **{"back": ints(-1, 3, 4, 3, 3, 4), "whole": ints(-1, 4, 9, 12)},
    **{"index": offsets(), "table": normal(25)},
}


def window_attention(x: Tensor, *weights: Tensor) -> Tensor:
    index, table = weights[-2:]
    n, _, height, width = x.shape
    split = x.roll((-1, -1), (2, 3)).reshape(n, 4, height // 3, 3, width // 3, 3)
    win = split.permute(0, 2, 4, 3, 5, 1).reshape(-1, 9, 4)
    out = (win @ win.mT + table[index]).softmax(-1) @ win
    return out.reshape(n, height // 3, width // 3, 3, 3, 4).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


# fmt: off
BLOCKS = [
    case(ATTENTION, lambda x, s, one, zero, w, b, h, c, f, u: attention(x, w, b, u), "multi-head attention",
         s=ints(0, 4, -1), one=floats(1, 1, 1, 1), zero=floats(0, 0, 0, 0), w=(4, 18), b=(18,), h=ints(0, 0, 2, 3),
         c=scalar(3**-0.5), f=ints(0, 0, 6), u=(6, 4), probe=(2, 24, 32)),
    case(WINDOWS, window_attention, "window attention", **WINDOW_WEIGHTS, input="N,4,9,12",
         sizes=((1, 9, 12), (3, 9, 12)), probe=(2, 9, 12)),
    case("c = Slice(x, first, last, axes) g = GlobalAveragePool(c) i = Flatten(g) a = ReduceMean(table, zero) "
         "m = MatMul(i, table) r = Gather<axis=1>(m, index) y = Softmax(r)",
         lambda x, *w: (x[:, :, 1:].mean((2, 3)) @ w[-2])[:, w[-1]].softmax(-1), "a bias gathered from the picture",
         first=ints(1), last=ints(MAX), axes=ints(2), zero=ints(0), table=(4, 25), index=offsets()),
]
# fmt: on

# fmt: off
MORE = [
    *ELEMENTWISE, *NORMS, *POOLS, *REDUCTIONS, *EINSUMS, *GATHERS, *MOVES, *TURNS, *RESIZES, *SAMPLES, *QUANTISED,
    *BLOCKS,
]
# fmt: on


@pytest.mark.parametrize("case", MORE)
def test_gradient_is_torchs(case: Case) -> None:
    check(case)


KINKS = [
    ("y = Selu(x)", [0, 1], [1.0507009873554805 * 1.6732632423543772, 1.0507009873554805]),
    ("y = Celu<alpha=2.0>(x)", [0, 1], [1, 1]),
    ("y = ThresholdedRelu(x)", [0.5, 1, 2], [0, 0, 1]),
    ("y = Shrink(x)", [-1, -0.5, 0, 0.5, 1], [1, 0, 0, 0, 1]),
    ("y = GlobalLpPool(x)", [0, 0, 0], [0, 0, 0]),
    ("y = GlobalLpPool<p=1>(x)", [-2, 0, 2], [-1, 0, 1]),
    ("y = LpPool<kernel_shape=[1,2], strides=[1,2]>(x)", [0, 0, 3, 4], [0, 0, 0.6, 0.8]),
    ("y = LpNormalization(x)", [0, 0, 0], [0, 0, 0]),
    ("y = ReduceProd<keepdims=0>(x)", [2, 0, 3], [0, 6, 0]),
    ("y = ReduceProd<keepdims=0>(x)", [0, 0, 3], [0, 0, 0]),
    ("q = QuantizeLinear(x, one) y = Cast<to=1>(q)", [-1, 0, 255, 256], [0, 1, 1, 0]),
]


@pytest.mark.parametrize(("body", "x", "slope"), KINKS)
def test_kinks_have_the_stated_slope(body: str, x: list[float], slope: list[float]) -> None:
    check_slope(body, x, slope)


def test_every_rule_has_a_case() -> None:
    tried = {node.op_type for each in [*CASES, *MORE] for node in each.values[0].forward().graph.node}
    assert set(RULES) <= tried


def test_every_operator_of_the_standard_is_accounted_for() -> None:
    """Each is in exactly one of the tables."""
    names = {s.name for s in get_all_schemas_with_history() if not s.domain}
    standard = {name for name in names if onnx.defs.has(name, OPSET)}
    assert standard <= {*RULES, *NON_DIFFERENTIABLE, *UNSUPPORTED}
    assert {*NON_DIFFERENTIABLE, *UNSUPPORTED} <= names
    assert set(UNSUPPORTED) - standard == {"BitCast", "CumProd", "DeformConv", "TensorScatter"}
    assert not set(RULES) & NON_DIFFERENTIABLE
    assert not set(RULES) & set(UNSUPPORTED)
    assert not NON_DIFFERENTIABLE & set(UNSUPPORTED)


REFUSED = [
    ('y = ScatterElements<reduction="mul">(x, i, u)', "ScatterElements with reduction 'mul'"),
    ('y = GridSample<mode="bicubic">(x, g)', "GridSample in mode 'bicubic'"),
    ('y = Einsum<equation="ncii->nci">(x)', "a label that occurs twice in one operand"),
    ('y = Resize<coordinate_transformation_mode="tf_crop_and_resize", axes=[2,3]>(x, roi, , s)', "Resize that crops"),
    ("n, m, d = LayerNormalization(x, one) y = Add(n, m)", "LayerNormalization whose mean"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_what_cannot_be_differentiated_is_named(body: str, message: str) -> None:
    weights = {"one": scalar(1), "s": ints(5, 5), "roi": floats(0, 0, 1, 1), "g": normal(2, 5, 5, 2)}
    weights |= {"i": np.zeros((2, 4, 24, 24), np.int64), "u": normal(2, 4, 24, 24)}
    with pytest.raises(NoGradientError, match=message):
        gradient_model(Case(body, torch.exp, weights).forward(), (2, 4, 24, 24), 4)
