"""Finished graphs hold standard operators alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from helpers.paths import ROOT
from helpers.small_networks import network, weights
from onnxdream import objectives
from onnxdream.autodiff import backward
from onnxdream.dream.step_graph import (
    build_feature_model,
    build_gradient_model,
    build_objective_model,
    build_step_model,
)
from onnxdream.graph.ops import INTERNAL, Ops
from onnxdream.graph.shapes import probe_shapes
from onnxdream.lowering.lower import LOWERED
from onnxdream.lowering.targets import TARGETS
from onnxdream.networks.model import Model, load_model


@pytest.fixture(scope="module")
def proto() -> onnx.ModelProto:
    """A network whose gradient takes every internal operation of the rules."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "d"], ["e"], group=8, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["e", "zero", "six"], ["f"]),
        helper.make_node("Conv", ["f", "p"], ["g"]),
        helper.make_node("Conv", ["f", "q"], ["h"]),
        helper.make_node("Concat", ["g", "h"], ["i"], axis=1),
        helper.make_node("AveragePool", ["i"], ["out"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    bounds = {"zero": np.zeros((), np.float32), "six": np.full((), 6, np.float32)}
    kernels = {"w": weights(8, 3, 3, 3), "d": weights(8, 1, 3, 3), "p": weights(4, 8, 1, 1), "q": weights(5, 8, 1, 1)}
    return network(nodes, **kernels, **bounds)


@pytest.fixture(scope="module")
def model(proto: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("models") / "strided.onnx"
    onnx.save(proto, path)
    return load_model(path)


def domains(proto: onnx.ModelProto) -> set[str]:
    return {n.domain for n in proto.graph.node} | {opset.domain for opset in proto.opset_import}


@pytest.mark.parametrize("size", [None, (70, 91)], ids=["free", "fixed"])
@pytest.mark.parametrize("half", [False, True], ids=["single", "half"])
@pytest.mark.parametrize("target", TARGETS)
def test_no_internal_operation_is_left(model: Model, target: str, half: bool, size: tuple[int, int] | None) -> None:
    objective = objectives.l2("out") + objectives.mean("b")
    assert domains(build_gradient_model(model, objective, target=target, half=half, size=size)) == {""}
    assert domains(build_step_model(model, objective, target=target, half=half, size=size, mask=True)) == {""}


@pytest.mark.parametrize("target", TARGETS)
def test_nor_where_nothing_is_differentiated(model: Model, target: str) -> None:
    assert domains(build_objective_model(model, objectives.l2("out"), target=target)) == {""}
    assert domains(build_feature_model(model, "out", target=target)) == {""}


def test_the_gradient_holds_them_before(proto: onnx.ModelProto) -> None:
    graph = ir.from_proto(proto).graph
    op, x, y = Ops(graph), graph.inputs[0], graph.outputs[0]
    op.shapes.update(probe_shapes(proto, {"x": (1, 3, 70, 91)}))
    backward(op, {y: op.Expand(1.0, op.Shape(y))}, x)
    assert {n.op_type for n in graph if n.domain == INTERNAL} == {"ClipGrad", "ConcatGrad", "ConvGrad", "MaxPoolGrad"}


def emitted() -> Iterator[str]:
    """The internal operations that the package emits anywhere."""
    for path in (ROOT / "onnxdream").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr="internal"), args=[ast.Constant(value=str(name)), *_]):
                    yield name


def test_each_has_a_rewrite() -> None:
    assert {(INTERNAL, name) for name in emitted()} == set(LOWERED)
