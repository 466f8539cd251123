"""NaN and infinity are never a black picture: what happened, in which layer, what to do, and no output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from helpers.breadth import everyday
from helpers.command_line import onnxdream
from helpers.films import picture, write_video
from helpers.notes import noted, notes
from helpers.paths import DATA
from helpers.small_networks import conv, network, node, weights
from onnxdream import Dreamer, load_model
from onnxdream import objectives as obj
from onnxdream.dream.step_graph import build_step_model
from onnxdream.engines.select import select
from onnxdream.errors import NotFiniteError, VerifyError
from onnxdream.export import export_model, verify
from onnxdream.networks.model import Model

ROCKET = DATA / "rocket.jpg"
PHOTO = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
LOG = "layer out of net (operator Log) gives NaN or infinity on this picture; choose a layer before it, such as b or a"


def written(nodes: Sequence[onnx.NodeProto], folder: Path, **constants: np.ndarray) -> Model:
    constants = {"w_a": weights(8, 3, 3, 3), **constants}
    onnx.save(network(nodes, **constants), folder / "net.onnx")
    return load_model(folder / "net.onnx")


def logarithm(folder: Path) -> Model:
    """`out` is the logarithm of what is never positive."""
    return written([*conv("x", "a"), node("Neg", ["a"], "b"), node("Log", ["b"], "out")], folder)


def square_root(folder: Path) -> Model:
    """`out` is finite, but its gradient is not where a ReLU has made zeros."""
    return written([*conv("x", "a"), node("Sqrt", ["a"], "root"), node("Neg", ["root"], "out")], folder)


def overflowing(folder: Path) -> Model:
    """Activations of some 100,000, which half precision does not hold."""
    return written([*conv("x", "a"), *conv("a", "out")], folder, w_out=2e5 * weights(6, 8, 3, 3))


@pytest.mark.parametrize(
    "command",
    [
        ["image", ROCKET, "-o", "o.png"],
        ["live", "in.mp4", "--headless", "-o", "o.mp4"],
        ["video", "in.mp4", "-o", "o.mp4"],
    ],
)
def test_my_picture_came_out_black_and_nothing_was_said(command: list[str], tmp_path: Path) -> None:
    logarithm(tmp_path)
    if "in.mp4" in command:
        write_video(tmp_path / "in.mp4", [picture(n) for n in range(3)])
    quick = ["--octaves", 1, "--steps", 1]
    done = onnxdream(*command, "-m", "net.onnx", "-l", "out", *quick, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(LOG)
    assert not list(tmp_path.glob("o.*"))


def test_the_gradient_alone_is_not_finite(tmp_path: Path) -> None:
    model = square_root(tmp_path)
    message = (
        r"the gradient of mean\(out\) of net turns NaN or infinite behind layer root \(operator Sqrt\) on this "
        "picture; choose a layer before it, such as a or a_before"
    )
    with pytest.raises(NotFiniteError, match=message):
        Dreamer(model, obj.mean("out"), octaves=1, steps=2).dream(PHOTO)


@pytest.mark.parametrize("device", everyday(["cpu", "openvino", "opencv"], 2))
def test_steps_tell_at_once_on_every_engine(device: str, tmp_path: Path) -> None:
    model, engine = square_root(tmp_path), select(device)
    image = np.ascontiguousarray(PHOTO.transpose(2, 0, 1)[None], np.float32)
    for shaping in ({}, {"bands": (1.0, 1.0), "colors": "natural", "headroom": 20.0, "smooth": 1.0}):
        for layer, finite in (("a", True), ("out", False)):
            proto = build_step_model(model, obj.mean(layer), target=engine.target, **shaping)  # type: ignore[arg-type]
            session = engine.open(proto, fixed_shapes={"N": 1, "H": 48, "W": 64})
            objective, _ = next(session.ascend(image, [(1.0, (2, 3))]))
            assert np.isfinite(objective).all() == finite, (shaping, layer)


def test_large_pictures_in_tiles_tell_as_well(tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 255, (720, 720, 3)).astype(np.uint8)
    dreamer = Dreamer(square_root(tmp_path), obj.mean("out"), octaves=1, steps=1, max_memory=64 << 20)
    assert dreamer._tiling((1, 3, 720, 720), reserved_bytes=2 * 4 * 3 * 720**2) is not None
    with pytest.raises(NotFiniteError, match="operator Sqrt"):
        dreamer.dream(large)


# jcjohnson/neural-style#425: NaN in half precision.
def test_half_precision_overflows_and_single_precision_takes_its_place(tmp_path: Path) -> None:
    model = overflowing(tmp_path)
    expected = Dreamer(model, obj.l2("out"), octaves=2, steps=2).dream(PHOTO).exact
    halved = Dreamer(model, obj.l2("out"), octaves=2, steps=2, half=True)
    with noted(r"l2\(out\) gives NaN or infinity in half precision; single precision is used instead"):
        found = halved.dream(PHOTO).exact
    np.testing.assert_array_equal(found, expected)
    with notes() as told:  # once
        halved.dream(PHOTO)
    assert not told


def test_half_precision_that_overflows_on_one_picture_only_is_left_there(tmp_path: Path) -> None:
    model = overflowing(tmp_path)
    expected = Dreamer(model, obj.l2("out"), octaves=2, steps=2).dream(PHOTO).exact
    halved = Dreamer(model, obj.l2("out"), octaves=2, steps=2, half=True)
    halved._half_tried = True  # as if noise had not shown it
    with noted("single precision is used instead"):
        found = halved.dream(PHOTO)
    np.testing.assert_array_equal(found.exact, expected)
    assert found.steps == 4


def test_a_file_that_gives_nan_is_not_verified(tmp_path: Path) -> None:
    model = square_root(tmp_path)
    export_model(model, obj.l2("out"), tmp_path / "step.onnx")
    with pytest.raises(VerifyError, match="gives NaN or infinity on a picture of noise; choose another layer"):
        verify(tmp_path / "step.onnx", size=(48, 64))
    done = onnxdream("export", "net.onnx", "-l", "out", "-o", "s.onnx", "--verify", folder=tmp_path)
    assert done.returncode == 1
    assert not (tmp_path / "s.onnx").exists()


def test_guides_and_atlases_name_the_layer_too(tmp_path: Path) -> None:
    logarithm(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "rocket.jpg").write_bytes(ROCKET.read_bytes())
    for command in (
        ["image", ROCKET, "-m", "net.onnx", "--guide", ROCKET, "-o", "o.png"],
        ["atlas", "net.onnx", "--images", "photos", "--size", 32, "--steps", 1, "-o", "folder"],
    ):
        done = onnxdream(*command, "-l", "out", folder=tmp_path)
        assert done.returncode == 2, done
        assert LOG in done.stderr
