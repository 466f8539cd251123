"""Where a layer looks: stride, receptive field and the smallest picture it can work on.

Receptive fields compose as in Araujo et al. 2019, "Computing Receptive Fields of Convolutional Neural Networks"
(Distill): going forward, `field += (kernel - 1) * dilation * stride_so_far` and `stride_so_far *= stride`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..graph.shapes import inputs_of, is_control_flow, known_shapes

if TYPE_CHECKING:
    import onnx

_WINDOWED = {"Conv", "MaxPool", "AveragePool", "LpPool"}
_WHOLE_PICTURE = {
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GlobalLpPool",
    "Flatten",
    "Reshape",
    "Gemm",
    "MatMul",
    "Einsum",
    "InstanceNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "MeanVarianceNormalization",
}


@dataclass(frozen=True)
class Window:
    """One spatial axis of a convolution or pooling node; sizes in samples of its input."""

    kernel: int
    stride: int
    dilation: int
    pad_begin: int
    pad_end: int
    same: bool = False  # auto_pad SAME_* with a stride: the padding depends on the input's size

    @property
    def span(self) -> int:
        """Samples from the first to the last tap, inclusive."""
        return (self.kernel - 1) * self.dilation + 1

    def smallest_input(self, outputs: int) -> int:
        """The fewest input samples that give `outputs` output samples."""
        if self.same:
            return (outputs - 1) * self.stride + 1
        return max(1, (outputs - 1) * self.stride + self.span - self.pad_begin - self.pad_end)


def windows(node: onnx.NodeProto, kernel_shape: tuple[int, ...] | None = None) -> list[Window]:
    """The node's windows, one for each spatial axis; `kernel_shape` where the node leaves it to its weight."""
    attributes = {a.name: (a.s.decode() if a.s else a.i if a.type == 2 else list(a.ints)) for a in node.attribute}
    kernel = list(attributes.get("kernel_shape", kernel_shape or ()))
    axes = len(kernel)
    strides = attributes.get("strides") or [1] * axes
    dilations = attributes.get("dilations") or [1] * axes
    pads = attributes.get("pads") or [0] * (2 * axes)
    auto_pad = attributes.get("auto_pad", "NOTSET")
    if auto_pad == "VALID":
        pads = [0] * (2 * axes)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        if any(s > 1 for s in strides):
            return [Window(kernel[i], strides[i], dilations[i], 0, 0, same=True) for i in range(axes)]
        less = [(k - 1) * d // 2 for k, d in zip(kernel, dilations, strict=True)]
        more = [(k - 1) * d - p for k, d, p in zip(kernel, dilations, less, strict=True)]
        pads = less + more if auto_pad == "SAME_UPPER" else more + less
    return [Window(kernel[i], strides[i], dilations[i], pads[i], pads[i + axes]) for i in range(axes)]


@dataclass(frozen=True)
class Geometry:
    """How one tensor lies over the picture, in picture pixels, larger of the two axes."""

    stride: float
    receptive_field: float  # math.inf: the whole picture


def geometry(graph: onnx.GraphProto, source: str) -> dict[str, Geometry]:
    """Stride and receptive field of every tensor that depends on the tensor `source`, up to control flow (If, Loop)."""
    kernels = {name: shape[2:] for name, shape in known_shapes(graph).items()}
    known = {source: Geometry(1, 1)}
    for node in graph.node:
        inputs = [known[n] for n in inputs_of(node) if n in known]
        if not inputs or is_control_flow(node):
            continue
        stride = max(g.stride for g in inputs)
        field = max(g.receptive_field for g in inputs)
        if node.op_type in _WINDOWED:
            taps = windows(node, kernels.get(node.input[1]) if len(node.input) > 1 else None)
            field += max((w.span - 1 for w in taps), default=math.inf) * stride
            stride *= max((w.stride for w in taps), default=1)
        elif node.op_type == "ConvTranspose":
            taps = windows(node, kernels.get(node.input[1]))
            stride /= max((w.stride for w in taps), default=1)
            field += max((w.span - 1 for w in taps), default=math.inf) * stride
        elif node.op_type in _WHOLE_PICTURE or node.op_type.startswith("Reduce"):
            field = math.inf
        for output in node.output:
            known[output] = Geometry(stride, field)
    return known


def smallest_picture(graph: onnx.GraphProto, source: str, target: str) -> tuple[int, int]:
    """The smallest picture (height, width) on which the tensor `target` has at least one place."""
    kernels = {name: shape[2:] for name, shape in known_shapes(graph).items()}
    need: dict[str, tuple[int, int]] = {target: (1, 1)}
    for node in reversed(graph.node):
        outputs = [need[n] for n in node.output if n in need]
        if not outputs:
            continue
        wanted = (max(o[0] for o in outputs), max(o[1] for o in outputs))
        if node.op_type in _WINDOWED:
            taps = windows(node, kernels.get(node.input[1]) if len(node.input) > 1 else None)
            if len(taps) == 2:
                wanted = (taps[0].smallest_input(wanted[0]), taps[1].smallest_input(wanted[1]))
        for name in node.input[:1] if node.op_type in _WINDOWED else inputs_of(node):
            before = need.get(name, (1, 1))
            need[name] = (max(before[0], wanted[0]), max(before[1], wanted[1]))
    return need.get(source, (1, 1))
