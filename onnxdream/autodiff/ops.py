"""`op.Relu(x)` appends a Relu node to a graph and returns its output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.shapes import Shape

    Operand = ir.Value | np.ndarray | float | int | list[int] | list[float] | None


class Ops:
    """Builds nodes onto the end of `graph`, one method for each ONNX operator.

    Operands may be values, arrays, numbers or lists: floats become constants of the graph's float type, integers int64.
    Keyword arguments become attributes, and `many` serves operators with several outputs. New values get names that are
    not in `taken`. `shapes` holds the probed shape of the values that have one, by name.

        y = op.Mul(op.Sigmoid(x), 2.0)
    """

    def __init__(self, graph: ir.Graph, taken: Iterable[str | None] = ()) -> None:
        import onnx_ir as ir

        self.graph = graph
        self.shapes: dict[str, Shape] = {}
        self._tape = ir.tape.Tape(graph)
        self._count = 0
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._taken = set(taken)

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

    def many(
        self, operator: str, outputs: int, *operands: Operand, name: str | None = None, **attributes: Any
    ) -> Sequence[ir.Value]:
        """Append a node with this many outputs and return them."""
        import onnx_ir as ir

        inputs = [v if v is None or isinstance(v, ir.Value) else self.const(v) for v in operands]
        made = self._tape.op_multi_out(
            operator, inputs, {k: _typed(k, v) for k, v in attributes.items()}, num_outputs=outputs
        )
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
