"""Rewrites before and after differentiation leave values and gradients as they are."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.breadth import everyday
from helpers.float64 import run_float64
from onnxdream import load_model
from onnxdream import objectives as obj
from onnxdream.dream.step_graph import build_gradient_model, build_step_model
from onnxdream.engines.select import select
from onnxdream.graph.specialize import fold_crops_into_padding
from onnxdream.networks.model import Model
from tools import networks

CARD = {"preprocessing": {"channels": "BGR", "mean": [104, 117, 123], "std": [58, 1, 7]}}
SIZES = [(33, 40), (34, 41), (36, 39), (39, 37)]  # of every remainder


class Odd(nn.Module):
    """What the rewrites look for: a padded first convolution, pooled parts side by side, strides of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, 2, 2)
        self.left, self.right = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 32, 3, 1, 1)
        self.depthwise = nn.Conv2d(48, 48, 3, 2, 1, groups=48)
        self.pointwise, self.dense = nn.Conv2d(48, 32, 1, 2), nn.Conv2d(48, 32, 3, 2, 1)
        self.last, self.signed = nn.Conv2d(32, 8, 1), nn.Conv2d(48, 48, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = F.max_pool2d(torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1), 3, 2)
        x = torch.cat([F.leaky_relu(x, 0.1), x], 1)[:, :48] + F.max_pool2d(F.relu(x), 3, 1, 1)
        x = F.hardswish(self.depthwise(x)) + F.max_pool2d(F.relu(self.signed(x)), 3, 2, 1)
        return self.last(F.silu(self.pointwise(x) + self.dense(x)))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Model]:
    path = tmp_path_factory.mktemp("odd") / "odd.onnx"
    network = networks.seeded(Odd)
    networks.to_onnx(network, path)
    path.with_suffix(".json").write_text(json.dumps(CARD))
    return network, load_model(path)


@pytest.mark.parametrize("size", everyday([pytest.param(size) for size in SIZES], 4))
def test_gradients_are_those_of_the_network_as_it_came(odd: tuple[nn.Module, Model], size: tuple[int, int]) -> None:
    network, model = odd
    image = np.random.default_rng(3).uniform(0, 255, (2, 3, *size)).astype(np.float32)
    x = torch.from_numpy(image).double().requires_grad_()
    mean, std = (torch.tensor(CARD["preprocessing"][k]).double()[:, None, None] for k in ("mean", "std"))
    objective = network.double()((x.flip(1) - mean) / std).square().flatten(1).mean(1)
    (expected,) = torch.autograd.grad(objective.sum(), x)
    fixed = {"N": 2, "H": size[0], "W": size[1]}
    proto = build_gradient_model(model, obj.l2("out"))
    single, double = (
        select("cpu").open(proto, fixed_shapes=fixed).run({"image": image}),
        run_float64(proto, {"image": image}),
    )
    np.testing.assert_allclose(single["objective"], objective.detach().numpy(), rtol=1e-5)
    scale = np.abs(expected.numpy()).max()

    assert np.abs(double["gradient"] - expected.numpy()).max() < 1e-6 * scale
    assert np.abs(single["gradient"] - expected.numpy()).max() < 2e-5 * scale  # by the processor's order of additions


@pytest.mark.parametrize("size", everyday([pytest.param((h + 32, w + 40)) for h, w in SIZES], 2))
@pytest.mark.parametrize(("name", "layer"), [("squeezenet1_1", "fire6"), ("efficientnet_lite0", "block5")])
def test_folding_crops_into_padding_changes_no_bit(name: str, layer: str, size: tuple[int, int]) -> None:
    proto = build_step_model(load_model(name), obj.l2(layer))
    less = fold_crops_into_padding(proto, {"N": 1, "H": size[0], "W": size[1]})
    image = np.random.default_rng(4).uniform(0, 255, (1, 3, *size)).astype(np.float32)
    feeds = {"image": image, "step_size": np.array(1.5, np.float32), "shift": np.array([3, -5], np.int64)}
    whole, cut = (select("cpu").open(p).run(feeds) for p in (proto, less))
    np.testing.assert_array_equal(cut["dreamed"], whole["dreamed"])
    assert crops_of_convolutions(proto) >= 3
    assert crops_of_convolutions(less) == 0


def test_padded_pools_come_before_their_relu(odd: tuple[nn.Module, Model]) -> None:
    nodes = build_gradient_model(odd[1], obj.l2("out")).graph.node
    rectified = {n.input[0] for n in nodes if n.op_type == "Relu"}
    pools = [n for n in nodes if n.op_type == "MaxPool" and n.output[0] in rectified]
    assert any(a.name == "pads" and any(a.ints) for n in pools for a in n.attribute)


def crops_of_convolutions(proto: onnx.ModelProto) -> int:
    convolved = {n.output[0] for n in proto.graph.node if n.op_type == "Conv"}
    return Counter(n.op_type for n in proto.graph.node if n.input and n.input[0] in convolved)["Slice"]
