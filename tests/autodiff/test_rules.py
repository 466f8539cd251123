"""The derivative rule of every operator, against torch's float64 autograd."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from helpers.float64 import run_float64
from helpers.gradients import Case, check, check_slope, floats, gradient_model, ints, normal, relative, scalar
from helpers.rule_cases import CASES
from onnxdream.autodiff import backward
from onnxdream.errors import NoGradientError
from onnxdream.graph.ops import Ops
from onnxdream.graph.shapes import keep_only


@pytest.mark.parametrize("case", CASES)
def test_gradient_is_torchs(case: Case) -> None:
    check(case)


KINKS = [
    ("y = Relu(x)", [-1, 0, 1], [0, 0, 1]),
    ("y = LeakyRelu<alpha=0.25>(x)", [-1, 0, 1], [0.25, 0.25, 1]),
    ("y = PRelu(x, quarter)", [-1, 0, 1], [0.25, 0.25, 1]),
    ("y = Elu<alpha=2.0>(x)", [0, 1], [2, 1]),
    ("y = Clip(x, zero, six)", [-1, 0, 3, 6, 7], [0, 0, 1, 0, 0]),
    ("y = HardSigmoid<alpha=0.16666667>(x)", [-3, 0, 3], [0, 1 / 6, 0]),
    ("y = HardSwish(x)", [-3, 0, 3], [0, 0.5, 1]),
    ("y = Abs(x)", [-2, 0, 2], [-1, 0, 1]),
    ("n = Neg(x) y = Max(x, n)", [-2, 0, 2], [-1, 0, 1]),
    ("y = Max(x, zero)", [-1, 0, 1], [0, 0.5, 1]),
    ("y = Min(x, zero)", [-1, 0, 1], [1, 0.5, 0]),
    ("y = ReduceMax<keepdims=0>(x)", [3, 1, 3, 3], [1 / 3, 0, 1 / 3, 1 / 3]),
    ("y = ReduceMin<keepdims=0>(x)", [3, 1, 1, 3], [0, 0.5, 0.5, 0]),
    ("y = ReduceL2<keepdims=0>(x)", [0, 0, 0], [0, 0, 0]),
    ("y = ReduceL1<keepdims=0>(x)", [-2, 0, 2], [-1, 0, 1]),
    ("y = GlobalMaxPool(x)", [1, 3, 3, 1], [0, 1, 0, 0]),
    ("y = MaxPool<kernel_shape=[1,2]>(x)", [5, 5, 5, 1], [1, 1, 1, 0]),
    ("y = MaxPool<kernel_shape=[1,3], strides=[1,2], pads=[0,1,0,1]>(x)", [-1, -1, -1, -1], [1, 1, 0, 0]),
]


@pytest.mark.parametrize(("body", "x", "slope"), KINKS)
def test_kinks_have_pytorchs_slope(body: str, x: list[float], slope: list[float]) -> None:
    check_slope(body, x, slope)


SCALED_KERNEL = "m = ReduceMean(x) w = Mul(k, m) "


REFUSED = [
    (
        "[knot] y = CenterCropPad<axes=[2,3]>(x, s)",
        "'knot', operator CenterCropPad .opset 18.: .* derivative rule: rare",
    ),
    (SCALED_KERNEL + "y = Conv(x, w)", "operator Conv, input 0 .x.: a convolution whose kernel is computed"),
    (SCALED_KERNEL + "y = Conv(i, w)", "operator Conv, input 1 .w.: no derivative"),
    ("b = ReduceMax<keepdims=0>(x) y = Clip(x, b)", "bound of Clip that is computed"),
    ("y = Floor(x)", "no gradient flows back"),
    ("y, m = Dropout(x, c, on)", "operator Dropout, input 0 .x.: Dropout in training mode"),
    ("y, m, v = BatchNormalization<training_mode=1>(x, one, one, one, one)", "BatchNormalization in training mode"),
    (
        'y = Resize<mode="linear", keep_aspect_ratio_policy="not_larger", axes=[2,3]>(x, , , s)',
        "keeps the aspect ratio",
    ),
    (
        "m = ReduceMax<keepdims=0>(x) h = Greater(m, c)"
        " y = If(h) <then_branch = a () => (float[N,4,H,W] p) { p = Exp(x) },"
        " else_branch = b () => (float[N,4,H,W] q) { q = Abs(x) }>",
        "operator If .opset 18.: If has no derivative rule: it runs a graph of its own",
    ),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_what_cannot_be_differentiated_is_named(body: str, message: str) -> None:
    # As it is in the file: the canonical form cuts some off, and takes others as in evaluation.
    weights = {"c": scalar(2), "on": np.array(True), "one": floats(1, 1, 1, 1), "s": ints(5, 5)}
    weights |= {"k": normal(6, 4, 3, 3), "i": normal(1, 4, 8, 8)}
    with pytest.raises(NoGradientError, match=message):
        gradient_model(Case(body, torch.exp, weights, opset=19).forward(), (2, 4, 16, 20), 4)


def test_several_objectives_add_up() -> None:
    """Two cotangents, one of them on a tensor the other one goes through."""
    graph = ir.from_proto(Case("e = Exp(x) y = Mul(e, e)", torch.exp).forward()).graph
    (exp, square), x = graph, graph.inputs[0]
    op = Ops(graph)
    op.shapes.update(dict.fromkeys(("x", "e", "y"), (1, 4, 7, 10)))
    dx = backward(op, {exp.outputs[0]: op.const(3.0), square.outputs[0]: op.const(2.0)}, x)
    dx.name, dx.type, dx.shape = "dx", x.type, x.shape
    keep_only(graph, [dx])
    picture = normal(1, 4, 7, 10)
    truth = 3 * np.exp(picture.astype(np.float64)) + 4 * np.exp(2 * picture.astype(np.float64))
    assert relative(run_float64(ir.to_proto(ir.Model(graph, ir_version=8)), {"x": picture})["dx"], truth) <= 1e-12
