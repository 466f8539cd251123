"""What a dream maximises.

An objective is a weighted sum of terms, and each term turns one layer's activation `a` into one number for each picture
of the batch. Objectives add, subtract and scale, so several layers and negative weights need nothing more:

    >>> from onnxdream import objectives as obj
    >>> obj.l2("fire6") + 0.5 * obj.channel("fire8", 12) - obj.mean("conv1")
    l2(fire6) + 0.5*channel(fire8, 12) - mean(conv1)

Activations are [N,C,h,w], [N,C] behind the network's pooling, or a transformer's [N,tokens,C].
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
    """How a term weighs channels, apart from which: what objectives of one `kind` share, so that one graph serves all.

    `weights(channels)` gives the weights [C]; `build(op, a, shape, weights)` appends the term for weights [N,C].
    """

    kind: str
    weights: Callable[[int], np.ndarray]
    build: Callable[[Ops, ir.Value, Shape, ir.Value], ir.Value]


@dataclass(frozen=True)
class Term:
    """One number per picture from one layer.

    `build(op, a, shape)` appends the nodes that turn the activation `a` [N,C,...], of probed `shape`, into [N].
    `check(layer)` raises LayerError when the term does not fit the layer. `local` terms are the same at every place of
    the picture, so they can be computed tile by tile. `readout` is there for terms that are linear in their channels;
    `couples_batch` says that a picture's number depends on the others of its batch. `inputs` are the further inputs of
    its graph, float32 [N,C], by name with their C. `digest` tells terms apart that were made of other numbers.
    """

    layer: str
    text: str
    build: Callable[[Ops, ir.Value, Shape], ir.Value] = field(repr=False, compare=False)
    check: Callable[[Layer], None] = field(repr=False, compare=False, default=lambda layer: None)
    local: bool = True
    readout: Readout | None = field(repr=False, compare=False, default=None)
    couples_batch: bool = False
    inputs: tuple[tuple[str, int], ...] = ()
    digest: int = 0


@dataclass(frozen=True, repr=False)
class Objective:
    """A weighted sum of terms; see the module's docstring."""

    terms: tuple[tuple[float, Term], ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers it looks at, each once."""
        return tuple(dict.fromkeys(term.layer for _, term in self.terms))

    @property
    def local(self) -> bool:
        """Whether it can be computed tile by tile."""
        return all(term.local for _, term in self.terms)

    @property
    def inputs(self) -> dict[str, int]:
        """The inputs its graph has besides the picture: float32 [N,C] by name, with their C."""
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

    def build(self, op: Ops, activations: dict[str, tuple[ir.Value, Shape]]) -> ir.Value:
        """Append the objective [N] to the graph, given each layer's tensor and probed shape."""
        total = None
        for weight, term in self.terms:
            a, shape = activations[term.layer]
            if len(shape) == 3:
                a, shape = op.Transpose(a, perm=[0, 2, 1]), (shape[0], shape[2], shape[1])
            value = term.build(op, a, shape)
            value = value if weight == 1 else op.Mul(value, float(weight))
            total = value if total is None else op.Add(total, value)
        if total is None:
            raise OptionError("the objective is empty: name at least one layer")
        return total


def _mean_but_batch(op: Ops, value: ir.Value, rank: int) -> ir.Value:
    """The mean over every axis but the batch: [N]."""
    return op.ReduceMean(value, list(range(1, rank)), keepdims=0)


def l2(layer: str) -> Objective:
    """mean(a²), the objective of the original DeepDream (Mordvintsev et al. 2015)."""
    return _single(Term(layer, f"l2({layer})", lambda op, a, shape: _mean_but_batch(op, op.Mul(a, a), len(shape))))


def mean(layer: str) -> Objective:
    """mean(a): every channel, pulled up or, with a negative weight, down."""
    return _single(Term(layer, f"mean({layer})", lambda op, a, shape: _mean_but_batch(op, a, len(shape))))


def channel(layer: str, *channels: int) -> Objective:
    """mean(a[:, c]) over the given channels: what these filters look for."""
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
    """a[:, channel, y, x]: one neuron, the one in the middle by default. y and x count places of the layer."""

    def place(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        if len(shape) != 4:
            return a
        middle = op.Div(op.Slice(op.Shape(a), [2], [4]), 2)
        given = zip((y, x), (0, 1), strict=True)
        start = op.Concat(*([v] if v is not None else op.Slice(middle, [i], [i + 1]) for v, i in given), axis=0)
        return op.Reshape(op.Slice(a, start, op.Add(start, 1), [2, 3]), [0, 0, 1, 1])

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
        )
    )


def logit(layer: str, class_index: int) -> Objective:
    """a[:, class_index] of a classifier's output layer [N, classes]."""
    return neuron(layer, class_index)


def direction(layer: str, vector: np.ndarray, cosine_power: float = 0.0) -> Objective:
    """Mean over places of <a, v>, optionally times max(0.1, cos(a, v))^cosine_power as in lucid (Carter et al. 2019).

    `vector` is float [C].
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
    """How unlike the pictures of one batch are: minus the mean cosine between a picture's Gram matrix and the others'.

    Lucid's term against pictures that all show the same facet (Olah, Mordvintsev and Schubert 2017, "Feature
    Visualization"); in -1..1, 0 for a single picture.
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
            raise LayerError(f"layer {at.name} has no places to be diverse over; choose one before the pooling")

    return _single(Term(layer, f"diversity({layer})", build, check, local=False, couples_batch=True))


def guide(layer: str, features: np.ndarray) -> Objective:
    """Mean over places p of max_j <a_p, g_j>: every place pulls towards the guide's feature that matches it best.

    The guided objective of the original notebook (Mordvintsev et al. 2015). `features` is the layer's activation on the
    guide picture, float [1,C,h,w] or [C,h,w].
    """
    g = np.asarray(features, np.float32)
    g = np.ascontiguousarray(g.reshape(g.shape[-3], -1))  # [C,Q]

    def build(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        places = op.Transpose(op.Reshape(a, [0, 0, -1]), perm=[0, 2, 1])  # [N,P,C]
        best = op.ReduceMax(op.MatMul(places, g), [2], keepdims=0)
        return op.ReduceMean(best, [1], keepdims=0)

    def check(at: Layer) -> None:
        if not at.spatial:
            raise LayerError(f"layer {at.name} has no places to guide; choose a layer before the network's pooling")
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
    """The mean over places of <a, weights>: [N], for weights [N,C]."""
    means = op.ReduceMean(a, list(range(2, len(shape))), keepdims=0) if len(shape) > 2 else a
    return op.ReduceSum(op.Mul(means, weights), [1], keepdims=0)
