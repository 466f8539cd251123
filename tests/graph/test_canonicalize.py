"""What exporters write comes down to one form, and dreams: precisions, opsets, layouts, quantised files, branches."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from helpers import small_networks as small
from helpers.breadth import everyday
from helpers.float64 import run_float64
from helpers.notes import noted
from helpers.quantized import quantized
from onnxdream import objectives
from onnxdream.dream.step_graph import build_gradient_model
from onnxdream.engines.select import select
from onnxdream.errors import ModelError, NoGradientError
from onnxdream.lowering.targets import TARGETS
from onnxdream.networks.model import Model, load_model

IMAGE = np.random.default_rng(0).uniform(0, 255, (1, 3, 48, 64)).astype(np.float32)
LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx"))


def saved(proto: onnx.ModelProto, folder: Path) -> Model:
    onnx.save(proto, folder / "net.onnx")
    card = {"preprocessing": {"channels": "RGB", "mean": [128] * 3, "std": [64] * 3}}
    (folder / "net.json").write_text(json.dumps(card))
    return load_model(folder / "net.onnx")


def gradient(model: Model, layer: str = "out", image: np.ndarray = IMAGE) -> np.ndarray:
    return select("cpu").open(build_gradient_model(model, objectives.l2(layer))).run({"image": image})["gradient"]


def slope_error(model: Model, layer: str, image: np.ndarray) -> float:
    """Directional derivatives against central differences, in float64: the relative error of the worst of three."""
    proto = build_gradient_model(model, objectives.l2(layer))
    found = run_float64(proto, {"image": image})["gradient"]
    rng, errors = np.random.default_rng(1), []
    for _ in range(3):
        direction = found * rng.uniform(0, 1, found.shape)
        direction /= np.abs(direction).mean()
        step = 1e-5 * direction
        ahead, behind = (run_float64(proto, {"image": image + sign * step})["objective"][0] for sign in (1, -1))
        measured, predicted = (ahead - behind) / 2e-5, float(np.sum(found * direction))
        errors.append(abs(measured - predicted) / abs(predicted))
    return float(max(errors))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_precisions(kind: int, tmp_path: Path) -> None:
    """Half, bfloat16 and double files give the gradient of the same weights in float32."""
    proto = small.plain()
    rounded = onnx.ModelProto.FromString(proto.SerializeToString())
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for tensor, plain in zip(proto.graph.initializer, rounded.graph.initializer, strict=True):
        values = numpy_helper.to_array(tensor).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        plain.CopyFrom(numpy_helper.from_array(values.astype(np.float32), plain.name))
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.elem_type = kind
    found = gradient(saved(proto, tmp_path))
    np.testing.assert_allclose(found, gradient(saved(rounded, tmp_path)), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 18, 19, 20, 21, 22, 23, 24])
def test_opsets(opset: int, tmp_path: Path) -> None:
    model = saved(small.plain(opset=opset), tmp_path)
    assert {(o.domain, o.version) for o in model.proto.opset_import} == {("", 18)}
    np.testing.assert_array_equal(gradient(model), gradient(saved(small.plain(), tmp_path)))


@pytest.mark.parametrize(
    ("opset", "nodes", "constants"),
    [
        (20, [small.node("Gelu", ["a"], "out", approximate="tanh")], {}),
        (24, [small.node("Swish", ["a"], "out", alpha=1.5)], {}),
        (
            21,
            [small.node("GroupNormalization", ["a", "scale", "shift"], "out", num_groups=2)],
            {"scale": small.weights(8, 1)[:, 0], "shift": small.weights(8, 1, seed=2)[:, 0]},
        ),
        (23, [small.node("RMSNormalization", ["a", "scale"], "out", axis=1)], {"scale": small.weights(8, 1, 1)}),
        (19, [small.node("Cast", ["a"], "out", to=1, saturate=1)], {}),
    ],
    ids=["Gelu", "Swish", "GroupNormalization", "RMSNormalization", "Cast"],
)
def test_newer_operators_are_spelt_in_older_ones(
    opset: int, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], tmp_path: Path
) -> None:
    proto = small.network([*small.conv("x", "a"), *nodes], opset=opset, w_a=small.weights(8, 3, 3, 3), **constants)
    layer = "a" if nodes[0].op_type == "Cast" else "out"
    error = slope_error(saved(proto, tmp_path), layer, IMAGE)
    print(f"{nodes[0].op_type}: {error:.1e}")
    assert error < 1e-5


def test_a_picture_with_channels_last(tmp_path: Path) -> None:
    """TensorFlow's layout gives the same dream as the same network without its transpose."""
    turned = small.node("Transpose", ["x"], "turned", perm=[0, 3, 1, 2])
    kernel = small.weights(8, 3, 3, 3)
    last = small.network([turned, *small.conv("turned", "out")], size=("N", "H", "W", 3), w_out=kernel)
    first = small.network(small.conv("x", "out"), w_out=kernel)
    model = saved(last, tmp_path)
    assert model.input_dims == (0, 3, 0, 0)
    found = gradient(model)
    np.testing.assert_allclose(found, gradient(saved(first, tmp_path)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("form", ["QLinearConv", "QDQ"])
def test_quantised_networks_dream(form: str, tmp_path: Path) -> None:
    """The gradient goes straight through the rounding: it is that of the same network in floating point."""
    model = saved(quantized(form), tmp_path)
    constants = {t.name: numpy_helper.to_array(t) for t in quantized("QLinearConv").graph.initializer}
    weight = constants["w"].astype(np.float32) * constants["ws"].reshape(-1, 1, 1, 1)
    bias = constants["b"] * constants["xs"] * constants["ws"]
    nodes = [small.node("Conv", ["x", "w", "b"], "y", pads=[1] * 4), small.node("Relu", ["y"], "out")]
    plain = saved(small.network(nodes, w=weight, b=bias.astype(np.float32)), tmp_path)
    found, expected = gradient(model), gradient(plain)
    cosine = float((found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected))
    print(f"{form}: cosine with the gradient in floating point {cosine:.4f}")
    assert cosine > 0.99
    shown = {name: at.operator for name, at in model.layers.items()}
    assert "QuantizeLinear" not in shown.values()


@pytest.mark.parametrize("taken", [True, False])
def test_the_branch_taken_stands_in_for_a_constant_if(*, taken: bool, tmp_path: Path) -> None:
    branches = {}
    for name, operator in (("then_branch", "Relu"), ("else_branch", "Sigmoid")):
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)
        branches[name] = helper.make_graph([helper.make_node(operator, ["a"], [name])], name, [], [result])
    flow = helper.make_node("If", ["condition"], ["b"], name="choice", **branches)
    proto = small.network(
        [*small.conv("x", "a"), flow, small.node("Neg", ["b"], "out")],
        w_a=small.weights(8, 3, 3, 3), condition=np.array(taken),
    )  # fmt: skip
    model = saved(proto, tmp_path)
    assert [n.op_type for n in model.proto.graph.node] == ["Conv", "Relu", "Relu" if taken else "Sigmoid", "Neg"]
    assert model.layer("b")
    assert slope_error(model, "out", IMAGE) < 1e-5


def test_tokens_are_layers(tmp_path: Path) -> None:
    """[N,tokens,C]: the channel is the last axis, and its objective is the mean over the tokens."""
    nodes = [
        *small.conv("x", "a", strides=[8, 8]),
        small.node("Reshape", ["a", "shape"], "rows"),
        small.node("Transpose", ["rows"], "out", perm=[0, 2, 1]),
    ]
    proto = small.network(nodes, rank=3, w_a=small.weights(8, 3, 3, 3), shape=np.array([0, 8, -1]))
    model = saved(proto, tmp_path)
    layer = model.layer("out")
    assert (layer.channels, layer.spatial) == (8, False)
    tokens = select("cpu").open(build_gradient_model(model, objectives.channel("out", 5))).run({"image": IMAGE})
    places = select("cpu").open(build_gradient_model(model, objectives.channel("a", 5))).run({"image": IMAGE})
    np.testing.assert_allclose(tokens["objective"], places["objective"], rtol=1e-5)
    np.testing.assert_allclose(tokens["gradient"], places["gradient"], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    "node",
    [
        small.node("Pad", ["x", "pads"], "out", mode="wrap"),
        small.node("AveragePool", ["x"], "out", kernel_shape=[2, 2], dilations=[2, 2]),
    ],
    ids=lambda node: node.op_type,
)
def test_what_cannot_be_said_in_older_operators_is_named(node: onnx.NodeProto, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be converted from opset 19 to 18: .*(wrap|dilations)"):
        saved(small.network([node], opset=19, pads=np.zeros(8, np.int64)), tmp_path)


def test_a_newer_operator_without_a_definition_is_named(tmp_path: Path) -> None:
    nodes = [*small.conv("x", "a"), small.node("DeformConv", ["a", "w_d", "offset"], "out", pads=[1] * 4)]
    constants = {"w_a": small.weights(8, 3, 3, 3), "w_d": small.weights(8, 8, 3, 3)}
    proto = small.network(nodes, opset=22, offset=np.zeros((1, 18, 8, 8), np.float32), **constants)
    reason = r"node 'the_out', operator DeformConv \(opset 22\), cannot be expressed in older operators"
    with noted(f"{reason}; only layers that come before it"):
        model = saved(proto, tmp_path)
    with pytest.raises(NoGradientError, match=f"out lies behind {reason}; layers before it that work: a, a_before"):
        model.layer("out")


def test_an_output_without_a_shape(tmp_path: Path) -> None:
    proto = small.plain()
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = saved(proto, tmp_path)
    np.testing.assert_array_equal(gradient(model), gradient(saved(small.plain(), tmp_path)))


class Attention(nn.Module):
    """Causal attention between the places of a convolution's grid of 4x6."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.patches, self.layer, self.end = nn.Conv2d(3, 16, 8, 8), layer, nn.Linear(16, 8)
        self.register_buffer("mask", torch.triu(torch.full((24, 24), -torch.inf), 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        if isinstance(self.layer, nn.MultiheadAttention):
            return self.layer(tokens, tokens, tokens, attn_mask=self.mask, need_weights=False)[0]
        return self.end(self.layer(tokens, src_mask=self.mask))


class Function(nn.Module):
    """A function after a convolution, and a convolution after it."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function, self.before, self.after = function, nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.function(self.before(x)))


def bordered_pool(x: torch.Tensor) -> torch.Tensor:
    return functional.max_pool2d(functional.pad(x, (0, 1, 1, 2), value=-torch.inf), 3, 2)


INFINITE: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: Attention(nn.MultiheadAttention(16, 2, batch_first=True)),
    "encoder": lambda: Attention(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)),
    "pool": lambda: Function(bordered_pool),
    "clip": lambda: Function(lambda x: torch.clamp(x, 0.1, torch.inf)),
}


@pytest.mark.parametrize(
    ("name", "opset"), everyday([("pool", 18), ("clip", 18), ("attention", 18), ("attention", 23), ("encoder", 23)], 5)
)
def test_masks_borders_and_bounds_may_be_infinite(name: str, opset: int, tmp_path: Path) -> None:
    """Their gradients are torch's, in float64 and, for every target, in float32."""
    torch.manual_seed(0)
    network = INFINITE[name]().eval()
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 32, 48)).astype(np.float32)
    program = torch.onnx.export(
        network, (torch.rand(1, 3, 32, 48),), dynamo=True, opset_version=opset, input_names=["x"],
        output_names=["out"], verbose=False,
    )  # fmt: skip
    assert program is not None
    constants = [t for n in program.model_proto.graph.node for a in n.attribute if a.name == "value" for t in [a.t]]
    values = [numpy_helper.to_array(t) for t in [*program.model_proto.graph.initializer, *constants]]
    assert any(v.dtype.kind == "f" and np.isinf(v).any() for v in values)
    model = saved(program.model_proto, tmp_path)
    picture = torch.from_numpy(image).double().requires_grad_()
    (network.double()((picture - 128) / 64) ** 2).mean().backward()
    assert picture.grad is not None
    expected = picture.grad.numpy()
    scale = np.abs(expected).max()
    exact = run_float64(build_gradient_model(model, objectives.l2("out")), {"image": image})["gradient"]
    assert np.abs(exact - expected).max() <= 1e-7 * scale
    for target in TARGETS:
        proto = build_gradient_model(model, objectives.l2("out"), target=target)
        found = select("cpu").open(proto).run({"image": image})["gradient"]
        assert np.abs(found - expected).max() <= 1e-5 * scale, target


@pytest.mark.parametrize(("value", "refused"), [(np.nan, True), (np.inf, False)])
def test_only_nan_is_damage_where_nothing_is_multiplied(value: float, refused: bool, tmp_path: Path) -> None:
    nodes = [*small.conv("x", "a"), small.node("Min", ["a", "limit"], "out")]
    proto = small.network(nodes, w_a=small.weights(8, 3, 3, 3), limit=np.array(value, np.float32))
    if refused:
        with pytest.raises(ModelError, match="weight limit holds NaN"):
            saved(proto, tmp_path)
    else:
        assert np.isfinite(gradient(saved(proto, tmp_path))).all()


def test_an_infinite_kernel_is_damage(tmp_path: Path) -> None:
    kernel = small.weights(8, 3, 3, 3)
    kernel[0, 0, 0, 0] = -np.inf
    with pytest.raises(ModelError, match="weight w_out holds NaN or infinity"):
        saved(small.network(small.conv("x", "out"), w_out=kernel), tmp_path)


def with_random_weights(model: Model) -> Model:
    """The network with random kernels, and batch norms and scales [C,1,1] that go with them.

    The package fills most weights with one small number, which makes every channel the same and lets nothing through.
    """
    proto = onnx.ModelProto.FromString(model.proto.SerializeToString())
    norms = [n.input for n in proto.graph.node if n.op_type == "BatchNormalization"]
    statistics = {name: value for names in norms for name, value in zip(names[1:], (1.0, 0.0, 0.0, 1.0), strict=True)}
    for number, tensor in enumerate(proto.graph.initializer):
        if tensor.name in statistics:
            filled = np.full(tensor.dims, statistics[tensor.name], np.float32)
            tensor.CopyFrom(numpy_helper.from_array(filled, tensor.name))
        elif len(tensor.dims) == 3 and tensor.data_type == TensorProto.FLOAT:
            scales = np.random.default_rng(number).uniform(0.5, 1.5, tensor.dims).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(scales, tensor.name))
        elif len(tensor.dims) in (2, 4) and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(small.weights(*tensor.dims, seed=number), tensor.name))
    return dataclasses.replace(model, proto=proto)


@pytest.mark.slow
@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_the_light_networks_of_the_onnx_package(path: Path) -> None:
    """Zoo architectures at opset 9: the gradient in the middle, against differences."""
    model = with_random_weights(load_model(path))
    layer = model.default_layer()
    height, width = model.fixed_input_size([layer]) or (96, 112)
    image = np.random.default_rng(2).uniform(0, 255, (1, 3, height, width)).astype(np.float32)
    error = slope_error(model, layer, image)
    print(f"{path.stem} {layer}: {error:.1e}")
    assert error < 1e-4  # a kink between the two ends of a difference costs some
