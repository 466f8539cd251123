"""A network to dream with: its ONNX graph, its card and its layers.

A *layer* is a tensor of the graph: the output of an operator, under the name it has in the file. The *card* says how a
picture must be preprocessed; see `Card`.
"""

from __future__ import annotations

import bisect
import contextlib
import copy
import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import LayerError, ModelError, NoGradientError
from ..graph.canonicalize import canonicalize
from ..graph.cut import reasons
from ..graph.leaky_relu import make_rectifiers_leaky
from ..graph.shapes import Shape, floating_tensors, keep_only, probe_shapes, without_weights
from . import registry
from .card import Card
from .inputs import assumed_preprocessing, parse_inputs, picture_input, set_constants, to_channels_first
from .onnx_file import read_onnx
from .receptive_field import geometry, smallest_picture

if TYPE_CHECKING:
    import onnx

# A size that distinguishes the axes: batch, height and width all differ, and both sides can be halved five times.
PROBE = (2, 352, 416)
# The same for networks that want multiples of 64, if PROBE does not fit.
PROBES = (PROBE[1:], (384, 448))

# How many rows and columns of positions layers must have, by name.
Places = Mapping[str, tuple[int, int]]
NO_PLACES: Places = MappingProxyType({})


@dataclass(frozen=True)
class Layer:
    """A tensor of the network that an objective can use.

    Attributes:
        name: Its name in the graph.
        operator: The operator that computes it.
        channels: The number of its channels.
        spatial: Whether it has the shape [N,C,h,w] rather than [N,C] or [N,tokens,C].
        stride: The distance between neighbouring positions, in pixels of the picture.
        receptive_field: The width of what one position sees, in pixels of the picture; `math.inf` for all of it.
        recommended: Whether the card recommends it for dreams.
    """

    name: str
    operator: str
    channels: int
    spatial: bool
    stride: float
    receptive_field: float
    recommended: bool


@dataclass(frozen=True)
class Model:
    """A network in canonical form, as `load_model` returns it.

    Attributes:
        name: The network's name.
        card: What is known about it besides its graph.
        proto: Its graph in canonical form.
        input_name: The name of the input that takes the picture.
        path: Its file.
    """

    name: str
    card: Card
    proto: onnx.ModelProto = field(repr=False)
    input_name: str
    path: Path | None = None

    @property
    def probe(self) -> tuple[int, int, int, int]:
        """The size [N,C,H,W] at which shapes are taken: 2 pictures of 352x416, or what the file allows of that.

        Raises:
            ValueError: The graph does not accept that size either.
        """
        return self._probed[0]

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of every tensor for pictures of the size `probe`, by name."""
        return self._probed[1]

    @functools.cached_property
    def _probed(self) -> tuple[tuple[int, int, int, int], dict[str, Shape]]:
        n, c, h, w = self.input_dims
        sides = [*PROBES[: 1 if h and w else None], (h or PROBE[1], w or PROBE[2])]
        tried = [(count, *side) for side in sides for count in ([n] if n else [PROBE[0], 1])]
        reasons: list[ValueError] = []
        for count, height, width in dict.fromkeys(tried):
            size = (count, c or len(self.card.preprocessing.channels), height, width)
            try:
                shapes = probe_shapes(self.proto, {self.input_name: size})
            except ValueError as error:
                reasons.append(error)
                continue
            # A Reshape that was made for one size may take what is too much for more pictures.
            if (h and w) or (height, width) != PROBES[1] or shapes.get(self.output_name, size)[:1] == (count,):
                return size, shapes
        raise reasons[0]

    def one_at_a_time(self, layers: Sequence[str]) -> bool:
        """Whether layers take one picture at a time, since a batch of one is part of their graph.

        Args:
            layers: The layers' names.

        Returns:
            Whether several pictures do not fit, or would be mixed.
        """
        part = self._up_to(frozenset(map(self._graph_name, layers)))
        try:
            one, two = (probe_shapes(part, {self.input_name: (count, *self.probe[1:])}) for count in (1, 2))
        except ValueError:
            return True
        computed = [node.output[0] for node in part.graph.node if node.output[0] in self.layers]
        return any(two[name][:1] != (2 * one[name][0],) for name in computed if name in one)

    def fixed_input_size(self, layers: Sequence[str], *, channels: bool = False) -> tuple[int, int] | None:
        """The only picture size at which layers can be computed, if they do not take any size.

        Args:
            layers: The layers' names.
            channels: Whether the layers must also have the number of channels that `Layer` says; flattened layers have
                more channels for larger pictures.

        Returns:
            (height, width) in pixels, or None if any size will do.
        """
        wanted = frozenset(map(self._graph_name, layers))
        flat = {name for name in wanted if channels and len(self.shapes.get(name, ())) == 2}
        free = self.probe[2:] in PROBES
        if free and not flat:
            return None
        try:
            other = [side + 64 * free for side in PROBE[1:]]
            shapes = probe_shapes(self._up_to(wanted), {self.input_name: (*self.probe[:2], *other)})
        except ValueError:
            return self.probe[2:]
        return None if all(shapes[name][1] == self.shapes[name][1] for name in flat) else self.probe[2:]

    def size_multiple(self, layers: Sequence[str]) -> int:
        """What height and width must be multiples of for layers to be computed.

        Args:
            layers: The layers' names.

        Returns:
            The smallest such number of pixels; 1 where any size will do, or only one.
        """
        if self.fixed_input_size(layers) is not None or self.probe[2:] not in PROBES:
            return 1
        height, width = self.probe[2:]
        both = math.gcd(height, width)
        fitting = (m for m in range(1, both + 1) if both % m == 0 and self.accepts(layers, (height + m, width - m)))
        return math.lcm(next(fitting, 1), self.card.multiple)

    def accepts(self, layers: Sequence[str], size: tuple[int, int], places: Places = NO_PLACES) -> bool:
        """Whether layers can be computed on pictures of a size and have enough positions there.

        Args:
            layers: The layers' names.
            size: (height, width) in pixels.
            places: How many rows and columns of positions spatial layers must have, by name; default: one.
        """
        wanted = frozenset(map(self._graph_name, layers))
        if (wanted, size) not in self._tried:
            try:
                shapes = probe_shapes(self._up_to(wanted), {self.input_name: (*self.probe[:2], *size)})
                self._tried[wanted, size] = {name: shapes.get(name, ()) for name in wanted}
            except ValueError:
                self._tried[wanted, size] = None
        tried = self._tried[wanted, size]
        return tried is not None and all(_holds(tried[self._graph_name(n)], places.get(n, (1, 1))) for n in layers)

    def smallest_accepted(self, layers: Sequence[str], places: Places = NO_PLACES) -> tuple[int, int]:
        """The smallest picture that layers accept, found by trying.

        Args:
            layers: The layers' names.
            places: As for `accepts`.

        Returns:
            (height, width) in pixels.
        """
        only = self.fixed_input_size(layers)
        if only is not None:
            return only
        multiple = self.size_multiple(layers)
        most = -(-max(*self.probe[2:], *self.smallest_picture(layers, places)) // multiple)
        far = most * multiple

        def least(accepted: Callable[[int], bool]) -> int:
            return (bisect.bisect_left(range(1, most), True, key=accepted) + 1) * multiple

        return (
            least(lambda n: self.accepts(layers, (n * multiple, far), places)),
            least(lambda n: self.accepts(layers, (far, n * multiple), places)),
        )

    def refusal(
        self, layers: Sequence[str], size: tuple[int, int], places: Places = NO_PLACES, *, channels: bool = False
    ) -> str:
        """What pictures layers take, where they do not take those of a size.

        Args:
            layers: The layers' names.
            size: (height, width) in pixels.
            places: As for `accepts`.
            channels: As for `fixed_input_size`.

        Returns:
            Such as "only pictures of 224x224"; empty where they take this size.
        """
        only = self.fixed_input_size(layers, channels=channels)
        if only is not None:
            return "" if only == size else f"only pictures of {only[1]}x{only[0]}"
        if self.nearest_size(layers, size) != size:
            return f"only pictures whose sides are multiples of {self.size_multiple(layers)}"
        if self.accepts(layers, size, places):
            return ""
        low = self.smallest_accepted(layers, places)
        return f"pictures of at least {low[1]}x{low[0]}"

    def nearest_size(self, layers: Sequence[str], size: tuple[int, int]) -> tuple[int, int]:
        """A size rounded up to what layers take.

        Args:
            layers: The layers' names.
            size: (height, width) in pixels.

        Returns:
            (height, width), multiples of `size_multiple`.
        """
        multiple = self.size_multiple(layers)
        return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple

    @functools.cached_property
    def _tried(self) -> dict[tuple[frozenset[str], tuple[int, int]], dict[str, Shape] | None]:
        """The shapes of tensors on pictures of sizes that were tried; None where those do not fit."""
        return {}

    @functools.cached_property
    def _skeleton(self) -> onnx.ModelProto:
        return without_weights(self.proto)

    @functools.cached_property
    def _parts(self) -> dict[frozenset[str], onnx.ModelProto]:
        return {}

    def _up_to(self, tensors: frozenset[str]) -> onnx.ModelProto:
        """The part of the graph that computes `tensors`."""
        import onnx_ir as ir

        if tensors not in self._parts:
            model = ir.from_proto(self._skeleton)
            graph = model.graph
            keep_only(graph, [o for node in graph for o in node.outputs if o.name in tensors])
            graph.inputs[:] = [i for i in graph.inputs if i.uses() or i.name == self.input_name]
            self._parts[tensors] = ir.to_proto(model)
        return self._parts[tensors]

    @property
    def input_dims(self) -> tuple[int, int, int, int]:
        """The shape [N,C,H,W] of the network's input, 0 where it is free."""
        value = next(i for i in self.proto.graph.input if i.name == self.input_name)
        n, c, h, w = (d.dim_value for d in value.type.tensor_type.shape.dim)
        return n, c, h, w

    @functools.cached_property
    def layers(self) -> dict[str, Layer]:
        """All layers that an objective can use, by name, in the order in which they are computed."""
        found: dict[str, Layer] = {}
        geometries, floating = geometry(self.proto.graph, self.input_name), floating_tensors(self.proto)
        for node in self.proto.graph.node:
            name = node.output[0]
            shape = self.shapes.get(name, ())
            if (
                name not in geometries
                or name not in floating
                or len(shape) not in (2, 3, 4)
                or node.op_type in _NOT_LAYERS
                or name.endswith("/DequantizeLinear")  # made by `expand`, from a tensor that is a layer itself
            ):
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
        """The layer with a name.

        Args:
            name: The name in the graph, or one that the card gives it.

        Returns:
            The layer.

        Raises:
            LayerError: There is none; the message suggests similar names.
            NoGradientError: An operator before it has no derivative rule.
        """
        name = self._graph_name(name)
        if name in self.layers:
            return self.layers[name]
        called = self.name if self.name in registry.networks() else self.path or self.name
        reason = reasons(self.proto).get(name)
        if reason is not None:
            working = ", ".join(list(self.layers)[:-3:-1]) or "none"
            raise NoGradientError(f"{name} lies behind {reason}; layers before it that work: {working}")
        node = next((n for n in self.proto.graph.node if name in n.output), None)
        if node is not None:
            raise LayerError(
                f"{name} of {self.name} (operator {node.op_type}) cannot be dreamed with: it does not depend on the "
                f"picture or is not shaped [N,C], [N,tokens,C] or [N,C,h,w]; see `onnxdream layers {called}`"
            )
        near = difflib.get_close_matches(name, self.layers, n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"see `onnxdream layers {called}`"
        raise LayerError(f"{self.name} has no layer {name!r}; {hint}")

    def _graph_name(self, name: str) -> str:
        """The name in the graph of a layer to which the card may give others."""
        return self.card.aliases.get(name, name)

    @property
    def output_name(self) -> str:
        """The name of the network's first output."""
        return str(self.proto.graph.output[0].name)

    def with_leaky_rectifiers(self, layers: Sequence[str], slope: float = 0.1) -> Model:
        """This network with the last rectifier before each of some layers replaced by a leaky one.

        Args:
            layers: The layers' names.
            slope: The slope of the rectifiers where they would be constant; see `make_rectifiers_leaky`.

        Returns:
            A new network.

        Raises:
            LayerError: There is no such layer.
        """
        names = [self.layer(name).name for name in layers]
        return dataclasses.replace(self, proto=make_rectifiers_leaky(self.proto, names, slope))

    def default_layer(self) -> str:
        """The layer to dream with if none is named: what the card says, or the spatial one two thirds of the way in.

        Raises:
            ModelError: The network has no spatial layer.
        """
        if self.card.default:
            return self.card.default
        if self.card.recommended:
            return self.card.recommended[len(self.card.recommended) // 2]
        spatial = [layer.name for layer in self.layers.values() if layer.spatial and layer.receptive_field < math.inf]
        if not spatial:
            named = f"; name one with --layer: {', '.join(list(self.layers)[:4])}" if self.layers else ""
            raise ModelError(f"{self.name}: no layer keeps a spatial grid, so there is nothing to dream with{named}")
        return spatial[len(spatial) * 2 // 3]

    def output_layer(self) -> str:
        """The name of the classifier's output [N,classes], before its softmax.

        Raises:
            LayerError: The network is not a classifier.
        """
        flat = [n for n, at in self.layers.items() if len(self.shapes[n]) == 2 and at.operator not in _PROBABILITIES]
        if not flat:
            raise LayerError(f"{self.name} has no classifier's output; name the layer to take the logit from")
        return flat[-1]

    def smallest_picture(self, layers: Sequence[str], places: Places = NO_PLACES) -> tuple[int, int]:
        """The smallest picture on which layers have enough positions, as far as their windows tell.

        Behind attention it may be larger; `accepts` tells for sure.

        Args:
            layers: The layers' names.
            places: As for `accepts`.

        Returns:
            (height, width) in pixels.
        """
        graph, source = self.proto.graph, self.input_name
        sizes = [smallest_picture(graph, source, self._graph_name(n), places.get(n, (1, 1))) for n in layers]
        return max(s[0] for s in sizes), max(s[1] for s in sizes)


def _holds(shape: Shape, places: tuple[int, int]) -> bool:
    """Whether a layer of a shape, empty if unknown, has enough positions."""
    return 0 not in shape and (len(shape) != 4 or (shape[2] >= places[0] and shape[3] >= places[1]))


# Their outputs are not activations, or not in floating point.
_NOT_LAYERS = {
    "Shape", "Constant", "Identity", "Cast", "QuantizeLinear", "DynamicQuantizeLinear", "ArgMax", "ArgMin",
}  # fmt: skip
_PROBABILITIES = {"Softmax", "LogSoftmax", "Sigmoid", "ArgMax"}


def load_model(name: str | Path, *, inputs: Mapping[str, Any] | Iterable[str] = ()) -> Model:
    """Load a network.

    Args:
        name: The name of a network, which is downloaded if necessary, or the path of an ONNX file. A card next to the
            file (`x.json` for `x.onnx`) gives the preprocessing. Without one, that of ImageNet is assumed, and
            `Model.card.assumed` is true.
        inputs: Constants for inputs other than the picture's, besides those of the card: by name a number, an array or
            the path of a NumPy file; or texts, NAME=VALUE or NAME=FILE.npy. Layers behind an input without a value
            cannot be used.

    Returns:
        The network in canonical form.

    Raises:
        ModelError: The file is missing or damaged, does not take a picture, or has no such input.
        DownloadError: The network cannot be downloaded.
        OutputError: The cache folder cannot be written.
    """
    path, card_path = registry.locate(name)
    proto = read_onnx(path)
    known = Card.read(card_path) if card_path.is_file() else None
    constants = {} if known is None else {k: _beside(v, card_path) for k, v in known.inputs.items()}
    constants |= inputs if isinstance(inputs, Mapping) else parse_inputs(inputs)
    set_constants(proto, constants, path)
    input_name, told = picture_input(proto, path)
    proto = canonicalize(proto, str(path))
    to_channels_first(proto, input_name)
    channels = next(i for i in proto.graph.input if i.name == input_name).type.tensor_type.shape.dim[1].dim_value
    card = known or Card(path.stem, assumed_preprocessing(channels, told, path), assumed=True)
    model = Model(name=card.name, card=card, proto=proto, input_name=input_name, path=path)
    if channels and channels != len(card.preprocessing.channels):
        raise ModelError(f"{path}: takes {channels} channels but its card gives {card.preprocessing.channels}")
    try:
        model.probe  # noqa: B018  (finds a graph whose shapes do not match)
    except ValueError as error:
        return _with_fixed_size(model, error)
    return model


def _beside(value: Any, card: Path) -> Any:
    """A constant of a card, whose NumPy file is next to it."""
    is_file = isinstance(value, str) and value.lower().endswith(".npy")
    return str(card.parent / value) if is_file else value


def _with_fixed_size(model: Model, reason: ValueError) -> Model:
    """`model` with its picture size fixed, where the file leaves the size open but the graph accepts only one.

    The card's size and the usual ones are tried. Raises ModelError if none fits.
    """
    h, w = model.input_dims[2:]
    usual = [224, 227, 256, 299, 28, *range(32, 673, 32)]
    sizes = [model.card.size, *((side, side) for side in usual)]
    for size in [s for s in sizes if s is not None and not (h and w)]:
        proto = copy.deepcopy(model.proto)
        dims = next(i for i in proto.graph.input if i.name == model.input_name).type.tensor_type.shape.dim
        dims[2].dim_value, dims[3].dim_value = h or size[0], w or size[1]
        fixed = dataclasses.replace(model, proto=proto)
        with contextlib.suppress(ValueError):
            fixed.probe  # noqa: B018
            return fixed
    raise ModelError(f"{model.path}: the shapes in its graph do not match: {reason}") from reason
