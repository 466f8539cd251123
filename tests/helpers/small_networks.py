"""Small ONNX networks, written node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

FLOAT = onnx.TensorProto.FLOAT


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    """Random weights that keep activations near 1."""
    fan_in = max(1, int(np.prod(shape[1:])))
    return np.random.default_rng(seed).normal(0, fan_in**-0.5, shape).astype(np.float32)


def network(
    nodes: Sequence[onnx.NodeProto],
    *,
    size: Sequence[int | str] = ("N", 3, "H", "W"),
    outputs: Sequence[str] = ("out",),
    rank: int = 4,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    opset: int = 18,
    domains: Sequence[str] = (),
    **constants: np.ndarray,
) -> onnx.ModelProto:
    """A network with the picture input `x` of `size`, further `inputs`, and `constants`; its outputs have `rank`."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", FLOAT, list(size)), *inputs],
        [helper.make_tensor_value_info(name, FLOAT, [None] * rank) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def conv(source: str, target: str, **attributes: Any) -> list[onnx.NodeProto]:
    """A 3x3 convolution with the weight `w_<target>`, and a ReLU."""
    hidden = f"{target}_before"
    return [
        helper.make_node("Conv", [source, f"w_{target}"], [hidden], name=f"conv_{target}", pads=[1] * 4, **attributes),
        helper.make_node("Relu", [hidden], [target], name=f"relu_{target}"),
    ]


def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [output], name=f"the_{output}", **attributes)


def plain(**options: Any) -> onnx.ModelProto:
    """Two convolutions, `a` and `out`."""
    return network(
        [*conv("x", "a", strides=[2, 2]), *conv("a", "out")],
        w_a=weights(8, 3, 3, 3),
        w_out=weights(6, 8, 3, 3),
        **options,
    )


def classifier(**options: Any) -> onnx.ModelProto:
    """A convolution `a`, then a fully connected layer `out` that fixes the picture's size at 48x64."""
    return network(
        [
            *conv("x", "a", strides=[4, 4]),
            node("Flatten", ["a"], "flat", axis=1),
            node("Gemm", ["flat", "w_fc"], "out", transB=1),
        ],
        w_a=weights(8, 3, 3, 3),
        w_fc=weights(10, 8 * 12 * 16),
        rank=2,
        **options,
    )
