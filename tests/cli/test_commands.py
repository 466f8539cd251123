"""The command line on stills: what it makes, and how it fails."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers.command_line import onnxdream
from helpers.paths import DATA
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


def test_one_picture_and_its_record(folder: Path) -> None:
    record = json.loads(good("image", "in.png", "-o", "out.png", *QUICK, "--json", "--quiet", folder=folder))
    assert record["model"] == "squeezenet1_1"
    assert record["layer"] == "fire3"
    assert record["provider"] == "CPUExecutionProvider"
    assert record["steps"] == 4
    assert record["objective_after"] > record["objective_before"]
    assert record["output"] == "out.png"
    assert iio.imread(folder / "out.png").shape == (120, 160, 3)


def test_the_same_settings_give_the_same_bytes(folder: Path) -> None:
    good("image", "in.png", "-o", "a.png", *QUICK, "--seed", "3", folder=folder)
    good("image", "in.png", "-o", "b.png", "--like", "a.png", folder=folder)
    good("image", "in.png", "-o", "c.png", *QUICK, "--seed", "4", folder=folder)
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()
    assert (iio.imread(folder / "a.png") != iio.imread(folder / "c.png")).any()


def test_several_pictures_into_a_folder_past_a_bad_one(folder: Path) -> None:
    (folder / "bad.png").write_text("no picture")
    (folder / "out").mkdir()
    done = onnxdream("image", "in.png", "bad.png", "other.png", "-o", "out", *QUICK, folder=folder)
    assert done.returncode == 2
    assert "bad.png" in done.stderr
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["in-dream.png", "other-dream.png"]


def test_looks(folder: Path) -> None:
    (folder / "look.toml").write_text('layers = ["fire3"]\noctaves = 1\nsteps = 2\n')
    iio.imwrite(folder / "mask.png", np.repeat(np.repeat(np.uint8([[0, 255]]), 120, 0), 80, 1))
    good("image", "in.png", "--config", "look.toml", "--mask", "mask.png", "-o", "masked.png", folder=folder)
    source, masked = (iio.imread(folder / n).astype(int) for n in ("in.png", "masked.png"))
    assert np.abs(masked - source)[:, :70].max() <= 1
    assert np.abs(masked - source)[:, 90:].mean() > 0.5
    good("image", "in.png", *QUICK, "--guide", "other.png", "-o", "guided.png", folder=folder)
    good("image", "in.png", *QUICK, "--keep-colors", "--smooth", "1", "-o", "kept.jpg", folder=folder)
    good(
        "image",
        "in.png",
        "-l",
        "fire3",
        "-l",
        "fire4:-0.5",
        "--steps",
        "1",
        "--octaves",
        "1",
        "-o",
        "two.png",
        folder=folder,
    )
    good("image", "in.png", *QUICK, "--channels", "3,5-8", "-o", "channels.webp", folder=folder)
    good("image", "in.png", "-p", "ribbons", "--steps", "1", "--size", "96", "-o", "preset.png", folder=folder)
    assert iio.imread(folder / "preset.png").shape == (72, 96, 3)


def test_sequences_from_noise(folder: Path) -> None:
    zoom = ["--from-noise", "96x64", "--frames", "3", "--zoom", "1.1", "--rotate", "5", *QUICK]
    good("image", *zoom, "-o", "frames", folder=folder)
    assert sorted(p.name for p in (folder / "frames").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    for name in ("tunnel.gif", "tunnel.webp"):
        good("image", *zoom, "-o", name, folder=folder)
        assert iio.imread(folder / name, index=..., plugin="pillow").shape[:3] == (3, 64, 96)


def test_models_layers_info(tmp_path: Path) -> None:
    assert "squeezenet1_1" in good("models", folder=tmp_path)
    layers = json.loads(good("layers", "squeezenet1_1", "--json", folder=tmp_path))["layers"]
    fire6 = next(layer for layer in layers if layer["name"] == "fire6")
    assert (fire6["operator"], fire6["channels"], fire6["stride"], fire6["recommended"]) == ("Concat", 384, 16, True)
    assert "cpu" in json.loads(good("info", "--json", folder=tmp_path))["devices"]
    assert good("--version", folder=tmp_path).strip()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def network(path: Path, nodes: list, weights: dict[str, np.ndarray], inputs: int = 1, domain: str = "") -> None:
    """A small network image -> y."""
    values = [
        helper.make_tensor_value_info(f"image{i or ''}", TensorProto.FLOAT, ["N", 3, "H", "W"]) for i in range(inputs)
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "C", "P", "Q"])
    graph = helper.make_graph(nodes, "g", values, [out], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    opsets = [helper.make_opsetid("", 18)] + ([helper.make_opsetid(domain, 1)] if domain else [])
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
    foreign = helper.make_node("Magic", ["a"], ["y"], domain="com.example")
    network(folder / "foreign.onnx", [conv, foreign], weight, domain="com.example")
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
        ("image in.png --overwrite -o out.png -m two.onnx", "several inputs"),
        ("image in.png --overwrite -o out.png -m vector.onnx", "not a float picture"),
        ("image in.png --overwrite -o out.png -m outside.onnx", "outside"),
        ("image in.png --overwrite -o out.png -m det.onnx -l y", "no gradient flows back"),
        ("image in.png --overwrite -o out.png -m foreign.onnx -l a", "com.example"),
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


def test_ctrl_c_leaves_nothing(folder: Path) -> None:
    command = [sys.executable, "-m", "onnxdream.cli.app", "image", str(DATA / "rocket.jpg"), "-o", "out.png"]
    process = subprocess.Popen([*command, "--steps", "5000"], stderr=subprocess.PIPE, text=True, cwd=folder)
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert stderr == "error: interrupted\n"
    assert sorted(p.name for p in folder.iterdir()) == ["in.png", "other.png"]
