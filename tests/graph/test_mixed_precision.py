"""Half precision: the network in float16, pictures and step in float32, and dreams that are as strong."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from helpers import runtimes
from helpers import small_networks as small
from helpers.breadth import everyday
from helpers.command_line import onnxdream
from helpers.paths import DATA
from onnxdream import objectives
from onnxdream.dream.dreamer import Dreamer
from onnxdream.dream.step_graph import build_gradient_model, build_step_model
from onnxdream.engines.select import select
from onnxdream.export import HALF_TOLERANCE
from onnxdream.images import read_settings
from onnxdream.networks.model import Model, load_model
from onnxdream.objectives import Objective


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    "objective",
    everyday(
        [
            objectives.l2("fire5"),
            objectives.l2("fire5") - 0.2 * objectives.channel("fire8", 3),
            1e-6 * objectives.mean("fire6"),  # whose gradient has nothing but zeros in half precision if not scaled
            objectives.logit("logits", 285),
        ],
        2,
    ),
    ids=repr,
)
def test_the_gradient_is_that_of_single_precision(squeezenet: Model, rocket: np.ndarray, objective: Objective) -> None:
    small = rocket[::2, ::2]
    image = np.stack([small, small[:, ::-1] // 4]).astype(np.float32).transpose(0, 3, 1, 2).copy()
    single = select("cpu").open(build_gradient_model(squeezenet, objective)).run({"image": image})
    half = select("cpu").open(build_gradient_model(squeezenet, objective, half=True)).run({"image": image})
    assert half["gradient"].dtype == np.float32
    np.testing.assert_allclose(half["objective"], single["objective"], rtol=5e-3)
    for found, expected in zip(half["gradient"], single["gradient"], strict=True):
        error = relative(found, expected)
        print(f"{objective!r}: {error:.3f}")
        assert error < 0.15  # what units within half precision of a kink account for


def test_what_compares_single_numbers_stays_single(tmp_path: Path) -> None:
    """Column numbers beyond 2048 are not all there in half precision."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Shape", ["x"], ["width"], start=3, end=4),
        helper.make_node("Squeeze", ["width"], ["end"]),
        helper.make_node("Range", ["zero", "end", "one"], ["columns"]),
        helper.make_node("Cast", ["columns"], ["places"], to=small.FLOAT),
        helper.make_node("Less", ["places", "bound"], ["left"]),
        helper.make_node("Mul", ["a", "a"], ["b"]),
        helper.make_node("Where", ["left", "b", "a"], ["out"]),
    ]
    numbers = {"zero": np.array(0), "one": np.array(1), "bound": np.array(2051.5, np.float32)}
    proto = small.network(nodes, w=small.weights(4, 3, 1, 1), **numbers)
    onnx.save(proto, tmp_path / "columns.onnx")
    model = load_model(tmp_path / "columns.onnx")
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 4, 2100)).astype(np.float32)
    graphs = [build_gradient_model(model, objectives.l2("out"), half=half) for half in (False, True)]
    single, half = (ReferenceEvaluator(graph).run(["gradient"], {"image": image})[0] for graph in graphs)
    for column in (2050, 2051, 2052):
        assert relative(half[..., column], single[..., column]) < 0.01


def test_only_the_network_is_in_half_precision(squeezenet: Model) -> None:
    proto = build_gradient_model(squeezenet, objectives.l2("fire8"), half=True)
    single = build_gradient_model(squeezenet, objectives.l2("fire8"))
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ByteSize() < 0.6 * single.ByteSize()
    typed = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(proto).graph.value_info}
    kinds = collections.Counter(typed.get(n.output[0]) for n in proto.graph.node if n.op_type == "Conv")
    assert kinds[onnx.TensorProto.FLOAT16] == sum(kinds.values()) - 2  # all but the preprocessing and its gradient
    assert all(
        v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for v in [*proto.graph.input, *proto.graph.output]
    )


@pytest.mark.slow
def test_dreams_are_as_strong(efficientnet: Model, rocket: np.ndarray) -> None:
    objective = objectives.l2("block5")
    dreams = [
        Dreamer(efficientnet, objective, octaves=2, steps=6, half=half, device="cpu").dream(rocket)
        for half in (False, True)
    ]
    print(f"objective {dreams[0].objective_after:.1f} single, {dreams[1].objective_after:.1f} half")
    assert dreams[1].objective_after == pytest.approx(dreams[0].objective_after, rel=0.03)


# OpenCV 5.0 adds up the products of half precision in half; with convolutions in single precision it comes to 0.998.
@pytest.mark.parametrize(
    ("runtime", "target", "least"),
    [
        (runtimes.open_onnxruntime, "cpu", 0.99),
        (runtimes.open_onnxruntime, "web", 0.99),
        (runtimes.open_openvino, "openvino", 0.99),
        (runtimes.open_opencv, "opencv", 0.98),
    ],
    ids=["onnxruntime", "web", "openvino", "opencv"],
)
@pytest.mark.parametrize("size", [None, pytest.param((98, 131), marks=pytest.mark.slow)], ids=["free", "fixed"])
def test_every_target_points_where_single_precision_does(
    runtime: Callable[[onnx.ModelProto], runtimes.Run],
    target: str,
    least: float,
    size: tuple[int, int] | None,
    squeezenet: Model,
    rocket: np.ndarray,
) -> None:
    """Behind two max-pools, whose maxima are found by comparing what runtimes may round differently."""
    objective, feeds = objectives.l2("fire5"), {"image": planes(rocket)}
    single = runtimes.open_onnxruntime(build_gradient_model(squeezenet, objective))(feeds)["gradient"]
    half = runtime(build_gradient_model(squeezenet, objective, target=target, half=True, size=size))(feeds)["gradient"]
    print(f"{target}: {cosine(half, single):.4f}")
    assert cosine(half, single) > least


@pytest.mark.slow
def test_onnxruntime_web_points_where_single_precision_does(
    squeezenet: Model, rocket: np.ndarray, tmp_path: Path
) -> None:
    objective, picture = objectives.l2("fire5"), planes(rocket)
    plan: runtimes.Plan = [(picture, [0, 0])]
    single = runtimes.take_steps(runtimes.open_onnxruntime(build_step_model(squeezenet, objective)), plan)[0]
    proto = build_step_model(squeezenet, objective, target="web", half=True)
    half = runtimes.take_steps_in_javascript(runtimes.install_web(tmp_path), tmp_path, proto, plan)[0]
    assert cosine(half - picture, single - picture) > 0.99


def planes(picture: np.ndarray) -> np.ndarray:
    """[1,3,98,131] float32."""
    small = cv2.resize(picture.astype(np.float32), (131, 98), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small.transpose(2, 0, 1)[None])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))


def test_from_the_command_line(tmp_path: Path) -> None:
    done = onnxdream(
        "export", "squeezenet1_1", "-l", "fire6", "--half", "--size", "192x160", "--verify", "--json", "-o", "h.onnx",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    print(f"directional derivatives within {record['error']:.1e}")
    assert record["half"] is True
    assert record["error"] < HALF_TOLERANCE
    picture = DATA / "rocket.jpg"
    done = onnxdream("image", picture, "--half", "--size", 96, "--steps", 2, "-o", "h.png", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_settings(tmp_path / "h.png")["half"] is True
