"""Graphs for one size of picture, which compute no shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import OptionError
from .shapes import first_line, fold_constants, strip_large_initializers

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir


def freeze(graph: ir.Graph, lengths: Mapping[str, int]) -> None:
    """Give the symbolic axes of inputs and outputs these lengths, and turn what follows from them into constants.

    Without lengths, only what follows from types. Raises OptionError when the graph does not accept that size.
    """
    import onnx_ir as ir

    for value in [*graph.inputs, *graph.outputs]:
        if value.shape is not None:
            value.shape = ir.Shape([lengths.get(str(getattr(d, "value", d)), d) for d in value.shape])
    changed = True
    while changed:  # a shape that is known makes others known
        types, changed = _types(graph, strict=bool(lengths)), False
        for node in list(graph):
            constant = _constant(node, types)
            if constant is not None:
                value = ir.Value(name=f"{node.outputs[0].name}/frozen", const_value=ir.tensor(constant))
                graph.register_initializer(value)
                node.outputs[0].replace_all_uses_with(value)
                graph.remove(node, safe=True)
                changed = True
        fold_constants(graph)


def _constant(node: ir.Node, types: dict[str, onnx.TypeProto.Tensor]) -> np.ndarray | None:
    """What the node gives, where that follows from shapes and types alone."""
    import onnx

    about = node.inputs[{"Shape": 0, "Size": 0, "CastLike": 1}.get(node.op_type, -1)] if node.inputs else None
    known = types.get(str(about.name)) if about is not None else None
    first = node.inputs[0] if node.inputs else None
    if known is None or first is None:
        return None
    if node.op_type == "CastLike" and first.const_value is not None:
        return first.const_value.numpy().astype(onnx.helper.tensor_dtype_to_np_dtype(known.elem_type))
    if node.op_type not in ("Shape", "Size") or not all(d.HasField("dim_value") for d in known.shape.dim):
        return None
    shape = np.array([d.dim_value for d in known.shape.dim], np.int64)
    if node.op_type == "Size":
        return np.asarray(np.prod(shape))
    return shape[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(shape))]


def _types(graph: ir.Graph, *, strict: bool) -> dict[str, onnx.TypeProto.Tensor]:
    """Type and shape of every tensor whose shape does not depend on data."""
    import onnx

    proto = strip_large_initializers(graph)
    picture = "x".join(str(d.dim_value) for d in reversed(proto.graph.input[0].type.tensor_type.shape.dim[2:]))
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=strict)
    except Exception as error:
        raise OptionError(f"the network does not accept pictures of {picture}: {first_line(error)}") from error
    values = [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
    types = {v.name: v.type.tensor_type for v in values if v.type.tensor_type.HasField("shape")}
    for name, known in types.items():
        dims = known.shape.dim
        if len(dims) > 2 and any(d.HasField("dim_value") and d.dim_value < 1 for d in dims):
            raise OptionError(f"the network does not accept pictures of {picture}: nothing would be left of {name}")
    return types
