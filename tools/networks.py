"""The networks of the tests and the benchmark, restated in PyTorch.

The three bundled ones take their weights from the ONNX files; the others are random, seeded, in evaluation mode, with
batch-norm statistics that are not trivial. Each module's `forward` returns {layer name: activation} up to `stop`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from onnxdream.networks import registry


def bundled_weights(name: str) -> dict[str, Tensor]:
    proto = onnx.load(registry.find(name))
    weights = {t.name: numpy_helper.to_array(t).astype(np.float32) for t in proto.graph.initializer}
    return {name.removesuffix(".half"): torch.from_numpy(array) for name, array in weights.items()}


def frozen(weights: dict[str, Tensor]) -> nn.ParameterDict:
    return nn.ParameterDict({k.replace(".", "|"): nn.Parameter(v, requires_grad=False) for k, v in weights.items()})


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1 with the bundled weights; takes pictures [N,3,H,W] RGB 0..255."""

    def __init__(self, stop: str = "logits") -> None:
        super().__init__()
        self.stop = stop
        self.weights = frozen(bundled_weights("squeezenet1_1"))
        self.register_buffer("mean", torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1))

    def conv(self, x: Tensor, name: str, **kwargs: int) -> Tensor:
        return F.relu(F.conv2d(x, self.weights[f"{name}|weight"], self.weights[f"{name}|bias"], **kwargs))

    def fire(self, x: Tensor, name: str) -> Tensor:
        x = self.conv(x, f"{name}/squeeze1x1")
        return torch.cat([self.conv(x, f"{name}/expand1x1"), self.conv(x, f"{name}/expand3x3", padding=1)], 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.flip(1) - self.mean, "conv1", stride=2)
        for number in range(2, 10):
            if number in (2, 4, 6):
                x = F.max_pool2d(x, 3, 2)
            x = self.fire(x, f"fire{number}")
            if self.stop == f"fire{number}":
                return x
        return self.conv(x, "conv10").mean((2, 3))


class EfficientNetLite(nn.Module):
    """An EfficientNet-Lite with the bundled weights; takes pictures [N,3,H,W] RGB 0..255."""

    name: str
    repeats: tuple[int, ...]  # the blocks of each stage

    def __init__(self, stop: str = "logits") -> None:
        super().__init__()
        self.stop = stop
        self.weights = frozen(bundled_weights(self.name))
        firsts = (1, 2, 2, 2, 1, 2, 1)
        self.strides = [s for f, count in zip(firsts, self.repeats, strict=True) for s in (f, *[1] * (count - 1))]

    def unit(self, x: Tensor, name: str, stride: int = 1, *, relu: bool = True) -> Tensor:
        w = self.weights[f"{name}|weight"]
        size = w.shape[-1]
        pads = []
        for length in (x.shape[3], x.shape[2]):  # TensorFlow's SAME
            total = max(0, (-(-length // stride) - 1) * stride + size - length)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), w, stride=stride, groups=x.shape[1] if w.shape[1] == 1 else 1)
        scale, bias, mean, var = (
            self.weights[f"{name}/bn|{s}"] for s in ("weight", "bias", "running_mean", "running_var")
        )
        x = F.batch_norm(x, mean, var, scale, bias, eps=1e-3)
        return F.relu6(x) if relu else x

    def forward(self, x: Tensor) -> Tensor:
        x = self.unit((x - 127) / 128, "stem", 2)
        for number, stride in enumerate(self.strides):
            name, y = f"block{number}", x
            if f"{name}/expand|weight" in self.weights:
                y = self.unit(y, f"{name}/expand")
            y = self.unit(y, f"{name}/depthwise", stride)
            project = self.weights.get(f"{name}/project|weight")
            residual = stride == 1 and project is not None and project.shape[0] == x.shape[1]
            y = self.unit(y, f"{name}/project", relu=False)
            x = x + y if residual else y
            if self.stop == name:
                return x
        x = self.unit(x, "head").mean((2, 3))
        return F.linear(x, self.weights["fc|weight"], self.weights["fc|bias"])


class EfficientNetLite0(EfficientNetLite):
    name, repeats = "efficientnet_lite0", (1, 2, 2, 3, 3, 4, 1)


class EfficientNetLite2(EfficientNetLite):
    name, repeats = "efficientnet_lite2", (1, 3, 3, 4, 4, 5, 1)


class ConvBn(nn.Sequential):
    def __init__(
        self, cin: int, cout: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | tuple[int, int] = 0
    ):
        super().__init__(
            nn.Conv2d(cin, cout, kernel, stride, padding, bias=False), nn.BatchNorm2d(cout, 1e-3), nn.ReLU()
        )


class GoogLeNet(nn.Sequential):
    """GoogLeNet (Szegedy et al. 2015) up to inception4c, as in torchvision: batch norms, ceil_mode pools."""

    class Inception(nn.Module):
        def __init__(self, cin: int, *widths: int) -> None:
            super().__init__()
            a, b1, b2, c1, c2, d = widths
            self.one = ConvBn(cin, a, 1)
            self.three = nn.Sequential(ConvBn(cin, b1, 1), ConvBn(b1, b2, 3, padding=1))
            self.five = nn.Sequential(ConvBn(cin, c1, 1), ConvBn(c1, c2, 3, padding=1))
            self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), ConvBn(cin, d, 1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)

    def __init__(self, divide: int = 1) -> None:
        def w(*widths: int) -> list[int]:
            return [max(1, v // divide) for v in widths]

        inception = self.Inception
        c64, c192 = w(64, 192)
        in3a, in3b = w(64, 96, 128, 16, 32, 32), w(128, 128, 192, 32, 96, 64)
        in4a, in4b, in4c = w(192, 96, 208, 16, 48, 64), w(160, 112, 224, 24, 64, 64), w(128, 128, 256, 24, 64, 64)

        def total(v: list[int]) -> int:
            return v[0] + v[2] + v[4] + v[5]

        super().__init__(
            ConvBn(3, c64, 7, 2, 3),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            ConvBn(c64, c64, 1),
            ConvBn(c64, c192, 3, padding=1),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            inception(c192, *in3a),
            inception(total(in3a), *in3b),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            inception(total(in3b), *in4a),
            inception(total(in4a), *in4b),
            inception(total(in4b), *in4c),
        )


class Vgg16(nn.Sequential):
    """VGG-16 (Simonyan and Zisserman 2015) up to relu4_3."""

    def __init__(self, divide: int = 1) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for width, repeats in ((64, 2), (128, 2), (256, 3), (512, 3)):
            if layers:
                layers.append(nn.MaxPool2d(2, 2))
            for _ in range(repeats):
                layers += [nn.Conv2d(channels, width // divide, 3, padding=1), nn.ReLU()]
                channels = width // divide
        super().__init__(*layers)


class ResNet50(nn.Sequential):
    """ResNet-50 (He et al. 2016) up to layer3."""

    class Bottleneck(nn.Module):
        def __init__(self, cin: int, width: int, stride: int) -> None:
            super().__init__()
            cout = 4 * width
            self.body = nn.Sequential(
                ConvBn(cin, width, 1),
                ConvBn(width, width, 3, stride, 1),
                nn.Conv2d(width, cout, 1, bias=False),
                nn.BatchNorm2d(cout),
            )
            self.skip = (
                nn.Identity()
                if cin == cout and stride == 1
                else nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))
            )

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.body(x) + self.skip(x))

    def __init__(self, divide: int = 1, blocks: tuple[int, ...] = (3, 4, 6)) -> None:
        layers: list[nn.Module] = [ConvBn(3, 64 // divide, 7, 2, 3), nn.MaxPool2d(3, 2, 1)]
        channels = 64 // divide
        for stage, repeats in enumerate(blocks):
            width = (64 << stage) // divide
            for repeat in range(repeats):
                layers.append(self.Bottleneck(channels, width, 2 if stage and not repeat else 1))
                channels = 4 * width
        super().__init__(*layers)


class MobileNetV3(nn.Sequential):
    """MobileNetV3-Large (Howard et al. 2019) up to its tenth block: squeeze-and-excitation, hard swish."""

    class Squeeze(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            middle = (channels // 4 + 4) // 8 * 8
            self.gate = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, middle, 1), nn.ReLU(), nn.Conv2d(middle, channels, 1),
                nn.Hardsigmoid(),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gate(x)

    class Block(nn.Module):
        def __init__(self, cin: int, kernel: int, wide: int, cout: int, squeeze: bool, swish: bool, stride: int):
            super().__init__()
            act = nn.Hardswish if swish else nn.ReLU
            expand = [nn.Conv2d(cin, wide, 1, bias=False), nn.BatchNorm2d(wide), act()] if wide != cin else []
            depthwise = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
            self.body = nn.Sequential(
                *expand, depthwise, nn.BatchNorm2d(wide), act(), *([MobileNetV3.Squeeze(wide)] if squeeze else []),
                nn.Conv2d(wide, cout, 1, bias=False), nn.BatchNorm2d(cout),
            )  # fmt: skip
            self.residual = stride == 1 and cin == cout

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x) if self.residual else self.body(x)

    def __init__(self) -> None:
        # kernel, width inside, width, squeeze-and-excitation, hard swish, stride
        blocks = [
            (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
            (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
            (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
            (3, 184, 80, False, True, 1),
        ]  # fmt: skip
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()]
        channels = 16
        for block in blocks:
            layers.append(self.Block(channels, *block))
            channels = block[2]
        super().__init__(*layers)


class Inception(nn.Module):
    """The block types of Inception v3 (Szegedy et al. 2016): 1x7 and 7x1 kernels, average pools, grid cuts."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(
            ConvBn(3, w, 3, 2), ConvBn(w, w, 3), ConvBn(w, 2 * w, 3, padding=1), nn.MaxPool2d(3, 2)
        )
        self.pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1), ConvBn(2 * w, w, 1))
        self.five = nn.Sequential(ConvBn(2 * w, w, 1), ConvBn(w, w, 5, padding=2))
        self.cut = ConvBn(2 * w, 2 * w, 3, 2)
        self.seven = nn.Sequential(
            ConvBn(4 * w, w, 1), ConvBn(w, w, (1, 7), 1, (0, 3)), ConvBn(w, 2 * w, (7, 1), 1, (3, 0))
        )
        self.narrow = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), ConvBn(4 * w, w, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.pooled(x), self.five(x)], 1)
        x = torch.cat([self.cut(x), F.max_pool2d(x, 3, 2)], 1)
        return torch.cat([self.seven(x), self.narrow(x)], 1)


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The network with random weights that keep activations near 1 and lively batch-norm statistics, in eval mode."""
    torch.manual_seed(seed)
    network = build().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.requires_grad_(False)


def to_onnx(network: nn.Module, path: Path, size: tuple[int, int] = (96, 128)) -> Path:
    """Export the network for one picture of `size`; onnxdream frees the size again. The output is called `out`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, (torch.zeros(1, 3, *size),), dynamo=True, opset_version=18, output_names=["out"], verbose=False
        )
    assert program is not None
    program.save(str(path), external_data=False)
    return path
