"""Octaves in the memory of a device: only the source goes there, and only the dream comes back.

Resizing is linear and works along one axis after the other, so it is a product with one matrix on each side, and
`images.resize` makes those matrices out of identities.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from ..graph.shapes import IR_VERSION, OPSET
from ..images import resize
from .base import Octaves, Picture
from .onnxruntime import ComputedPicture, DevicePicture, OnnxRuntimeSession

if TYPE_CHECKING:
    import onnx
    from onnxruntime import OrtValue


class DeviceOctaves(Octaves):
    """Octaves whose pictures lie in the memory of a device.

    Args:
        source: float32 [N,3,H,W] in 0..255.
        scaling: The Scaling of the device.
    """

    def __init__(self, source: np.ndarray, scaling: Scaling) -> None:
        self._source, self._scaling, self._session = source, scaling, scaling.session
        self._source_there = self._session.to_device(source)
        self._base: OrtValue | None = None  # the source at the size of the octave
        self._dreamed: OrtValue | None = None  # what the octave before came to

    def start(self, size: tuple[int, ...]) -> np.ndarray | Picture:
        """See Octaves."""
        before, shape = self._base, (*self._source.shape[:2], *size)
        if before is None:
            image: np.ndarray = np.clip(resize(self._source, size), 0, 255)
            self._base = self._session.to_device(image)
            return image
        self._base = self._source_there
        if shape != self._source.shape:
            self._base = self._session.allocate(shape)
            self._scaling(self._source_there, self._scaling.nothing, self._scaling.nothing, self._base)
        return ComputedPicture(
            self._session, shape, functools.partial(self._scaling, self._dreamed, before, self._base)
        )

    def end(self, picture: Picture) -> None:
        """See Octaves."""
        self._dreamed = self._there(picture)

    def whole(self, picture: Picture) -> np.ndarray:
        """See Octaves."""
        if picture.shape == self._source.shape:
            return picture.fetch()
        write = functools.partial(self._scaling, self._there(picture), self._base, self._source_there)
        return ComputedPicture(self._session, self._source.shape, write).fetch()

    def _there(self, picture: Picture) -> OrtValue:
        """The picture in the device's memory."""
        return picture.value if isinstance(picture, DevicePicture) else self._session.to_device(picture.fetch())


class Scaling:
    """Scales pictures in the memory of a device as `images.resize` does.

    Args:
        device: The device's name, as ONNX Runtime's engine has it.

    Raises:
        BackendError: The device cannot be used.
    """

    def __init__(self, device: str) -> None:
        self.session = OnnxRuntimeSession(_scaling_model(), [device])
        self.nothing = self.session.to_device(np.zeros((1, 1, 1, 1), np.float32))
        self._matrix = functools.lru_cache(32)(self._made)

    def __call__(self, picture: OrtValue, less: OrtValue, base: OrtValue, into: OrtValue) -> None:
        """Write clip(base + scaled(picture - less), 0, 255) into `into` [N,3,H,W], all of them on the device.

        Raises:
            OutOfMemoryError: There is too little memory.
            BackendError: The device failed.
        """
        height, width = picture.shape()[2:]
        high, wide = into.shape()[2:]
        given = {
            "picture": picture,
            "less": less,
            "base": base,
            "rows": self._matrix(height, high),
            "columns": self._matrix(width, wide, columns=True),
        }
        self.session.run_bound(self.session.bind(given, {"scaled": into}))

    def _made(self, length: int, to: int, *, columns: bool = False) -> OrtValue:
        """The matrix [to,length] that scales columns of pixels, or [length,to] for rows of them."""
        matrix = resize(np.eye(length, dtype=np.float32)[None, None], (to, length))[0, 0]
        return self.session.to_device(matrix.T if columns else matrix)


@functools.cache
def scaling(device: str) -> Scaling:
    """The Scaling of a device, one for all."""
    return Scaling(device)


def _scaling_model() -> onnx.ModelProto:
    from onnx import TensorProto, helper

    def pictures(name: str, *axes: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)

    nodes = [
        helper.make_node("Sub", ["picture", "less"], ["detail"]),
        helper.make_node("MatMul", ["rows", "detail"], ["tall"]),
        helper.make_node("MatMul", ["tall", "columns"], ["wide"]),
        helper.make_node("Add", ["base", "wide"], ["sum"]),
        helper.make_node("Clip", ["sum", "low", "high"], ["scaled"]),
    ]
    bounds = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in (("low", 0.0), ("high", 255.0))]
    inputs = [
        pictures("picture", "N", "C", "h", "w"),
        pictures("less", "n", "c", "lh", "lw"),
        pictures("base", "bn", "bc", "bh", "bw"),
        pictures("rows", "H", "h"),
        pictures("columns", "w", "W"),
    ]
    graph = helper.make_graph(nodes, "scaling", inputs, [pictures("scaled", "N", "C", "H", "W")], bounds)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
