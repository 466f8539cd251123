"""The command line on stills: what it makes, and how it fails."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers.command_line import onnxdream
from onnxdream.networks import registry

QUICK = ["-l", "fire3", "--octaves", "2", "--steps", "2"]


@pytest.fixture
def folder(tmp_path: Path, rocket: np.ndarray) -> Path:
    iio.imwrite(tmp_path / "in.png", rocket[100:220, 200:360])
    iio.imwrite(tmp_path / "other.png", rocket[:120, :160])
    return tmp_path


def good(*arguments: str | Path, folder: Path) -> str:
    done = onnxdream(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def network(path: Path, nodes: list, weights: dict[str, np.ndarray], inputs: int = 1) -> None:
    """A small network image -> y."""
    values = [
        helper.make_tensor_value_info(f"image{i or ''}", TensorProto.FLOAT, ["N", 3, "H", "W"]) for i in range(inputs)
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "C", "P", "Q"])
    graph = helper.make_graph(nodes, "g", values, [out], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    opsets = [helper.make_opsetid("", 18)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


@pytest.fixture
def hostile(folder: Path) -> Path:
    """A folder of files that must not be trusted."""
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("hello")
    (folder / "cut.png").write_bytes((folder / "in.png").read_bytes()[:2000])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)))
    iio.imwrite(folder / "dot.png", np.zeros((1, 1, 3), np.uint8))

    whole = registry.find("squeezenet1_1").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "text.onnx").write_text("hello")
    conv = helper.make_node("Conv", ["image", "w"], ["a"], name="conv")
    weight = {"w": np.ones((4, 3, 3, 3), np.float32)}
    relu = helper.make_node("Relu", ["a"], ["y"])
    network(folder / "nan.onnx", [conv, relu], {"w": weight["w"] * np.nan})
    network(folder / "two.onnx", [conv, helper.make_node("Add", ["a", "image1"], ["y"])], weight, inputs=2)
    network(folder / "det.onnx", [conv, helper.make_node("Hardmax", ["a"], ["y"], name="odd", axis=1)], weight)
    vector = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 10])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [vector], [y])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "vector.onnx")
    network(folder / "outside.onnx", [conv, relu], weight)
    model = onnx.load(folder / "outside.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    (folder / "outside.onnx").write_bytes(model.SerializeToString())
    (folder / "out.png").write_bytes(b"precious")
    return folder


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("image missing.png --overwrite -o out.png", "missing.png: no such file"),
        ("image empty.png --overwrite -o out.png", "empty"),
        ("image text.jpg --overwrite -o out.png", "not a picture"),
        ("image cut.png --overwrite -o out.png", "cut.png"),
        ("image bomb.png --overwrite -o out.png", "60000x60000"),
        ("image dot.png --overwrite -o out.png", "1x1 is too small"),
        ("image in.png --overwrite -o out.png -m cut.onnx", "not an ONNX file"),
        ("image in.png --overwrite -o out.png -m text.onnx", "not an ONNX file"),
        ("image in.png --overwrite -o out.png -m missing.onnx", "no such file"),
        ("image in.png --overwrite -o out.png -m nan.onnx", "NaN"),
        ("image in.png --overwrite -o out.png -m two.onnx", "takes several pictures"),
        ("image in.png --overwrite -o out.png -m vector.onnx", "is not a picture [N,3,H,W]"),
        ("image in.png --overwrite -o out.png -m outside.onnx", "outside"),
        ("image in.png --overwrite -o out.png -m det.onnx -l y", "no gradient flows back"),
        ("image in.png --overwrite -o out.png -m squeezenet", "did you mean squeezenet1_1"),
        ("image in.png --overwrite -o out.png -l fire66", "did you mean fire6"),
        ("image in.png --overwrite -o out.png -l fire6 --channels 384", "channels 0 to 383"),
        ("image in.png --overwrite -o out.png --channels three", "three"),
        ("image in.png -o nowhere/out.png", "nowhere"),
        ("image in.png -o out.xyz", ".xyz"),
        ("image in.png -o in.png", "overwrite"),
        ("image in.png --overwrite -o out.png --preset eye", "did you mean eyes"),
        ("image in.png --overwrite -o out.png --objective joy", "joy"),
        ("image in.png --overwrite -o out.png --device toaster", "toaster"),
        ("image in.png --overwrite -o out.png --octaves 0", "octaves is 0"),
        ("image in.png --overwrite -o out.png --step-size nan", "step_size"),
        ("image in.png --overwrite -o out.png --max-memory lots", "lots"),
        ("image in.png --overwrite -o out.png --like other.png", "no onnxdream settings"),
        ("image in.png --overwrite -o out.png --nonsense", "--nonsense"),
        ("image", "name at least one picture"),
    ],
)
def test_bad_input_is_one_clear_line(hostile: Path, arguments: str, says: str) -> None:
    before = sorted(hostile.iterdir())
    done = onnxdream(*arguments.split(), folder=hostile)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert says in lines[0]
    assert sorted(hostile.iterdir()) == before
    assert (hostile / "out.png").read_bytes() == b"precious"


def test_a_missing_device_is_a_failure_that_names_the_extra(folder: Path) -> None:
    done = onnxdream("image", "in.png", "-o", "out.png", "--device", "cuda", folder=folder)
    if "CUDAExecutionProvider" not in json.loads(good("info", "--json", folder=folder))["devices"].values():
        assert done.returncode == 1
        assert "onnxdream[gpu]" in done.stderr
