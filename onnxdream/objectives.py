"""What a dream maximises.

An objective is a weighted sum of terms, and each term turns one layer's activation `a` into one number for each picture
of the batch. Objectives add, subtract and scale, so several layers and negative weights need nothing more:

    >>> from onnxdream import objectives as obj
    >>> obj.l2("fire6") + 0.5 * obj.channel("fire8", 12) - obj.mean("conv1")
    l2(fire6) + 0.5*channel(fire8, 12) - mean(conv1)

Activations are [N,C,h,w], or [N,C] behind the network's pooling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .errors import LayerError, OptionError

if TYPE_CHECKING:
    import onnx_ir as ir

    from .autodiff import Ops
    from .graph import Shape
    from .model import Layer


@dataclass(frozen=True)
class Term:
    """One number per picture from one layer.

    `build(op, a, shape)` appends the nodes that turn the activation `a`, of probed `shape`, into [N]. `check(layer)`
    raises LayerError when the term does not fit the layer. `local` terms are the same at every place of the picture, so
    they can be computed tile by tile.
    """

    layer: str
    text: str
    build: Callable[[Ops, ir.Value, Shape], ir.Value] = field(repr=False, compare=False)
    check: Callable[[Layer], None] = field(repr=False, compare=False, default=lambda layer: None)
    local: bool = True


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
            value = term.build(op, *activations[term.layer])
            value = value if weight == 1 else op.Mul(value, float(weight))
            total = value if total is None else op.Add(total, value)
        if total is None:
            raise OptionError("the objective is empty: name at least one layer")
        return total


def _over_places(op: Ops, value: ir.Value, rank: int) -> ir.Value:
    """The mean over every axis but the batch: [N]."""
    return op.ReduceMean(value, list(range(1, rank)), keepdims=0)


def l2(layer: str) -> Objective:
    """mean(a²), the objective of the original DeepDream (Mordvintsev et al. 2015)."""
    return _one(Term(layer, f"l2({layer})", lambda op, a, shape: _over_places(op, op.Mul(a, a), len(shape))))


def mean(layer: str) -> Objective:
    """mean(a): every channel, pulled up or, with a negative weight, down."""
    return _one(Term(layer, f"mean({layer})", lambda op, a, shape: _over_places(op, a, len(shape))))


def channel(layer: str, *channels: int) -> Objective:
    """mean(a[:, c]) over the given channels: what these filters look for."""
    if not channels:
        raise OptionError("channel() needs at least one channel number")

    def build(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        picked = [op.Slice(a, [c], [c + 1], [1]) for c in channels]
        return _over_places(op, op.Concat(*picked, axis=1) if len(picked) > 1 else picked[0], len(shape))

    text = ", ".join(str(c) for c in channels)
    return _one(Term(layer, f"channel({layer}, {text})", build, lambda at: _check_channels(at, channels)))


def neuron(layer: str, channel: int, y: int | None = None, x: int | None = None) -> Objective:
    """a[:, channel, y, x]: one neuron, the one in the middle by default. y and x count places of the layer."""

    def build(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        picked = op.Slice(a, [channel], [channel + 1], [1])
        if len(shape) == 4:
            middle = op.Div(op.Slice(op.Shape(a), [2], [4]), 2)
            given = zip((y, x), (0, 1), strict=True)
            start = op.Concat(*([v] if v is not None else op.Slice(middle, [i], [i + 1]) for v, i in given), axis=0)
            picked = op.Reshape(op.Slice(picked, start, op.Add(start, 1), [2, 3]), [0, 1, 1, 1])
        return _over_places(op, picked, len(shape))

    at = "" if y is None and x is None else f", {y}, {x}"
    return _one(
        Term(layer, f"neuron({layer}, {channel}{at})", build, lambda at: _check_channels(at, (channel,)), local=False)
    )


def logit(layer: str, class_index: int) -> Objective:
    """a[:, class_index] of a classifier's output layer [N, classes]."""
    return neuron(layer, class_index)


def direction(layer: str, vector: np.ndarray, cosine_power: float = 0.0) -> Objective:
    """Mean over places of <a, v>, optionally times max(0.1, cos(a, v))^cosine_power as in lucid (Carter et al. 2019).

    `vector` is float [C].
    """
    v = np.asarray(vector, np.float32).reshape(-1)

    def build(op: Ops, a: ir.Value, shape: Shape) -> ir.Value:
        along = v.reshape(1, -1, *[1] * (len(shape) - 2))
        dot = op.ReduceSum(op.Mul(a, along), [1], keepdims=1)
        if cosine_power:
            length = op.Add(op.ReduceL2(a, [1], keepdims=1), 1e-6)
            cosine = op.Div(dot, op.Mul(length, float(np.linalg.norm(v) + 1e-6)))
            dot = op.Mul(dot, op.Pow(op.Max(cosine, 0.1), float(cosine_power)))
        return _over_places(op, dot, len(shape))

    def check(at: Layer) -> None:
        if at.channels != v.size:
            raise LayerError(f"layer {at.name} has {at.channels} channels but the direction has {v.size}")

    return _one(Term(layer, f"direction({layer}, [{v.size}])", build, check))


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

    return _one(Term(layer, f"guide({layer})", build, check))


def _one(term: Term) -> Objective:
    return Objective(((1.0, term),))


def _check_channels(layer: Layer, channels: tuple[int, ...]) -> None:
    for c in channels:
        if not 0 <= c < layer.channels:
            raise LayerError(f"layer {layer.name} has channels 0 to {layer.channels - 1}; there is no channel {c}")
