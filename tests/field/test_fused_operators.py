"""Files that ONNX Runtime's optimiser or quantiser wrote, and those exported in training mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers import small_networks as small
from helpers.float64 import run_float64
from helpers.notes import notes
from onnxdream import objectives
from onnxdream.dream.step_graph import build_gradient_model
from onnxdream.engines.select import select
from onnxdream.errors import ModelError
from onnxdream.graph.canonicalize import canonicalize
from onnxdream.networks.model import Model, load_model

CONTRIB = "com.microsoft"
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def bytes_(*shape: int) -> np.ndarray:
    return RNG.integers(-127, 128, shape).astype(np.int8)


def sums(count: int) -> np.ndarray:
    return RNG.integers(-999, 999, count).astype(np.int32)


def scale(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def zero(value: int) -> np.ndarray:
    return np.array(value, np.uint8)


ZERO = np.array(0, np.int8)
X, Q = "x", "q"  # the picture, and the same in 8 bits
QUANTISED = [Q, scale(0.02), zero(120)]
RESULT = [scale(0.05), zero(110)]
PIXELS, ROWS = (1, 4, 8, 10), (2, 3, 6)
KERNEL = normal(6, 4, 3, 3)

# (operator, inputs, attributes, shape of x)
OPERATORS: list[tuple[str, list[Any], dict[str, Any], tuple[int, ...]]] = [
    ("FusedConv", [X, KERNEL, normal(6)], {"activation": "Relu", "pads": [1] * 4}, PIXELS),
    ("FusedConv", [X, KERNEL, normal(6), normal(1, 6, 8, 10)],
     {"activation": "LeakyRelu", "activation_params": [0.2], "pads": [1] * 4}, PIXELS),
    ("FusedConv", [X, KERNEL], {"activation": "Clip", "activation_params": [-1.0, 2.0], "strides": [2, 2]}, PIXELS),
    ("FusedConv", [X, KERNEL], {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]}, PIXELS),
    ("FusedGemm", [X, normal(5, 6), normal(5)],
     {"activation": "LeakyRelu", "activation_alpha": 0.3, "transB": 1, "alpha": 0.5, "beta": 2.0}, (3, 6)),
    ("FusedGemm", [X, normal(6, 5), normal(5)], {"activation": "Tanh"}, (3, 6)),
    ("FusedMatMul", [X, normal(2, 5, 6)], {"alpha": 0.25, "transB": 1}, ROWS),
    ("FusedMatMul", [X, normal(2, 3, 5)], {"transA": 1}, ROWS),
    ("FusedMatMul", [X, normal(5, 3, 6)], {"transBatchA": 1, "transBatchB": 1, "transB": 1}, ROWS),
    ("FusedMatMul", [X, normal(3, 2, 5)], {"transBatchA": 1, "transA": 1}, ROWS),
    ("BiasGelu", [X, normal(6)], {}, ROWS),
    ("Gelu", [X], {}, ROWS),
    ("FastGelu", [X, normal(6)], {}, ROWS),
    ("QuickGelu", [X], {"alpha": 1.5}, ROWS),
    ("SkipLayerNormalization", [X, normal(2, 3, 6), normal(6), normal(6), normal(6)], {"epsilon": 1e-5}, ROWS),
    ("SkipSimplifiedLayerNormalization", [X, normal(2, 3, 6), normal(6)], {"epsilon": 1e-5}, ROWS),
    ("DynamicQuantizeMatMul", [X, bytes_(6, 5), scale(0.02)], {}, ROWS),
    ("DynamicQuantizeMatMul", [X, bytes_(6, 5), normal(5) ** 2, bytes_(5), normal(5)], {}, ROWS),
    ("QGemm", [*QUANTISED, bytes_(6, 5), scale(0.01), ZERO, sums(5), *RESULT], {"alpha": 0.5}, (3, 6)),
    ("QGemm", [*QUANTISED, bytes_(5, 6), normal(5) ** 2 + 0.01, np.zeros(5, np.int8), sums(5), *RESULT],
     {"transB": 1}, (3, 6)),
    ("QGemm", [*QUANTISED, bytes_(5, 6), scale(0.01), ZERO, sums(5)], {"transB": 1}, (3, 6)),
    ("QLinearAdd", [*QUANTISED, Q, scale(0.03), zero(9), *RESULT], {}, PIXELS),
    ("QLinearMul", [*QUANTISED, Q, scale(0.03), zero(9), *RESULT], {}, PIXELS),
    ("QLinearSigmoid", [*QUANTISED, scale(0.004), zero(0)], {}, PIXELS),
    ("QLinearLeakyRelu", [*QUANTISED, *RESULT], {"alpha": 0.1}, PIXELS),
    ("QLinearAveragePool", [*QUANTISED, *RESULT], {"kernel_shape": [2, 2], "strides": [2, 2]}, PIXELS),
    ("QLinearAveragePool", [*QUANTISED, *RESULT], {"kernel_shape": [2, 2], "channels_last": 1}, PIXELS),
    ("QLinearGlobalAveragePool", [*QUANTISED, *RESULT], {"channels_last": 0}, PIXELS),
    ("QLinearConcat", [*RESULT, *QUANTISED, Q, scale(0.03), zero(9)], {"axis": 1}, PIXELS),
    ("QLinearSoftmax", [*QUANTISED, scale(0.004), zero(0)], {"axis": -1, "opset": 13}, (2, 9)),
    ("QLinearConv", [*QUANTISED, bytes_(6, 4, 3, 3), scale(0.01), ZERO, *RESULT, sums(6)],
     {"channels_last": 1, "pads": [1] * 4}, (1, 8, 10, 4)),
    ("MatMulIntegerToFloat", [Q, bytes_(6, 5), scale(0.02), normal(5) ** 2, zero(120), bytes_(5), normal(5)], {},
     (3, 6)),
]  # fmt: skip


def network(
    operator: str, inputs: list[Any], attributes: dict[str, Any], shape: tuple[int, ...], domain: str = CONTRIB
) -> onnx.ModelProto:
    """One operator between the floating-point numbers x and y."""
    arrays = {f"c{i}": value for i, value in enumerate(inputs) if not isinstance(value, str)}
    names = [value if isinstance(value, str) else f"c{i}" for i, value in enumerate(inputs)]
    nodes = [helper.make_node(operator, names, ["made"], domain=domain, **attributes)]
    last = helper.make_node("Identity", ["made"], ["y"])
    if Q in names:
        nodes.insert(0, helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]))
        arrays |= {"xs": scale(0.02), "xz": zero(120)}
    if any(value is RESULT[0] for value in inputs) or operator in ("QLinearSigmoid", "QLinearSoftmax"):
        arrays |= {"ys": scale(0.05), "yz": zero(110)}
        last = helper.make_node("DequantizeLinear", ["made", "ys", "yz"], ["y"])
    graph = helper.make_graph(
        [*nodes, last], "one", [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("case", OPERATORS, ids=lambda case: f"{case[0]} {sorted(case[2])}")
def test_fused_operators_are_functions_of_standard_ones(
    case: tuple[str, list[Any], dict[str, Any], tuple[int, ...]],
) -> None:
    proto = network(*case)
    x = np.random.default_rng(1).normal(size=case[3]).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    standard = canonicalize(proto, "one")
    assert {node.domain for node in standard.graph.node} <= {"", "ai.onnx"}
    found = select("cpu").open(standard).run({"x": x})["y"]
    level = (
        0.05 if any(node.op_type == "DequantizeLinear" for node in proto.graph.node) else 0
    )  # integers round otherwise
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4 + level)
    assert np.abs(found - wanted).mean() < 1e-4 + level / 5


def test_a_convolution_of_pictures_with_channels_last() -> None:
    """NhwcFusedConv, which ONNX Runtime has for a few processors alone, against its parts."""
    attributes = {"pads": [1] * 4, "strides": [2, 1]}
    residue = normal(1, 4, 9, 6)
    fused = network(
        "NhwcFusedConv", [X, KERNEL, normal(6), residue], {"activation": "Relu", **attributes}, (1, 8, 9, 4)
    )
    x = np.random.default_rng(1).normal(size=(1, 8, 9, 4)).astype(np.float32)
    found = select("cpu").open(canonicalize(fused, "one")).run({"x": x})["y"]
    bias = numpy_helper.to_array(next(t for t in fused.graph.initializer if t.name == "c2"))
    plain = network("Conv", [X, KERNEL, bias], attributes, (1, 4, 8, 9), domain="")
    (convolved,) = onnxruntime.InferenceSession(plain.SerializeToString()).run(None, {"x": x.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(found, np.maximum(convolved.transpose(0, 2, 3, 1) + residue, 0), rtol=1e-5, atol=1e-5)


def loaded(proto: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Model:
    onnx.save(proto, folder / name)
    return load_model(folder / name)


def gradient(model: Model, image: np.ndarray) -> np.ndarray:
    return run_float64(build_gradient_model(model, objectives.l2("out")), {"image": image})["gradient"]


@pytest.mark.parametrize("opset", [11, 17])
def test_a_file_that_the_optimiser_wrote(opset: int, tmp_path: Path) -> None:
    """Convolutions, a normalisation, attention-like products and GELU, in ONNX Runtime's own operators."""
    # openvinotoolkit/openvino issue 13177, opencv/opencv issue 23044.
    axis = {"axes": [-1]}
    nodes = [
        *small.conv("x", "a", strides=[4, 4]),
        small.node("Conv", ["a", "w_b"], "b_conv", pads=[1] * 4),
        small.node("Add", ["b_conv", "a"], "b_sum"),
        small.node("Relu", ["b_sum"], "b"),
        small.node("Reshape", ["b", "rows"], "channels"),
        small.node("Transpose", ["channels"], "tokens", perm=[0, 2, 1]),
        small.node("ReduceMean", ["tokens"], "mean", **axis),
        small.node("Sub", ["tokens", "mean"], "less"),
        small.node("Pow", ["less", "two"], "squares"),
        small.node("ReduceMean", ["squares"], "variance", **axis),
        small.node("Add", ["variance", "small"], "above"),
        small.node("Sqrt", ["above"], "deviation"),
        small.node("Div", ["less", "deviation"], "unit"),
        small.node("Mul", ["unit", "gain"], "scaled"),
        small.node("Add", ["scaled", "offset"], "normed"),
        small.node("MatMul", ["normed", "w_h"], "product"),
        small.node("Add", ["product", "b_h"], "h"),
        small.node("Div", ["h", "root"], "h_root"),
        small.node("Erf", ["h_root"], "erf"),
        small.node("Add", ["erf", "one"], "h_one"),
        small.node("Mul", ["h", "h_one"], "h_twice"),
        small.node("Mul", ["h_twice", "half"], "gelu"),
        small.node("Transpose", ["gelu"], "turned", perm=[0, 2, 1]),
        small.node("MatMul", ["turned", "gelu"], "covariance"),
        small.node("Mul", ["covariance", "half"], "out"),
    ]
    constants = {
        "w_a": small.weights(8, 3, 3, 3), "w_b": small.weights(8, 8, 3, 3), "rows": np.array([0, 8, -1]),
        "two": scale(2), "small": scale(1e-5), "gain": normal(8), "offset": normal(8), "w_h": normal(8, 16),
        "b_h": normal(16), "root": scale(2**0.5), "one": scale(1), "half": scale(0.5),
    }  # fmt: skip
    proto = small.network(nodes, opset=opset, rank=3, **constants)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(proto.SerializeToString(), options)
    written = {node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node}
    assert {"FusedConv", "FusedMatMul"} <= written
    assert opset == 11 or {"LayerNormalization", "BiasGelu"} <= written
    with notes() as told:
        fused, plain = load_model(tmp_path / "fused.onnx"), loaded(proto, tmp_path)
    assert told == []
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 24, 28)).astype(np.float32)
    wanted = gradient(plain, image)
    assert np.abs(gradient(fused, image) - wanted).max() < 1e-6 * np.abs(wanted).max()


def test_a_normalisation_before_the_standard_had_it(tmp_path: Path) -> None:
    """The optimiser writes LayerNormalization into files of opset 13 too."""
    node = small.node("LayerNormalization", ["x", "gain", "offset"], "out", axis=-1)
    constants = {"gain": normal(28), "offset": normal(28)}
    early = small.network([node], size=("N", 3, "H", 28), opset=13, **constants)
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 24, 28)).astype(np.float32)
    expected = gradient(loaded(small.network([node], size=("N", 3, "H", 28), **constants), tmp_path), image)
    np.testing.assert_allclose(gradient(loaded(early, tmp_path), image), expected, rtol=1e-9)


def test_a_file_for_one_kind_of_processor(tmp_path: Path) -> None:
    node = small.node("Conv", ["x", "w_a"], "out", domain="com.microsoft.nchwc", pads=[1] * 4)
    proto = small.network([node], domains=["com.microsoft.nchwc"], w_a=small.weights(8, 3, 3, 3))
    with pytest.raises(
        ModelError, match=r"com.microsoft.nchwc.Conv\), which suit one kind of processor; take the file"
    ):
        loaded(proto, tmp_path)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("opset", [7, 9, 13, 17])
def test_exported_in_training_mode(opset: int, *, listed: bool, tmp_path: Path) -> None:
    """BatchNormalization with five outputs up to opset 13, which are mostly unused, and with training_mode since."""
    # onnx/tensorflow-onnx issue 143, robertknight/rten pull request 1432, microsoft/onnxruntime issue 16867.
    kept = ["mean", "deviation", "saved", "other"] if opset < 14 else ["mean", "deviation"]
    training = {} if opset < 14 else {"training_mode": 1}
    statistics = ["gain", "offset", "mu", "var"]
    constants = {
        "w_a": small.weights(8, 3, 3, 3), "gain": normal(8), "offset": normal(8), "mu": normal(8),
        "var": normal(8) ** 2 + 0.5,
    }  # fmt: skip
    first = small.node("Conv", ["x", "w_a"], "a", pads=[1] * 4)
    last = small.node("Relu", ["b"], "out")
    trained = helper.make_node("BatchNormalization", ["a", *statistics], ["b", *kept], **training)
    plain = helper.make_node("BatchNormalization", ["a", *statistics], ["b"])
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 24, 28)).astype(np.float32)
    proto = small.network([first, trained, last], opset=opset, **constants)
    if listed:
        proto.graph.output.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, [8]))
    with notes() as told:
        model = loaded(proto, tmp_path)
    said = "was exported in training mode; it is taken as in evaluation, with the stored statistics"
    assert any(said in text for text in told) == (listed or opset >= 14)
    expected = gradient(loaded(small.network([first, plain, last], opset=opset, **constants), tmp_path), image)
    np.testing.assert_allclose(gradient(model, image), expected, rtol=1e-6)
