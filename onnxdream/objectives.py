"""What a dream maximises.

An objective is a weighted sum of terms. Each term turns one layer's activation `a` into one number for each picture of
the batch. Objectives can be added, subtracted and scaled, which covers several layers and negative weights:

    >>> from onnxdream import objectives as obj
    >>> obj.l2("fire6") + 0.5 * obj.channel("fire8", 12) - obj.mean("conv1")
    l2(fire6) + 0.5*channel(fire8, 12) - mean(conv1)

An activation has the shape [N,C,h,w], [N,C] after the network's pooling, or [N,tokens,C] in a transformer.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .errors import LayerError, OptionError

if TYPE_CHECKING:
    import onnx_ir as ir

    from .graph.ops import Ops
    from .graph.shapes import Shape
    from .networks.model import Layer


@dataclass(frozen=True)
class Readout:
    """A term that is linear in its channel weights, with the weights left open.

    Objectives of one `kind` differ only in their weights, so one graph that takes these as an input serves them all.

    Attributes:
        kind: The same for all readouts that `build` the same nodes.
        weights: Given the number of channels C, returns the term's own weights, float32 [C].
        build: `build(op, a, shape, weights)` appends the term for weights [N,C].
    """

    kind: str
    weights: Callable[[int], np.ndarray]
    build: Callable[[Ops, ir.Value, Shape, ir.Value], ir.Value]


@dataclass(frozen=True)
class Term:
    """One number for each picture, from one layer.

    Attributes:
        layer: The layer's name.
        text: How the term is written, such as `channel(fire5, 3)`.
        build: `build(op, a, shape)` appends the term [N] of the activation `a` [N,C,...], of probed `shape`.
        check: `check(layer)` raises LayerError if the term does not fit the layer.
        local: Whether the term treats all positions alike, so that it can be computed tile by tile.
        readout: The term with its channel weights left open, if it is linear in them.
        couples_batch: Whether a picture's number depends on the other pictures of its batch.
        inputs: Further inputs of its graph, float32 [N,C]: pairs of name and C.
        places: How many rows and columns of positions the layer must have, if it is spatial.
        digest: Distinguishes terms of the same text that contain different numbers.
    """

    layer: str
    text: str
    build: Callable[[Ops, ir.Value, Shape], ir.Value] = field(repr=False, compare=False)
    check: Callable[[Layer], None] = field(repr=False, compare=False, default=lambda layer: None)
    local: bool = True
    readout: Readout | None = field(repr=False, compare=False, default=None)
    couples_batch: bool = False
    inputs: tuple[tuple[str, int], ...] = ()
    places: tuple[int, int] = (1, 1)
    digest: int = 0


@dataclass(frozen=True, repr=False)
class Objective:
    """A weighted sum of terms; add, subtract and scale objectives to combine them.

    Attributes:
        terms: Pairs of weight and term.
    """

    terms: tuple[tuple[float, Term], ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers it reads, each once."""
        return tuple(dict.fromkeys(term.layer for _, term in self.terms))

    @property
    def places(self) -> dict[str, tuple[int, int]]:
        """How many rows and columns of positions each layer must have: {layer: (rows, columns)}."""
        found: dict[str, tuple[int, int]] = {}
        for _, term in self.terms:
            rows, columns = found.get(term.layer, (1, 1))
            found[term.layer] = max(rows, term.places[0]), max(columns, term.places[1])
        return found

    @property
    def local(self) -> bool:
        """Whether it can be computed tile by tile."""
        return all(term.local for _, term in self.terms)

    @property
    def inputs(self) -> dict[str, int]:
        """The inputs of its graph besides the picture, float32 [N,C]: {name: C}."""
        return {name: channels for _, term in self.terms for name, channels in term.inputs}

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.terms + other.terms)

    def __sub__(self, other: Objective) -> Objective:
        return self + -other

    def __neg__(self) -> Objective:
        return self * -1

    def __mul__(self, factor: float) -> Objective:
        return Objective(tuple((weight * factor, term) for weight, term in self.terms))

    __rmul__ = __mul__

    def __repr__(self) -> str:
        parts = []
        for weight, term in self.terms:
            sign = "-" if weight < 0 else "+"
            scale = "" if abs(weight) == 1 else f"{abs(weight):g}*"
            parts += [sign, scale + term.text]
        return " ".join(parts[1:] if parts and parts[0] == "+" else parts)

    def build(
        self, op: Ops, activations: dict[str, tuple[ir.Value, Shape]], pictures: tuple[int, ir.Value] | None = None
    ) -> ir.Value:
        """Append the objective to a graph.

        Args:
            op: Builds onto the graph that computes the activations.
            activations: For each layer its tensor and its probed shape.
            pictures: How many pictures the shapes were probed with, and how many there are, int64 [1]. Layers of more
                rows, as those of windows or patches, then count with the mean of each picture's rows.

        Returns:
            The objective, float32 [N].

        Raises:
            OptionError: The objective has no terms.
        """
        total = None
        for weight, term in self.terms:
            a, shape = activations[term.layer]
            if len(shape) == 3:
                a, shape = op.Transpose(a, perm=[0, 2, 1]), (shape[0], shape[2], shape[1])
            value = term.build(op, a, shape)
            if pictures is not None and shape[0] != pictures[0]:
                rows = op.Reshape(value, op.Concat(pictures[1], op.const([-1]), axis=0))
                value = op.ReduceMean(rows, [1], keepdims=0)
            value = value if weight == 1 else op.Mul(value, float(weight))
            total = value if total is None else op.Add(total, value)
        if total is None:
            raise OptionError("the objective is empty: name at least one layer")
        return total


def _mean_but_batch(op: Ops, value: ir.Value, rank: int) -> ir.Value:
    """The mean over every axis but the batch: [N]."""
    return op.ReduceMean(value, list(range(1, rank)), keepdims=0)


def l2(layer: str) -> Objective:
    """mean(a²), the objective of the original DeepDream (Mordvintsev, Olah and Tyka 2015, "Inceptionism").

    Args:
        layer: The layer's name.

    Returns:
        The mean square of the whole activation.
    """
    return _single(Term(layer, f"l2({layer})", lambda op, a, shape: _mean_but_batch(op, op.Mul(a, a), len(shape))))


def mean(layer: str) -> Objective:
    """mean(a): raises all channels or, with a negative weight, lowers them.

    Args:
        layer: The layer's name.

    Returns:
        The mean of the whole activation.
    """
    return _single(Term(layer, f"mean({layer})", lambda op, a, shape: _mean_but_batch(op, a, len(shape))))


def root(layer: str) -> Objective:
    """Mean over places of sqrt(mean over channels of a²): every place counts alike, strong or weak.

    Where `l2` lets a few places outgrow the others, this fills the whole picture.

    Args:
        layer: The layer's name.

    Returns:
        The mean of the channels' root mean square.
    """

    def build(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        power = op.ReduceMean(op.Mul(a, a), [1], keepdims=1)
        return _mean_but_batch(op, op.Sqrt(op.Add(power, 1e-6)), len(shape))

    return _single(Term(layer, f"root({layer})", build))


def centred(layer: str) -> Objective:
    """mean(relu(a - m)²), m each channel's mean over the places: what stands out against the rest of the picture.

    In tiles, m is the tile's own mean.

    Args:
        layer: The name of a spatial layer.

    Returns:
        The mean square of what lies above m.
    """

    def build(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        middle = op.ReduceMean(a, list(range(2, len(shape))), keepdims=1)
        above = op.Relu(op.Sub(a, middle))
        return _mean_but_batch(op, op.Mul(above, above), len(shape))

    def check(at: Layer) -> None:
        if not at.spatial:
            raise LayerError(f"layer {at.name} has no places to stand out from; choose one before the pooling")

    return _single(Term(layer, f"centred({layer})", build, check))


def power(layer: str, exponent: float) -> Objective:
    """mean(relu(a)^exponent): the higher the exponent, the more the strongest places count.

    Args:
        layer: The layer's name.
        exponent: From 1 to 8.

    Raises:
        OptionError: The exponent is out of range.
    """
    if not 1 <= exponent <= 8:
        raise OptionError(f"power({layer}, {exponent:g}): the exponent must be between 1 and 8")

    def build(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        return _mean_but_batch(op, op.Pow(op.Relu(a), float(exponent)), len(shape))

    return _single(Term(layer, f"power({layer}, {exponent:g})", build))


def channel(layer: str, *channels: int) -> Objective:
    """mean(a[:, c]) over the given channels: what these filters look for.

    Args:
        layer: The layer's name.
        channels: Channel numbers, counted from 0; at least one.

    Returns:
        The mean of these channels over all positions.

    Raises:
        OptionError: No channel is given.
    """
    if not channels:
        raise OptionError("channel() needs at least one channel number")

    def build(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        picked = [op.Slice(a, [c], [c + 1], [1]) for c in channels]
        return _mean_but_batch(op, op.Concat(*picked, axis=1) if len(picked) > 1 else picked[0], len(shape))

    text = ", ".join(str(c) for c in channels)
    readout = Readout("mean", lambda count: _mean_weights(count, *channels), _mean_readout)
    return _single(
        Term(layer, f"channel({layer}, {text})", build, lambda at: _check_channels(at, channels), readout=readout)
    )


def neuron(layer: str, channel: int, y: int | None = None, x: int | None = None) -> Objective:
    """a[:, channel, y, x]: one neuron, by default the one in the middle.

    Args:
        layer: The layer's name.
        channel: The channel's number, counted from 0.
        y: The row of the layer's grid, counted from 0 at the top. Default: the middle.
        x: The column of the layer's grid, counted from 0 at the left. Default: the middle.

    Returns:
        The activation of that neuron. In a layer without positions, [N,C], `y` and `x` are ignored.
    """

    def place(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        if len(shape) != 4:
            return a
        middle = op.Div(op.Slice(op.Shape(a), [2], [4]), 2)
        given = zip((y, x), (0, 1), strict=True)
        start = op.Concat(*([v] if v is not None else op.Slice(middle, [i], [i + 1]) for v, i in given), axis=0)
        # The sum says that it is one number, which cannot be inferred, and even where the probed picture ends before.
        return op.ReduceSum(op.Slice(a, start, op.Add(start, 1), [2, 3]), [2, 3], keepdims=1)

    def build(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        return _mean_but_batch(op, place(op, op.Slice(a, [channel], [channel + 1], [1]), shape), len(shape))

    at = "" if y is None and x is None else f", {y}, {x}"
    readout = Readout(
        f"neuron{at}",
        lambda count: _mean_weights(count, channel),
        lambda op, a, shape, weights: _mean_readout(op, place(op, a, shape), shape, weights),
    )
    return _single(
        Term(
            layer,
            f"neuron({layer}, {channel}{at})",
            build,
            lambda at: _check_channels(at, (channel,)),
            local=False,
            readout=readout,
            places=((y or 0) + 1, (x or 0) + 1),
        )
    )


def logit(layer: str, class_index: int) -> Objective:
    """a[:, class_index] of a classifier's output.

    Args:
        layer: The name of the output layer, [N,classes], before the softmax.
        class_index: The class's number, counted from 0.

    Returns:
        The logit of that class.
    """
    return neuron(layer, class_index)


def direction(layer: str, vector: np.ndarray, cosine_power: float = 0.0) -> Objective:
    """The mean over positions of <a, v> · max(0.1, cos(a, v))^cosine_power, as in lucid.

    The power of the cosine keeps the activation close to the direction (Carter et al. 2019, "Activation Atlas").

    Args:
        layer: The layer's name.
        vector: The direction v, float [C], of any length.
        cosine_power: The exponent, at least 0. With 0 the term is the mean of <a, v> alone.

    Returns:
        The objective. Checked against a layer with another number of channels it raises LayerError.
    """
    v = np.asarray(vector, np.float32).reshape(-1)

    def readout(op: Ops, a: ir.Value, shape: Shape, weights: ir.Value) -> ir.Value:
        if not cosine_power:
            return _mean_readout(op, a, shape, weights)
        along = op.Reshape(weights, [0, 0, *[1] * (len(shape) - 2)])
        dot = op.ReduceSum(op.Mul(a, along), [1], keepdims=1)
        lengths = op.Mul(*(op.Add(op.ReduceL2(of, [1], keepdims=1), 1e-6) for of in (a, along)))
        cosine = op.Max(op.Div(dot, lengths), 0.1)
        return _mean_but_batch(op, op.Mul(dot, op.Pow(cosine, float(cosine_power))), len(shape))

    def build(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        return readout(op, a, shape, op.const(v[None]))

    def check(at: Layer) -> None:
        if at.channels != v.size:
            raise LayerError(f"layer {at.name} has {at.channels} channels but the direction has {v.size}")

    kind = f"direction^{cosine_power:g}" if cosine_power else "mean"
    return _single(
        Term(layer, f"direction({layer}, [{v.size}])", build, check, readout=Readout(kind, lambda count: v, readout))
    )


def diversity(layer: str) -> Objective:
    """How different the pictures of a batch are: minus the mean cosine of a picture's Gram matrix and the others'.

    Lucid's term against pictures that all show the same facet (Olah, Mordvintsev and Schubert 2017, "Feature
    Visualization").

    Args:
        layer: The layer's name; the layer must be spatial, [N,C,h,w].

    Returns:
        The objective, in -1..1, and 0 for a single picture. Checked against a layer that is not spatial it raises
        LayerError.
    """

    def build(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        places = op.Reshape(a, [0, 0, -1])  # [N,C,P]
        gram = op.Reshape(op.MatMul(places, op.Transpose(places, perm=[0, 2, 1])), [0, -1])
        unit = op.Div(gram, op.Add(op.ReduceL2(gram, [1], keepdims=1), 1e-6))
        alike = op.MatMul(unit, op.Transpose(unit, perm=[1, 0]))  # [N,N]
        own = op.ReduceSum(op.Mul(unit, unit), [1], keepdims=0)
        others = op.Sub(op.ReduceSum(alike, [1], keepdims=0), own)
        count = op.CastLike(op.Sub(op.Slice(op.Shape(a), [0], [1]), 1), own)
        return op.Neg(op.Div(others, op.Max(count, 1.0)))

    def check(at: Layer) -> None:
        if not at.spatial:
            raise LayerError(f"layer {at.name} is not spatial, as diversity needs; choose one before the pooling")

    return _single(Term(layer, f"diversity({layer})", build, check, local=False, couples_batch=True))


def guide(layer: str, features: np.ndarray) -> Objective:
    """The mean over positions p of max_j <a_p, g_j>: each position is drawn to the guide's best-matching feature.

    The guided objective of the original notebook (Mordvintsev, Olah and Tyka 2015, "Inceptionism").

    Args:
        layer: The layer's name; the layer must be spatial, [N,C,h,w].
        features: The layer's activation g on the guide picture, float [1,C,h,w] or [C,h,w]; see `activations`.

    Returns:
        The objective. Checked against a layer that is not spatial, or that has another number of channels, it raises
        LayerError.
    """
    g = np.asarray(features, np.float32)
    g = np.ascontiguousarray(g.reshape(g.shape[-3], -1))  # [C,Q]

    def build(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        places = op.Transpose(op.Reshape(a, [0, 0, -1]), perm=[0, 2, 1])  # [N,P,C]
        best = op.ReduceMax(op.MatMul(places, g), [2], keepdims=0)
        return op.ReduceMean(best, [1], keepdims=0)

    def check(at: Layer) -> None:
        if not at.spatial:
            raise LayerError(f"layer {at.name} is not spatial, as a guide needs; choose one before the pooling")
        if at.channels != g.shape[0]:
            raise LayerError(f"layer {at.name} has {at.channels} channels but the guide has {g.shape[0]}")

    return _single(Term(layer, f"guide({layer})", build, check, digest=zlib.crc32(g.tobytes())))


def _single(term: Term) -> Objective:
    return Objective(((1.0, term),))


def _check_channels(layer: Layer, channels: tuple[int, ...]) -> None:
    for c in channels:
        if not 0 <= c < layer.channels:
            raise LayerError(f"layer {layer.name} has channels 0 to {layer.channels - 1}; there is no channel {c}")


def _mean_weights(count: int, *channels: int) -> np.ndarray:
    """The weights [count] of a mean over `channels`."""
    weights = np.zeros(count, np.float32)
    np.add.at(weights, list(channels), np.float32(1 / len(channels)))
    return weights


def _mean_readout(op: Ops, a: ir.Value, shape: Shape, weights: ir.Value) -> ir.Value:
    """The mean over positions of <a, weights>: [N], for weights [N,C]."""
    means = op.ReduceMean(a, list(range(2, len(shape))), keepdims=0) if len(shape) > 2 else a
    return op.ReduceSum(op.Mul(means, weights), [1], keepdims=0)
