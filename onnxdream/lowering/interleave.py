"""Samples set apart, repeated and interleaved, as gradients of strided windows need them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from ..graph.windows import along

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..graph.ops import Ops

END = int(np.iinfo(np.int64).max)  # of any axis


def zero_stuffed(op: Ops, dy: ir.Value, strides: list[int], channels: int | None = None) -> ir.Value:
    """Every sample of dy followed by stride - 1 zeros, on each axis.

    With the number of `channels` of dy known, onnxruntime stays in its blocked layout: a convolution makes the mask.
    """
    if all(s == 1 for s in strides):
        return dy
    samples = repeated(op, dy, strides)
    mask = None
    for axis, stride in enumerate(strides):
        on = comb(op, samples, axis, stride, 0, len(strides))
        mask = on if mask is None else op.Mul(mask, on)
    assert mask is not None
    if channels is not None:
        # Times a 1 that depends on the picture, so that the runtime does not keep the whole mask as a constant.
        first = op.Slice(op.Reshape(op.graph.inputs[0], [-1]), [0], [1])
        size = op.Shape(samples)
        one_channel = op.Concat(op.Slice(size, [0], [1]), [1], op.Slice(size, [2], [4]), axis=0)
        mask = op.Mul(op.Expand(mask, one_channel), op.HardSigmoid(first, alpha=0.0, beta=1.0))
        mask = op.Conv(mask, np.ones((channels, 1, 1, 1), np.float32), kernel_shape=[1, 1])
    return op.Mul(samples, mask)


def comb(op: Ops, v: ir.Value, axis: int, stride: int, phase: int, spatial: int) -> ir.Value:
    """1 at every stride-th sample of `v` along spatial axis `axis` of `spatial`, from `phase` on, else 0."""
    length = op.Squeeze(op.Slice(op.Shape(v), [2 + axis], [3 + axis]), [0])
    places = op.Mod(op.Range(np.int64(0), length, np.int64(1)), stride)
    return along(op, op.CastLike(op.Equal(places, phase), v), axis, spatial)


def repeated(op: Ops, v: ir.Value, times: list[int]) -> ir.Value:
    """Every sample as often in a row as `times` says for each axis."""
    scales = [1.0, 1.0, *map(float, times)]
    options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return op.Resize(v, None, scales, mode="nearest", **options)


def interleaved(op: Ops, parts: list[ir.Value], axis: int) -> ir.Value:
    """The first samples of all parts along `axis`, then the second ones, and so on."""
    stacked = op.Concat(*(op.Unsqueeze(p, [axis + 1]) for p in parts), axis=axis + 1)
    shape = op.Shape(parts[0])
    after = op.Slice(shape, [axis + 1], [END])
    return op.Reshape(stacked, op.Concat(op.Slice(shape, [0], [axis]), [-1], after, axis=0))


def interleaved_by_masks(op: Ops, parts: list[ir.Value], axis: int, spatial: int) -> ir.Value:
    """What `interleaved` gives, along spatial axis `axis`, by masks over the samples of each part repeated."""
    times = [len(parts) if a == axis else 1 for a in range(spatial)]
    samples = [repeated(op, p, times) for p in parts]
    masks = [comb(op, s, axis, len(parts), phase, spatial) for phase, s in enumerate(samples)]
    return functools.reduce(op.Add, map(op.Mul, samples, masks))
