"""What `tools/export_torch.py` says of sizes, and what it takes for evidence."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from helpers.small_networks import conv, network, node, weights
from onnxdream.networks.model import load_model
from tools import export_torch
from tools.export_torch import TOLERANCE, Source, compare, export


class TwoScales(nn.Module):
    """Halved three times and enlarged again, as in HRNet; PyTorch itself refuses sides that are no multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.halved = nn.Sequential(*(nn.Conv2d(6 if n else 3, 6, 3, 2, 1) for n in range(3)))
        self.skip = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.halved(x), scale_factor=8.0) + self.skip(x)


class ZeroHead(nn.Module):
    """A classifier whose last layer is all zeros, as libraries initialise them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8, 5)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def source(network: nn.Module) -> Source:
    torch.manual_seed(0)
    return Source("net", network.eval().requires_grad_(False), size=(64, 64))


@pytest.mark.slow
def test_the_export_tries_odd_sizes_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = export(source(TwoScales()), tmp_path / "net.onnx")
    assert model.size_multiple([model.output_name]) == 8
    assert model.fixed_input_size([model.output_name]) is None
    assert load_model(tmp_path / "net.onnx").card.multiple == 8


@pytest.mark.slow
def test_a_head_of_zeros_is_no_evidence(tmp_path: Path) -> None:
    right = source(ZeroHead())
    model = export(right, tmp_path / "net.onnx")
    assert 0 < compare(model, right) < TOLERANCE
    wrong = source(ZeroHead())
    nn.init.ones_(wrong.network.features[0].weight)  # type: ignore[union-attr]
    wrong.network.head.bias.copy_(right.network.head.bias)  # type: ignore[union-attr, operator]
    assert compare(model, wrong) > TOLERANCE  # although the outputs are the same


def test_a_file_that_loses_layers_is_not_for_every_size(tmp_path: Path) -> None:
    nodes = [
        *conv("x", "a"),
        node("NonZero", ["a"], "places"),
        node("Cast", ["places"], "real", to=onnx.TensorProto.FLOAT),
        *conv("a", "out"),
    ]
    constants = {"w_a": weights(8, 3, 3, 3), "w_out": weights(6, 8, 3, 3)}
    onnx.save(network(nodes, outputs=("out", "real"), **constants), tmp_path / "net.onnx")
    problem, _ = export_torch._free_sizes(load_model(tmp_path / "net.onnx"), source(nn.Identity()))
    assert problem == "the shapes of places, real cannot be told for every size"
