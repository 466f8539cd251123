"""A network in whole numbers."""

from __future__ import annotations

import numpy as np
import onnx

from helpers import small_networks as small


def quantized(form: str) -> onnx.ModelProto:
    """A convolution with weights and activations of 8 bits, as QLinearConv or between (De)QuantizeLinear."""
    weight = np.random.default_rng(3).integers(-127, 128, (8, 3, 3, 3)).astype(np.int8)
    constants = {
        "xs": np.float32(0.02), "xz": np.uint8(128), "ws": np.linspace(0.001, 0.002, 8, dtype=np.float32),
        "wz": np.zeros(8, np.int8), "ys": np.float32(0.03), "yz": np.uint8(100), "w": weight,
        "b": np.arange(8, dtype=np.int32) * 50,
    }  # fmt: skip
    start = small.node("QuantizeLinear", ["x", "xs", "xz"], "xq")
    end = [small.node("DequantizeLinear", ["yq", "ys", "yz"], "y"), small.node("Relu", ["y"], "out")]
    if form == "QLinearConv":
        inputs = ["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
        middle = [small.node("QLinearConv", inputs, "yq", pads=[1] * 4)]
    else:
        constants["bf"] = (constants["b"] * constants["xs"] * constants["ws"]).astype(np.float32)
        del constants["b"]
        middle = [
            small.node("DequantizeLinear", ["xq", "xs", "xz"], "xf"),
            small.node("DequantizeLinear", ["w", "ws", "wz"], "wf", axis=0),
            small.node("Conv", ["xf", "wf", "bf"], "c", pads=[1] * 4),
            small.node("QuantizeLinear", ["c", "ys", "yz"], "yq"),
        ]
    return small.network([start, *middle, *end], **{k: np.asarray(v) for k, v in constants.items()})
