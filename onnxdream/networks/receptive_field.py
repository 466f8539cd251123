"""Strides and receptive fields of layers, and the smallest picture that a layer can work on.

Receptive fields compose as in Araujo et al. 2019, "Computing Receptive Fields of Convolutional Neural Networks"
(Distill): going forward, `field += (kernel - 1) * dilation * stride_so_far` and `stride_so_far *= stride`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..graph.shapes import inputs_of, is_control_flow, known_shapes
from ..graph.windows import WINDOWED, windows

if TYPE_CHECKING:
    import onnx

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
# Their output's grid is not that of their input, or not in the same place.
_NEW_GRIDS = {"Resize", "Expand", "Tile", "Transpose", "DepthToSpace", "Gather", "GatherElements", "GatherND"}


@dataclass(frozen=True)
class Geometry:
    """How a tensor's grid lies on the picture, in pixels of the picture; the larger of the two axes."""

    stride: float
    receptive_field: float  # math.inf: the whole picture


def geometry(graph: onnx.GraphProto, source: str) -> dict[str, Geometry]:
    """The strides and receptive fields of a graph's tensors.

    Args:
        graph: The graph, in canonical form.
        source: The name of the picture's tensor.

    Returns:
        The geometry of each tensor that depends on the pixels of `source`, by name, except behind control flow (If,
        Loop, Scan).
    """
    kernels = {name: shape[2:] for name, shape in known_shapes(graph).items()}
    known = {source: Geometry(1, 1)}
    for node in graph.node:
        inputs = [known[n] for n in inputs_of(node) if n in known]
        if not inputs or is_control_flow(node) or node.op_type in ("Shape", "Size"):  # sizes lie nowhere on the picture
            continue
        stride = max(g.stride for g in inputs)
        field = max(g.receptive_field for g in inputs)
        if node.op_type in WINDOWED:
            taps = windows(node, kernels.get(node.input[1]) if len(node.input) > 1 else None)
            field += max((w.span - 1 for w in taps), default=math.inf) * stride
            stride *= max((w.stride for w in taps), default=1)
        elif node.op_type == "ConvTranspose":
            taps = windows(node, kernels.get(node.input[1]))
            stride /= max((w.stride for w in taps), default=1)
            field += max((w.span - 1 for w in taps), default=math.inf) * stride
        elif _sees_everything(node):
            field = math.inf
        for output in node.output:
            known[output] = Geometry(stride, field)
    return known


def _sees_everything(node: onnx.NodeProto) -> bool:
    """Whether one position of the output may see, or come from, any of the input's."""
    return node.op_type in _WHOLE_PICTURE or node.op_type.startswith("Reduce")


def smallest_picture(
    graph: onnx.GraphProto, source: str, target: str, places: tuple[int, int] = (1, 1)
) -> tuple[int, int]:
    """The smallest picture on which a tensor has at least some positions, as far as its windows tell.

    What lies before tokens are mixed or reshaped, or the picture is resized, is not bound to have as many positions as
    what follows: there it is only asked for one. `Model.accepts` tells for sure.

    Args:
        graph: The graph, in canonical form.
        source: The name of the picture's tensor.
        target: The name of the tensor.
        places: How many rows and columns of positions it is to have.

    Returns:
        (height, width) in pixels.
    """
    kernels = {name: shape[2:] for name, shape in known_shapes(graph).items()}
    need: dict[str, tuple[int, int]] = {target: places}
    for node in reversed(graph.node):
        outputs = [need[n] for n in node.output if n in need]
        if not outputs:
            continue
        wanted = (max(o[0] for o in outputs), max(o[1] for o in outputs))
        if _sees_everything(node) or node.op_type in _NEW_GRIDS:
            wanted = (1, 1)
        if node.op_type in WINDOWED:
            taps = windows(node, kernels.get(node.input[1]) if len(node.input) > 1 else None)
            if len(taps) == 2:
                wanted = (taps[0].smallest_input(wanted[0]), taps[1].smallest_input(wanted[1]))
        for name in node.input[:1] if node.op_type in WINDOWED else inputs_of(node):
            before = need.get(name, (1, 1))
            need[name] = (max(before[0], wanted[0]), max(before[1], wanted[1]))
    return need.get(source, (1, 1))
