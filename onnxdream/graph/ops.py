"""Building nodes and reading them: `op.Relu(x)` appends a Relu node to a graph and returns its output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

    from .shapes import Shape

    Operand = ir.Value | np.ndarray | float | int | list[int] | list[float] | None

# The domain of operations that `autodiff` emits and `lowering` replaces. None of them is left in a finished graph.
INTERNAL = "onnxdream"


class Ops:
    """Builds nodes onto the end of `graph`, one method for each ONNX operator.

    Operands may be values, arrays, numbers or lists: floats become constants of the graph's float type, integers int64.
    Keyword arguments become attributes. `many` serves operators with several outputs, `internal` those of the internal
    domain. New values get names that neither the graph nor `taken` has. `shapes` holds the probed shape of the values
    that have one, by name.

        y = op.Mul(op.Sigmoid(x), 2.0)
    """

    def __init__(self, graph: ir.Graph, taken: Iterable[str | None] = ()) -> None:
        import onnx_ir as ir

        self.graph = graph
        self.shapes: dict[str, Shape] = {}
        self._tape = ir.tape.Tape(graph)
        self._count = 0
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        values = [*graph.inputs, *graph.initializers.values(), *(o for n in graph for o in n.outputs)]
        self._taken = {v.name for v in values}.union(taken)

    def shape(self, value: ir.Value) -> Shape | None:
        """The probed shape of `value`, where it is known."""
        if value.const_value is not None:
            return value.const_value.numpy().shape
        return self.shapes.get(value.name or "")

    def const(self, value: np.ndarray | float | int | list[int] | list[float]) -> ir.Value:
        """A constant; equal constants share one initializer."""
        import onnx_ir as ir

        array = np.asarray(value)
        if not isinstance(value, np.ndarray):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._name("const")
            self._constants[key] = self._tape.initializer(ir.Tensor(array, name=name), name)
        return self._constants[key]

    def __getattr__(self, operator: str) -> Callable[..., ir.Value]:
        if not operator[0].isupper():
            raise AttributeError(operator)
        return lambda *operands, **attributes: self.many(operator, 1, *operands, **attributes)[0]

    def internal(self, operator: str, *operands: Operand, **attributes: Any) -> ir.Value:
        """Append an operation of the internal domain and return its output."""
        return self.many(operator, 1, *operands, domain=INTERNAL, **attributes)[0]

    def many(
        self,
        operator: str,
        outputs: int,
        *operands: Operand,
        name: str | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """Append a node with this many outputs and return them."""
        import onnx_ir as ir

        inputs = [v if v is None or isinstance(v, ir.Value) else self.const(v) for v in operands]
        typed = {k: _typed(k, v) for k, v in attributes.items()}
        made = self._tape.op_multi_out(operator, inputs, typed, num_outputs=outputs, domain=domain)
        for value in made:
            value.name = self._name(name or operator)
        return made

    def _name(self, stem: str) -> str:
        name = stem
        while name in self._taken:
            self._count += 1
            name = f"{stem}_{self._count}"
        self._taken.add(name)
        return name


def _typed(name: str, value: Any) -> Any:
    """A number, or a list of whole ones, as an attribute of onnx_ir, which itself takes its time to find out."""
    import onnx_ir as ir

    if isinstance(value, int):
        return ir.AttrInt64(name, value)
    if isinstance(value, list) and value and all(isinstance(v, int) for v in value):
        return ir.AttrInt64s(name, value)
    return ir.AttrFloat32(name, value) if isinstance(value, float) else value


@dataclass(frozen=True)
class NodeView:
    """A node as rules and rewrites read it; they build what they return with `op`."""

    node: ir.Node
    op: Ops

    @property
    def x(self) -> tuple[ir.Value, ...]:
        """The inputs; an omitted trailing input is simply not there."""
        return self.node.inputs  # type: ignore[return-value]

    @property
    def y(self) -> ir.Value:
        """The first output."""
        return self.node.outputs[0]

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute's value as a Python object, or `default`."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        value = attribute.value
        return list(value) if isinstance(value, tuple) else value

    def given(self, index: int) -> ir.Value | None:
        """Input `index`, or None where it is omitted."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def const(self, index: int) -> np.ndarray | None:
        """The value of input `index` where it is a constant."""
        value = self.given(index)
        return None if value is None else constant(value)

    def shape(self, value: ir.Value) -> Shape:
        """The probed shape of `value`. Raises NotImplementedError where it depends on data."""
        shape = self.op.shape(value)
        if shape is None:
            raise NotImplementedError(f"the shape of {value.name} depends on data")
        return shape

    def rank(self, index: int = 0) -> int:
        """The number of axes of input `index`."""
        return len(self.shape(self.x[index]))


def constant(value: ir.Value) -> np.ndarray | None:
    """The value where it is a constant, quantised weights included: what DequantizeLinear makes of constants."""
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear":
        return None
    given = [v for v in map(constant, (v for v in node.inputs if v is not None)) if v is not None]
    if len(given) < len(node.inputs):
        return None
    x, scale, zero = [*given, np.zeros((), np.int32)][:3]
    shape = [-1] + [1] * (x.ndim - 1 - node.attributes.get_int("axis", 1) % max(1, x.ndim))
    scale, zero = (v.reshape(shape) if v.size > 1 else v.reshape(()) for v in (scale, zero))
    return np.asarray((x.astype(np.int32) - zero.astype(np.int32)) * scale, scale.dtype)
