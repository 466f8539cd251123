"""Exported files: what they promise, that they keep it, and that a wrong one is found out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from helpers import small_networks as small
from helpers.breadth import everyday
from helpers.command_line import onnxdream
from helpers.paths import DATA, ROOT
from helpers.quantized import quantized
from onnxdream import objectives
from onnxdream.dream.shaping import Shaping
from onnxdream.dream.step_graph import build_gradient_model
from onnxdream.errors import OptionError, PictureError, VerifyError
from onnxdream.export import TOLERANCE, export_model, verify
from onnxdream.networks.model import Model, load_model

DOCS = ROOT / "docs" / "portable.md"
ROCKET = DATA / "rocket.jpg"


@pytest.mark.parametrize(
    "options",
    everyday(
        [
            ["squeezenet1_1", "--layer", "fire8", "--gradient-only"],
            ["squeezenet1_1", "--layer", "fire5"],
            ["efficientnet_lite0", "--layer", "block5", "--smooth", "1"],
            ["squeezenet1_1", "--layer", "fire6", "--objective", "channel", "--channels", "3,7"],
            ["squeezenet1_1", "--layer", "fire5", "--bands", "0.3,1,1,0.3", "--colors", "natural", "--headroom", "48"],
            ["squeezenet1_1", "--objective", "logit", "--channels", "285", "--gradient-only"],
            ["squeezenet1_1", "--layer", "fire4", "--layer", "fire6:-0.5"],
            ["efficientnet_lite0", "--layer", "block1/expand/bn", "--gradient-only"],
        ],
        4,
    ),
    ids=" ".join,
)
def test_export_and_verify(tmp_path: Path, options: list[str]) -> None:
    done = onnxdream("export", *options, "-o", "dream.onnx", "--verify", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    print(f"{record['objective']}: directional derivatives within {record['error']:.1e}")
    assert record["error"] < TOLERANCE
    proto = onnx.load(tmp_path / "dream.onnx")
    onnx.checker.check_model(proto, full_check=True)
    inputs, outputs = ([v.name for v in vs] for vs in (proto.graph.input, proto.graph.output))
    if "--gradient-only" in options:
        assert (inputs, outputs) == (["image"], ["gradient", "objective"])
    else:
        assert (inputs, outputs) == (["image", "shift", "step_size"], ["dreamed", "objective"])


def test_the_loop_of_the_contract_dreams(tmp_path: Path, squeezenet: Model) -> None:
    """The page's own Python, run with nothing but onnxruntime and Pillow, makes the layer respond more."""
    export_model(squeezenet, objectives.l2("fire5"), tmp_path / "dream.onnx")
    found = re.search(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    cv2.imwrite(str(tmp_path / "photo.jpg"), cv2.resize(cv2.imread(str(ROCKET)), (320, 213)))
    code = found[1] + "\nprint(float(objective[0]))\nimport sys; assert 'onnxdream' not in sys.modules"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    before = onnxdream("image", "photo.jpg", "-l", "fire5", "--steps", 0, "--octaves", 1, "--json", folder=tmp_path)
    assert float(ran.stdout) > 3 * json.loads(before.stdout)["objective_before"]
    assert (tmp_path / "dream.png").stat().st_size > 10_000


@pytest.mark.parametrize("gradient_only", everyday([True, False], 2))
def test_a_wrong_gradient_is_found_out(tmp_path: Path, squeezenet: Model, *, gradient_only: bool) -> None:
    path = tmp_path / "dream.onnx"
    objective = objectives.l2("fire3")
    proto = export_model(squeezenet, objective, path, gradient_only=gradient_only)
    own = {t.name for t in squeezenet.proto.graph.initializer}
    backward = [t for t in proto.graph.initializer if len(t.dims) == 4 and t.name not in own]
    wrong = max(backward, key=lambda t: int(np.prod(t.dims)))  # the kernel that one gradient is convolved with
    values = numpy_helper.to_array(wrong).copy()
    values[::2] *= -1
    wrong.CopyFrom(numpy_helper.from_array(values, wrong.name))
    path.write_bytes(proto.SerializeToString())
    error = verify(path, size=(40, 48))
    print(f"one kernel half negated: {error:.2f}")
    assert error > 2 * TOLERANCE


def test_a_file_that_fails_its_check_is_not_written(tmp_path: Path, squeezenet: Model) -> None:
    path = tmp_path / "dream.onnx"
    path.write_text("mine")

    def check(draft: Path) -> None:
        assert onnx.load(draft).graph.node
        raise VerifyError("wrong")

    with pytest.raises(VerifyError):
        export_model(squeezenet, objectives.l2("fire3"), path, check=check)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_gradient_that_cannot_be_verified_is_not_written(tmp_path: Path) -> None:
    """A layer that is the same for every picture."""
    nodes = [*small.conv("x", "a"), small.node("Clip", ["a", "low", "high"], "out")]
    limits = {"low": np.float32(-2), "high": np.float32(-1)}
    proto = small.network(nodes, w_a=small.weights(8, 3, 3, 3), **{k: np.asarray(v) for k, v in limits.items()})
    onnx.save(proto, tmp_path / "still.onnx")
    done = onnxdream("export", "still.onnx", "-l", "out", "-o", "o.onnx", "--verify", folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "does not respond to the pictures tried" in done.stderr
    assert not (tmp_path / "o.onnx").exists()


def test_a_staircase_cannot_be_verified(tmp_path: Path) -> None:
    onnx.save(quantized("QDQ"), tmp_path / "eight.onnx")
    done = onnxdream("export", "eight.onnx", "-l", "out", "-o", "o.onnx", "--verify", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not verified: the network rounds its numbers" in done.stderr
    assert (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize("smooth", [-1.0, float("nan"), 1e9])
def test_a_smoothness_that_cannot_be_is_refused(smooth: float) -> None:
    with pytest.raises(OptionError, match=r"smooth is .*; it must be between 0 and 16"):
        Shaping(smooth=smooth)


def test_a_gradient_is_not_shaped(tmp_path: Path, squeezenet: Model) -> None:
    with pytest.raises(OptionError, match="a gradient model has none"):
        export_model(
            squeezenet, objectives.l2("fire3"), tmp_path / "o.onnx", shaping=Shaping(smooth=1.0), gradient_only=True
        )


def test_a_step_shaped_otherwise_is_found_out(tmp_path: Path, squeezenet: Model) -> None:
    goal, path = objectives.l2("fire5"), tmp_path / "o.onnx"
    export_model(squeezenet, goal, path, shaping=Shaping(bands=(0.3, 1, 1), colors="vivid"))
    gradients = build_gradient_model(squeezenet, goal)
    for bands, right in (((0.3, 1, 1), True), ((0.3, 1, 1.1), False)):
        shaping = Shaping(bands=bands, colors="vivid")
        error = verify(path, size=(72, 80), shaping=shaping, gradient_model=gradients)
        assert (error < TOLERANCE) == right


def test_a_layer_of_one_size_only(tmp_path: Path) -> None:
    """Behind a fully connected layer only one size works, which the error names."""
    onnx.save(small.classifier(size=("N", 3, 48, 64)), tmp_path / "net.onnx")
    model = load_model(tmp_path / "net.onnx")
    with pytest.raises(PictureError, match="takes only pictures of 64x48"):
        export_model(model, objectives.mean("out"), tmp_path / "o.onnx", size=(40, 40))
    assert not (tmp_path / "o.onnx").exists()
    export_model(model, objectives.mean("out"), tmp_path / "o.onnx", gradient_only=True)
    assert verify(tmp_path / "o.onnx", size=(48, 64)) < TOLERANCE


def test_bad_requests(tmp_path: Path, squeezenet: Model) -> None:
    with pytest.raises(OptionError, match=r"ends in \.onnx"):
        export_model(squeezenet, objectives.l2("fire5"), tmp_path / "dream.txt")
    with pytest.raises(OptionError, match="unknown target"):
        export_model(squeezenet, objectives.l2("fire5"), tmp_path / "dream.onnx", target="toaster")
    with pytest.raises(PictureError, match="at least"):
        export_model(squeezenet, objectives.l2("fire8"), tmp_path / "dream.onnx", size=(8, 8))
    (tmp_path / "dream.onnx").write_text("mine")
    done = onnxdream("export", "squeezenet1_1", "-l", "fire3", "-o", "dream.onnx", folder=tmp_path)
    assert done.returncode != 0
    assert "exists already" in done.stderr
    assert (tmp_path / "dream.onnx").read_text() == "mine"
    done = onnxdream("export", "squeezenet1_1", "-l", "fire33", folder=tmp_path)
    assert done.returncode == 2
    assert "did you mean fire3" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["dream.onnx"]
