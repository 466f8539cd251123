"""From any ONNX file to one canonical form: opset 18, float32, functions inlined, constants folded.

All later passes work on this form, so the differences between exporters end here: opsets 7 to the newest, half and
double precision, external weights, quantised operators, and branches whose condition is constant.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError, first_line
from .cut import cut, describe, of_control_flow, of_no_tensor
from .expand import CONTRIB, EXPANSIONS, expand
from .shapes import IR_VERSION, OPSET, all_graphs, fold_constants, inputs_of, of_sizes_alone, replace, tensors_of

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

log = logging.getLogger(__name__)


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

    proto = _convert(_checked(_single_precision(proto), name), name)
    try:
        model = ir.from_proto(proto)
        for output in model.graph.outputs:
            output.shape = None
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
        while expand(model.graph):
            passes.ShapeInferencePass()(model)  # some expansions need to know a rank
            fold_constants(model.graph)
        _finite_borders(model.graph)
        passes.IdentityEliminationPass()(model)
        passes.RemoveUnusedNodesPass()(model)
    except Exception as error:
        raise ModelError(f"{name}: its graph cannot be brought into canonical form: {first_line(error)}") from error
    for value in model.graph.initializers.values():
        _check_weight(value, name)
    proto = ir.to_proto(model)
    sizes = of_sizes_alone(proto.graph)

    def why(node: onnx.NodeProto) -> str | None:
        on_sizes = node.op_type == "If" and sizes.issuperset(node.output)
        return (None if on_sizes else of_control_flow(node)) or _foreign(node, OPSET)

    cut(proto, why)
    return proto


def _version(proto: onnx.ModelProto) -> int:
    return next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), OPSET)


def _checked(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """`proto` without what makes no tensors, and without operators outside the standard; what is left is checked.

    Raises ModelError if nothing is left, or it is no valid model.
    """
    import onnx

    version, functions = _version(proto), {(f.domain, f.name) for f in proto.functions}
    _adopt(proto, version)
    if _evaluate_only(proto, version):
        log.warning(f"{name}: was exported in training mode; it is taken as in evaluation, with the stored statistics")
    foreign: set[str] = set()

    def why(node: onnx.NodeProto) -> str | None:
        if (node.domain, node.op_type) in functions:
            return None
        reason = _foreign(node, version)
        if reason is not None:
            foreign.add(f"{node.domain}.{node.op_type}".removeprefix("."))
        return reason or of_no_tensor(node, version)

    cut(proto, why)
    if foreign:
        operators = f"uses operators outside the ONNX standard ({', '.join(sorted(foreign))})"
        if any(n.startswith(f"{CONTRIB}.nchwc") for n in foreign):
            operators += ", which suit one kind of processor; take the file as it was before it was optimised for that"
        if not proto.graph.node:
            raise ModelError(f"{name}: {operators}; export it without them")
        log.warning(f"{name}: {operators}; only layers that come before them can be dreamed with")
    try:
        if not all(o.type.tensor_type.HasField("shape") for o in proto.graph.output):  # runtimes accept this
            proto = onnx.shape_inference.infer_shapes(proto)
        for output in proto.graph.output:  # behind what inference does not know, as the checker wants it
            tensor = output.type.tensor_type
            if not tensor.HasField("shape"):
                tensor.elem_type = tensor.elem_type or onnx.TensorProto.FLOAT
                tensor.shape.dim.add()
        onnx.checker.check_model(proto)
    except Exception as error:
        # Opset 18's GroupNormalization was withdrawn later, but files have it and runtimes run it.
        if "GroupNormalization is deprecated" not in str(error):
            raise ModelError(f"{name}: not a valid ONNX file: {first_line(error)}") from error
    return proto


def _adopt(proto: onnx.ModelProto, version: int) -> None:
    """Name the domain of what ONNX Runtime leaves in the standard's domain before the standard has it."""
    import onnx

    for node in [n for graph in all_graphs(proto.graph) for n in graph.node if n.domain in ("", "ai.onnx")]:
        if (CONTRIB, node.op_type) in EXPANSIONS and not onnx.defs.has(node.op_type, version, ""):
            node.domain = CONTRIB
            if all(opset.domain != CONTRIB for opset in proto.opset_import):
                proto.opset_import.add(domain=CONTRIB, version=1)


def _evaluate_only(proto: onnx.ModelProto, version: int) -> bool:
    """Let normalisations use their stored statistics, and Dropout nothing. Returns whether one did otherwise."""
    import onnx

    read = {name for node in proto.graph.node for name in inputs_of(node)}
    constants = {t.name: t for t in proto.graph.initializer}
    constants |= {n.output[0]: a.t for n in proto.graph.node if n.op_type == "Constant" for a in n.attribute}
    listed, trained = {o.name for o in proto.graph.output}, set[str]()
    for node in proto.graph.node:
        if node.op_type == "BatchNormalization":
            further = set(node.output[1:]) - {""}
            training = [a for a in node.attribute if a.name == "training_mode"]
            if not further & read and (any(a.i for a in training) or (further and version < 14)):
                trained |= further & listed if version < 14 else {"", *further}
                del node.output[1:]
                for attribute in training:
                    node.attribute.remove(attribute)
        elif node.op_type == "Dropout":
            mode = constants.get(node.input[2]) if len(node.input) > 2 else None
            if mode is not None and onnx.numpy_helper.to_array(mode).any():
                trained.add("")
                del node.input[2:]
    kept = [o for o in proto.graph.output if o.name not in trained]
    del proto.graph.output[:]
    proto.graph.output.extend(kept)
    return bool(trained)


def _foreign(node: onnx.NodeProto, version: int) -> str | None:
    """Why a node that is no operator of the standard is in the way."""
    import onnx

    if node.domain == "ai.onnx.ml" or (node.domain, node.op_type) in EXPANSIONS:
        return None
    try:
        if node.domain in ("", "ai.onnx"):
            onnx.defs.get_schema(node.op_type, version, "")
            return None
    except onnx.defs.SchemaError:
        pass
    return f"{describe(node)} which is not in the ONNX standard"


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


def _single_precision(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with its half, bfloat16 and double tensors, casts and declarations changed to float32."""
    import onnx
    from onnx import TensorProto, numpy_helper

    other = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    single = onnx.ModelProto()
    single.CopyFrom(proto)
    functions = [n for function in single.functions for n in function.node]
    graphs = [*all_graphs(single.graph), *(g for n in functions for a in n.attribute for g in all_graphs(a.g))]
    for tensor in [t for graph in graphs for t in tensors_of(graph)] + [a.t for n in functions for a in n.attribute]:
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

    version = _version(proto)
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
        for node in [n for graph in all_graphs(proto.graph) for n in graph.node if n.op_type == "Resize"]:
            given = {a.name for a in node.attribute}
            for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
                if name not in given:
                    node.attribute.append(onnx.helper.make_attribute(name, value))
    return proto


# Values of attributes that came after opset 18; the checker does not look at them.
_NEWER_MODES = {("Pad", "wrap"), ("Resize", "half_pixel_symmetric")}


def _without_newer_operators(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """`proto` labelled 18; operators that are newer, or mean something else since, are replaced by their definition.

    What has none is cut off. Raises ValueError if nothing is left then.
    """
    import onnx
    from onnx.inliner import inline_selected_functions

    too_new = cut(proto, lambda node: _too_new(node, version))
    if too_new:
        reason = next(iter(too_new.values()))
        if not proto.graph.node:
            raise ValueError(reason)
        log.warning(f"{reason}; only layers that come before it can be dreamed with")
        proto = onnx.shape_inference.infer_shapes(proto)
    operators = {n.op_type for graph in all_graphs(proto.graph) for n in graph.node if n.domain in ("", "ai.onnx")}
    newer = [("", operator) for operator in sorted(filter(_is_newer, operators))]
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    if newer:
        proto = onnx.shape_inference.infer_shapes(proto)
        info = onnx.helper.make_tensor_value_info
        proto.graph.value_info.extend(info(t.name, t.data_type, t.dims) for t in proto.graph.initializer)
        proto = inline_selected_functions(proto, newer, inline_schema_functions=True)
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = OPSET
    for node in [n for graph in all_graphs(proto.graph) for n in graph.node if n.domain in ("", "ai.onnx")]:
        kept = [a for a in node.attribute if not _is_default(node, a, version)]
        del node.attribute[:]
        node.attribute.extend(kept)
    return proto


def _is_newer(operator: str) -> bool:
    """Whether opset 18 does not have the operator, or has another one of that name."""
    import onnx

    if operator == "GroupNormalization":  # scales channels since 21, groups before
        return True
    try:
        onnx.defs.get_schema(operator, OPSET)
    except onnx.defs.SchemaError:
        return True
    return False


def _too_new(node: onnx.NodeProto, version: int) -> str | None:
    """Why a node of opset `version` cannot be one of opset 18, nor be replaced by its definition."""
    import onnx

    if node.domain not in ("", "ai.onnx"):
        return None
    now = onnx.defs.get_schema(node.op_type, version)
    if _is_newer(node.op_type):
        if now.has_function or now.has_context_dependent_function:  # type: ignore[attr-defined]
            return None
        return f"{describe(node, version)} cannot be expressed in older operators"
    before = onnx.defs.get_schema(node.op_type, OPSET)
    for a in node.attribute:
        if (node.op_type, a.s.decode(errors="replace")) in _NEWER_MODES:
            return f"{describe(node, version)} with {a.s.decode()} cannot be expressed in older operators"
        if a.name not in before.attributes and not _is_default(node, a, version):
            return f"{describe(node, version)} with {a.name} cannot be expressed in older operators"
    return None


def _is_default(node: onnx.NodeProto, attribute: onnx.AttributeProto, version: int) -> bool:
    """Whether an attribute that opset 18 does not have says what holds without it."""
    import onnx

    if attribute.name in onnx.defs.get_schema(node.op_type, OPSET).attributes:
        return False
    return bool(attribute == onnx.defs.get_schema(node.op_type, version).attributes[attribute.name].default_value)


def _name_types(graph: ir.Graph) -> None:
    """Replace each CastLike of a constant by a Cast, so that it can be folded."""
    import onnx_ir as ir

    for node in list(graph):
        if node.op_type != "CastLike" or node.inputs[0] is None or node.inputs[1] is None:
            continue
        if node.inputs[0].const_value is not None and node.inputs[1].dtype is not None:
            cast = ir.Node("", "Cast", [node.inputs[0]], [ir.AttrInt64("to", int(node.inputs[1].dtype))])
            graph.insert_before(node, cast)
            replace(graph, node, [cast.outputs[0]])


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
