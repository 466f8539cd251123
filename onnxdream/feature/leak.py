"""Networks whose layer answers to every picture: a rectifier that is shut passes on how far it is from opening."""

from __future__ import annotations

import dataclasses

from ..model import Model

# What lies between a rectifier and the layers that show its output.
_PASSING = {
    "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "Flatten", "Reshape",
    "Squeeze", "Dropout", "Identity", "Transpose",
}  # fmt: skip


def leaky(model: Model, layers: tuple[str, ...], slope: float = 0.1) -> Model:
    """`model` with the last ReLU before each of `layers` leaking, and nothing else changed.

    From noise most filters of a deep layer stay at 0, where the gradient is 0 too and an ascent would never start.
    """
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    makers = {name: node for node in proto.graph.node for name in node.output}
    pending = [model.layer(name).name for name in layers]
    while pending:
        node = makers.get(pending.pop())
        if node is not None and node.op_type == "Relu":
            node.op_type = "LeakyRelu"
            node.attribute.append(onnx.helper.make_attribute("alpha", slope))
        elif node is not None and node.op_type in _PASSING:
            pending.extend(node.input)
    return dataclasses.replace(model, proto=proto)
