"""Dreaming with OpenVINO: the same dream, in half precision an equally strong one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from helpers import engines
from helpers.command_line import onnxdream
from helpers.engines import both
from helpers.paths import DATA
from helpers.small_networks import network, weights
from onnxdream import objectives
from onnxdream.dream.step_graph import build_gradient_model
from onnxdream.engines.select import select
from onnxdream.errors import BackendError
from onnxdream.images import to_batch
from onnxdream.networks.model import load_model

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return engines.picture()


def test_half_precision_dreams_as_strongly(picture: np.ndarray) -> None:
    single, half = (
        both("efficientnet_lite0", "openvino", octaves=2, steps=6, half=half, bands=(), colors="free", headroom=0.0)[
            1
        ].dream(picture)
        for half in (False, True)
    )
    print(f"objective {single.objective_after:.1f} single, {half.objective_after:.1f} half")
    assert half.objective_after == pytest.approx(single.objective_after, rel=0.05)
    assert not np.array_equal(half.exact, single.exact)


def test_networks_of_many_channels_have_the_same_gradient(tmp_path: Path, picture: np.ndarray) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["out"]),
    ]
    onnx.save(network(nodes, w=weights(256, 3, 3, 3), v=weights(256, 256, 3, 3)), tmp_path / "wide.onnx")
    model = load_model(tmp_path / "wide.onnx")
    batch = np.concatenate([to_batch(picture), to_batch(picture[:, ::-1])])
    fixed_shapes = dict(zip("NHW", (2, *picture.shape[:2]), strict=True))
    graphs = {t: build_gradient_model(model, objectives.l2("out"), target=t) for t in ("cpu", "openvino")}
    count = sum(node.op_type == "DepthToSpace" for node in graphs["openvino"].graph.node)
    assert count == 2 + sum(node.op_type == "DepthToSpace" for node in graphs["cpu"].graph.node)
    expected, found = (
        select(t).open(graphs[t], fixed_shapes=fixed_shapes).run({"image": batch})["gradient"] for t in graphs
    )
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


def test_from_the_command_line(tmp_path: Path) -> None:
    done = onnxdream(
        "image", DATA / "rocket.jpg", "--size", 160, "--steps", 2, "--octaves", 2, "--device", "openvino", "--json",
        "-o", "out.png", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["provider"] == "OpenVINO"
    assert record["objective_after"] > record["objective_before"]
    assert json.loads(onnxdream("info", "--json", folder=tmp_path).stdout)["devices"]["openvino"] == "OpenVINO"


def test_missing_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "site-packages" not in p])
    with pytest.raises(BackendError, match=r"pip install onnxdream\[openvino\]"):
        select("openvino")
