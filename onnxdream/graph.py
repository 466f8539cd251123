"""ONNX files in, one canonical form out: opset 18, functions inlined, constants folded, shapes known.

Everything downstream works on an `onnx_ir` model of this form. Shapes are found by *probing*: the graph is inferred
once with a concrete picture size, which gives every tensor a concrete shape even where symbolic inference gives up.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
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
        raise ModelError(f"{path}: {'is not a file; name an ONNX file' if path.exists() else 'no such file'}")
    try:
        proto = onnx.load(path, load_external_data=False)
    except PermissionError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
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
    for tensor in [t for graph in _graphs(proto.graph) for t in _tensors(graph)]:
        if uses_external_data(tensor):
            location = ExternalDataInfo(tensor).location
            if not (folder / location).resolve().is_relative_to(folder):
                raise ModelError(
                    f"{path}: weight {tensor.name} lies outside the model's folder ({location}); "
                    "put the weights file beside the model"
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


def inputs_of(node: onnx.NodeProto) -> set[str]:
    """Names of the tensors the node reads, those that only its inner graphs read included."""
    inner = [a.g for a in node.attribute if a.HasField("g")]
    return set(node.input) | {name for g in inner for n in g.node for name in inputs_of(n)} - {""}


def canonical(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """`proto` at opset 18, with functions inlined and constants folded. Raises ModelError, calling the file `name`."""
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    known = {"", "ai.onnx", "ai.onnx.ml", *(f.domain for f in proto.functions)}
    foreign = [n for graph in _graphs(proto.graph) for n in graph.node if n.domain not in known]
    if foreign:
        operators = ", ".join(sorted({f"{n.domain}.{n.op_type}" for n in foreign}))
        raise ModelError(f"{name}: uses operators outside the ONNX standard ({operators}); export it without them")
    proto = _convert(proto, name)
    try:
        model = ir.from_proto(proto)
        passes.InlinePass()(model)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        passes.RemoveInitializersFromInputsPass()(model)
        fold_constants(model.graph)
        passes.IdentityEliminationPass()(model)
        passes.RemoveUnusedNodesPass()(model)
    except Exception as error:
        raise ModelError(f"{name}: its graph cannot be brought into standard form: {one_line(error)}") from error
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16):
            continue
        if not np.isfinite(tensor.numpy()).all():
            raise ModelError(f"{name}: weight {value.name} holds NaN or infinity; the file is damaged")
    return ir.to_proto(model)


def _convert(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """`proto` at opset 18; newer opsets are relabelled where every operator already meant the same in 18."""
    import onnx
    from onnx import version_converter

    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), OPSET)
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
        inputs = {str(v.name): v.const_value.numpy() for v in node.inputs}  # type: ignore[union-attr]
        proto = onnx.helper.make_graph(
            [ir.to_proto(node)],
            "fold",
            [
                onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for n, a in inputs.items()
            ],
            [onnx.ValueInfoProto(name=o.name) for o in node.outputs],
        )
        folded = onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
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
    for node in probe.graph.node:
        sizes = [math.prod(shapes[n]) for n in (node.input[0], node.output[0]) if n in shapes] if node.input else []
        if node.op_type == "Reshape" and len(set(sizes)) == 2:
            raise ValueError(f"{node.output[0]} would turn {sizes[0]} numbers into {sizes[1]}")
    return shapes


def _read_by(node: ir.Node) -> Iterator[ir.Value | None]:
    """What the node reads, and its inner graphs where it has any."""
    import onnx_ir as ir

    yield from node.inputs
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().outputs
            for inner in attribute.as_graph():
                yield from _read_by(inner)


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
                stack.extend(v for v in _read_by(producer) if v is not None)
    graph.remove([n for n in graph if not any(o in needed for o in n.outputs)], safe=True)
    for name, value in list(graph.initializers.items()):
        if value not in needed:
            with contextlib.suppress(KeyError):
                del graph.initializers[name]
