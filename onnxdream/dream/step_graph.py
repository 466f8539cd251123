"""The graphs that dream: a network truncated at its layers, its gradient, and one step of ascent.

Both builders return an ONNX model of the default domain at opset 18 that needs no side knowledge: pictures go in and
come out as float32 RGB [N,3,H,W] in 0..255, N, H and W free.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..autodiff import backward
from ..errors import LayerError, ModelError, OptionError
from ..graph.fuse import fuse
from ..graph.mixed_precision import Region, per_picture, scale_cotangents
from ..graph.ops import Ops
from ..graph.shapes import IR_VERSION, OPSET, Shape, keep_only, probe_shapes
from ..lowering import finish
from ..lowering.targets import TARGETS
from ..networks.model import PROBE, Model
from ..objectives import Objective, Term
from .shaping import Shaping

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# Names of the inputs and outputs of the models built here, which no inner tensor may bear.
_RESERVED = {"image", "step_size", "shift", "mask", "gradient", "objective", "dreamed", "features", "finite"}


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

    Its input is `image` float32 [N,3,H,W] in 0..255, and those of the objective's own. Its outputs are `gradient`
    float32 [N,3,H,W], d objective / d image, and `objective` float32 [N].

    Args:
        model: The network.
        objective: What to differentiate.
        target: The runtime that the graph is for: cpu, cuda, openvino, opencv or web.
        half: Compute the network and its gradient in half precision, for devices that are faster at it.
        size: (height, width) of the pictures, where the model is for these alone. It then computes no shapes.
        batch: How many pictures of `size` the model takes.

    Returns:
        The model, of standard operators at opset 18.

    Raises:
        LayerError: A layer or channel does not exist.
        NoGradientError: An operator has no derivative rule.
        OptionError: The target is unknown, or the network does not accept the size.
    """
    fixed = _fixed(size, batch)
    graph = _Differentiated(model, objective, target, half=half)
    return graph.finished({"gradient": graph.gradient, "objective": graph.objective}, {"kind": "gradient"}, fixed)


def build_step_model(
    model: Model,
    objective: Objective,
    *,
    smooth: float = 0.0,
    bands: Sequence[float] = (),
    colors: str = "free",
    headroom: float = 0.0,
    mask: bool = False,
    target: str = "cpu",
    half: bool = False,
    size: tuple[int, int] | None = None,
    batch: int = 1,
) -> onnx.ModelProto:
    """One step of gradient ascent, as one ONNX model.

    Its inputs are `image` float32 [N,3,H,W] in 0..255, `step_size` float32 [] and `shift` int64 [2] (dy, dx: the
    picture is rolled by it before the gradient is taken and rolled back after). Its outputs are `dreamed` float32
    [N,3,H,W] and `objective` float32 [N], the latter before the step, and NaN where the gradient is not finite. The
    step is `image + step_size * g / mean|g|` per picture, clipped to 0..255, with g the gradient as `shaping.Shaping`
    has shaped it.

    Args:
        model: The network.
        objective: What to ascend.
        smooth: The standard deviation in pixels of the Gaussian cascade the gradient is blurred with, 0 for none.
        bands: The gains of the bands of a Laplacian pyramid of the gradient, fine to coarse; empty for no pyramid.
        colors: The colours of the step: free, natural, vivid, ink, or gains of red-blue and green-magenta "R,G".
        headroom: How near to black and white, in 0..255, steps towards them become smaller; 0 for nowhere.
        mask: Add an input `mask` float32 [1,1,H,W] in 0..1 that scales the step at each pixel.
        target: As in `build_gradient_model`, and so are the others.
        half: See there.
        size: See there.
        batch: See there.

    Returns:
        The model, of standard operators at opset 18.

    Raises:
        LayerError: A layer or channel does not exist.
        NoGradientError: An operator has no derivative rule.
        OptionError: The target is unknown, a setting is out of range, or the network does not accept the size.
    """
    shaping = Shaping(smooth, tuple(bands), colors, headroom)
    fixed = _fixed(size, batch)
    graph = _Differentiated(model, objective, target, half=half)
    op, image = graph.op, graph.image
    shift = _add_input(graph.graph, "shift", np.int64, [2])
    _look_through(image, op.internal("Roll", image, shift))
    gradient = op.internal("Roll", shaping.recolor(op, graph.gradient), op.Neg(shift))
    step_size = _add_input(graph.graph, "step_size", np.float32, [])
    blend = _add_input(graph.graph, "mask", np.float32, [1, 1, "H", "W"]) if mask else None
    dreamed, magnitude = shaping.append(op, image, gradient, step_size, blend)
    told = op.Add(graph.objective, op.Squeeze(_finite(op, magnitude), [1, 2, 3]))
    outputs = {"dreamed": dreamed, "objective": told}
    about = {"kind": "step", "smooth": smooth, "bands": list(bands), "colors": colors, "headroom": headroom}
    return graph.finished(outputs, about, fixed)


def build_objective_model(model: Model, objective: Objective, *, target: str = "cpu") -> onnx.ModelProto:
    """The objective alone: input `image` float32 [N,3,H,W] in 0..255, output `objective` [N]."""
    graph = _Differentiated(model, objective, target, differentiate=False)
    return graph.finished({"objective": graph.objective}, {"kind": "objective"})


def build_feature_model(model: Model, layer: str, *, target: str = "cpu") -> onnx.ModelProto:
    """The network up to `layer`: input `image` float32 [N,3,H,W] in 0..255, output `features`."""
    truncated = _Truncated(model, [layer])
    features = truncated.op.Identity(truncated.layers[layer])
    return _finished(truncated.graph, {"features": features}, {"kind": "features", "layer": layer}, target)


def build_finite_model(
    model: Model, layers: Sequence[str], objective: Objective | None = None, *, target: str = "cpu"
) -> onnx.ModelProto:
    """Whether numbers are finite: input `image` float32 [N,3,H,W] in 0..255, output `finite`, 0 for yes and NaN for no.

    Args:
        model: The network.
        layers: The layers' names; there is one number for each.
        objective: Look at its gradients with respect to the layers, rather than at the layers.
        target: As in `build_gradient_model`.

    Returns:
        The model.

    Raises:
        NoGradientError: The objective does not change with a layer.
    """
    graph = _Truncated(model, list(dict.fromkeys([*layers, *(objective.layers if objective else ())])))
    op, values = graph.op, [graph.layers[name] for name in layers]
    if objective is not None:
        activations = {n: (graph.layers[n], model.shapes[model.layer(n).name]) for n in objective.layers}
        goal = objective.build(op, activations)
        op.shapes.update(_probe(graph.graph, model, goal, objective.inputs))
        ones = {goal: op.Expand(1.0, op.Shape(goal))}
        values = [backward(op, ones, value) for value in values]
    flags = op.Concat(*(op.Reshape(op.ReduceSum(_finite(op, value)), [1]) for value in values), axis=0)
    return _finished(graph.graph, {"finite": flags}, {"kind": "finite"}, target)


def _finite(op: Ops, value: ir.Value) -> ir.Value:
    """0 where `value` is finite, else NaN."""
    return op.Sub(value, value)


def _look_through(image: ir.Value, view: ir.Value) -> None:
    """Let everything that reads `image` read `view`, the last value of the graph, which is computed from it."""
    node = view.producer()
    assert node is not None
    graph = node.graph
    assert graph is not None
    for reader, index in list(image.uses()):
        if reader is not node:
            reader.replace_input_with(index, view)
    graph.remove(node)
    graph.insert_before(graph[0], node)


class _Differentiated:
    """A truncated network with objective and gradient attached; the builders add what they need and finish it."""

    def __init__(
        self,
        model: Model,
        objective: Objective,
        target: str,
        *,
        differentiate: bool = True,
        half: bool = False,
    ) -> None:
        if target not in TARGETS:
            raise OptionError(f"unknown target {target!r}; targets are {', '.join(TARGETS)}")
        for _, term in objective.terms:
            term.check(model.layer(term.layer))
            _check_places(model, term)
        self.settings = {"model": model.name, "objective": repr(objective), "target": target}
        self.target = target
        self.half: Region | None = None
        graph = _Truncated(model, objective.layers)
        self.graph, self.op, self.image = graph.graph, graph.op, graph.image
        fuse(self.graph, keep=[*graph.layers.values(), *([graph.prepared] if half else [])])
        for name, channels in objective.inputs.items():
            _add_input(self.graph, name, np.float32, ["N", channels])
        taps = {n: self.op.Identity(v) for n, v in graph.layers.items()} if half else graph.layers
        activations = {n: (value, model.shapes[model.layer(n).name]) for n, value in taps.items()}
        pictures = None
        if any(shape[0] != model.probe[0] for _, shape in activations.values()):
            pictures = model.probe[0], self.op.Slice(self.op.Shape(self.image), [0], [1])
        self.objective = objective.build(self.op, activations, pictures)
        if not differentiate:
            return
        self.op.shapes.update(_probe(self.graph, model, self.objective, objective.inputs))
        ones = {self.objective: self.op.Expand(self.op.CastLike(1.0, self.objective), self.op.Shape(self.objective))}
        if half:
            cotangents = {
                graph.layers[n]: (backward(self.op, ones, tap), len(s)) for n, (tap, s) in activations.items()
            }
            self.gradient = self._backward_in_half(graph, cotangents)
        else:
            self.gradient = backward(self.op, ones, graph.image)

    def _backward_in_half(self, graph: _Truncated, cotangents: dict[ir.Value, tuple[ir.Value, int]]) -> ir.Value:
        """The gradient from `cotangents` {layer: (its gradient, its rank)}, scaled to half precision in the network."""
        op = self.op
        entering, scale = scale_cotangents(op, cotangents)
        inner = backward(op, entering, graph.prepared)
        begins, ends = [graph.prepared, *entering.values()], [inner, *cotangents]
        self.half = Region(*(frozenset(str(v.name) for v in values) for values in (begins, ends)))
        leaving = op.Div(inner, per_picture(op, scale, 4))
        return backward(op, {graph.prepared: leaving}, graph.image)

    def finished(
        self, outputs: dict[str, ir.Value], settings: dict[str, object], fixed: dict[str, int] | None = None
    ) -> onnx.ModelProto:
        settings = {**self.settings, **(fixed or {}), **settings}
        return _finished(self.graph, outputs, settings, self.target, fixed, self.half)


class _Truncated:
    """A fresh graph from the picture to `layers`, with the card's preprocessing as its first operator.

    `image` is the input and `prepared` the image after preprocessing.
    """

    def __init__(self, model: Model, layers: Sequence[str]) -> None:
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
        weight, bias = model.card.preprocessing.as_convolution()
        prepared = self.prepared = self.op.Conv(self.image, weight, bias, kernel_shape=[1, 1], name="preprocess")

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


def _check_places(model: Model, term: Term) -> None:
    """Raise LayerError where a layer has too few places for a term on pictures of every size."""
    name = model.layer(term.layer).name
    shape, (rows, columns) = model.shapes[name], term.places
    bound = shape[2:] == (1, 1) or model.fixed_input_size([name]) is not None
    if len(shape) == 4 and bound and (rows > shape[2] or columns > shape[3]):
        raise LayerError(
            f"layer {name} has {shape[2]}x{shape[3]} places, so {term.text} asks for one that it has not; "
            f"{'leave the place out' if shape[2:] == (1, 1) else 'count rows and columns from 0'}"
        )


def _probe(graph: ir.Graph, model: Model, objective: ir.Value, inputs: dict[str, int]) -> dict[str, Shape]:
    """Shapes of the truncated graph for a free picture size, or else for the only size the network allows."""
    import onnx_ir as ir

    outputs = list(graph.outputs)
    graph.outputs[:] = [objective]
    proto = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION))
    graph.outputs[:] = outputs
    n, _, *own = model.probe
    reason = ""
    for size in dict.fromkeys((count, 3, *sides) for sides in (PROBE[1:], own) for count in (PROBE[0], n)):
        try:
            return probe_shapes(proto, {"image": size, **{name: (size[0], c) for name, c in inputs.items()}})
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
        raise OptionError(f"{batch} pictures of {size[1]}x{size[0]}: an impossible size; give positive numbers")
    return fixed


def _finished(
    graph: ir.Graph,
    outputs: dict[str, ir.Value],
    settings: dict[str, object],
    target: str,
    fixed: dict[str, int] | None = None,
    half: Region | None = None,
) -> onnx.ModelProto:
    """Name the outputs, finish the graph for its target, note the settings, check, and return the model."""
    import onnx
    import onnx_ir as ir

    shapes: dict[str, list[int | str | None]] = {
        "objective": ["N"],
        "features": ["N", None, None, None],
        "finite": [None],
    }
    for name, value in outputs.items():
        value.name, value.type = name, ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape(shapes.get(name, ["N", 3, "H", "W"]))
    graph.outputs[:] = outputs.values()
    finish(graph, target, lengths=fixed, half=half)
    proto = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION, producer_name="onnxdream"))
    onnx.helper.set_model_props(proto, {"onnxdream": json.dumps(settings)})
    onnx.checker.check_model(proto)
    return proto
