"""The graphs that dream: a network truncated at its layers, its gradient, and one step of ascent.

Both builders return an ONNX model of the default domain at opset 18 that needs no side knowledge: pictures go in and
come out as float32 RGB [N,3,H,W] in 0..255, N, H and W free.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..autodiff import Ops, backward
from ..errors import LayerError, ModelError, OptionError
from ..graph.fuse import fuse
from ..graph.mixed_precision import halve, per_picture, scaled
from ..graph.shapes import IR_VERSION, OPSET, Shape, fold_constants, keep_only, probe_shapes
from ..graph.specialize import specialize
from ..lowering.legalize import lower
from ..lowering.targets import HOST_COPIES, TARGETS, lacks
from ..networks.model import PROBE, Model
from ..objectives import Objective

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# Names of the inputs and outputs of the models built here, which no inner tensor may bear.
_RESERVED = {"image", "step_size", "shift", "mask", "gradient", "objective", "dreamed", "features"}


def build_gradient_model(
    model: Model,
    objective: Objective,
    *,
    target: str = "cpu",
    half: bool = False,
    size: tuple[int, int] | None = None,
    batch: int = 1,
) -> onnx.ModelProto:
    """The gradient of `objective` with respect to the picture, as one ONNX model.

    Input `image` float32 [N,3,H,W], and the objective's own; outputs `gradient` [N,3,H,W], d objective / d image, and
    `objective` [N].
    `target` names the runtime whose spellings to prefer: cpu, cuda, openvino, opencv or web. With `size` (height,
    width) the model takes only `batch` pictures of that size, and computes no shapes. With `half` the network and its
    gradient are computed in half precision, for devices that are faster at it.

    Raises LayerError for a layer or channel that is not there, NoGradientError for an operator without a rule,
    OptionError for a target or size that cannot be.
    """
    graph = _Differentiated(model, objective, target, half=half, fixed=_fixed(size, batch))
    return graph.finish({"gradient": graph.gradient, "objective": graph.objective}, {"kind": "gradient"})


def build_step_model(
    model: Model,
    objective: Objective,
    *,
    smooth: float = 0.0,
    mask: bool = False,
    target: str = "cpu",
    half: bool = False,
    size: tuple[int, int] | None = None,
    batch: int = 1,
) -> onnx.ModelProto:
    """One step of gradient ascent, as one ONNX model.

    Inputs `image` float32 [N,3,H,W], `step_size` float32 [] and `shift` int64 [2] (dy, dx: the picture is rolled by it
    before the gradient is taken and rolled back after); outputs `dreamed` [N,3,H,W] and `objective` [N], the latter
    before the step. The step is `image + step_size * g / mean|g|` per picture, clipped to 0..255.

    `smooth` is the standard deviation in pixels of the Gaussian cascade the gradient is blurred with, 0 for none. With
    `mask` a further input `mask` float32 [1,1,H,W] in 0..1 scales the step at each pixel.
    `target`, `half`, `size` and `batch`, and what is raised, are as in `build_gradient_model`.
    """
    graph = _Differentiated(model, objective, target, jitter=True, half=half, fixed=_fixed(size, batch))
    op = graph.op
    step_size = _add_input(graph.graph, "step_size", np.float32, [])
    gradient = roll(op, graph.gradient, op.Neg(graph.shift), target)
    blend = _add_input(graph.graph, "mask", np.float32, [1, 1, "H", "W"]) if mask else None
    dreamed = ascend(op, graph.image, gradient, step_size, blend, smooth)
    return graph.finish({"dreamed": dreamed, "objective": graph.objective}, {"kind": "step", "smooth": smooth})


def build_objective_model(model: Model, objective: Objective, *, target: str = "cpu") -> onnx.ModelProto:
    """The objective alone: input `image` float32 [N,3,H,W] in 0..255, output `objective` [N]."""
    graph = _Differentiated(model, objective, target, differentiate=False)
    return graph.finish({"objective": graph.objective}, {"kind": "objective"})


def build_feature_model(model: Model, layer: str, *, target: str = "cpu") -> onnx.ModelProto:
    """The network up to `layer`: input `image` float32 [N,3,H,W] in 0..255, output `features`."""
    truncated = _Truncated(model, [layer])
    features = truncated.op.Identity(truncated.layers[layer])
    return _finish(truncated.graph, {"features": features}, {"kind": "features", "layer": layer}, target)


def ascend(
    op: Ops, image: ir.Value, gradient: ir.Value, step_size: ir.Value, mask: ir.Value | None, smooth: float
) -> ir.Value:
    """Append `clip(image + step_size * g / mean|g|, 0, 255)`, the mean taken over each picture."""
    if smooth > 0:
        gradient = op.Conv(gradient, gaussian_cascade(smooth), group=3, auto_pad="SAME_UPPER")
    size = op.ReduceMean(op.Abs(gradient), [1, 2, 3], keepdims=1)
    # A picture nothing responds to has no gradient; it stays as it is instead of turning into NaN.
    step = op.Mul(gradient, op.Div(step_size, op.Max(size, 1e-30)))
    return op.Clip(op.Add(image, op.Mul(step, mask) if mask is not None else step), 0.0, 255.0)


def gaussian_cascade(sigma: float) -> np.ndarray:
    """The sum of Gaussians of half, once and twice `sigma` pixels, as a depthwise kernel [3,1,k,k] of sum 1."""
    radius = int(np.ceil(4 * sigma))
    at = np.arange(-radius, radius + 1, dtype=np.float64)
    kernel = np.zeros((at.size, at.size))
    for width in (sigma / 2, sigma, sigma * 2):
        bell = np.exp(-(at**2) / (2 * width**2))
        kernel += np.outer(bell, bell) / bell.sum() ** 2
    return np.broadcast_to((kernel / kernel.sum()).astype(np.float32), (3, 1, *kernel.shape)).copy()


def roll(op: Ops, image: ir.Value, shift: ir.Value, target: str = "cpu") -> ir.Value:
    """Append `image` [N,3,H,W] rolled down by shift[0] and right by shift[1], like numpy.roll.

    On CUDA the places are computed where the picture lies: no copy between host and device interrupts the step.
    """
    rolled = image
    for axis, position in ((2, 0), (3, 1)):
        length = op.Slice(op.Shape(image), [axis], [axis + 1])
        back = op.Neg(op.Slice(shift, [position], [position + 1]))
        if lacks(target, HOST_COPIES):
            places = op.Range(np.int64(0), op.Squeeze(length, [0]), np.int64(1))
            rolled = op.Gather(rolled, op.Mod(op.Add(places, back), length), axis=axis)
            continue
        cut = op.Mod(back, length)
        rolled = op.Concat(op.Slice(rolled, cut, length, [axis]), op.Slice(rolled, [0], cut, [axis]), axis=axis)
    return op.Reshape(rolled, op.Shape(image))  # says that the shape has not changed, which inference cannot see


class _Differentiated:
    """A truncated network with objective and gradient attached; the builders add what they need and finish it."""

    def __init__(
        self,
        model: Model,
        objective: Objective,
        target: str,
        *,
        jitter: bool = False,
        differentiate: bool = True,
        half: bool = False,
        fixed: dict[str, int] | None = None,
    ) -> None:
        if target not in TARGETS:
            raise OptionError(f"unknown target {target!r}; targets are {', '.join(TARGETS)}")
        for _, term in objective.terms:
            term.check(model.layer(term.layer))
        self.settings = {"model": model.name, "objective": repr(objective), "target": target, **(fixed or {})}
        self.target, self.fixed = target, fixed
        self.halved: tuple[list[str | None], list[str | None]] | None = None
        graph = _Truncated(model, objective.layers, jitter=jitter, target=target)
        self.graph, self.op, self.image, self.shift = graph.graph, graph.op, graph.image, graph.shift
        fuse(self.graph, keep=[*graph.layers.values(), *([graph.prepared] if half else [])])
        for name, channels in objective.inputs.items():
            _add_input(self.graph, name, np.float32, ["N", channels])
        taps = {n: self.op.Identity(v) for n, v in graph.layers.items()} if half else graph.layers
        activations = {n: (value, model.shapes[model.layer(n).name]) for n, value in taps.items()}
        self.objective = objective.build(self.op, activations)
        if not differentiate:
            return
        self.op.shapes.update(_probe(self.graph, model, self.objective, objective.inputs))
        ones = {self.objective: self.op.Expand(self.op.CastLike(1.0, self.objective), self.op.Shape(self.objective))}
        if half:
            entries = {
                graph.layers[n]: (backward(self.op, ones, tap, target=target), len(s))
                for n, (tap, s) in activations.items()
            }
            self.gradient = self._backward_in_half(graph, entries)
        else:
            self.gradient = backward(self.op, ones, graph.view, target=target)

    def _backward_in_half(self, graph: _Truncated, seeds: dict[ir.Value, tuple[ir.Value, int]]) -> ir.Value:
        """The gradient from `seeds` {layer: (its gradient, its rank)}, scaled for half precision within the network."""
        op = self.op
        entering, scale = scaled(op, seeds)
        inner = backward(op, entering, graph.prepared, target=self.target, half=True)
        names = [[v.name for v in values] for values in ([graph.prepared, *entering.values()], [inner, *seeds])]
        self.halved = names[0], names[1]
        leaving = op.Div(inner, per_picture(op, scale, 4))
        return backward(op, {graph.prepared: leaving}, graph.view, target=self.target)

    def finish(self, outputs: dict[str, ir.Value], settings: dict[str, object]) -> onnx.ModelProto:
        return _finish(self.graph, outputs, {**self.settings, **settings}, self.target, self.fixed, self.halved)


class _Truncated:
    """A fresh graph from the picture to `layers`, with the card's preprocessing as its first operator.

    `image` is the input, `view` what the network sees before preprocessing: the image, rolled by `shift` with `jitter`.
    """

    def __init__(self, model: Model, layers: Sequence[str], *, jitter: bool = False, target: str = "cpu") -> None:
        import onnx_ir as ir

        network = ir.from_proto(model.proto).graph
        values = {o.name: o for node in network for o in node.outputs}
        for name, value in values.items():
            value.shape = None  # recorded for the size the file was made at
            if name in _RESERVED:
                value.name = f"{name}/inner"
        self.layers = {name: values[model.layer(name).name] for name in layers}
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name=model.name)
        self.op = Ops(self.graph, taken={*values, *network.initializers})
        self.image = _add_input(self.graph, "image", np.float32, ["N", 3, "H", "W"])
        self.shift = _add_input(self.graph, "shift", np.int64, [2]) if jitter else None
        self.view = self.image if self.shift is None else roll(self.op, self.image, self.shift, target)
        weight, bias = model.card.preprocessing.as_convolution()
        prepared = self.prepared = self.op.Conv(self.view, weight, bias, kernel_shape=[1, 1], name="preprocess")

        network_input = next(v for v in network.inputs if v.name == model.input_name)
        network_input.replace_all_uses_with(prepared, replace_graph_outputs=True)
        weights = list(network.initializers.values())
        network.initializers.clear()
        network.outputs.clear()
        nodes = list(network)
        network.remove(nodes)
        for value in weights:
            self.graph.register_initializer(value)
        self.graph.extend(nodes)
        keep_only(self.graph, self.layers.values())
        if not prepared.uses():
            raise LayerError(f"{', '.join(layers)} of {model.name} does not depend on the picture")


def _probe(graph: ir.Graph, model: Model, objective: ir.Value, inputs: dict[str, int]) -> dict[str, Shape]:
    """Shapes of the truncated graph for a free picture size, or else for the only size the network allows."""
    import onnx_ir as ir

    outputs = list(graph.outputs)
    graph.outputs[:] = [objective]
    proto = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION))
    graph.outputs[:] = outputs
    n, _, h, w = model.input_dims
    sizes = [(PROBE[0], 3, PROBE[1], PROBE[2]), (n or PROBE[0], 3, h or PROBE[1], w or PROBE[2])]
    reason = ""
    for size in sizes:
        try:
            return probe_shapes(
                proto, {"image": size, "shift": (2,), **{name: (size[0], c) for name, c in inputs.items()}}
            )
        except ValueError as error:
            reason = str(error)
    raise ModelError(f"{model.name}: its graph does not fit together: {reason}")


def _add_input(graph: ir.Graph, name: str, dtype: type, shape: list[int | str]) -> ir.Value:
    import onnx_ir as ir

    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype))), shape=ir.Shape(shape))
    graph.inputs.append(value)
    return value


def _fixed(size: tuple[int, int] | None, batch: int) -> dict[str, int] | None:
    """The lengths of the free axes N, H and W, where `size` fixes them."""
    if size is None:
        if batch != 1:
            raise OptionError(f"batch {batch} without a size; give size=(height, width) too, or leave both free")
        return None
    fixed = dict(zip("NHW", (batch, *size), strict=True))
    if min(fixed.values()) < 1:
        raise OptionError(f"{batch} pictures of {size[1]}x{size[0]} cannot be; give positive numbers")
    return fixed


def _finish(
    graph: ir.Graph,
    outputs: dict[str, ir.Value],
    settings: dict[str, object],
    target: str = "cpu",
    fixed: dict[str, int] | None = None,
    halved: tuple[list[str | None], list[str | None]] | None = None,
) -> onnx.ModelProto:
    """Name the outputs, drop what they do not need, note the settings, check, and return the model."""
    import onnx
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    keep_only(graph, outputs.values())
    if halved is not None:
        halve(graph, *halved)
    lower(graph, target)
    for name, value in zip(outputs, graph.outputs, strict=True):
        value.name = name
        value.type = ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape(
            ["N"] if name == "objective" else ["N", None, None, None] if name == "features" else ["N", 3, "H", "W"]
        )
    fold_constants(graph)
    if fixed is not None or lacks(target, HOST_COPIES):
        specialize(graph, lengths=fixed or {})
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="onnxdream")
    passes.CommonSubexpressionEliminationPass()(model)
    keep_only(graph, list(graph.outputs))
    proto = ir.to_proto(model)
    onnx.helper.set_model_props(proto, {"onnxdream": json.dumps(settings)})
    onnx.checker.check_model(proto)
    return proto
