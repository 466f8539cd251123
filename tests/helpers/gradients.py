"""The gradient of a small network y = f(x), in ONNX's text form, against the same in torch.

A gradient graph is made once, for a free batch, height and width, and evaluated at odd sizes: in float64, where it must
be exact, and in float32 onnxruntime.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.float64 import run_float64
from onnxdream.autodiff import backward
from onnxdream.engines.select import select
from onnxdream.graph.canonicalize import canonicalize
from onnxdream.graph.ops import Ops
from onnxdream.graph.shapes import OPSET, probe_shapes
from onnxdream.lowering import finish
from onnxdream.networks.model import PROBE

CHANNELS = 4
SIZES = ((1, 7, 10), (3, 13, 9))  # batch, height, width


@dataclass(frozen=True)
class Case:
    """y = f(x): `body` in ONNX text, `function` in torch; `weights` by name; `draw` makes x of a given shape."""

    body: str
    function: Callable[..., Tensor]
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    input: str = "N,4,H,W"
    draw: Callable[[tuple[int, ...]], np.ndarray] = lambda shape: generator("x").normal(size=shape)
    sizes: tuple[tuple[int, ...], ...] = SIZES
    probe: tuple[int, ...] = PROBE
    onnxruntime: bool = True  # False where onnxruntime cannot run the forward operator
    opset: int = 18  # a newer one is kept as it is

    def forward(self) -> onnx.ModelProto:
        head = f'<ir_version: 8, opset_import: ["" : {self.opset}]>'
        proto = onnx.parser.parse_model(f"{head} g (float[{self.input}] x) => (float[] y) {{ {self.body} }}")
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(w, name) for name, w in self.weights.items())
        return canonicalize(proto, "case") if self.opset <= OPSET else proto

    def shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        lengths = dict(zip("NHW", size, strict=True))
        return tuple(lengths.get(axis) or int(axis) for axis in self.input.split(","))


def generator(seed: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(seed.encode()))


def normal(*shape: int) -> np.ndarray:
    return generator(str(shape)).normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def case(body: str, function: Callable[..., Tensor], name: str = "", **settings) -> object:
    """A Case for pytest; settings that are no fields of Case are weights, given as arrays or as shapes to fill."""
    fields = {
        key: settings.pop(key) for key in ("input", "draw", "sizes", "probe", "onnxruntime", "opset") if key in settings
    }
    weights = {key: normal(*w) if isinstance(w, tuple) else w for key, w in settings.items()}
    return pytest.param(Case(body, function, weights, **fields), id=name or body.replace("y = ", ""))


def gradient_model(forward: onnx.ModelProto, probe: tuple[int, ...], rank: int, target: str = "cpu") -> onnx.ModelProto:
    """x, dy -> dx, the gradient of Σ y * dy for y of this rank, finished for the target."""
    graph = ir.from_proto(forward).graph
    x, y = graph.inputs[0], graph.outputs[0]
    op = Ops(graph, taken={"dy"})
    op.shapes.update(probe_shapes(forward, {"x": probe}))
    dy = ir.Value(name="dy", type=x.type, shape=ir.Shape([None] * rank))
    graph.inputs.append(dy)
    dx = op.Identity(backward(op, {y: dy}, x), name="dx")
    dx.type, dx.shape = x.type, x.shape
    graph.outputs[:] = [dx]
    finish(graph, target)
    proto = ir.to_proto(ir.Model(graph, ir_version=8))
    onnx.checker.check_model(proto)
    return proto


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    """max|found - truth| / max|truth|."""
    assert found.shape == truth.shape
    return float(np.abs(found - truth).max() / (np.abs(truth).max() or 1))


def torch_gradient(case: Case, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, a dy drawn for it, and dx in float64."""
    weights = [torch.from_numpy(w.astype(np.float64) if w.dtype == np.float32 else w) for w in case.weights.values()]
    leaf = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    y = case.function(leaf, *weights)
    dy = np.asarray(generator("dy").normal(size=tuple(y.shape)), np.float32)
    y.backward(torch.from_numpy(dy.astype(np.float64)))
    return y.detach().numpy(), dy, leaf.grad.numpy()


def errors(case: Case, target: str = "cpu") -> Iterator[tuple[float, float]]:
    """The relative error of dx in float64 and in float32, for each size. Asserts that both mean the same by f."""
    forward = case.forward()
    gradient = None
    for size in case.sizes:
        x = np.asarray(case.draw(case.shape(size)), np.float32)
        y, dy, dx = torch_gradient(case, x)
        gradient = gradient or gradient_model(forward, case.shape(case.probe), y.ndim, target)
        inputs, fixed = {"x": x, "dy": dy}, dict(zip("NHW", size, strict=True))
        exact, single = relative(run_float64(gradient, inputs)["dx"], dx), 0.0
        if case.onnxruntime:
            computed = select("cpu").open(forward, fixed_shapes=fixed).run({"x": x})["y"]
            np.testing.assert_allclose(computed, y, rtol=1e-3, atol=1e-4)
            single = relative(select("cpu").open(gradient, fixed_shapes=fixed).run(inputs)["dx"], dx)
        yield exact, single


def check(case: Case, target: str = "cpu") -> None:
    for exact, single in errors(case, target):
        assert exact <= 1e-5
        assert single <= 2e-3


def check_slope(body: str, x: list[float], slope: list[float]) -> None:
    """The gradient of Σ y at the row `x`, in float64 and in float32."""
    weights = {"zero": scalar(0), "one": scalar(1), "six": scalar(6), "quarter": scalar(0.25)}
    forward = Case(body, torch.abs, weights, "N,1,1,W").forward()
    row = np.array(x, np.float32)[None, None, None]
    y = select("cpu").open(forward).run({"x": row})["y"]
    inputs = {"x": row, "dy": np.ones_like(y)}
    gradient = gradient_model(forward, (2, 1, 1, 8), y.ndim)
    for found in (select("cpu").open(gradient).run(inputs)["dx"], run_float64(gradient, inputs)["dx"]):
        np.testing.assert_allclose(found[0, 0, 0], slope, rtol=1e-6)


def positive(shape: tuple[int, ...]) -> np.ndarray:
    return generator("x").uniform(0.3, 3, shape)


def integers(shape: tuple[int, ...]) -> np.ndarray:
    """Few different values, among them 0 and ±3: full of kinks and ties."""
    return generator("x").integers(-4, 5, shape)


def zeros_too(shape: tuple[int, ...]) -> np.ndarray:
    """Integers, and a channel of zeros."""
    return integers(shape) * (np.arange(CHANNELS) > 0)[:, None, None]


def huge(shape: tuple[int, ...]) -> np.ndarray:
    return generator("x").choice([-1e30, -1, 0, 1, 1e30], shape)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def pad(x: Tensor, pads: tuple[int, ...], **settings) -> Tensor:
    """Spatial padding with the begins first, as ONNX has them."""
    half = len(pads) // 2
    return F.pad(x, [p for axis in reversed(range(half)) for p in (pads[axis], pads[axis + half])], **settings)


def same(x: Tensor, spans: tuple[int, ...], strides: tuple[int, ...], lower: bool = False, value: float = 0) -> Tensor:
    """x padded so that windows of these spans and strides give ceil(length / stride) outputs."""
    lengths = zip(x.shape[2:], spans, strides, strict=True)
    totals = [max(0, (math.ceil(n / stride) - 1) * stride + span - n) for n, span, stride in lengths]
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return pad(x, (*more, *less) if lower else (*less, *more), value=value)
