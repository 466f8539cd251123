"""The derivative rules on blocks as PyTorch itself exports them, against its own gradient in float64."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.float64 import run_float64
from helpers.gradients import generator, gradient_model, relative
from onnxdream.engines.select import select
from onnxdream.graph.canonicalize import canonicalize


class Block(nn.Module):
    """`function(block, x)` with `parts`."""

    def __init__(self, function: Callable[[Block, Tensor], Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)

    def __getitem__(self, index: int) -> nn.Module:
        return self.parts[index]


class WindowAttention(nn.Module):
    """Shifted windows of 3x3 with a bias by relative position (Liu et al. 2021, arXiv:2103.14030)."""

    def __init__(self, side: int = 3, heads: int = 2, channels: int = 8) -> None:
        super().__init__()
        self.side, self.heads = side, heads
        self.embed, self.norm = nn.Conv2d(4, channels, 1), nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        places = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        offsets = places[:, None] - places[None] + side - 1
        self.register_buffer("index", offsets[..., 0] * (2 * side - 1) + offsets[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x).permute(0, 2, 3, 1))
        n, height, width, channels = x.shape
        side, rows, columns = self.side, height // self.side, width // self.side
        x = torch.roll(x, (-1, -1), (1, 2)).view(n, rows, side, columns, side, channels)
        tokens = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, channels)
        parts = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        scores = q @ k.mT + self.table[self.index].permute(2, 0, 1)
        seen = self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = seen.view(n, rows, columns, side, side, channels).permute(0, 1, 3, 2, 4, 5)
        return torch.roll(x.reshape(n, height, width, channels), (1, 1), (1, 2)).permute(0, 3, 1, 2)


def tokens(block: Block, x: Tensor) -> Tensor:
    """[N, places, 8] from patches of 2x2, through the second part."""
    return block[1](block[0](x).flatten(2).mT)


def attend(block: Block, x: Tensor) -> Tensor:
    t = block[0](x).flatten(2).mT
    return block[1](t, t, t, need_weights=False)[0]


def next_block(block: Block, x: Tensor) -> Tensor:
    """Liu et al. 2022, arXiv:2201.03545."""
    deep = F.layer_norm(block[0](x).permute(0, 2, 3, 1), (4,))
    return x + block[2](F.gelu(block[1](deep))).permute(0, 3, 1, 2)


def squeeze_and_excite(block: Block, x: Tensor) -> Tensor:
    return x * torch.einsum("nc,dc->nd", x.amax((2, 3)), block[0].weight).sigmoid()[:, :, None, None]


def warp(block: Block, x: Tensor) -> Tensor:
    return F.grid_sample(x, block[0](x).tanh().permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False)


def moves(block: Block, x: Tensor) -> Tensor:
    largest = torch.topk(x, 2, 1)[0].sum(1, keepdim=True)
    return x.cumsum(2) + x.repeat(1, 2, 1, 1)[:, 2:6] + x[:, [2, 0, 1, 1]] + largest + x.tril()


def logarithms(block: Block, x: Tensor) -> Tensor:
    return x.logsumexp(1, keepdim=True) + x.prod(1, keepdim=True) + F.normalize(x, dim=1)


ACTIVATIONS = (
    nn.GELU(), nn.GELU("tanh"), nn.SELU(), nn.CELU(0.7), nn.Mish(), nn.SiLU(), nn.Hardshrink(0.1), nn.Softshrink(0.1),
    nn.Threshold(-0.1, 0.2), nn.LogSigmoid(), nn.Tanhshrink(), nn.GLU(1),
)  # fmt: skip
ENCODER = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=True)
BLOCKS = {
    "attention": Block(attend, nn.Conv2d(4, 8, 2, 2), nn.MultiheadAttention(8, 2, batch_first=True)),
    "encoder": Block(tokens, nn.Conv2d(4, 8, 2, 2), ENCODER),
    "window attention": WindowAttention(),
    "ConvNeXt": Block(next_block, nn.Conv2d(4, 4, 7, 1, 3, 1, 4), nn.Linear(4, 16), nn.Linear(16, 4)),
    "squeeze and excite": Block(squeeze_and_excite, nn.Linear(4, 4)),
    "norms": nn.Sequential(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(1, 4)),
    "activations": nn.Sequential(*ACTIVATIONS),
    "shuffles": nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2)),
    "warp": Block(warp, nn.Conv2d(4, 2, 1)),
    "bicubic": Block(lambda _, x: F.interpolate(x, scale_factor=2, mode="bicubic")),
    "moves": Block(moves),
    "logarithms": Block(logarithms),
    "p-norm pooling": nn.LPPool2d(2, 3, 2),
}


def exported(block: nn.Module, x: Tensor) -> onnx.ModelProto:
    """The block as a file for any batch, height and width."""
    axes = {"dynamic_shapes": ({0: "n", 2: "h", 3: "w"},)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            block, (x,), dynamo=True, opset_version=18, input_names=["x"], verbose=False, **axes
        )
    return canonicalize(program.model_proto, "block")


EVERYDAY = ("attention", "ConvNeXt", "activations")


@pytest.mark.parametrize("name", [n if n in EVERYDAY else pytest.param(n, marks=pytest.mark.slow) for n in BLOCKS])
def test_gradient_is_torchs(name: str) -> None:
    block = BLOCKS[name].eval()
    for parameter in block.parameters():
        drawn = generator(str(parameter.shape)).normal(scale=0.5, size=parameter.shape)
        parameter.requires_grad_(False).copy_(torch.from_numpy(drawn))
    probe = torch.zeros(2, 4, 12, 18)
    forward = exported(block, probe)
    x = generator(name).normal(size=(3, 4, 15, 9)).astype(np.float32)
    leaf = torch.from_numpy(x).double().requires_grad_()
    y = block.double()(leaf)
    dy = generator("dy").normal(size=tuple(y.shape)).astype(np.float32)
    y.backward(torch.from_numpy(dy).double())
    gradient = gradient_model(forward, tuple(probe.shape), y.ndim)
    inputs = {"x": x, "dy": dy}
    assert relative(run_float64(gradient, inputs)["dx"], leaf.grad.numpy()) <= 1e-6
    assert relative(select("cpu").open(gradient).run(inputs)["dx"], leaf.grad.numpy()) <= 1e-4
