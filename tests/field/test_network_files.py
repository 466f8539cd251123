"""Files that people have: what they are instead, what is missing from them, and tails that are no tensors."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from helpers import small_networks as small
from helpers.notes import noted, notes
from onnxdream import objectives
from onnxdream.dream.dreamer import Dreamer
from onnxdream.dream.step_graph import build_feature_model, build_gradient_model
from onnxdream.engines.select import select
from onnxdream.errors import ModelError, NoGradientError, PictureError
from onnxdream.interpret.visualizer import Visualizer
from onnxdream.networks.model import Model, load_model

IMAGE = np.random.default_rng(0).uniform(0, 255, (1, 3, 48, 64)).astype(np.float32)
WEIGHTS = {"w_a": small.weights(8, 3, 3, 3), "w_out": small.weights(6, 8, 3, 3)}


def loaded(proto: onnx.ModelProto, folder: Path) -> Model:
    onnx.save(proto, folder / "net.onnx")
    return load_model(folder / "net.onnx")


def gradient(model: Model, layer: str) -> np.ndarray:
    return select("cpu").open(build_gradient_model(model, objectives.l2(layer))).run({"image": IMAGE})["gradient"]


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return buffer.getvalue()


def checkpoint(*, new: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


OTHERS = {
    # A clone without git-lfs: onnx/models issue 569, microsoft/onnxruntime-genai issue 684.
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS .*git lfs pull"),
    "page": (b"\n<!DOCTYPE html>\n<html lang='en'><body>Log in</body></html>", "web page.* login .*download the file"),
    "xml": (b'<?xml version="1.0"?>\n<net name="net" version="11"></net>', "XML file; an OpenVINO"),
    "torch": (checkpoint(new=True), "PyTorch checkpoint; export .*torch.onnx.export"),
    "old_torch": (checkpoint(new=False), "PyTorch checkpoint; export"),
    "pickle": (pickle.dumps({"a": 1}, protocol=4), "Python pickle"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(60), "TensorFlow Lite network; convert it with tf2onnx"),
    "ort": (b"\x18\x00\x00\x00ORTM" + bytes(60), r"ONNX Runtime's own format \(.ort\), .*ONNX file; name that one"),
    "safetensors": (b'\x40\x00\x00\x00\x00\x00\x00\x00{"weight":{"dtype":"F32"}}', "safetensors file, weights without"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(60), "HDF5 file, such as a Keras network; export it with Keras"),
    "keras": (zipped(config_json=b"{}", metadata_json=b"{}", model_weights_h5=b""), "Keras network; export it with"),
    "zip": (zipped(net__model_onnx=b"x"), "ZIP archive; unpack it and name net/model.onnx"),
    "gzip": (gzip.compress(b"x" * 99), "compressed with gzip; unpack it first"),
    "picture": (png(), "PNG picture"),
    "nothing": (b"", "empty; download it again"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_it_says_what_the_file_is(kind: str, tmp_path: Path) -> None:
    content, said = OTHERS[kind]
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=f"net.onnx: not an ONNX file but .*{said}"):
        load_model(tmp_path / "net.onnx")


def test_a_folder_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "model.onnx").touch()
    with pytest.raises(ModelError, match="a TensorFlow SavedModel; convert it with tf2onnx"):
        load_model(tmp_path / "saved")
    with pytest.raises(ModelError, match=r"a folder; name .*hub/model.onnx"):
        load_model(tmp_path / "hub")


class TestWeightsInAnotherFile:
    @pytest.fixture
    def network(self, tmp_path: Path) -> Path:
        proto = small.network([*small.conv("x", "a"), *small.conv("a", "out")], **WEIGHTS)
        path = tmp_path / "net.onnx"
        onnx.save(proto, path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
        return path

    def test_found_under_another_name(self, network: Path) -> None:
        # A pair that was renamed, while the network goes by the old name: luxonis/modelconverter pull request 252.
        whole = gradient(load_model(network), "out")
        network.with_name("net.onnx.data").rename(network.with_name("net_v2.onnx.data"))
        network = network.rename(network.with_name("net_v2.onnx"))
        with noted("its weights file net.onnx.data is missing; net_v2.onnx.data is taken"):
            model = load_model(network)
        np.testing.assert_array_equal(gradient(model, "out"), whole)

    def test_missing(self, network: Path) -> None:
        data = network.with_name("net.onnx.data")
        size = data.stat().st_size
        data.unlink()
        network.with_name("notes.txt").write_text("no weights")
        with pytest.raises(ModelError, match=rf"another file, net.onnx.data \({size:,} bytes\), which is missing; put"):
            load_model(network)

    def test_a_name_that_is_none(self, network: Path) -> None:
        proto = onnx.load(network, load_external_data=False)
        for entry in [e for tensor in proto.graph.initializer for e in tensor.external_data if e.key == "location"]:
            entry.value = "net\0.data"
        onnx.save(proto, network)
        with pytest.raises(ModelError, match=r"net.onnx: not a valid ONNX file: embedded null byte"):
            load_model(network)

    def test_a_pointer(self, network: Path) -> None:
        network.with_name("net.onnx.data").write_bytes(OTHERS["pointer"][0])
        with pytest.raises(ModelError, match=r"its weights file net.onnx.data is a Git LFS pointer.*git lfs pull"):
            load_model(network)


class TestTails:
    def test_class_names_as_maps(self, tmp_path: Path) -> None:
        # ZipMap at the end of what hosted training services export: dotnet/machinelearning issue 3900.
        nodes = [
            *small.conv("x", "a"),
            small.node("GlobalAveragePool", ["a"], "pooled"),
            small.node("Flatten", ["pooled"], "flat"),
            small.node("Softmax", ["flat"], "out"),
            helper.make_node("ZipMap", ["out"], ["map"], domain="ai.onnx.ml", classlabels_int64s=list(range(8))),
            helper.make_node("ArgMax", ["out"], ["index"], axis=1, keepdims=0),
            helper.make_node("SequenceConstruct", ["out"], ["list"]),
        ]
        proto = small.network(nodes, outputs=[], w_a=WEIGHTS["w_a"], opset=13, domains=["ai.onnx.ml"])
        for name, kind in (
            ("map", helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(1, []))),
            ("list", helper.make_tensor_type_proto(1, [None, 8])),
        ):
            sequence = helper.make_sequence_type_proto(kind)
            proto.graph.output.append(helper.make_value_info(name, sequence))
        with notes() as told:
            model = loaded(proto, tmp_path)
        assert told == []
        assert list(model.layers) == ["a_before", "a", "pooled", "flat", "out"]
        plain = loaded(small.network(nodes[:2], outputs=["a"], w_a=WEIGHTS["w_a"]), tmp_path)
        np.testing.assert_allclose(gradient(model, "a"), gradient(plain, "a"), rtol=1e-6)
        with pytest.raises(NoGradientError, match=r"map lies behind .*ai.onnx.ml.ZipMap.*that work: out, flat"):
            model.layer("map")

    @pytest.mark.parametrize("domain", ["", "TRT"])
    def test_a_detector_of_another_runtime(self, domain: str, tmp_path: Path) -> None:
        # WongKinYiu/yolov7 issues 281 and 1859.
        nms = helper.make_node("EfficientNMS_TRT", ["out"], ["boxes", "scores"], name="nms", domain=domain)
        nodes = [*small.conv("x", "a"), *small.conv("a", "out"), nms, small.node("Relu", ["boxes"], "last")]
        proto = small.network(nodes, outputs=["last", "scores"], domains=[domain] if domain else [], **WEIGHTS)
        with noted(r"outside the ONNX standard \(.*EfficientNMS_TRT\); only layers that come before"):
            model = loaded(proto, tmp_path)
        assert list(model.layers) == ["a_before", "a", "out_before", "out"]
        plain = loaded(small.network(nodes[:4], **WEIGHTS), tmp_path)
        np.testing.assert_array_equal(gradient(model, "out"), gradient(plain, "out"))
        with pytest.raises(NoGradientError, match=r"last lies behind node 'nms', operator .*EfficientNMS_TRT"):
            model.layer("last")

    @pytest.mark.parametrize("opset", [11, 18])
    def test_boxes_that_are_picked_in_a_loop(self, opset: int, tmp_path: Path) -> None:
        """Scores, boxes of the first picture, those above a threshold, and a loop over them that collects rows."""
        info = helper.make_tensor_value_info
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["go"], ["going"]),
                helper.make_node("Gather", ["rows", "i"], ["row"], axis=0),
                helper.make_node("Add", ["sum", "row"], ["next"]),
            ],
            "body",
            [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("sum", 1, None)],
            [info("going", TensorProto.BOOL, []), info("next", 1, None), info("row", 1, None)],
        )  # fmt: skip
        nodes = [
            *small.conv("x", "a", strides=[2, 2]),
            small.node("Reshape", ["a", "shape"], "boxes"),
            helper.make_node("Split", ["boxes"], ["score", "rest"], axis=2) if opset < 13 else
            helper.make_node("Split", ["boxes"], ["score", "rest"], axis=2, num_outputs=2),
            helper.make_node("Gather", ["score", "first"], ["scores"], axis=0),
            helper.make_node("Greater", ["scores", "half"], ["above"]),
            helper.make_node("NonZero", ["above"], ["places"]),
            helper.make_node("Transpose", ["places"], ["turned"], perm=[1, 0]),
            helper.make_node("GatherND", ["scores", "turned"], ["rows"]),
            helper.make_node("Size", ["rows"], ["count"]),
            helper.make_node("Loop", ["count", "", "half"], ["total", "each"], name="again", body=body),
            helper.make_node("Relu", ["each"], ["out"]),
        ]  # fmt: skip
        constants = {"shape": np.array([0, -1, 8]), "first": np.array(0), "half": np.array(0.5, np.float32)}
        proto = small.network(nodes, opset=opset, outputs=["out", "total"], rank=1, w_a=WEIGHTS["w_a"], **constants)
        proto.graph.output[1].type.tensor_type.ClearField("shape")
        model = loaded(proto, tmp_path)
        assert list(model.layers)[:2] == ["a_before", "a"]
        assert {"rows", "total", "each", "out"}.isdisjoint(model.layers)
        assert not model.one_at_a_time(["a"])
        plain = loaded(small.network(nodes[:2], outputs=["a"], w_a=WEIGHTS["w_a"]), tmp_path)
        np.testing.assert_allclose(gradient(model, "a"), gradient(plain, "a"), rtol=1e-6, atol=1e-12)
        with pytest.raises(
            NoGradientError, match="out lies behind node 'again', operator Loop, which has no derivative"
        ):
            model.layer("out")

    def test_a_layer_before_a_condition(self, tmp_path: Path) -> None:
        """The condition's inner graphs read the layer itself, as those of torch.cond do."""
        branches = {}
        for name, operator in (("then_branch", "Mul"), ("else_branch", "Sub")):
            result = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)
            branches[name] = helper.make_graph([helper.make_node(operator, ["a", "two"], [name])], name, [], [result])
        nodes = [
            *small.conv("x", "a"),
            helper.make_node("ReduceSum", ["a"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "two"], ["condition"]),
            helper.make_node("If", ["condition"], ["b"], name="choice", **branches),
            *small.conv("b", "out"),
        ]
        model = loaded(small.network(nodes, two=np.array(2, np.float32), **WEIGHTS), tmp_path)
        plain = loaded(small.network(nodes[:2], outputs=["a"], w_a=WEIGHTS["w_a"]), tmp_path)
        for layer in ("a", "a_before"):
            assert model.fixed_input_size([layer]) is None
            assert model.with_leaky_rectifiers([layer]).layer(layer)
            np.testing.assert_array_equal(gradient(model, layer), gradient(plain, layer))
            onnx.checker.check_model(build_feature_model(model, layer), full_check=True)
            onnx.checker.check_model(build_gradient_model(model, objectives.l2(layer), half=True), full_check=True)
        with pytest.raises(NoGradientError, match=r"out lies behind node 'choice', operator If, .*work: a, a_before"):
            model.layer("out")


def test_weights_quantised_dynamically(tmp_path: Path) -> None:
    """What onnxruntime's quantize_dynamic makes: layers in floating point, whose gradient is nearly the plain one."""
    weight = WEIGHTS["w_a"]
    scale = np.float32(np.abs(weight).max() / 127)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["x_q", "x_scale", "x_zero"]),
        small.node("Mul", ["x_scale", "scale"], "scales"),
        small.node("ConvInteger", ["x_q", "w_q", "x_zero", "zero"], "sums", pads=[1] * 4),
        small.node("Cast", ["sums"], "numbers", to=TensorProto.FLOAT),
        small.node("Mul", ["numbers", "scales"], "scaled"),
        small.node("Relu", ["scaled"], "out"),
    ]
    constants = {"scale": np.array(scale), "w_q": np.rint(weight / scale).astype(np.int8), "zero": np.array(0, np.int8)}
    proto = small.network(nodes, **constants)
    model = loaded(proto, tmp_path)
    assert list(model.layers) == ["sums", "scaled", "out"]
    mean, std = (np.array(v)[:, None, None] for v in (model.card.preprocessing.mean, model.card.preprocessing.std))
    session = select("cpu").open(proto)
    features = select("cpu").open(build_feature_model(model, "out")).run({"image": IMAGE})["features"]
    expected = session.run({"x": ((IMAGE - mean) / std).astype(np.float32)})["out"]
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)
    plain = loaded(small.network(small.conv("x", "out"), w_out=weight), tmp_path)
    found, wanted = gradient(model, "out"), gradient(plain, "out")
    cosine = float((found * wanted).sum() / np.linalg.norm(found) / np.linalg.norm(wanted))
    assert cosine > 0.999
    assert numpy_helper.to_array(proto.graph.initializer[0]) == scale


class TestOnePictureAtATime:
    @staticmethod
    def baked(size: tuple[int | str, ...], batch: int = 1) -> onnx.ModelProto:
        """A batch of one, and a picture of 96x96, are part of the graph."""
        nodes = [
            *small.conv("x", "a", strides=[2, 2]),
            small.node("Reshape", ["a", "rows"], "flat"),
            small.node("Reshape", ["flat", "grid"], "b"),
            *small.conv("b", "out"),
        ]
        shapes = {"rows": np.array([batch, 8, -1]), "grid": np.array([batch, 8, 48, 48])}
        return small.network(nodes, size=size, **shapes, **WEIGHTS)

    @pytest.mark.parametrize("size", [("N", 3, "H", "W"), ("N", 3, 96, 96), (1, 3, 96, 96)], ids=str)
    def test_any_batch_is_declared_and_one_is_taken(self, size: tuple[int | str, ...], tmp_path: Path) -> None:
        # dynamic_axes where a view names the batch: microsoft/onnxruntime issues 6424 and 10463.
        model = loaded(self.baked(size), tmp_path)
        assert model.probe == (1, 3, 96, 96)
        assert model.one_at_a_time(["out"])
        assert not model.one_at_a_time(["a"])
        assert model.fixed_input_size(["out"]) == (96, 96)
        image = np.random.default_rng(2).uniform(0, 255, (1, 3, 96, 96)).astype(np.float32)
        plain = loaded(small.network([*small.conv("x", "b", strides=[2, 2]), *small.conv("b", "out")],
                                     w_b=WEIGHTS["w_a"], w_out=WEIGHTS["w_out"]), tmp_path)  # fmt: skip
        assert not plain.one_at_a_time(["out"])
        found, wanted = (
            select("cpu").open(build_gradient_model(m, objectives.l2("out"))).run({"image": image})["gradient"]
            for m in (model, plain)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-9)
        dreamer = Dreamer(model, objectives.l2("out"), steps=1, octaves=1)
        with pytest.raises(PictureError, match="net takes one picture at a time, not 2; dream them one by one"):
            dreamer.ascend(np.concatenate([image, image]))
        two = [objectives.channel("out", channel) for channel in (0, 1)]
        pictures = Visualizer(model, size=(96, 96), steps=1)(two).pictures
        assert (pictures[0] != pictures[1]).any()

    def test_pictures_that_would_be_mixed(self, tmp_path: Path) -> None:
        """Two pictures fit into the graph, but as the tokens of one."""
        nodes = [
            *small.conv("x", "a", strides=[8, 8]),
            small.node("Transpose", ["a"], "turned", perm=[0, 2, 3, 1]),
            small.node("Reshape", ["turned", "rows"], "out"),
        ]
        proto = small.network(nodes, rank=3, rows=np.array([1, -1, 8]), w_a=WEIGHTS["w_a"])
        assert loaded(proto, tmp_path).one_at_a_time(["out"])
