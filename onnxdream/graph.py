"""ONNX files in, one canonical form out: opset 18, functions inlined, constants folded, shapes known.

Everything downstream works on an `onnx_ir` model of this form. Shapes are found by *probing*: the graph is inferred once
with a concrete picture size, which gives every tensor a concrete shape even where symbolic inference gives up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import ModelError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

OPSET = 18

Shape = tuple[int, ...]


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read, check and bring to canonical form the ONNX file at `path`.

    Raises ModelError when the file is missing, damaged, not ONNX, keeps weights outside its own folder, or holds NaN.
    """
    import onnx

    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise ModelError(f"{path}: not an ONNX file, or only part of one") from error
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{path}: not an ONNX file (it holds no operators)")
    _check_external_data(path, proto)
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except Exception as error:
        raise ModelError(f"{path}: its weights lie in another file that cannot be read: {one_line(error)}") from error
    try:
        onnx.checker.check_model(proto)
    except Exception as error:
        raise ModelError(f"{path}: not a valid ONNX file: {one_line(error)}") from error
    return canonical(proto, str(path))


def _check_external_data(path: Path, proto: onnx.ModelProto) -> None:
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    folder = path.parent.resolve()
    for tensor in proto.graph.initializer:
        if uses_external_data(tensor):
            location = ExternalDataInfo(tensor).location
            if not (folder / location).resolve().is_relative_to(folder):
                raise ModelError(
                    f"{path}: weight {tensor.name} lies outside the model's folder ({location}); "
                    "put the weights file beside the model"
                )


def canonical(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """`proto` at opset 18, with functions inlined and constants folded. Raises ModelError, naming the file as `name`."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    foreign = {o.domain for o in proto.opset_import} - {"", "ai.onnx", "ai.onnx.ml"} - {f.domain for f in proto.functions}
    used = {n.domain for n in proto.graph.node}
    for domain in sorted(foreign & used):
        operators = sorted({n.op_type for n in proto.graph.node if n.domain == domain})
        raise ModelError(f"{name}: uses operators outside the ONNX standard ({domain}: {', '.join(operators)})")
    proto = _convert(proto, name)
    model = ir.from_proto(proto)
    passes.InlinePass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.RemoveInitializersFromInputsPass()(model)
    fold_constants(model.graph)
    passes.IdentityEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            continue
        if not np.isfinite(tensor.numpy()).all():
            raise ModelError(f"{name}: weight {value.name} holds NaN or infinity; the file is damaged")
    return ir.to_proto(model)


def _convert(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """`proto` at opset 18; newer opsets are relabelled where every operator already meant the same in 18."""
    import onnx
    from onnx import version_converter

    version = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    if version < OPSET:
        try:
            return version_converter.convert_version(proto, OPSET)
        except Exception as error:
            raise ModelError(f"{name}: cannot be brought from opset {version} to {OPSET}: {one_line(error)}") from error
    if version > OPSET:
        relabelled = onnx.ModelProto()
        relabelled.CopyFrom(proto)
        for opset in relabelled.opset_import:
            if opset.domain in ("", "ai.onnx"):
                opset.version = OPSET
        try:
            onnx.checker.check_model(relabelled, full_check=True)
        except Exception as error:
            reason = one_line(error)
            raise ModelError(f"{name}: cannot be brought from opset {version} to {OPSET}: {reason}") from error
        return relabelled
    return proto


def fold_constants(graph: ir.Graph) -> None:
    """Replace nodes whose inputs are all constant by their value, computed with onnx's reference evaluator."""
    import onnx
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    for node in list(graph):
        if not node.inputs or not all(v is not None and v.const_value is not None for v in node.inputs):
            continue
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            continue
        inputs = {v.name: v.const_value.numpy() for v in node.inputs}  # type: ignore[union-attr]
        proto = onnx.helper.make_graph(
            [ir.to_proto(node)],
            "fold",
            [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()],
            [onnx.ValueInfoProto(name=o.name) for o in node.outputs],
        )
        folded = onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
        try:
            results = ReferenceEvaluator(folded).run(None, inputs)
        except Exception:  # left as it is: the runtime will compute it
            continue
        for output, result in zip(node.outputs, results, strict=True):
            value = ir.Value(name=f"{output.name}/folded", const_value=ir.tensor(np.asarray(result)))
            graph.register_initializer(value)
            output.replace_all_uses_with(value, replace_graph_outputs=False)
        if not any(o.is_graph_output() for o in node.outputs):
            graph.remove(node, safe=True)


def one_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def probe_shapes(proto: onnx.ModelProto, size: Mapping[str, Shape]) -> dict[str, Shape]:
    """Concrete shape of every tensor when the graph's inputs have the shapes in `size`.

    Tensors whose shape depends on data are left out. Raises ValueError when the graph does not accept that size.
    """
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    del probe.graph.value_info[:]
    for value in [*probe.graph.input, *probe.graph.output]:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    for value in probe.graph.input:
        if value.name in size:
            for dim in size[value.name]:
                value.type.tensor_type.shape.dim.add().dim_value = dim
    try:
        inferred = onnx.shape_inference.infer_shapes(probe, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        raise ValueError(one_line(error)) from error
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in probe.graph.initializer}
    for value in [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]:
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shape = tuple(d.dim_value for d in tensor.shape.dim)
            if any(d < 0 for d in shape):
                raise ValueError(f"{value.name} would have the shape {list(shape)}")
            shapes[value.name] = shape
    return shapes


def keep_only(graph: ir.Graph, outputs: Iterable[ir.Value]) -> None:
    """Make `outputs` the graph's only outputs and drop every node and weight they do not need."""
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    needed: set[ir.Value] = set()
    stack = list(graph.outputs)
    while stack:
        value = stack.pop()
        if value not in needed:
            needed.add(value)
            producer = value.producer()
            if producer is not None:
                stack.extend(v for v in producer.inputs if v is not None)
    graph.remove([n for n in graph if not any(o in needed for o in n.outputs)], safe=True)
    for name, value in list(graph.initializers.items()):
        if value not in needed:
            with contextlib.suppress(KeyError):
                del graph.initializers[name]
