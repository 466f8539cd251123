"""From any ONNX file to one canonical form: opset 18, float32, functions inlined, constants folded.

All later passes work on this form, so the differences between exporters end here: opsets 7 to the newest, half and
double precision, external weights, quantised operators, and branches whose condition is constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError, first_line
from .shapes import IR_VERSION, OPSET, fold_constants, replace

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read, check and canonicalize an ONNX file.

    Args:
        path: The file.

    Returns:
        The network in canonical form.

    Raises:
        ModelError: The file is missing, damaged or not ONNX, has weights outside its own folder, or contains NaN.
    """
    import onnx

    if not path.is_file():
        raise ModelError(f"{path}: {'is not a file; name an ONNX file' if path.exists() else 'no such file'}")
    try:
        proto = onnx.load(path, load_external_data=False)
    except PermissionError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:
        raise ModelError(f"{path}: not an ONNX file, or only part of one") from error
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{path}: not an ONNX file (it contains no operators)")
    if {i.name for i in proto.graph.input} <= {t.name for t in proto.graph.initializer}:
        raise ModelError(f"{path}: takes no input, so no picture")
    _check_external_data(path, proto)
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except Exception as error:
        raise ModelError(f"{path}: its weights are in another file that cannot be read: {first_line(error)}") from error
    try:
        if not all(o.type.tensor_type.HasField("shape") for o in proto.graph.output):  # runtimes accept this
            proto = onnx.shape_inference.infer_shapes(proto)
        onnx.checker.check_model(proto)
    except Exception as error:
        raise ModelError(f"{path}: not a valid ONNX file: {first_line(error)}") from error
    return canonicalize(proto, str(path))


def canonicalize(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Canonicalize a network.

    Args:
        proto: The network.
        name: What error messages call it.

    Returns:
        The network in canonical form.

    Raises:
        ModelError: It cannot be expressed in that form, or contains NaN.
    """
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    known = {"", "ai.onnx", "ai.onnx.ml", *(f.domain for f in proto.functions)}
    foreign = [n for graph in _graphs(proto.graph) for n in graph.node if n.domain not in known]
    if foreign:
        operators = ", ".join(sorted({f"{n.domain}.{n.op_type}" for n in foreign}))
        raise ModelError(f"{name}: uses operators outside the ONNX standard ({operators}); export it without them")
    proto = _convert(_single_precision(proto), name)
    try:
        model = ir.from_proto(proto)
        model.ir_version = IR_VERSION  # files older than 4 count weights among the inputs
        passes.InlinePass()(model)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        passes.RemoveInitializersFromInputsPass()(model)
        _name_types(model.graph)
        fold_constants(model.graph)
        while _take_branches(model.graph):
            passes.NameFixPass()(model)
            passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
            fold_constants(model.graph)
        _expand_quantized(model.graph)
        fold_constants(model.graph)
        _finite_borders(model.graph)
        passes.IdentityEliminationPass()(model)
        passes.RemoveUnusedNodesPass()(model)
    except Exception as error:
        raise ModelError(f"{name}: its graph cannot be brought into canonical form: {first_line(error)}") from error
    for value in model.graph.initializers.values():
        _check_weight(value, name)
    return ir.to_proto(model)


# What multiplies by its weights; an infinite one makes NaN.
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def _check_weight(value: ir.Value, name: str) -> None:
    """Raises ModelError for NaN, and for infinity where it is no mask, no bound and no border."""
    tensor = value.const_value
    if tensor is None or tensor.dtype.name != "FLOAT":
        return
    array = tensor.numpy()
    if np.isnan(array).any() or (
        np.isinf(array).any() and any(node.op_type in _PRODUCTS for node in value.consumers())
    ):
        raise ModelError(f"{name}: weight {value.name} holds NaN or infinity; the file is damaged")


def _check_external_data(path: Path, proto: onnx.ModelProto) -> None:
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    folder = path.parent.resolve()
    for tensor in [t for graph in _graphs(proto.graph) for t in _tensors(graph)]:
        if uses_external_data(tensor):
            location = ExternalDataInfo(tensor).location
            if not (folder / location).resolve().is_relative_to(folder):
                raise ModelError(
                    f"{path}: weight {tensor.name} is outside the model's folder ({location}); "
                    "put the weights file next to the model"
                )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and the graphs of its control-flow nodes, however deep."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _graphs(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from (a.t for a in node.attribute if a.HasField("t"))


def _single_precision(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with its half, bfloat16 and double tensors, casts and declarations changed to float32."""
    import onnx
    from onnx import TensorProto, numpy_helper

    other = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    single = onnx.ModelProto()
    single.CopyFrom(proto)
    functions = [n for function in single.functions for n in function.node]
    graphs = [*_graphs(single.graph), *(g for n in functions for a in n.attribute for g in _graphs(a.g))]
    for tensor in [t for graph in graphs for t in _tensors(graph)] + [a.t for n in functions for a in n.attribute]:
        if tensor.data_type in other:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for value in [v for graph in graphs for v in [*graph.input, *graph.output, *graph.value_info]]:
        if value.type.tensor_type.elem_type in other:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in [*(n for graph in graphs for n in graph.node), *functions]:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "stash_type") and attribute.i in other:
                attribute.i = TensorProto.FLOAT
    return single


def _convert(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """`proto` at opset 18: older ones converted up, newer ones relabelled once nothing newer is left in them."""
    import onnx
    from onnx import version_converter

    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), OPSET)
    try:
        if version < OPSET:
            return _resized_as_before(version_converter.convert_version(proto, OPSET), version)
        if version > OPSET:
            proto = _without_newer_operators(proto, version)
            onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise ModelError(f"{name}: cannot be converted from opset {version} to {OPSET}: {first_line(error)}") from error
    return proto


def _resized_as_before(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Let Resize place its samples as in opset `version`: up to 10 asymmetrically, which the converter does not say."""
    import onnx

    if version <= 10:
        for node in [n for graph in _graphs(proto.graph) for n in graph.node if n.op_type == "Resize"]:
            given = {a.name for a in node.attribute}
            for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
                if name not in given:
                    node.attribute.append(onnx.helper.make_attribute(name, value))
    return proto


# Values of attributes that came after opset 18; the checker does not look at them.
_NEWER_MODES = {("Pad", "wrap"), ("Resize", "half_pixel_symmetric")}


def _without_newer_operators(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """`proto` labelled 18; operators that are newer, or mean something else since, are replaced by their definition."""
    import onnx
    from onnx.inliner import inline_selected_functions

    def is_newer(operator: str) -> bool:
        if operator == "GroupNormalization":  # scales channels since 21, groups before
            return True
        try:
            onnx.defs.get_schema(operator, OPSET)
        except onnx.defs.SchemaError:
            return True
        return False

    operators = {n.op_type for graph in _graphs(proto.graph) for n in graph.node if n.domain in ("", "ai.onnx")}
    newer = [("", operator) for operator in sorted(filter(is_newer, operators))]
    for node in [n for graph in _graphs(proto.graph) for n in graph.node if ("", n.op_type) in newer]:
        schema = onnx.defs.get_schema(node.op_type, version)
        if not (schema.has_function or schema.has_context_dependent_function):  # type: ignore[attr-defined]
            raise ValueError(
                f"node {node.name or node.output[0]!r}, operator {node.op_type} (opset {version}), cannot be "
                "expressed in older operators"
            )
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    if newer:
        proto = onnx.shape_inference.infer_shapes(proto)
        info = onnx.helper.make_tensor_value_info
        proto.graph.value_info.extend(info(t.name, t.data_type, t.dims) for t in proto.graph.initializer)
        proto = inline_selected_functions(proto, newer, inline_schema_functions=True)
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = OPSET
    for node in [n for graph in _graphs(proto.graph) for n in graph.node]:
        if node.domain in ("", "ai.onnx"):
            modes = {(node.op_type, a.s.decode(errors="replace")) for a in node.attribute}
            if modes & _NEWER_MODES:
                raise ValueError(f"{node.op_type} with {' '.join(mode for _, mode in modes & _NEWER_MODES)} is newer")
            before, now = onnx.defs.get_schema(node.op_type, OPSET), onnx.defs.get_schema(node.op_type, version)
            kept = [
                a for a in node.attribute if a.name in before.attributes or a != now.attributes[a.name].default_value
            ]
            del node.attribute[:]
            node.attribute.extend(kept)
    return proto


def _name_types(graph: ir.Graph) -> None:
    """Replace each CastLike of a constant by a Cast, so that it can be folded."""

    for node in list(graph):
        if node.op_type != "CastLike" or node.inputs[0] is None or node.inputs[1] is None:
            continue
        if node.inputs[0].const_value is not None and node.inputs[1].dtype is not None:
            made: list[ir.Node] = []
            result = _appender(made)("Cast", [node.inputs[0]], to=int(node.inputs[1].dtype))
            graph.insert_before(node, made)
            replace(graph, node, [result])


def _take_branches(graph: ir.Graph) -> bool:
    """Replace each If whose condition is constant by the branch taken. Returns whether there was one."""
    found = False
    for node in list(graph):
        condition = node.inputs[0].const_value if node.op_type == "If" and node.inputs[0] is not None else None
        if condition is None:
            continue
        branch = node.attributes["then_branch" if condition.numpy().item() else "else_branch"].as_graph()
        results = list(branch.outputs)
        inner, weights = list(branch), list(branch.initializers.values())
        branch.outputs.clear()
        branch.remove(inner)
        branch.initializers.clear()
        for weight in weights:
            graph.register_initializer(weight)
        graph.insert_before(node, inner)
        replace(graph, node, results)
        found = True
    return found


def _finite_borders(graph: ir.Graph) -> None:
    """Make Pad use the largest finite numbers in place of infinite ones, which give NaN when multiplied by 0."""
    import onnx_ir as ir

    for node in list(graph):
        border = node.inputs[2] if node.op_type == "Pad" and len(node.inputs) > 2 else None
        if border is not None and border.const_value is not None and np.isinf(border.const_value.numpy()).any():
            finite = np.nan_to_num(border.const_value.numpy(), nan=np.nan)
            value = ir.Value(name=f"{border.name}/{node.name or node.outputs[0].name}", const_value=ir.tensor(finite))
            graph.register_initializer(value)
            node.replace_input_with(2, value)


def _expand_quantized(graph: ir.Graph) -> None:
    """Replace QLinearConv and QLinearMatMul by their definition: dequantise, compute, quantise."""
    for node in list(graph):
        expand = _EXPANSIONS.get(node.op_type)
        if expand is None:
            continue
        made: list[ir.Node] = []
        result = expand(_appender(made), node)
        graph.insert_before(node, made)
        replace(graph, node, [result])


_Append = Callable[..., "ir.Value"]


def _appender(nodes: list[ir.Node]) -> _Append:
    """A function append(operator, inputs, **attributes) that adds a node to `nodes` and returns its output."""
    import onnx_ir as ir

    def append(operator: str, inputs: list[ir.Value | None], **attributes: int | ir.Attr) -> ir.Value:
        given = [a if isinstance(a, ir.Attr) else ir.AttrInt64(name, a) for name, a in attributes.items()]
        node = ir.Node("", operator, inputs, given)
        nodes.append(node)
        return node.outputs[0]

    return append


def _qlinear_conv(append: _Append, node: ir.Node) -> ir.Value:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *bias = node.inputs
    inputs = [
        append("DequantizeLinear", [x, x_scale, x_zero]),
        append("DequantizeLinear", [w, w_scale, w_zero], axis=0),
    ]
    if bias and bias[0] is not None:  # int32, in units of both scales
        inputs.append(append("DequantizeLinear", [bias[0], append("Mul", [x_scale, w_scale])], axis=0))
    y = append("Conv", inputs, **dict(node.attributes))
    return append("QuantizeLinear", [y, y_scale, y_zero])


def _qlinear_matmul(append: _Append, node: ir.Node) -> ir.Value:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.inputs
    factors = [
        append("DequantizeLinear", [a, a_scale, a_zero]),
        append("DequantizeLinear", [b, b_scale, b_zero], axis=1),
    ]
    return append("QuantizeLinear", [append("MatMul", factors), y_scale, y_zero])


_EXPANSIONS = {"QLinearConv": _qlinear_conv, "QLinearMatMul": _qlinear_matmul}
