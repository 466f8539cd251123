"""A network to dream with: its ONNX graph, its card and its layers.

A *layer* is a tensor of the graph: the output of one operator, under the name its file gives it. The *card* says how a
picture must be preprocessed; see `Card`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LayerError, ModelError, NoGradientError
from ..graph.canonicalize import read_onnx
from ..graph.leaky_relu import leak_rectifiers
from ..graph.shapes import Shape, is_control_flow, keep_only, probe_shapes
from . import registry
from .card import IMAGENET, Card, Preprocessing
from .receptive_field import geometry, smallest_picture

if TYPE_CHECKING:
    import onnx

# A size that tells axes apart: no two of batch, height and width are alike, and both sides survive five halvings.
PROBE = (2, 352, 416)


@dataclass(frozen=True)
class Layer:
    """One tensor of the network that a dream can aim at."""

    name: str
    operator: str
    channels: int
    spatial: bool  # [N,C,h,w] rather than [N,C] or [N,tokens,C]
    stride: float  # picture pixels between neighbouring places
    receptive_field: float  # picture pixels one place sees; math.inf: all of them
    recommended: bool


@dataclass(frozen=True)
class Model:
    """A network in canonical form. Made by `load_model`."""

    name: str
    card: Card
    proto: onnx.ModelProto = field(repr=False)
    input_name: str
    path: Path | None = None

    @property
    def probe(self) -> tuple[int, int, int, int]:
        """[N,C,H,W] that the graph's shapes are taken at: 2 pictures of 352x416, or the only size that the file allows.

        Raises ValueError when the graph does not even accept that.
        """
        return self._probed[0]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Concrete shape of every tensor for pictures of the size `probe`."""
        return self._probed[1]

    @functools.cached_property
    def _probed(self) -> tuple[tuple[int, int, int, int], dict[str, Shape]]:
        n, c, h, w = self.input_dims
        c = c or len(self.card.preprocessing.channels)
        free = (n or PROBE[0], c, PROBE[1], PROBE[2])
        try:
            return free, probe_shapes(self.proto, {self.input_name: free})
        except ValueError:
            own = (free[0], c, h or PROBE[1], w or PROBE[2])
            return own, probe_shapes(self.proto, {self.input_name: own})

    def fixed_input_size(self, layers: Sequence[str], *, channels: bool = False) -> tuple[int, int] | None:
        """The one picture size (height, width) at which `layers` can be computed; None where they take any.

        With `channels` they must also have the channels that `Layer` says: flattened places have as many as fit.
        """
        wanted = set(map(self._own_name, layers))
        flat = {name for name in wanted if channels and len(self.shapes.get(name, ())) == 2}
        free = self.probe[2:] == PROBE[1:]
        if free and not flat:
            return None
        import onnx_ir as ir

        model = ir.from_proto(self.proto)
        keep_only(model.graph, [o for node in model.graph for o in node.outputs if o.name in wanted])
        try:
            other = [side + 64 * free for side in PROBE[1:]]
            shapes = probe_shapes(ir.to_proto(model), {self.input_name: (*self.probe[:2], *other)})
        except ValueError:
            return self.probe[2:]
        return None if all(shapes[name][1] == self.shapes[name][1] for name in flat) else self.probe[2:]

    @property
    def input_dims(self) -> tuple[int, int, int, int]:
        """[N,C,H,W] of the network's input, 0 where it is free."""
        value = next(i for i in self.proto.graph.input if i.name == self.input_name)
        n, c, h, w = (d.dim_value for d in value.type.tensor_type.shape.dim)
        return n, c, h, w

    @functools.cached_property
    def layers(self) -> dict[str, Layer]:
        """Every layer a dream can aim at, by name, in the order the network computes them."""
        found: dict[str, Layer] = {}
        geometries = geometry(self.proto.graph, self.input_name)
        for node in self.proto.graph.node:
            name = node.output[0]
            shape = self.shapes.get(name, ())
            if name not in geometries or len(shape) not in (2, 3, 4) or node.op_type in _NOT_LAYERS:
                continue
            at = geometries[name]
            found[name] = Layer(
                name=name,
                operator=node.op_type,
                channels=shape[2 if len(shape) == 3 else 1],
                spatial=len(shape) == 4,
                stride=at.stride,
                receptive_field=at.receptive_field if len(shape) == 4 else math.inf,
                recommended=name in self.card.recommended,
            )
        return found

    def layer(self, name: str) -> Layer:
        """The layer called `name`. Raises LayerError with the nearest names when there is none."""
        name = self._own_name(name)
        if name in self.layers:
            return self.layers[name]
        called = self.name if self.name in registry.networks() else self.path or self.name
        nodes = list(self.proto.graph.node)
        node = next((n for n in nodes if name in n.output), None)
        flow = next((n for n in nodes[: nodes.index(node) + 1] if is_control_flow(n)), None) if node else None
        if flow is not None:
            before = [o for n in nodes[: nodes.index(flow)] for o in n.output if o in self.layers]
            raise NoGradientError(
                f"{name} lies behind node {flow.name or flow.output[0]!r}, operator {flow.op_type}, which has no "
                f"derivative rule; layers before it that work: {', '.join(before[:-3:-1]) or 'none'}"
            )
        if node is not None:
            raise LayerError(
                f"{name} of {self.name} (operator {node.op_type}) is no layer to dream with: it does not depend on the "
                f"picture or is not shaped [N,C], [N,tokens,C] or [N,C,h,w]; see `onnxdream layers {called}`"
            )
        near = difflib.get_close_matches(name, self.layers, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"see `onnxdream layers {called}`"
        raise LayerError(f"{self.name} has no layer {name!r}; {hint}")

    def _own_name(self, name: str) -> str:
        """The graph's name of a layer that the card may know by others."""
        return self.card.aliases.get(name, name)

    @property
    def output_name(self) -> str:
        """The name of the network's first output."""
        return str(self.proto.graph.output[0].name)

    def with_leaky_rectifiers(self, layers: Sequence[str], slope: float = 0.1) -> Model:
        """This network with the last rectifier before each of `layers` leaking; see `leak_rectifiers`."""
        names = [self.layer(name).name for name in layers]
        return dataclasses.replace(self, proto=leak_rectifiers(self.proto, names, slope))

    def default_layer(self) -> str:
        """The layer to dream with when none is named: recommended, else the one two thirds of the way in."""
        if self.card.recommended:
            return self.card.recommended[len(self.card.recommended) // 2]
        spatial = [layer.name for layer in self.layers.values() if layer.spatial and layer.receptive_field < math.inf]
        if not spatial:
            named = f"; name one with --layer: {', '.join(list(self.layers)[:4])}" if self.layers else ""
            raise ModelError(f"{self.name}: no layer keeps a spatial grid, so there is nothing to dream with{named}")
        return spatial[len(spatial) * 2 // 3]

    def output_layer(self) -> str:
        """The classifier's output [N,classes], before its softmax. Raises LayerError when there is none."""
        flat = [n for n, at in self.layers.items() if len(self.shapes[n]) == 2 and at.operator not in _SQUASHING]
        if not flat:
            raise LayerError(f"{self.name} has no classifier's output; name the layer to take the logit from")
        return flat[-1]

    def smallest_picture(self, layers: Sequence[str]) -> tuple[int, int]:
        """The smallest picture (height, width) on which each of `layers` has at least one place."""
        sizes = [smallest_picture(self.proto.graph, self.input_name, self._own_name(name)) for name in layers]
        return max(s[0] for s in sizes), max(s[1] for s in sizes)


# Not activations, or not of floating-point numbers.
_NOT_LAYERS = {"Shape", "Constant", "Identity", "Cast", "QuantizeLinear", "ArgMax", "ArgMin"}
_SQUASHING = {"Softmax", "LogSoftmax", "Sigmoid", "ArgMax"}


def load_model(name: str | Path) -> Model:
    """Load a network by name (downloading it if need be, see `download`), or any CNN from an ONNX file.

    A card beside the file (`x.json` for `x.onnx`) gives the preprocessing; without one ImageNet's is assumed, and
    `Model.card.assumed` is true. Raises ModelError when the file is missing, damaged, or takes no picture,
    and DownloadError when it cannot be fetched.
    """
    path, card_path = registry.locate(name)
    proto = read_onnx(path)
    input_name = _picture_input(proto, path)
    _channels_first(proto, input_name)
    if card_path.is_file():
        card = Card.read(card_path)
    else:
        channels = next(i for i in proto.graph.input if i.name == input_name).type.tensor_type.shape.dim[1].dim_value
        grey = Preprocessing("L", (127.5,), (127.5,))
        card = Card(name=path.stem, preprocessing=grey if channels == 1 else IMAGENET, assumed=True)
    model = Model(name=card.name, card=card, proto=proto, input_name=input_name, path=path)
    channels = model.input_dims[1]
    if channels and channels != len(card.preprocessing.channels):
        raise ModelError(f"{path}: takes {channels} channels but its card gives {card.preprocessing.channels}")
    try:
        model.probe  # noqa: B018  (a graph that does not fit together is found here)
    except ValueError as error:
        return _pinned(model, error)
    return model


def _pinned(model: Model, reason: ValueError) -> Model:
    """`model`, whose file leaves a picture size open that its graph does not, fixed at the one that works.

    Tried are the card's size and the usual ones. Raises ModelError when none fits.
    """
    h, w = model.input_dims[2:]
    sizes = [model.card.size, (224, 224), (227, 227), (256, 256), (299, 299), (32, 32), (28, 28)]
    for size in [s for s in sizes if s is not None and not (h and w)]:
        proto = copy.deepcopy(model.proto)
        dims = next(i for i in proto.graph.input if i.name == model.input_name).type.tensor_type.shape.dim
        dims[2].dim_value, dims[3].dim_value = h or size[0], w or size[1]
        pinned = dataclasses.replace(model, proto=proto)
        with contextlib.suppress(ValueError):
            pinned.probe  # noqa: B018
            return pinned
    raise ModelError(f"{model.path}: its graph does not fit together: {reason}") from reason


def _picture_input(proto: onnx.ModelProto, path: Path) -> str:
    """The name of the one input that takes a picture."""
    weights = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in weights]
    described = [f"{i.name} {_dims(i)}" for i in inputs]
    if len(inputs) > 1:
        raise ModelError(
            f"{path}: takes several inputs ({', '.join(described)}); only one picture input can be dreamed with"
        )
    tensor = inputs[0].type.tensor_type
    dims = tensor.shape.dim
    channels = [dims[axis].dim_value for axis in (1, 3)] if len(dims) == 4 else []
    if not {0, 1, 3} & set(channels) or tensor.elem_type != 1:
        raise ModelError(
            f"{path}: input {described[0]} is not a float picture [N,3,H,W] or [N,H,W,3]; export it as one"
        )
    return str(inputs[0].name)


def _channels_first(proto: onnx.ModelProto, input_name: str) -> None:
    """Let a network that takes [N,H,W,C], as those from TensorFlow do, take [N,C,H,W]."""
    import onnx

    value = next(i for i in proto.graph.input if i.name == input_name)
    n, *rest = [
        onnx.TensorShapeProto.Dimension.FromString(d.SerializeToString()) for d in value.type.tensor_type.shape.dim
    ]
    if rest[0].dim_value in (1, 3) or rest[2].dim_value not in (1, 3):
        return
    for node in proto.graph.node:
        node.input[:] = [f"{input_name}/nhwc" if name == input_name else name for name in node.input]
    turn = onnx.helper.make_node("Transpose", [input_name], [f"{input_name}/nhwc"], perm=[0, 2, 3, 1])
    proto.graph.node.insert(0, turn)
    del value.type.tensor_type.shape.dim[:]
    value.type.tensor_type.shape.dim.extend([n, rest[2], rest[0], rest[1]])


def _dims(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return "[" + ",".join(str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in dims) + "]"
