"""Networks that compute sizes on their way: padding as TensorFlow has it, tokens, branches that the size decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from helpers.small_networks import conv, network, node, weights
from onnxdream import Dreamer, objectives
from onnxdream.dream.step_graph import build_feature_model, build_gradient_model, build_step_model
from onnxdream.engines.select import select
from onnxdream.networks.model import Model, load_model

INT64, FLOAT = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT


def numbers(**constants: object) -> dict[str, np.ndarray]:
    """Constants by name, integers as int64 and others as float32."""
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    return {name: a.astype(np.float32 if a.dtype.kind == "f" else np.int64) for name, a in arrays.items()}


def by_rounding_up() -> list[onnx.NodeProto]:
    """pad = max((ceil(size / 2) - 1) * 2 + 3 - size, 0), by way of floating-point numbers."""
    return [
        node("Cast", ["sides"], "real", to=FLOAT),
        node("Div", ["real", "two_"], "half"),
        node("Ceil", ["half"], "up"),
        node("Cast", ["up"], "count", to=INT64),
        node("Sub", ["count", "one"], "less"),
        node("Mul", ["less", "two"], "reach"),
        node("Add", ["reach", "three"], "span"),
        node("Sub", ["span", "sides"], "over"),
        node("Max", ["over", "none"], "pad"),
    ]


def by_remainder() -> list[onnx.NodeProto]:
    """The same for a window of 3 with a stride of 2: 1 for an even size, 2 for an odd one."""
    return [
        node("Mod", ["sides", "two"], "odd"),
        node("Equal", ["odd", "none"], "even"),
        node("Where", ["even", "one", "two"], "pad"),
    ]


def by_branch() -> list[onnx.NodeProto]:
    """The same by an If, which every size between 0 and infinity answers alike."""
    count = helper.make_tensor_value_info("padded", INT64, [2])
    then = helper.make_graph([*by_remainder(), node("Add", ["pad", "none"], "padded")], "then", [], [count])
    otherwise = helper.make_graph([node("Mul", ["sides", "none"], "padded")], "else", [], [count])
    return [
        node("ReduceMin", ["sides"], "least", keepdims=0),
        node("Greater", ["least", "nothing"], "any"),
        helper.make_node("If", ["any"], ["pad_"], then_branch=then, else_branch=otherwise),
        node("Identity", ["pad_"], "pad"),
    ]


def same_padded(sizes: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    """A convolution of stride 2 behind padding that `sizes` computes from the picture's; `padded` to `out`."""
    pads = [
        node("Shape", ["x"], "shape"),
        node("Slice", ["shape", "two", "four"], "sides"),
        *sizes,
        node("Div", ["pad", "two"], "before"),
        node("Sub", ["pad", "before"], "after"),
        node("Concat", ["none", "none", "before", "none", "none", "after"], "pads", axis=0),
        node("Pad", ["x", "pads"], "wide"),
        node("Conv", ["wide", "w_a"], "a", strides=[2, 2]),
        *conv("a", "out"),
    ]
    constants = numbers(one=[1], two=[2], three=[3], four=[4], none=[0], nothing=0, two_=[2.0])
    return network(pads, w_a=weights(8, 3, 3, 3), w_out=weights(6, 8, 3, 3), **constants)


def loaded(proto: onnx.ModelProto, folder: Path) -> Model:
    onnx.save(proto, folder / "net.onnx")
    return load_model(folder / "net.onnx")


def gradient_error(model: Model, layer: str, size: tuple[int, int]) -> float:
    """How far a directional derivative is from the difference of the objective, relatively."""
    proto = build_gradient_model(model, objectives.mean(layer))
    session = select("cpu").open(proto)
    rng = np.random.default_rng(0)
    image, along = (rng.uniform(0, 255, (1, 3, *size)).astype(np.float32) for _ in range(2))
    outputs = session.run({"image": image})
    predicted = float((outputs["gradient"] * along).sum())
    ends = [float(session.run({"image": image + s * along})["objective"][0]) for s in (-1e-2, 1e-2)]
    return abs((ends[1] - ends[0]) / 2e-2 - predicted) / abs(predicted)


# huggingface/pytorch-image-models#646, pytorch/pytorch#27838: padding computed from the size of the picture.
@pytest.mark.parametrize("sizes", [by_rounding_up, by_remainder, by_branch])
def test_every_layer_of_my_network_with_padding_as_in_tensorflow_is_there(sizes, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = loaded(same_padded(sizes()), tmp_path)
    assert model.shapes["out"] == (2, 6, 176, 208)
    assert {"wide", "a", "out"} <= model.layers.keys()
    assert model.fixed_input_size(["out"]) is None
    assert model.layers["a"].receptive_field == 3  # sizes see nothing of the picture
    for size in ((33, 46), (32, 47)):
        assert gradient_error(model, "out", size) < 2e-2


def test_tokens_of_patches_that_are_unfolded_have_a_shape(tmp_path: Path) -> None:
    """Height and width rounded up to a multiple of 2 as floating-point numbers, then patches, as MobileViT makes."""
    nodes = [
        *conv("x", "a", strides=[4, 4]),
        node("Shape", ["a"], "shape"),
        node("Slice", ["shape", "two", "four"], "sides"),
        node("Cast", ["sides"], "real", to=FLOAT),
        node("Mul", ["real", "half"], "halves"),
        node("Ceil", ["halves"], "up"),
        node("Cast", ["up"], "counts", to=INT64),
        node("Mul", ["counts", "two"], "even"),
        node("Slice", ["shape", "zero", "two"], "front"),
        node("Concat", ["front", "even"], "to", axis=0),
        node("Resize", ["a", "", "", "to"], "grown", mode="linear"),
        helper.make_node("Split", ["counts"], ["high", "wide"], num_outputs=2),
        node("Concat", ["minus", "high", "two", "wide", "two"], "patched", axis=0),
        node("Reshape", ["grown", "patched"], "patches"),
        node("Transpose", ["patches"], "turned", perm=[0, 2, 4, 1, 3]),
        node("ReduceProd", ["counts"], "count", keepdims=1),
        node("Concat", ["minus", "four", "count"], "tokens", axis=0),
        node("Reshape", ["turned", "tokens"], "out"),
    ]
    constants = numbers(two=[2], four=[4], zero=[0], minus=[-1], half=[0.5])
    model = loaded(network(nodes, w_a=weights(8, 3, 3, 3), rank=3, **constants), tmp_path)
    # 352x416 becomes 88x104 and needs no rounding; patches of 2x2 pixels, each by itself.
    assert model.shapes["grown"] == (2, 8, 88, 104)
    assert model.shapes["out"] == (16, 4, 44 * 52)
    assert {"grown", "out"} <= model.layers.keys()
    # Eight rows for each picture, one objective.
    photo = np.random.default_rng(0).integers(0, 255, (40, 56, 3)).astype(np.uint8)
    dream = Dreamer(model, objectives.l2("out") + 0.5 * objectives.l2("a"), octaves=1, steps=1).dream(photo)
    image = np.ascontiguousarray(photo.transpose(2, 0, 1)[None], np.float32)
    squares = [
        np.square(select("cpu").open(build_feature_model(model, name)).run({"image": image})["features"]).mean()
        for name in ("out", "a")
    ]
    assert dream.objective_before == pytest.approx(squares[0] + 0.5 * squares[1], rel=1e-4)
    assert dream.objective_after > dream.objective_before


# microsoft/onnxruntime#10706: "two nodes with same node name".
def test_nodes_that_bear_the_names_ours_would_get_do_not_stop_the_step(tmp_path: Path) -> None:
    """PyTorch numbers its nodes as this library's graphs do, and some exporters name two nodes alike."""
    nodes = [
        *conv("x", "a"),
        node("Shape", ["a"], "shape"),
        node("ConstantOfShape", ["shape"], "zeros"),
        node("Add", ["a", "zeros"], "sum"),
        *conv("sum", "out"),
    ]
    for position, named in enumerate(nodes):
        named.name = f"node_{named.op_type}_{position % 3}"
    nodes[1].name = nodes[0].name
    model = loaded(network(nodes, w_a=weights(8, 3, 3, 3), w_out=weights(6, 8, 3, 3)), tmp_path)
    proto = build_step_model(model, objectives.l2("out"), smooth=1.0, bands=(0.5, 1.0), colors="natural", headroom=30.0)
    names = [n.name for n in proto.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    image = np.full((1, 3, 24, 32), 99, np.float32) + np.arange(32, dtype=np.float32)
    feeds = {"image": image, "step_size": np.array(2, np.float32), "shift": np.array([3, -2])}
    dreamed = select("cpu").open(proto).run(feeds)["dreamed"]
    assert np.isfinite(dreamed).all()
    assert np.abs(dreamed - image).mean() > 0.1


def test_constants_of_sizes_may_be_many(tmp_path: Path) -> None:
    """Places of a window's neighbours, an index of more than a few numbers, whose maximum is a size."""
    index = np.arange(100, dtype=np.int64) % 8
    nodes = [
        *conv("x", "a"),
        node("Shape", ["a"], "shape"),
        node("Slice", ["shape", "one", "two"], "channels"),
        node("Mod", ["index", "channels"], "wrapped"),
        node("ReduceMax", ["wrapped"], "last", keepdims=1),
        node("Slice", ["a", "zero", "last", "one"], "out"),
    ]
    constants = {**numbers(zero=[0], one=[1], two=[2]), "index": index}
    model = loaded(network(nodes, w_a=weights(8, 3, 3, 3), **constants), tmp_path)
    assert model.shapes["out"] == (2, 7, 352, 416)
