"""The graphs of every target against torch, and that they do without what their target lacks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper

from helpers.breadth import everyday
from helpers.float64 import run_float64
from helpers.gradients import Case, check, relative
from helpers.rule_cases import CONVOLUTIONS, ELEMENTWISE, NORMS, POOLS
from helpers.small_networks import network, weights
from onnxdream import objectives as obj
from onnxdream.dream.step_graph import build_gradient_model, build_step_model
from onnxdream.engines.select import select
from onnxdream.errors import NoGradientError, OptionError
from onnxdream.lowering.legalize import legalize
from onnxdream.lowering.targets import TARGETS
from onnxdream.networks.model import Model, load_model

LEGALIZED = [t for t in TARGETS if t not in ("cpu", "cuda")]
APART = "y = MaxPool<kernel_shape=[3,2], strides=[3,3], ceil_mode=1>(x)"
CASES = [
    *((p, t) for p in [*POOLS, *NORMS] for t in LEGALIZED if p.values[0].body != APART),
    *((p, "opencv") for p in CONVOLUTIONS),
    *((p, "openvino") for p in ELEMENTWISE[:12]),
    *((p, "cuda") for p in [*CONVOLUTIONS, *POOLS, *ELEMENTWISE[:12]]),
]


@pytest.mark.parametrize(
    ("case", "target"), everyday([pytest.param(p.values[0], t, id=f"{p.id}, {t}") for p, t in CASES], 4)
)
def test_gradients_are_torchs(case: Case, target: str) -> None:
    check(case, target)


def test_windows_that_runtimes_count_differently_are_refused() -> None:
    case = next(p.values[0] for p in POOLS if p.values[0].body == APART)
    with pytest.raises(NoGradientError, match="runtimes disagree on how many there are"):
        check(case, "opencv")


def legalized_networks() -> Iterator[object]:
    for param in [*CONVOLUTIONS, *POOLS, *NORMS]:
        body = param.values[0].body
        if "LRN" in body:
            yield from (pytest.param(param.values[0], t, id=f"{param.id}, {t}") for t in ("openvino", "web"))
        if "SAME" in body and "strides" in body and "ConvTranspose" not in body:
            yield pytest.param(param.values[0], "opencv", id=f"{param.id}, opencv")


@pytest.mark.parametrize(("case", "target"), [*legalized_networks()])
def test_legalized_networks_compute_the_same(case: Case, target: str) -> None:
    forward = case.forward()
    graph = ir.from_proto(forward).graph
    legalize(graph, target)
    legalized = ir.to_proto(ir.Model(graph, ir_version=8))
    assert set(lacking(forward, target))
    assert not set(lacking(legalized, target))
    for size in case.sizes:
        x = np.asarray(case.draw(case.shape(size)), np.float32)
        operands = [torch.from_numpy(a).double() for a in (x, *case.weights.values())]
        assert relative(run_float64(legalized, {"x": x})["y"], case.function(*operands).numpy()) <= 1e-6


def lacking(proto: onnx.ModelProto, target: str) -> Iterator[str]:
    """What the graph holds that its target cannot run."""
    pads = {t.name: t.dims for t in proto.graph.initializer}
    for node in proto.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "MaxPool" and len(node.output) > 1:
            yield "Indices"
        if target != "opencv" and node.op_type == "LRN":
            yield "LRN"
        if target == "web" and node.op_type == "ScatterElements":
            yield "ScatterElements"
        if target == "openvino" and node.op_type == "HardSigmoid" and attributes["beta"] == 0:
            yield "beta 0"
        if target == "opencv":
            strided = max(attributes.get("strides", [1])) > 1
            if strided and attributes.get("auto_pad", b"NOTSET").startswith(b"SAME"):
                yield "SAME"
            if node.op_type == "Conv" and set(pads[node.input[1]][2:]) == {1} and any(attributes.get("pads", [])):
                yield "padded taps"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A network with everything that some target lacks."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("LRN", ["b"], ["c"], size=5, alpha=0.1, bias=1.5),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
        helper.make_node("Conv", ["d", "p"], ["e"], strides=[2, 2]),
        helper.make_node("AveragePool", ["e"], ["f"], kernel_shape=[3, 2], strides=[2, 1], auto_pad="SAME_LOWER"),
        helper.make_node("Conv", ["f", "q"], ["g"], pads=[1, 0, 2, 1]),
        helper.make_node("GlobalMaxPool", ["g"], ["out"]),
    ]
    path = tmp_path_factory.mktemp("models") / "mixed.onnx"
    kernels = {"w": weights(8, 3, 3, 3), "p": weights(6, 8, 1, 1), "q": weights(4, 6, 1, 1)}
    onnx.save(network(nodes, **kernels), path)
    return load_model(path)


@pytest.mark.parametrize(
    ("target", "without"),
    [
        ("openvino", {"Indices", "LRN", "beta 0"}),
        ("opencv", {"Indices", "SAME", "padded taps"}),
        ("web", {"Indices", "LRN", "ScatterElements"}),
    ],
)
def test_graphs_do_without_what_their_target_lacks(mixed: Model, target: str, without: set[str]) -> None:
    objective = obj.mean("out")
    plain = build_step_model(mixed, objective)
    legalized = build_step_model(mixed, objective, target=target)
    assert set(lacking(plain, target)) == without
    assert not set(lacking(legalized, target))
    feeds = {
        "image": np.random.default_rng(0).uniform(0, 255, (2, 3, 50, 61)),
        "step_size": np.array(1.5),
        "shift": np.array([-3, 70]),
    }
    expected, found = run_float64(plain, feeds), run_float64(legalized, feeds)
    np.testing.assert_allclose(found["dreamed"], expected["dreamed"], atol=1e-5)
    np.testing.assert_allclose(found["objective"], expected["objective"], rtol=1e-7)


SIZE = (70, 91)
COMPUTED = {"Shape", "Size", "Range", "Expand", "CastLike", "Equal", "Unsqueeze", "Squeeze"}


@pytest.mark.parametrize("target", ["cpu", "opencv"])
@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet_lite0", "mixed"])
def test_a_model_for_one_size_computes_no_shapes(name: str, target: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name.removesuffix("1_1").removesuffix("_lite0"))
    objective = obj.l2({"squeezenet1_1": "fire5", "efficientnet_lite0": "block5"}.get(name, "out"))
    free = build_gradient_model(model, objective, target=target)
    fixed = build_gradient_model(model, objective, target=target, size=SIZE, batch=2)
    allowed = {"Equal", "CastLike", "Unsqueeze"} if target == "opencv" or name == "mixed" else set()  # of max-pools
    assert COMPUTED & {n.op_type for n in free.graph.node} > allowed
    assert not (COMPUTED - allowed) & {n.op_type for n in fixed.graph.node}
    dims = [d.dim_value for d in fixed.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [2, 3, *SIZE]
    image = np.random.default_rng(0).uniform(0, 255, dims).astype(np.float32)
    expected, found = select("cpu").open(free).run({"image": image}), select("cpu").open(fixed).run({"image": image})
    scale = np.abs(expected["gradient"]).max()
    np.testing.assert_allclose(found["gradient"], expected["gradient"], atol=1e-4 * scale)
    np.testing.assert_allclose(found["objective"], expected["objective"], rtol=1e-5)


def test_a_step_with_a_mask_can_be_for_one_size(squeezenet: Model) -> None:
    proto = build_step_model(squeezenet, obj.l2("fire3"), mask=True, smooth=1.0, size=SIZE)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.input}
    assert shapes == {"image": [1, 3, *SIZE], "step_size": [], "shift": [2], "mask": [1, 1, *SIZE]}


@pytest.mark.parametrize(
    ("size", "batch", "message"),
    [
        ((8, 9), 1, "does not accept pictures of 9x8: nothing would be left of pool3"),
        ((0, 9), 1, "give positive numbers"),
        ((64, 64), 0, "give positive numbers"),
        (None, 2, "batch 2 without a size"),
    ],
)
def test_sizes_that_cannot_be_are_refused(squeezenet: Model, size, batch: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build_gradient_model(squeezenet, obj.l2("fire5"), size=size, batch=batch)


@pytest.mark.parametrize("size", [(1, 12, 16), (2, 13, 5), (1, 3, 7)], ids=str)
@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 2, 1, 0]], ids=str)
def test_convolutions_of_many_channels_are_torchs(size: tuple[int, int, int], pads: list[int]) -> None:
    """Winograd's: every remainder of the tiles of 4, and pads that are none of it."""
    n, h, w = size
    weight, bias = weights(257, 256, 3, 3), weights(257, seed=1)
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["out"], pads=pads)]
    forward = network(nodes, size=("N", 256, "H", "W"), w=weight, b=bias)
    graph = ir.from_proto(forward).graph
    legalize(graph, "openvino")
    legalized = ir.to_proto(ir.Model(graph, ir_version=8))
    assert "DepthToSpace" in {node.op_type for node in legalized.graph.node}
    x = np.random.default_rng(0).normal(size=(n, 256, h, w)).astype(np.float32)
    padded = torch.nn.functional.pad(torch.from_numpy(x), (pads[1], pads[3], pads[0], pads[2]))
    expected = torch.nn.functional.conv2d(padded.double(), *(torch.from_numpy(a).double() for a in (weight, bias)))
    assert relative(run_float64(legalized, {"x": x})["out"], expected.numpy()) <= 1e-6
    assert relative(select("cpu").open(legalized).run({"x": x})["out"], expected.numpy()) <= 3e-5  # it loses a digit
