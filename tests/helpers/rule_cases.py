"""A case for each way in which an operator with a derivative rule is used."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.gradients import SIZES, case, floats, huge, integers, ints, normal, pad, positive, same, scalar, zeros_too


def mean_pool(
    x: Tensor, kernel: tuple[int, int], strides: tuple[int, int], padded: Callable[[Tensor], Tensor]
) -> Tensor:
    """Means over the part of each window that lies in the picture."""
    return F.avg_pool2d(padded(x), kernel, strides) / F.avg_pool2d(padded(torch.ones_like(x)), kernel, strides)


def middle(x: Tensor, height: int, width: int) -> Tensor:
    """The middle, one more cut off at the start where the surplus is odd."""
    top, left = -(-(x.shape[2] - height) // 2), -(-(x.shape[3] - width) // 2)
    return x[:, :, top : top + height, left : left + width]


# The tables have a row for each case, which the formatter would spread over many.
# fmt: off
CONVOLUTIONS = [
    case("y = Conv(x, w)", F.conv2d, w=(6, 4, 1, 1)),
    case("y = Conv<pads=[1,1,1,1]>(x, w, b)", lambda x, w, b: F.conv2d(x, w, b, padding=1), w=(6, 4, 3, 3), b=(6,)),
    case("y = Conv<pads=[0,2,1,0]>(x, w)", lambda x, w: F.conv2d(pad(x, (0, 2, 1, 0)), w), w=(6, 4, 3, 2)),
    case("y = Conv<pads=[4,5,6,4]>(x, w)", lambda x, w: F.conv2d(pad(x, (4, 5, 6, 4)), w), w=(6, 4, 3, 3)),
    case("y = Conv<strides=[2,2]>(x, w)", lambda x, w: F.conv2d(x, w, stride=2), w=(6, 4, 3, 3)),
    case("y = Conv<strides=[2,2]>(x, k1)", lambda x, k1: F.conv2d(x, k1, stride=2), k1=(6, 4, 1, 1)),
    case("y = Conv<strides=[3,3], pads=[1,0,2,1]>(x, w)", lambda x, w: F.conv2d(pad(x, (1, 0, 2, 1)), w, stride=3),
         w=(6, 4, 5, 4)),
    case("y = Conv<strides=[4,4], pads=[3,3,3,3]>(x, w)", lambda x, w: F.conv2d(x, w, None, 4, 3), w=(6, 4, 2, 2)),
    case("y = Conv<strides=[3,2]>(x, w)", lambda x, w: F.conv2d(x, w, stride=(3, 2)), w=(6, 4, 3, 3)),
    case("y = Conv<dilations=[2,3]>(x, w)", lambda x, w: F.conv2d(x, w, dilation=(2, 3)), w=(6, 4, 3, 3)),
    case("y = Conv<dilations=[2,2], strides=[2,2], pads=[2,1,0,3]>(x, w)",
         lambda x, w: F.conv2d(pad(x, (2, 1, 0, 3)), w, stride=2, dilation=2), w=(6, 4, 3, 3)),
    case("y = Conv<group=2>(x, w)", lambda x, w: F.conv2d(x, w, groups=2), w=(6, 2, 3, 3)),
    case("y = Conv<group=4, pads=[1,1,1,1]>(x, w)", lambda x, w: F.conv2d(x, w, None, 1, 1, 1, 4), w=(8, 1, 3, 3)),
    case("y = Conv<group=4, strides=[2,2], dilations=[1,2]>(x, w)",
         lambda x, w: F.conv2d(x, w, stride=2, dilation=(1, 2), groups=4), w=(8, 1, 3, 3)),
    case('y = Conv<auto_pad="VALID", strides=[2,1]>(x, w)', lambda x, w: F.conv2d(x, w, None, (2, 1)), w=(6, 4, 3, 3)),
    case('y = Conv<auto_pad="SAME_UPPER">(x, w)', lambda x, w: F.conv2d(same(x, (4, 3), (1, 1)), w), w=(6, 4, 4, 3)),
    case('y = Conv<auto_pad="SAME_LOWER", dilations=[1,2]>(x, w)',
         lambda x, w: F.conv2d(same(x, (4, 3), (1, 1), lower=True), w, dilation=(1, 2)), w=(6, 4, 4, 2),
         onnxruntime=False),
    case('y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)',
         lambda x, w: F.conv2d(same(x, (3, 4), (2, 2)), w, stride=2), w=(6, 4, 3, 4)),
    case('y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w)',
         lambda x, w: F.conv2d(same(x, (3, 4), (2, 2), lower=True), w, stride=2), w=(6, 4, 3, 4)),
    case('y = Conv<auto_pad="SAME_UPPER", strides=[3,1], group=2>(x, w)',
         lambda x, w: F.conv2d(same(x, (2, 4), (3, 1)), w, stride=(3, 1), groups=2), w=(6, 2, 2, 4)),
    case("y = Conv<strides=[2], pads=[1,0]>(x, w)", lambda x, w: F.conv1d(F.pad(x, (1, 0)), w, stride=2), w=(6, 4, 3),
         input="N,4,W"),
    case("y = Conv<strides=[1,2,1], pads=[1,1,1,1,1,1]>(x, w)", lambda x, w: F.conv3d(x, w, None, (1, 2, 1), 1),
         w=(3, 4, 2, 3, 3), input="N,4,3,H,W"),
    case("y = ConvTranspose(x, w, b)", F.conv_transpose2d, w=(4, 6, 3, 3), b=(6,)),
    case("y = ConvTranspose<strides=[2,3], pads=[1,0,1,0], output_padding=[1,2]>(x, w)",
         lambda x, w: F.conv_transpose2d(x, w, None, (2, 3), (1, 0), (1, 2)), w=(4, 6, 3, 3)),
    case("y = ConvTranspose<strides=[2,2], pads=[0,1,2,0]>(x, w)",
         lambda x, w: F.conv_transpose2d(x, w, stride=2)[:, :, :-2, 1:], w=(4, 6, 4, 3)),
    case("y = ConvTranspose<group=2, dilations=[2,1], strides=[2,2]>(x, w)",
         lambda x, w: F.conv_transpose2d(x, w, stride=2, groups=2, dilation=(2, 1)), w=(4, 3, 3, 3)),
    case("y = ConvTranspose<dilations=[2,3], output_padding=[1,2]>(x, w)",
         lambda x, w: F.conv_transpose2d(x, w, dilation=(2, 3), output_padding=(1, 2)), w=(4, 6, 3, 3),
         onnxruntime=False),
    case('y = ConvTranspose<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)',
         lambda x, w: F.conv_transpose2d(x, w, stride=2)[:, :, :-1, 1:-1], w=(4, 6, 3, 4)),
    case('y = ConvTranspose<auto_pad="SAME_LOWER", strides=[2,2]>(x, w)',
         lambda x, w: F.conv_transpose2d(x, w, stride=2)[:, :, 1:, 1:-1], w=(4, 6, 3, 4)),
    case("y = ConvTranspose<output_shape=[15,14]>(x, w)", lambda x, w: middle(F.conv_transpose2d(x, w), 15, 14),
         w=(4, 6, 9, 8), probe=(2, 8, 9)),
    case("y = ConvTranspose<strides=[2], pads=[1,1]>(x, w)", lambda x, w: F.conv_transpose1d(x, w, None, 2, 1),
         w=(4, 6, 4), input="N,4,W"),
]

ELEMENTWISE = [
    case("y = Relu(x)", torch.relu, draw=integers),
    case("y = LeakyRelu<alpha=0.2>(x)", lambda x: F.leaky_relu(x, 0.2), draw=integers),
    case("y = PRelu(x, a)", lambda x, a: F.prelu(x, a.flatten()), a=(4, 1, 1), draw=integers),
    case("a = Tanh(x) y = PRelu(x, a)", lambda x: torch.where(x > 0, x, x * x.tanh()), draw=integers),
    case("y = Clip(x, low, high)", lambda x, *_: F.hardtanh(x, -2, 3), low=scalar(-2), high=scalar(3), draw=integers),
    case("y = Clip(x, low, high)", lambda x, *_: F.relu6(x), "ReLU6", low=scalar(0), high=scalar(6), draw=integers),
    case("y = Clip(x, low)", lambda x, _: torch.relu(x), low=scalar(0), draw=integers),
    case("y = Clip(x, , high)", lambda x, _: 3 - torch.relu(3 - x), high=scalar(3), draw=integers),
    case("y = Clip(x)", lambda x: x * 1),
    case("y = Clip(x, low, big)", lambda x, *_: torch.relu(x), low=scalar(0), big=scalar(3.4028235e38), draw=huge),
    case("y = Clip(x, small, high)", lambda x, *_: 3 - torch.relu(3 - x), small=scalar(-3.4028235e38), high=scalar(3)),
    case("y = Sigmoid(x)", torch.sigmoid),
    case("y = Tanh(x)", torch.tanh),
    case("y = HardSigmoid(x)", lambda x: (0.2 * x + 0.5).clamp(0, 1)),
    case("y = HardSigmoid<alpha=0.16666667, beta=0.5>(x)", F.hardsigmoid, draw=integers),
    case("y = HardSwish(x)", F.hardswish, draw=integers),
    case("y = Elu<alpha=1.5>(x)", lambda x: F.elu(x, 1.5), draw=integers),
    case("y = Softplus(x)", F.softplus),
    case("y = Softsign(x)", F.softsign, draw=integers),
    case("y = Exp(x)", torch.exp),
    case("y = Log(x)", torch.log, draw=positive),
    case("y = Sqrt(x)", torch.sqrt, draw=positive),
    case("y = Reciprocal(x)", torch.reciprocal, draw=positive),
    case("y = Sin(x)", torch.sin),
    case("y = Cos(x)", torch.cos),
    case("y = Abs(x)", torch.abs, draw=integers),
    case("y = Neg(x)", torch.neg),
    case("y = Erf(x)", torch.erf),
    case("y = Identity(x)", lambda x: x * 1),
    case("y = Dropout(x)", lambda x: x * 1),
    case("y, mask = Dropout(x, ratio, off)", lambda x, *_: x * 1, ratio=scalar(0.5), off=np.array(False)),
    case("d = Cast<to=11>(x) e = Mul(d, k) y = Cast<to=1>(e)", lambda x, k: x * k, "Cast", k=np.array(3.0)),
    case("y = Pow(x, p)", lambda x, p: x**p, "Pow 2", p=scalar(2), draw=integers),
    case("y = Pow(x, p)", lambda x, p: x**p, "Pow 3, integer", p=np.array(3), draw=integers),
    case("y = Pow(x, p)", lambda x, p: x**p, "Pow 1", p=scalar(1), draw=integers),
    case("z = Pow(x, p) y = Add(x, z)", lambda x, p: x + x**p, "Pow 0", p=scalar(0), draw=integers),
    case("y = Pow(x, p)", lambda x, p: x**p, "Pow -1.5", p=scalar(-1.5), draw=positive),
    case("y = Pow(x, p)", lambda x, p: x**p, "Pow [4,1,1]", p=np.array([[[0]], [[1]], [[2]], [[3]]], np.float32),
         draw=integers),
    case("y = Pow(x, p)", lambda x, p: x**p, "Pow [4,1,1], integer", p=np.array([[[0]], [[1]], [[2]], [[3]]]),
         draw=integers),
    case("y = Pow(b, x)", lambda x, b: b**x, b=scalar(1.7)),
    case("y = Pow(b, x)", lambda x, b: b**x, "Pow 0^x", b=np.array([[[0]], [[2]], [[0]], [[3]]], np.float32),
         draw=positive),
    case("z = Tanh(x) y = Pow(x, z)", lambda x: x ** x.tanh(), draw=positive),
    case("c = Constant<value_float=2.5>() y = Mul(x, c)", lambda x: x * 2.5),
]
# fmt: on

# Operands that depend on x and are smaller than it: a channel vector, one number for each channel, one for all.
PARTS = """
    vector = ReduceMean<keepdims=0>(x, axes) row = ReduceMean<keepdims=0>(x, rows) all = ReduceMean<keepdims=0>(x)
    channel = GlobalAveragePool(x) column = Unsqueeze(vector, last)
"""
OVER = {"axes": ints(0, 2, 3), "rows": ints(0, 1, 2), "last": ints(1, 2)}


def parts(x: Tensor) -> dict[str, Tensor]:
    return {
        "row": x.mean((0, 1, 2)),
        "column": x.mean((0, 2, 3))[:, None, None],
        "channel": x.mean((2, 3), keepdim=True),
        "all": x.mean(),
    }


def broadcast(operator: str, function: Callable[..., Tensor]) -> list[object]:
    """`operator` on x and each of PARTS, in both orders; PARTS are made positive for Div."""
    made = []
    for part in ("row", "column", "channel", "all"):
        for flipped in (False, True):
            order = "e, x" if flipped else "x, e"

            def compare(x: Tensor, *_, part=part, flipped=flipped) -> Tensor:
                e = parts(x)[part].exp()
                return function(e, x) if flipped else function(x, e)

            body = f"{PARTS} e = Exp({part}) y = {operator}({order})"
            made.append(case(body, compare, f"{operator}({order.replace('e', part)})", draw=positive, **OVER))
    return made


# fmt: off
BROADCASTS = [
    *broadcast("Add", torch.add),
    *broadcast("Sub", torch.sub),
    *broadcast("Mul", torch.mul),
    *broadcast("Div", torch.div),
    *broadcast("Max", torch.maximum),
    *broadcast("Min", torch.minimum),
    *broadcast("Sum", torch.add),
    *broadcast("Mean", lambda a, b: (a + b) / 2),
    *broadcast("Pow", torch.pow),
    *broadcast("PRelu", lambda x, e: torch.where(x > 0, x, x * e))[::2],
    case("y = Mul(x, x)", lambda x: x * x),
    case("y = Add(x, k)", lambda x, k: x + k, k=(2, 1, 4, 1, 1)),
    case("e = Exp(x) m = Mul(e, x) y = Add(m, e)", lambda x: x.exp() * x + x.exp(), "used three times"),
    case("e = Exp(x) y = Sum(x, e, k, x)", lambda x, k: 2 * x + x.exp() + k, k=(4, 1, 1)),
    case("e = Exp(x) y = Mean(x, e, k, x)", lambda x, k: (2 * x + x.exp() + k) / 4, k=(4, 1, 1)),
    case("y = Sum(x)", lambda x: x * 1),
    case("y = Max(x)", lambda x: x * 1),
    case("n = Neg(x) y = Max(x, n)", lambda x: torch.maximum(x, -x), draw=integers),
    case("n = Neg(x) y = Min(x, n, k)", lambda x, k: torch.stack([x, -x, k + x * 0]).amin(0), k=scalar(-2),
         draw=integers),
    case("y = Max(k, x)", lambda x, k: torch.maximum(k, x), k=scalar(1), draw=integers),
    case("y = Where(m, x, k)", lambda x, m, k: torch.where(m, x, k), m=np.array([True, False]).repeat(2)[:, None, None],
         k=(1,)),
    case("g = Greater(x, k) n = Sin(x) y = Where(g, x, n)", lambda x, k: torch.where(x > k, x, x.sin()), k=scalar(0.1)),
    case(f"{PARTS} g = Greater(x, column) y = Where(g, row, channel)",
         lambda x, *_: torch.where(x > parts(x)["column"], parts(x)["row"], parts(x)["channel"]), "Where, broadcast",
         **OVER),
    case("s = Shape<start=2>(x) d = Cast<to=1>(s) n = ReduceProd<keepdims=0>(d) y = Div(x, n)",
         lambda x: x / (x.shape[2] * x.shape[3]), "divided by its own size"),
    case("f = Floor(x) i = Cast<to=7>(x) j = Cast<to=1>(i) g = Mul(f, j) y = Mul(x, g)",
         lambda x: x * (x.floor() * x.trunc()).detach(), "constant almost everywhere"),
]

POOLS = [
    case("y = MaxPool<kernel_shape=[3,3], strides=[2,2]>(x)", lambda x: F.max_pool2d(x, 3, 2)),
    case("y = MaxPool<kernel_shape=[3,3], strides=[2,2]>(x)", lambda x: F.max_pool2d(x, 3, 2), "ties", draw=integers),
    case("y = MaxPool<kernel_shape=[3,2], pads=[1,0,1,1]>(x)",
         lambda x: F.max_pool2d(pad(x, (1, 0, 1, 1), value=-math.inf), (3, 2), 1), draw=integers),
    case("y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1>(x)",
         lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True)),
    case("y = MaxPool<kernel_shape=[3,2], strides=[3,3], ceil_mode=1>(x)",
         lambda x: F.max_pool2d(x, (3, 2), 3, ceil_mode=True)),
    case("y = MaxPool<kernel_shape=[3,2], dilations=[2,3], strides=[1,2]>(x)",
         lambda x: F.max_pool2d(x, (3, 2), (1, 2), 0, (2, 3))),
    case('y = MaxPool<kernel_shape=[3,2], strides=[2,2], auto_pad="SAME_UPPER">(x)',
         lambda x: F.max_pool2d(same(x, (3, 2), (2, 2), value=-math.inf), (3, 2), 2)),
    case('y = MaxPool<kernel_shape=[4,4], strides=[2,2], auto_pad="SAME_LOWER">(x)',
         lambda x: F.max_pool2d(same(x, (4, 4), (2, 2), True, -math.inf), 4, 2)),
    case('y = MaxPool<kernel_shape=[4,4], auto_pad="VALID", storage_order=1>(x)', lambda x: F.max_pool2d(x, 4, 1)),
    case("y, i = MaxPool<kernel_shape=[2,2]>(x)", lambda x: F.max_pool2d(x, 2, 1)),
    case("y = MaxPool<kernel_shape=[3], strides=[2]>(x)", lambda x: F.max_pool1d(x, 3, 2), input="N,4,W"),
    case("y = MaxPool<kernel_shape=[2,3,3], strides=[1,2,2]>(x)", lambda x: F.max_pool3d(x, (2, 3, 3), (1, 2, 2)),
         input="N,4,3,H,W"),
    case("r = Relu(x) y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(r)", lambda x: F.max_pool2d(F.relu(x), 3, 1, 1),
         "rectified, dense", draw=integers),
    case("r = Relu(x) y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(r)",
         lambda x: F.max_pool2d(F.relu(x), 3, 2, ceil_mode=True), "rectified, ceil", draw=integers),
    case("r = Relu(x) s = Concat<axis=1>(r, r) y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(s)",
         lambda x: F.max_pool2d(F.relu(x).repeat(1, 2, 1, 1), 3, 2, 1), "rectified, beside each other", draw=integers),
    case("y = AveragePool<kernel_shape=[3,3], strides=[2,2]>(x)", lambda x: F.avg_pool2d(x, 3, 2)),
    case("y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)", lambda x: F.avg_pool2d(x, 2, 2)),
    case("y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)",
         lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
    case("y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,3], count_include_pad=1>(x)",
         lambda x: F.avg_pool2d(x, 3, (2, 3), 1)),
    case("y = AveragePool<kernel_shape=[3,2], pads=[0,1,2,0], strides=[2,1]>(x)",
         lambda x: mean_pool(x, (3, 2), (2, 1), lambda v: pad(v, (0, 1, 2, 0)))),
    case("y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)",
         lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True)),
    case("y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1>(x)",
         lambda x: F.avg_pool2d(x, 3, 2, 1, True, False)),
    case("y = AveragePool<kernel_shape=[3,3], strides=[3,3], pads=[1,1,1,1], ceil_mode=1, count_include_pad=1>(x)",
         lambda x: F.avg_pool2d(x, 3, 3, 1, True, True)),
    case('y = AveragePool<kernel_shape=[3,4], strides=[2,2], auto_pad="SAME_UPPER">(x)',
         lambda x: mean_pool(x, (3, 4), (2, 2), lambda v: same(v, (3, 4), (2, 2)))),
    case('y = AveragePool<kernel_shape=[3,4], strides=[2,2], auto_pad="SAME_LOWER">(x)',
         lambda x: mean_pool(x, (3, 4), (2, 2), lambda v: same(v, (3, 4), (2, 2), lower=True))),
    case('y = AveragePool<kernel_shape=[2,4], auto_pad="SAME_UPPER">(x)',
         lambda x: mean_pool(x, (2, 4), (1, 1), lambda v: same(v, (2, 4), (1, 1)))),
    case('y = AveragePool<kernel_shape=[2,4], auto_pad="VALID">(x)', lambda x: F.avg_pool2d(x, (2, 4), 1)),
    case("y = AveragePool<kernel_shape=[3], strides=[2], pads=[1,1]>(x)",
         lambda x: F.avg_pool1d(x, 3, 2, 1, False, False), input="N,4,W"),
    case("y = GlobalAveragePool(x)", lambda x: x.mean((2, 3), keepdim=True)),
    case("y = GlobalAveragePool(x)", lambda x: x.mean((2, 3, 4), keepdim=True), "3-D", input="N,4,3,H,W"),
    case("y = GlobalMaxPool(x)", lambda x: F.adaptive_max_pool2d(x, 1)),
    case("y = GlobalMaxPool(x)", lambda x: F.adaptive_max_pool2d(x, 1), "GlobalMaxPool, ties", draw=integers),
]

NORMS = [
    case("y = BatchNormalization<epsilon=0.01>(x, scale, bias, mean, variance)",
         lambda x, scale, bias, mean, variance: F.batch_norm(x, mean, variance, scale, bias, eps=0.01), scale=(4,),
         bias=(4,), mean=(4,), variance=np.abs(normal(4))),
    case("p = GlobalAveragePool(x) f = Flatten(p) y = BatchNormalization(f, scale, bias, mean, variance)",
         lambda x, scale, bias, mean, variance: F.batch_norm(x.mean((2, 3)), mean, variance, scale, bias), scale=(4,),
         bias=(4,), mean=(4,), variance=np.abs(normal(4))),
    case("y = LRN<size=3, alpha=0.5, beta=0.6, bias=1.5>(x)", lambda x: F.local_response_norm(x, 3, 0.5, 0.6, 1.5)),
    case("y = LRN<size=5, alpha=2.0>(x)", lambda x: F.local_response_norm(x, 5, 2.0)),
    case("y = LRN<size=4, alpha=2.0>(x)", lambda x: F.local_response_norm(x.flip(1), 4, 2.0).flip(1),
         onnxruntime=False),
    case("y = LRN<size=3, alpha=2.0>(x)", lambda x: F.local_response_norm(x, 3, 2.0), "LRN, 1-D", input="N,4,W",
         onnxruntime=False),
    case("y = Softmax(x)", lambda x: x.softmax(-1)),
    case("y = Softmax<axis=1>(x)", lambda x: x.softmax(1)),
    case("y = LogSoftmax(x)", lambda x: x.log_softmax(-1)),
    case("y = LogSoftmax<axis=-3>(x)", lambda x: x.log_softmax(1)),
]
# fmt: on

FLAT = "p = GlobalAveragePool(x) f = Flatten(p) g = Exp(f) "


def flat(x: Tensor) -> Tensor:
    return x.mean((2, 3))


SEQUENCE = "r = Reshape(x, s) t = Transpose<perm=[0,2,1]>(r) e = Exp(t) v = ReduceMean<keepdims=0>(x, axes) "
SHAPES = {"s": ints(0, 4, -1), "axes": ints(0, 2, 3)}


def matmul(y: str, function: Callable[..., Tensor], **weights) -> object:
    """r [N,4,HW], its transpose t and the channel means v [4], multiplied."""

    def compare(x: Tensor, _s: Tensor, _axes: Tensor, *rest: Tensor) -> Tensor:
        return function(x.flatten(2), x.mean((0, 2, 3)), *rest)

    return case(f"{SEQUENCE} y = {y}", compare, y, **SHAPES, **weights)


# fmt: off
PRODUCTS = [
    case(FLAT + "y = Gemm<alpha=0.5, beta=2.0>(f, b, c)", lambda x, b, c: 0.5 * flat(x) @ b + 2 * c, "Gemm", b=(4, 5),
         c=(5,)),
    case(FLAT + "y = Gemm<transB=1>(f, b)", lambda x, b: flat(x) @ b.T, "Gemm transB", b=(5, 4)),
    case(FLAT + "y = Gemm<alpha=3.0>(b, f)", lambda x, b: 3 * b @ flat(x), "Gemm B", b=(5, 3), sizes=(SIZES[1],),
         probe=(3, 24, 32)),
    case(FLAT + "y = Gemm<transA=1, alpha=0.5>(f, g)", lambda x: 0.5 * flat(x).T @ flat(x).exp(), "Gemm transA, twice"),
    case(FLAT + "y = Gemm<transB=1>(f, g)", lambda x: flat(x) @ flat(x).exp().T, "Gemm transB, twice"),
    case(FLAT + "h = Transpose(g) y = Gemm<transA=1, transB=1>(f, h)", lambda x: flat(x).T @ flat(x).exp(),
         "Gemm transA transB"),
    case(FLAT + "y = Gemm<beta=0.5>(f, b, g)", lambda x, b: flat(x) @ b + flat(x).exp() / 2, "Gemm C", b=(4, 4)),
    case(FLAT + "c = ReduceSum<keepdims=0>(g, zero) y = Gemm(f, b, c)",
         lambda x, b, _: flat(x) @ b + flat(x).exp().sum(0), "Gemm C, broadcast", b=(4, 4), zero=ints(0)),
    case("t = Transpose<perm=[0,1,3,2]>(x) y = MatMul(x, t)", lambda x: x @ x.mT, "MatMul(x, xT)"),
    matmul("MatMul(t, k)", lambda r, v, k: r.mT @ k, k=(4, 6)),
    matmul("MatMul(k, r)", lambda r, v, k: k @ r, k=(6, 4)),
    matmul("MatMul(k, r)", lambda r, v, k: k @ r, k=(2, 1, 6, 4)),
    matmul("MatMul(t, k)", lambda r, v, k: r.mT @ k, k=(3, 1, 4, 6)),
    matmul("MatMul(v, r)", lambda r, v: v @ r),
    matmul("MatMul(e, v)", lambda r, v: r.mT.exp() @ v),
    matmul("MatMul(v, v)", lambda r, v: v @ v),
    matmul("MatMul(v, k)", lambda r, v, k: v @ k, k=(4, 3)),
    matmul("MatMul(k, v)", lambda r, v, k: k @ v, k=(3, 4)),
    case("a = ReduceMean(x, axes) b = ReduceMean<keepdims=0>(x, zero) c = Transpose<perm=[0,2,1]>(b) y = MatMul(a, c)",
         lambda x, *_: x.mean((0, 1), keepdim=True) @ x.mean(0).mT, "MatMul [1,1,H,W] x [4,W,H]", axes=ints(0, 1),
         zero=ints(0)),
]
# fmt: on

MAX = 2**63 - 1
# fmt: off
MOVES = [
    case("e = Exp(x) y = Concat<axis=1>(x, e, x)", lambda x: torch.cat([x, x.exp(), x], 1)),
    case("e = Exp(x) y = Concat<axis=0>(x, e)", lambda x: torch.cat([x, x.exp()])),
    case("e = Slice(x, b, m, a) y = Concat<axis=2>(x, e, x)", lambda x, *_: torch.cat([x, x[:, :, 1:], x], 2),
         b=ints(1), m=ints(MAX), a=ints(2)),
    case("e = Slice(x, b, m, a) y = Concat<axis=-1>(e, x)", lambda x, *_: torch.cat([x[..., 2:], x], 3), b=ints(2),
         m=ints(MAX), a=ints(3)),
    case("e = Slice(x, m, m, a) y = Concat<axis=-1>(e, x)", lambda x, *_: x * 1, "Concat with nothing", m=ints(MAX),
         a=ints(3)),
    case(SEQUENCE + "c = ReduceMean(t, one) y = Concat<axis=1>(c, t, t)",
         lambda x, *_: torch.cat([flat(x)[:, None], x.flatten(2).mT, x.flatten(2).mT], 1), "Concat of tokens", **SHAPES,
         one=ints(1)),
    case("t = Transpose<perm=[0,2,3,1]>(x) e = Exp(t) y = Concat<axis=1>(t, e)",
         lambda x: torch.cat([x, x.exp()], 2).permute(0, 2, 3, 1), "Concat of rows, channels last"),
    case("y, b = Split<axis=1, num_outputs=2>(x)", lambda x: x[:, :2] * 1),
    case("a, y, c = Split<axis=-3>(x, s)", lambda x, _: x[:, 1:3] * 1, s=ints(1, 2, 1)),
    case("a, b = Split<axis=1, num_outputs=2>(x) y = Mul(a, b)", lambda x: x[:, :2] * x[:, 2:]),
    case("r = Concat<axis=2>(x, x) a, b = Split<axis=2, num_outputs=2>(r) e = Exp(b) y = Add(a, e)",
         lambda x: x + x.exp()),
    case("y = Slice(x, b, e)", lambda x, *_: x[:, 1:3], b=ints(0, 1), e=ints(MAX, 3)),
    case("y = Slice(x, b, e, a)", lambda x, *_: x[:, :, 1:-2, -5:], b=ints(1, -5), e=ints(-2, MAX), a=ints(2, -1)),
    case("y = Slice(x, b, e, a, s)", lambda x, *_: x[:, :, 1::2, ::3], b=ints(1, 0), e=ints(MAX, MAX), a=ints(2, 3),
         s=ints(2, 3)),
    case("y = Slice(x, b, e, a, s)", lambda x, *_: x.flip(2)[..., :-2].flip(3)[..., ::2], "Slice, backwards",
         b=ints(-1, -3), e=ints(-MAX, -MAX), a=ints(2, 3), s=ints(-1, -2)),
    case("y = Slice(x, b, e, a, s)", lambda x, *_: x[:, :, 1:6], "Slice, int32",
         **{k: np.array([v], np.int32) for k, v in {"b": 1, "e": 6, "a": 2, "s": 1}.items()}),
    case("e = Shape<start=2>(x) b = Div(e, two) y = Slice(x, b, e, a)",
         lambda x, *_: x[:, :, x.shape[2] // 2 :, x.shape[3] // 2 :], "Slice, computed", two=ints(2), a=ints(2, 3)),
    case("y = Pad(x, p, v)", lambda x, p, v: pad(x, (1, 0, 2, 3), value=1.5), p=ints(0, 0, 1, 0, 0, 0, 2, 3),
         v=scalar(1.5)),
    case("y = Pad(x, p, , a)", lambda x, *_: pad(x, (1, -2, 0, 1)), p=ints(1, -2, 0, 1), a=ints(-2, -1)),
    case('y = Pad<mode="reflect">(x, p)', lambda x, _: pad(x, (3, 0, 2, 1), mode="reflect"),
         p=ints(0, 0, 3, 0, 0, 0, 2, 1)),
    case('y = Pad<mode="edge">(x, p)', lambda x, _: pad(x, (3, 0, 2, 1), mode="replicate"),
         p=ints(0, 0, 3, 0, 0, 0, 2, 1)),
    case('y = Pad<mode="edge">(x, p, , a)', lambda x, *_: pad(x, (0, 4, 1, 0), mode="replicate"), p=ints(0, 4, 1, 0),
         a=ints(2, 3)),
    case('s = Shape<start=3>(x) h = Div(s, k) p = Concat<axis=0>(h, h) y = Pad<mode="reflect">(x, p, , a)',
         lambda x, *_: F.pad(x.flatten(1, 2), [x.shape[3] // 3] * 2, mode="reflect").unflatten(1, x.shape[1:3]),
         "Pad, computed", k=ints(3), a=ints(3)),
    case("y = Transpose(x)", lambda x: x.permute(3, 2, 1, 0)),
    case("y = Transpose<perm=[2,0,3,1]>(x)", lambda x: x.permute(2, 0, 3, 1)),
    case("y = Reshape(x, s)", lambda x, _: x.reshape(len(x), 2, 2, -1), s=ints(0, 2, 2, -1)),
    case("y = Flatten<axis=2>(x)", lambda x: x.reshape(len(x) * 4, -1)),
    case("y = Unsqueeze(x, a)", lambda x, _: x[:, None, ..., None], a=ints(1, -1)),
    case("p = GlobalAveragePool(x) y = Squeeze(p, a)", lambda x, _: flat(x), a=ints(2, -1)),
    case("p = GlobalAveragePool(x) t = Slice(p, z, o, z) y = Squeeze(t)", lambda x, *_: flat(x)[0], z=ints(0),
         o=ints(1)),
    case("y = Expand(x, s)", lambda x, _: x.expand(2, -1, -1, -1, -1), s=ints(2, 1, 1, 1, 1)),
    case("s = Shape(x) p = GlobalAveragePool(x) y = Expand(p, s)",
         lambda x: x.mean((2, 3), keepdim=True).expand(x.shape)),
    case("s = Shape(x) p = ReduceMean<keepdims=0>(x, a) y = Expand(p, s)", lambda x, _: x.mean((0, 1)).expand(x.shape),
         a=ints(0, 1)),
]
# fmt: on

FLOOR = 'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"'
LINEAR = {"mode": "bilinear"}


def unet(x: Tensor) -> Tensor:
    """Down and up again, at odd sizes to less than there was, and then to the size of x."""
    up = F.interpolate(F.max_pool2d(x, 2), scale_factor=2, **LINEAR)
    return F.interpolate(up, size=x.shape[2:], **LINEAR)


UNET = """
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) u = Resize<mode="linear">(p, , k)
    s = Shape(x) y = Resize<mode="linear">(u, , , s)
"""
# fmt: off
RESIZES = [
    case(f"y = Resize<{FLOOR}>(x, , k)",
         lambda x, k: F.interpolate(x, scale_factor=(2, 3)), "nearest, twice and three times", k=floats(1, 1, 2, 3)),
    case(f"y = Resize<{FLOOR}>(x, , k)",
         lambda x, k: F.interpolate(x, scale_factor=(1.5, 0.75)), "nearest, any scale", k=floats(1, 1, 1.5, 0.75)),
    case(f"y = Resize<{FLOOR}, axes=[2,3]>(x, , , s)",
         lambda x, _: F.interpolate(x, size=(5, 17)), "nearest, sizes and axes", s=ints(5, 17)),
    case('y = Resize<mode="linear">(x, , k)', lambda x, k: F.interpolate(x, scale_factor=2, **LINEAR), "linear",
         k=floats(1, 1, 2, 2)),
    case('y = Resize<mode="linear", coordinate_transformation_mode="pytorch_half_pixel", axes=[3,2]>(x, , k)',
         lambda x, k: F.interpolate(x, scale_factor=(1.7, 0.5), **LINEAR), "linear, any scale", k=floats(0.5, 1.7)),
    case('y = Resize<mode="linear", coordinate_transformation_mode="align_corners", axes=[2,3]>(x, , , s)',
         lambda x, _: F.interpolate(x, size=(12, 6), align_corners=True, **LINEAR), "linear, align_corners",
         s=ints(12, 6)),
    case('y = Resize<mode="linear", antialias=1, exclude_outside=1>(x, , k)',
         lambda x, k: F.interpolate(x, scale_factor=0.5, antialias=True, **LINEAR), "linear, antialias",
         k=floats(1, 1, 0.5, 0.5)),
    case('y = Resize<mode="cubic", axes=[2,3]>(x, , , s)', lambda x, _: F.interpolate(x, size=(12, 7), mode="bicubic"),
         "cubic", s=ints(12, 7)),
    case(UNET, lambda x, k: unet(x), "to the size of another tensor", k=floats(1, 1, 2, 2)),
    case('y = Resize<mode="linear">(x, , k)', lambda x, k: F.interpolate(x, scale_factor=2, mode="linear"), "1-D",
         k=floats(1, 1, 2), input="N,4,W"),
]
# fmt: on

REDUCERS: dict[str, Callable[..., Tensor]] = {
    "ReduceSum": torch.sum,
    "ReduceMean": torch.mean,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL1": lambda x, axes, keepdim: x.abs().sum(axes, keepdim=keepdim),
    "ReduceL2": lambda x, axes, keepdim: torch.linalg.vector_norm(x, 2, axes, keepdim=keepdim),
    "ReduceSumSquare": lambda x, axes, keepdim: x.square().sum(axes, keepdim=keepdim),
}


def reductions_of(
    operator: str, function: Callable[..., Tensor], draw: Callable[[tuple[int, ...]], np.ndarray] = zeros_too
) -> list[object]:
    """`operator` over some, one and all axes, given in each of the ways there are."""
    made = []
    everything = (0, 1, 2, 3)
    for attributes, inputs, axes, keepdim in (
        ("keepdims=1", "x, a", (2, 3), True),
        ("keepdims=0", "x, a", (-3,), False),
        ("keepdims=0", "x, a", (0, -1), False),
        ("keepdims=0", "x", everything, False),
        ("keepdims=1", "x", everything, True),
        ("keepdims=0", "x, a", (), False),
    ):
        weights = {"a": np.array(axes, np.int64)} if "a" in inputs else {}
        compare = functools.partial(reduced, function, axes or everything, keepdim)
        name = f"{operator}<{attributes}> {axes}"
        made.append(case(f"y = {operator}<{attributes}>({inputs})", compare, name, draw=draw, **weights))
    return made


def reduced(function: Callable[..., Tensor], axes: tuple[int, ...], keepdim: bool, x: Tensor, *_) -> Tensor:
    return function(x, axes, keepdim=keepdim)


# fmt: off
REDUCTIONS = [
    *(each for operator, function in REDUCERS.items() for each in reductions_of(operator, function)),
    case("y = ReduceMean<noop_with_empty_axes=1>(x)", lambda x: x * 1),
    case("y = ReduceMax<noop_with_empty_axes=1, keepdims=0>(x, a)", lambda x, _: x * 1, a=ints()),
]
# fmt: on

CASES = [*CONVOLUTIONS, *ELEMENTWISE, *BROADCASTS, *POOLS, *NORMS, *PRODUCTS, *MOVES, *RESIZES, *REDUCTIONS]
