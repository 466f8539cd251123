"""From octave to octave: each starts from the source at its size plus the detail dreamed so far, scaled up.

On a device of its own memory the pictures stay there meanwhile. Resizing is linear and works along one axis after the
other, so it is a product with one matrix on each side, and `images.resize` makes those matrices out of identities.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph.shapes import IR_VERSION, OPSET
from ..images import resize
from .memory import OnDevice
from .onnxruntime import Session

if TYPE_CHECKING:
    import onnx

Size = tuple[int, ...]  # (height, width)
Fetch = Callable[[], np.ndarray]
# Of a longer side the matrices would take more memory than the pictures do.
LONGEST = 4096


class HostOctaves:
    """The octaves of a batch `source` float32 [N,3,H,W] in 0..255, in the host's memory."""

    def __init__(self, source: np.ndarray) -> None:
        self._source, self._base = source, source
        self._detail = np.zeros_like(source[:, :, :1, :1])

    def start(self, size: Size) -> Any:
        """What the octave of this size starts from: a picture, or what an engine's `ascend` takes for one."""
        self._base = resize(self._source, size)
        image = self._base + resize(self._detail, size)
        return np.clip(image, 0, 255, out=image)

    def end(self, picture: Fetch) -> None:
        """Take what the octave gave, as the engine's `ascend` gave it."""
        self._detail = picture() - self._base

    def whole(self, picture: Fetch) -> np.ndarray:
        """The dream at the source's size, when this is what the last octave gave."""
        image = picture()
        if image.shape != self._source.shape:
            image = np.clip(self._source + resize(image - self._base, self._source.shape[2:]), 0, 255)
        return image


class DeviceOctaves:
    """The same in the memory of a device: only the source goes there, and only the dream comes back."""

    def __init__(self, source: np.ndarray, scaling: Scaling) -> None:
        self._source, self._scaling = source, scaling
        self._source_there = scaling.session.on_device(source)
        self._base: Any = None  # the source at the size of the octave
        self._dreamed: Any = None  # what the octave before gave

    def start(self, size: Size) -> Any:
        """See HostOctaves."""
        before, shape = self._base, (*self._source.shape[:2], *size)
        if before is None:
            image = np.clip(resize(self._source, size), 0, 255)
            self._base = self._scaling.session.on_device(image)
            return image
        self._base = self._source_there
        if shape != self._source.shape:
            self._base = self._scaling.session.room(*shape)
            self._scaling(self._source_there, self._scaling.nothing, self._scaling.nothing, self._base)
        return functools.partial(self._scaling, self._dreamed, before, self._base)

    def end(self, picture: OnDevice) -> None:
        """See HostOctaves."""
        self._dreamed = picture.value

    def whole(self, picture: OnDevice) -> np.ndarray:
        """See HostOctaves."""
        if tuple(picture.value.shape()) == self._source.shape:
            return picture()
        dream = self._scaling.session.room(*self._source.shape)
        self._scaling(picture.value, self._base, self._source_there, dream)
        return OnDevice(dream)()


class Scaling:
    """Scales pictures in the memory of a device as `images.resize` does. Raises as `onnxruntime.Session` does."""

    def __init__(self, device: str) -> None:
        self.session = Session(_scaling_model(), device)
        self.nothing = self.session.on_device(np.zeros((1, 1, 1, 1), np.float32))
        self._matrix = functools.lru_cache(32)(self._made)

    def __call__(self, picture: Any, less: Any, base: Any, into: Any) -> None:
        """Write clip(base + scaled(picture - less), 0, 255) into `into` [N,3,H,W], all of them on the device."""
        height, width = picture.shape()[2:]
        high, wide = into.shape()[2:]
        given = {
            "picture": picture,
            "less": less,
            "base": base,
            "rows": self._matrix(height, high),
            "columns": self._matrix(width, wide, columns=True),
        }
        self.session.run_bound(self.session.binding(given, {"scaled": into}))

    def _made(self, length: int, to: int, *, columns: bool = False) -> Any:
        """The matrix [to,length] that scales columns of pixels, or [length,to] for rows of them."""
        matrix = resize(np.eye(length, dtype=np.float32)[None, None], (to, length))[0, 0]
        return self.session.on_device(matrix.T if columns else matrix)


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
