"""Inputs that networks have: pictures of whole numbers, channels last, four channels, and what is no picture at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from helpers import small_networks as small
from helpers.command_line import onnxdream
from helpers.float64 import run_float64
from helpers.notes import noted, notes
from onnxdream import objectives
from onnxdream.dream.step_graph import build_gradient_model
from onnxdream.errors import ModelError, NoGradientError
from onnxdream.networks.card import Card, Preprocessing
from onnxdream.networks.model import Model, load_model

IMAGE = np.random.default_rng(0).uniform(0, 255, (1, 3, 24, 28)).astype(np.float32)
KERNEL = small.weights(6, 3, 3, 3)
PLAIN = {"channels": "RGB", "mean": [0, 0, 0], "std": [1, 1, 1]}


def loaded(proto: onnx.ModelProto, folder: Path, card: dict | None = None, **options: object) -> Model:
    onnx.save(proto, folder / "net.onnx")
    (folder / "net.json").unlink(missing_ok=True)
    if card is not None:
        (folder / "net.json").write_text(json.dumps(card))
    return load_model(folder / "net.onnx", **options)  # type: ignore[arg-type]


def gradient(model: Model, layer: str = "out") -> np.ndarray:
    return run_float64(build_gradient_model(model, objectives.l2(layer)), {"image": IMAGE})["gradient"]


def typed(proto: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    proto.graph.input[0].type.tensor_type.elem_type = kind
    return proto


@pytest.fixture
def expected(tmp_path: Path) -> np.ndarray:
    """The gradient of the convolution of the picture's own values."""
    return gradient(loaded(small.network(small.conv("x", "out"), w_out=KERNEL), tmp_path, {"preprocessing": PLAIN}))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "HWC", "CHW"])
@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT32, TensorProto.FLOAT])
def test_pictures_of_whole_numbers(kind: int, layout: str, expected: np.ndarray, tmp_path: Path) -> None:
    # onnx/tensorflow-onnx issue 1505, NVIDIA/TensorRT issue 3985.
    start = {
        "NCHW": [],
        "NHWC": [small.node("Transpose", ["x"], "turned", perm=[0, 3, 1, 2])],
        "HWC": [small.node("Transpose", ["x"], "moved", perm=[2, 0, 1]),
                small.node("Unsqueeze", ["moved", "z"], "turned")],
        "CHW": [small.node("Unsqueeze", ["x", "z"], "turned")],
    }[layout]  # fmt: skip
    size = [{"N": "N", "C": 3, "H": "H", "W": "W"}[axis] for axis in layout]
    nodes = [*start, small.node("Cast", ["turned" if start else "x"], "float", to=1), *small.conv("float", "out")]
    proto = typed(small.network(nodes, size=size, w_out=KERNEL, z=np.array([0])), kind)
    model = loaded(proto, tmp_path, {"preprocessing": PLAIN} if kind == TensorProto.FLOAT else None)
    assert model.input_dims[1] == 3
    assert model.card.preprocessing == Preprocessing("RGB", (0,) * 3, (1,) * 3)
    assert model.one_at_a_time(["out"]) == (len(layout) == 3)
    np.testing.assert_allclose(gradient(model), expected, rtol=1e-9, atol=1e-12)


def test_a_picture_that_stays_whole(expected: np.ndarray, tmp_path: Path) -> None:
    """Where the network computes with the integers, they are rounded, and the gradient goes straight through that."""
    nodes = [small.node("DequantizeLinear", ["x", "one"], "float"), *small.conv("float", "out")]
    proto = typed(small.network(nodes, w_out=KERNEL, one=np.array(1, np.float32)), TensorProto.UINT8)
    found = gradient(loaded(proto, tmp_path))
    cosine = float((found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected))
    assert cosine > 0.9999


def test_it_says_what_is_assumed_of_whole_numbers(tmp_path: Path) -> None:
    nodes = [small.node("Cast", ["x"], "float", to=1), *small.conv("float", "out")]
    onnx.save(typed(small.network(nodes, w_out=KERNEL), TensorProto.UINT8), tmp_path / "net.onnx")
    done = onnxdream("layers", "net.onnx", folder=tmp_path)
    assert "RGB values of 0 to 255 as they are, since it takes whole numbers" in done.stderr
    assert "out_before" in done.stdout
    assert "float" not in done.stdout


class TestChannels:
    @pytest.mark.parametrize("channels", [4, "RGBA", "RGBRGB", "LLL", "BA"])
    def test_named_in_a_card(self, channels: int | str, tmp_path: Path) -> None:
        letters = "RGBA" if channels == 4 else str(channels)
        count = len(letters)
        kernel = small.weights(6, count, 3, 3)
        mean, std = [10.0 * (i + 1) for i in range(count)], [50.0 + i for i in range(count)]
        proto = small.network(small.conv("x", "out"), size=("N", count, "H", "W"), w_out=kernel)
        card = {"preprocessing": {"channels": channels, "mean": mean, "std": std}}
        found = gradient(loaded(proto, tmp_path, card))
        rows = {"R": [1, 0, 0], "G": [0, 1, 0], "B": [0, 0, 1], "L": [0.299, 0.587, 0.114], "A": [0, 0, 0]}
        mix = np.array([rows[letter] for letter in letters]) / np.array(std)[:, None]
        offset = (np.array([255.0 * (letter == "A") for letter in letters]) - mean) / std
        nodes = [small.node("Conv", ["x", "mix", "offset"], "mixed"), *small.conv("mixed", "out")]
        constants = {"mix": mix[:, :, None, None].astype(np.float32), "offset": offset.astype(np.float32)}
        plain = loaded(small.network(nodes, w_out=kernel, **constants), tmp_path, {"preprocessing": PLAIN})
        np.testing.assert_allclose(found, gradient(plain), rtol=1e-4, atol=1e-9)

    def test_without_a_card(self, tmp_path: Path) -> None:
        def network(count: int) -> onnx.ModelProto:
            kernel = small.weights(6, count, 3, 3)
            return small.network(small.conv("x", "out"), size=("N", count, "H", "W"), w_out=kernel)

        assert loaded(network(4), tmp_path).card.preprocessing.channels == "RGBA"
        assert np.isfinite(gradient(loaded(network(4), tmp_path))).all()
        with pytest.raises(
            ModelError, match=r"takes 6 channels, and a picture gives 1, 3 or 4 .* card, such as .*RGBRGB"
        ):
            loaded(network(6), tmp_path)
        with pytest.raises(ModelError, match="a picture gives 1, 3 or 4 channels, not 6; name them by letters"):
            loaded(network(6), tmp_path, {"preprocessing": {"channels": 6, "mean": [0] * 6, "std": [1] * 6}})


class TestFurtherInputs:
    """A second input that is a number, as diffusion's step, a detector's size of the picture, or a switch."""

    @staticmethod
    def network(shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
        """out = relu(conv(x)) * step, and a layer before."""
        nodes = [
            *small.conv("x", "a"),
            helper.make_node("Cast", ["step"], ["number"], to=1),
            small.node("Reshape", ["number", "grid"], "factor"),
            small.node("Mul", ["a", "factor"], "out"),
        ]
        step = helper.make_tensor_value_info("step", kind, shape)
        return small.network(nodes, inputs=[step], w_a=KERNEL, grid=np.array([1, 1, 1, -1]))

    @pytest.mark.parametrize(
        ("kind", "shape"), [(TensorProto.FLOAT, ["N", 1]), (TensorProto.INT64, [1]), (TensorProto.DOUBLE, [])], ids=str
    )
    def test_a_constant_is_given(self, kind: int, shape: list[int | str], tmp_path: Path) -> None:
        proto = self.network(shape, kind)
        np.save(tmp_path / "three.npy", np.array(3))
        plain = gradient(loaded(self.network([1]), tmp_path, inputs={"step": 1.0}))
        given = [["step=3"], {"step": 3}, {"step": np.array(3.0)}, [f"step={tmp_path / 'three.npy'}"]]
        for inputs in given if kind == TensorProto.INT64 else given[:1]:
            np.testing.assert_allclose(gradient(loaded(proto, tmp_path, inputs=inputs)), 9 * plain, rtol=1e-6)
        for value in (3, [3], "three.npy"):
            card = {"preprocessing": {"channels": "RGB", "mean": [123.675, 116.28, 103.53],
                                      "std": [58.395, 57.12, 57.375]}, "inputs": {"step": value}}  # fmt: skip
            np.testing.assert_allclose(gradient(loaded(proto, tmp_path, card)), 9 * plain, rtol=1e-6)

    def test_what_does_not_need_it_works_without(self, tmp_path: Path) -> None:
        # PaddlePaddle/PaddleDetection issues 3698 and 4306.
        with noted("layers behind its input step are left out; to have them, give it a value with --input step=VALUE"):
            model = loaded(self.network([1]), tmp_path)
        assert list(model.layers) == ["a_before", "a"]
        assert np.abs(gradient(model, "a")).max() > 0
        with pytest.raises(NoGradientError, match="out lies behind input step, which has no value; give it one with"):
            model.layer("out")
        proto = self.network([1])
        proto.graph.node[3].input[1] = "grid_of_floats"
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.float32), "grid_of_floats"))
        with notes() as told:
            loaded(proto, tmp_path)
        assert len(told) <= 1

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("step", "input 'step' is not of the form NAME=VALUE or NAME=FILE.npy"),
            ("other=3", r"has no input 'other'; its inputs are x \[N,3,H,W\], step \[1\]"),
            ("step=fast", "input step: 'fast' is neither numbers such as 0.5 or 640,480 nor a NumPy file"),
            ("step=none.npy", "input step: 'none.npy' is neither .* No such file"),
            ("step=1,2", r"input step \[1\] cannot be given numbers of the shape \[2\]"),
        ],
    )
    def test_a_constant_that_does_not_fit(self, text: str, said: str, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=said):
            loaded(self.network([1]), tmp_path, inputs=[text])

    def test_two_pictures(self, tmp_path: Path) -> None:
        other = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, "H", "W"])
        nodes = [small.node("Add", ["x", "y"], "both"), *small.conv("both", "out")]
        proto = small.network(nodes, inputs=[other], w_out=KERNEL)
        with pytest.raises(
            ModelError, match=r"takes several pictures \(x .*, y .*\); give the others a value with --input"
        ):
            loaded(proto, tmp_path)
        assert loaded(proto, tmp_path, inputs=["y=0.5"]).layer("out")

    def test_on_the_command_line(self, tmp_path: Path) -> None:
        onnx.save(self.network([1]), tmp_path / "net.onnx")
        Image.fromarray(IMAGE[0].transpose(1, 2, 0).astype(np.uint8)).save(tmp_path / "cat.png")
        run = ("image", "cat.png", "-m", "net.onnx", "-l", "out", "--steps", 1, "--octaves", 1, "--jitter", 0)
        done = onnxdream(*run, "--input", "step=2", "-o", "out.png", "--json", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        again = onnxdream("image", "cat.png", "--like", "out.png", "-o", "again.png", folder=tmp_path)
        assert again.returncode == 0, again.stderr
        assert (tmp_path / "again.png").read_bytes() == (tmp_path / "out.png").read_bytes()
        shown = onnxdream("layers", "net.onnx", "--input", "step=2", "--json", folder=tmp_path)
        assert [at["name"] for at in json.loads(shown.stdout)["layers"]] == ["a_before", "a", "out"]


def test_layers_are_what_holds_floating_point_numbers(tmp_path: Path) -> None:
    nodes = [
        *small.conv("x", "a"),
        helper.make_node("TopK", ["a", "two"], ["best", "places"], axis=1),
        small.node("Greater", ["a", "zero"], "active"),
        small.node("Shape", ["a"], "size"),
        small.node("Cast", ["places"], "numbers", to=1),
        small.node("Add", ["places", "two"], "moved"),
        small.node("Relu", ["best"], "out"),
    ]
    constants = {"two": np.array([2]), "zero": np.array(0, np.float32)}
    outputs = ["out", "active", "moved", "numbers"]
    proto = small.network(nodes, w_a=KERNEL, outputs=outputs, **constants)
    for output, kind in zip(proto.graph.output, (1, 9, 7, 1), strict=True):
        output.type.tensor_type.elem_type = kind
    assert list(loaded(proto, tmp_path).layers) == ["a_before", "a", "best", "out"]


def test_a_card_keeps_its_constants(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_text(json.dumps({"preprocessing": PLAIN, "inputs": {"step": [1, 2]}}))
    assert Card.read(path).inputs == {"step": [1, 2]}
