"""Graphs for one size of picture.

Before a model is finished, `specialize` turns everything computed from shapes into constants. Before a runtime opens a
model for all sizes, `fold_crops_into_padding` fits it to one: a gradient that works at all sizes computes slightly more
than necessary and crops the result. In ONNX Runtime the Slice also ends the blocked layout of everything after it; once
the size is known, less padding has the same effect.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import OptionError, first_line
from .shapes import (
    IR_VERSION,
    SMALL,
    Shape,
    computed_sizes,
    fold_constants,
    inputs_of,
    known_shapes,
    shape_constants,
    strip_large_initializers,
    tensor_types,
)

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir


def specialize(graph: ir.Graph, *, lengths: Mapping[str, int]) -> None:
    """Fix the symbolic axes of inputs and outputs, and turn what follows from them into constants, in place.

    Args:
        graph: The graph.
        lengths: The lengths of symbolic axes, by name. Without them, only what follows from types becomes constant.

    Raises:
        OptionError: The graph does not accept that size.
    """
    import onnx_ir as ir

    for value in [*graph.inputs, *graph.outputs]:
        if value.shape is not None:
            value.shape = ir.Shape([lengths.get(str(getattr(d, "value", d)), d) for d in value.shape])
    changed = True
    while changed:  # each shape that becomes known may make others known
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
    """The value of the node, if it follows from shapes and types alone."""
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
    types = {name: tensor for name, tensor in tensor_types(inferred.graph).items() if tensor.HasField("shape")}
    for name, known in types.items():
        dims = known.shape.dim
        if len(dims) > 2 and any(d.HasField("dim_value") and d.dim_value < 1 for d in dims):
            raise OptionError(f"the network does not accept pictures of {picture}: nothing would be left of {name}")
    return types


def serialize_for_shape(proto: onnx.ModelProto, lengths: Mapping[str, int]) -> bytes:
    """The file that a runtime opens for one size.

    Args:
        proto: The model.
        lengths: The lengths of symbolic axes, by name.

    Returns:
        The bytes of the fitted model.
    """
    return bytes(fold_crops_into_padding(proto, lengths).SerializeToString())


def fold_crops_into_padding(proto: onnx.ModelProto, lengths: Mapping[str, int]) -> onnx.ModelProto:
    """Replace each Slice that crops a convolution's output by less padding.

    A Slice stays if its position depends on data, or if it crops more than the padding.

    Args:
        proto: A model for all sizes; it is not changed.
        lengths: The lengths of symbolic axes, by name.

    Returns:
        A model that is valid for these lengths only.
    """
    import onnx
    from onnx.helper import make_tensor_value_info

    if not lengths or not any(_crops(proto)):
        return proto
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    crops = list(_crops(result))
    extents = {name for _, crop in crops for name in crop.input[1:]}
    shapes = _shapes(result, lengths, extents)
    given = shape_constants(result.graph)
    values = {**given, **computed_sizes(_behind(result, extents), given, shapes)}
    placed = [(conv, crop, _slices(crop, values)) for conv, crop in crops if set(crop.input[1:]) <= values.keys()]
    # Shape inference stops at a crop whose extent is computed, unless it is given the resulting shapes.
    channels = {t.name: t.dims[0] for t in result.graph.initializer if t.dims}
    for conv, crop, slices in placed:
        sides = [slices[axis].stop - slices[axis].start if axis in slices else None for axis in (2, 3)]
        shape = [lengths.get("N"), channels.get(conv.input[1]), *sides]
        result.graph.value_info.append(make_tensor_value_info(crop.output[0], onnx.TensorProto.FLOAT, shape))
    shapes = _shapes(result, lengths, {conv.output[0] for conv, _, _ in placed})
    del result.graph.value_info[:]
    for conv, crop, slices in placed:
        full = shapes.get(conv.output[0])
        if full is None or not slices.keys() <= {2, 3}:
            continue
        pads = next(a.ints for a in conv.attribute if a.name == "pads")
        less = [0, 0, 0, 0]
        for axis, place in slices.items():
            first, last, _ = place.indices(full[axis])
            less[axis - 2], less[axis] = first, full[axis] - last
        if all(0 <= cut <= pad for cut, pad in zip(less, pads, strict=True)):
            pads[:] = [pad - cut for cut, pad in zip(less, pads, strict=True)]
            conv.output[0] = crop.output[0]
            result.graph.node.remove(crop)
    return result


def _slices(crop: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> dict[int, slice]:
    """What a Slice keeps of each axis it cuts."""
    starts, ends, axes = (values[name].tolist() for name in crop.input[1:])
    return {axis: slice(start, end) for start, end, axis in zip(starts, ends, axes, strict=True)}


def _crops(proto: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Each padded convolution along two axes whose output is only read by a Slice without steps, and that Slice."""
    producers = {o: n for n in proto.graph.node for o in n.output}
    readers = Counter(name for n in proto.graph.node for name in inputs_of(n))
    readers.update(o.name for o in proto.graph.output)
    for node in proto.graph.node:
        source = producers.get(node.input[0]) if node.op_type == "Slice" and len(node.input) == 4 else None
        if source is None or source.op_type != "Conv" or readers[source.output[0]] > 1:
            continue
        if any(a.name == "pads" and len(a.ints) == 4 for a in source.attribute):
            yield source, node


def _shapes(proto: onnx.ModelProto, lengths: Mapping[str, int], wanted: set[str]) -> dict[str, Shape]:
    """The shapes of `wanted` and of what goes into them, inferred from the lengths of the inputs' axes.

    Weights stay out of it: they are large.
    """
    import onnx
    from onnx.helper import make_tensor_value_info

    skeleton = onnx.ModelProto(ir_version=IR_VERSION, opset_import=proto.opset_import)
    graph = skeleton.graph
    graph.node.extend(_behind(proto, wanted))
    graph.input.extend(proto.graph.input)
    graph.value_info.extend(proto.graph.value_info)
    for dim in [d for v in graph.input for d in v.type.tensor_type.shape.dim]:
        if dim.dim_param in lengths:
            dim.dim_value = lengths[dim.dim_param]
    for weight in proto.graph.initializer:
        if math.prod(weight.dims) <= SMALL:
            graph.initializer.append(weight)
        else:
            graph.input.append(make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    return known_shapes(onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph)


def _behind(proto: onnx.ModelProto, names: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the tensors of `names` depend on, in order."""
    needed, found = set(names), []
    for node in reversed(proto.graph.node):
        if needed & set(node.output):
            needed |= inputs_of(node)
            found.append(node)
    return found[::-1]
