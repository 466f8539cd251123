"""Evaluate a float32 ONNX graph in float64, with onnx's reference evaluator.

Some operators of the evaluator are replaced: Conv, which it computes in Python loops; ConvTranspose, whose groups it
mixes up; MaxPool, whose Indices it does not give for every attribute; Pad, where it takes no negative amounts;
GatherElements, which it limits to 64 indices; LpNormalization and LpPool, where it forgets signs and padding; LRN,
which it sums over the wrong channels; and those it does not have at this opset. Conv, MaxPool and LpPool are torch's
forward kernels in float64, never its autograd.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv_transpose import ConvTranspose as OnnxConvTranspose


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


def _windows(x, kernel_shape, strides, pads, dilations, ceil_mode):
    """How many windows there are on each axis, and the padding that the last of them reaches."""
    spatial = len(kernel_shape)
    lengths, extra = [], []
    for axis in range(spatial):
        span = (kernel_shape[axis] - 1) * dilations[axis] + 1
        room = x.shape[2 + axis] + pads[axis] + pads[axis + spatial] - span
        count = (-(-room // strides[axis]) if ceil_mode else room // strides[axis]) + 1
        if ceil_mode and (count - 1) * strides[axis] >= x.shape[2 + axis] + pads[axis]:
            count -= 1
        lengths.append(count)
        extra.append(max(0, (count - 1) * strides[axis] + span - x.shape[2 + axis] - pads[axis]))
    return lengths, [*pads[:spatial], *extra]


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


class ConvTranspose(OnnxConvTranspose):
    def _run(self, x, w, b=None, *, group=None, **attributes):
        parts = zip(np.split(x, group or 1, 1), np.split(w, group or 1), strict=True)
        each = [super(ConvTranspose, self)._run(*part, None, group=1, **attributes)[0] for part in parts]
        y = np.concatenate(each, 1)
        return (y if b is None else y + b.reshape(-1, *[1] * (y.ndim - 2)),)


class MaxPool(OpRun):
    def _run(self, x, *, kernel_shape, auto_pad=None, ceil_mode=None, dilations=None, pads=None, strides=None, **_):
        spatial = len(kernel_shape)
        strides, dilations, pads = _resolved(
            x, kernel_shape, strides=strides, pads=pads, dilations=dilations, auto_pad=auto_pad
        )
        lengths, widened = _windows(x, kernel_shape, strides, pads, dilations, ceil_mode)
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


class LpPool(OpRun):
    def _run(self, x, *, kernel_shape, p, auto_pad=None, ceil_mode=None, dilations=None, pads=None, strides=None):
        spatial, channels = len(kernel_shape), x.shape[1]
        strides, dilations, pads = _resolved(
            x, kernel_shape, strides=strides, pads=pads, dilations=dilations, auto_pad=auto_pad
        )
        lengths, widened = _windows(x, kernel_shape, strides, pads, dilations, ceil_mode)
        powers = F.pad(torch.from_numpy(np.abs(x) ** p), _torch_pads(widened, spatial))
        ones = torch.ones(channels, 1, *kernel_shape, dtype=torch.float64)
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[spatial]
        sums = convolve(powers, ones, None, tuple(strides), 0, tuple(dilations), channels)
        return (sums[(slice(None), slice(None), *(slice(0, n) for n in lengths))].numpy() ** (1 / p),)


class GlobalLpPool(OpRun):
    def _run(self, x, p=None):
        return ((np.abs(x) ** p).sum(tuple(range(2, x.ndim)), keepdims=True) ** (1 / p),)


class LpNormalization(OpRun):
    def _run(self, x, axis=None, p=None):
        norm = np.linalg.norm(x, p, axis, keepdims=True)
        return (np.divide(x, norm, out=np.zeros_like(x), where=norm != 0),)


class GatherElements(OpRun):
    def _run(self, x, indices, axis=None):
        return (np.take_along_axis(x, indices, axis),)


def _along(axis, value, rank):
    return value if value.size == 1 else value.reshape(-1, *[1] * (rank - 1 - axis % rank))


class QuantizeLinear(OpRun):
    def _run(self, x, scale, zero=None, axis=None, **_):
        zero = np.zeros((), np.uint8) if zero is None else zero
        limits = np.iinfo(zero.dtype)
        levels = np.rint(x / _along(axis, scale, x.ndim)) + _along(axis, zero.astype(np.float64), x.ndim)
        return (np.clip(levels, limits.min, limits.max).astype(zero.dtype),)


class DequantizeLinear(OpRun):
    def _run(self, x, scale, zero=None, axis=None, **_):
        zero = np.zeros(()) if zero is None else zero.astype(np.float64)
        return ((x - _along(axis, zero, x.ndim)) * _along(axis, scale, x.ndim),)


class Pad(OpRun):
    def _run(self, x, pads, value=None, axes=None, mode=None):
        axes = range(x.ndim) if axes is None else axes
        amounts = np.zeros((x.ndim, 2), np.int64)
        amounts[list(axes)] = np.reshape(pads, (2, -1)).T
        kept = tuple(slice(max(0, -b), n + min(0, e)) for (b, e), n in zip(amounts, x.shape, strict=True))
        constant = {"constant_values": 0 if value is None else value} if mode == "constant" else {}
        return (np.pad(x[kept], np.maximum(amounts, 0), mode=mode, **constant),)


class LRN(OpRun):
    def _run(self, x, *, alpha=None, beta=None, bias=None, size=None):
        squares = np.pad(x * x, [(0, 0), ((size - 1) // 2, size // 2), *[(0, 0)] * (x.ndim - 2)])
        total = sum(squares[:, i : i + x.shape[1]] for i in range(size))
        return (x / (bias + alpha / size * total) ** beta,)


REPLACED = [
    *(Conv, ConvTranspose, MaxPool, LpPool, GlobalLpPool, LpNormalization),
    *(LRN, Pad, GatherElements, QuantizeLinear, DequantizeLinear),
]


def run_float64(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name, computed in float64."""
    evaluator = ReferenceEvaluator(to_float64(proto), new_ops=REPLACED)
    feeds = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in inputs.items()}
    with np.errstate(all="ignore"):  # infinities may be computed, and then not chosen by a Where
        return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))
