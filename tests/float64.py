"""Evaluate a float32 ONNX graph in float64, with onnx's reference evaluator.

Three operators of the evaluator are replaced: Conv, which it computes in Python loops, MaxPool, whose Indices it does
not give for every attribute, and Pad, where it takes no negative amounts. Conv and MaxPool are torch's forward kernels
in float64, never its autograd.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


def to_float64(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every float32 weight, constant, cast and declared type turned into float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in [*copy.graph.input, *copy.graph.output, *copy.graph.value_info]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in copy.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
        # `scales` of Resize must stay float32
        if node.op_type == "Resize" and len(node.input) > 2 and node.input[2]:
            for tensor in copy.graph.initializer:
                if tensor.name == node.input[2]:
                    scales = numpy_helper.to_array(tensor).astype(np.float32)
                    tensor.CopyFrom(numpy_helper.from_array(scales, tensor.name))
    return copy


def _torch_pads(pads, spatial):
    return [p for axis in reversed(range(spatial)) for p in (pads[axis], pads[axis + spatial])]


def _resolved(x, kernel_shape, *, strides, pads, dilations, auto_pad):
    spatial = len(kernel_shape)
    strides, dilations = strides or [1] * spatial, dilations or [1] * spatial
    pads = pads or [0] * (2 * spatial)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for axis in range(spatial):
            length = x.shape[2 + axis]
            span = (kernel_shape[axis] - 1) * dilations[axis] + 1
            total = max(0, (-(-length // strides[axis]) - 1) * strides[axis] + span - length)
            small, large = total // 2, total - total // 2
            begins.append(small if auto_pad == "SAME_UPPER" else large)
            ends.append(large if auto_pad == "SAME_UPPER" else small)
        pads = begins + ends
    elif auto_pad == "VALID":
        pads = [0] * (2 * spatial)
    return strides, dilations, list(pads)


class Conv(OpRun):
    def _run(self, x, w, b=None, *, group=None, auto_pad=None, dilations=None, pads=None, strides=None, **_):
        strides, dilations, pads = _resolved(
            x, w.shape[2:], strides=strides, pads=pads, dilations=dilations, auto_pad=auto_pad
        )
        padded = F.pad(torch.from_numpy(x), _torch_pads(pads, w.ndim - 2))
        convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[w.ndim]
        bias = None if b is None else torch.from_numpy(np.array(b))
        weight = torch.from_numpy(np.array(w))
        return (convolve(padded, weight, bias, tuple(strides), 0, tuple(dilations), group or 1).numpy(),)


class MaxPool(OpRun):
    def _run(self, x, *, kernel_shape, auto_pad=None, ceil_mode=None, dilations=None, pads=None, strides=None, **_):
        spatial = len(kernel_shape)
        strides, dilations, pads = _resolved(
            x, kernel_shape, strides=strides, pads=pads, dilations=dilations, auto_pad=auto_pad
        )
        lengths, extra = [], []
        for axis in range(spatial):
            span = (kernel_shape[axis] - 1) * dilations[axis] + 1
            room = x.shape[2 + axis] + pads[axis] + pads[axis + spatial] - span
            count = (-(-room // strides[axis]) if ceil_mode else room // strides[axis]) + 1
            if ceil_mode and (count - 1) * strides[axis] >= x.shape[2 + axis] + pads[axis]:
                count -= 1
            lengths.append(count)
            extra.append(max(0, (count - 1) * strides[axis] + span - x.shape[2 + axis] - pads[axis]))
        widened = [*pads[:spatial], *extra]
        padded = F.pad(torch.from_numpy(x), _torch_pads(widened, spatial), value=-np.inf)
        places = F.pad(
            torch.arange(int(np.prod(x.shape)), dtype=torch.float64).reshape(x.shape), _torch_pads(widened, spatial)
        )
        pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[spatial]
        y, index = pool(padded, tuple(kernel_shape), tuple(strides), 0, tuple(dilations), return_indices=True)
        crop = (slice(None), slice(None), *(slice(0, n) for n in lengths))
        y, index = y[crop], index[crop]
        flat = places.flatten(2).gather(2, index.flatten(2)).reshape(index.shape)
        return (y.numpy(), flat.numpy().astype(np.int64))


class Pad(OpRun):
    def _run(self, x, pads, value=None, axes=None, mode=None):
        axes = range(x.ndim) if axes is None else axes
        amounts = np.zeros((x.ndim, 2), np.int64)
        amounts[list(axes)] = np.reshape(pads, (2, -1)).T
        kept = tuple(slice(max(0, -b), n + min(0, e)) for (b, e), n in zip(amounts, x.shape, strict=True))
        constant = {"constant_values": 0 if value is None else value} if mode == "constant" else {}
        return (np.pad(x[kept], np.maximum(amounts, 0), mode=mode, **constant),)


def run_float64(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name, computed in float64."""
    evaluator = ReferenceEvaluator(to_float64(proto), new_ops=[Conv, MaxPool, Pad])
    feeds = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in inputs.items()}
    with np.errstate(all="ignore"):  # infinities may be computed, and then not chosen by a Where
        return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))
