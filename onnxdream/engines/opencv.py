"""OpenCV's own engine (`cv2.dnn`, ENGINE_NEW of OpenCV 5): dreams where ONNX Runtime is not installed.

Never ENGINE_AUTO: the older engine it falls back to gives wrong gradients without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..errors import BackendError, OutOfMemoryError, first_line
from .base import Engine, Session, allowed_threads

if TYPE_CHECKING:
    import onnx


class OpenCvEngine(Engine):
    """OpenCV's engine on the CPU.

    Each of its sessions is best used for pictures of one size, since a new size costs a new plan. A number of threads
    is set for the whole process (`cv2.setNumThreads`), for OpenCV knows no other.

    Raises:
        BackendError: OpenCV is older than 5.
    """

    device = target = "opencv"
    provider = "OpenCV"

    def __init__(self) -> None:
        if not hasattr(cv2.dnn, "ENGINE_NEW"):
            hint = "install it with `pip install 'opencv-python>=5'`"
            raise BackendError(f"OpenCV {cv2.__version__} has no engine that can dream; {hint}")

    @property
    def version(self) -> str:
        """See Engine."""
        return cv2.__version__

    def open(
        self, model: onnx.ModelProto, *, fixed_shapes: Mapping[str, int] | None = None, threads: int = 0
    ) -> OpenCvSession:
        """See Engine."""
        return OpenCvSession(model, fixed_shapes or {}, threads)


class OpenCvSession(Session):
    """A session of OpenCvEngine."""

    provider = OpenCvEngine.provider

    def __init__(self, model: onnx.ModelProto, fixed_shapes: Mapping[str, int], threads: int) -> None:
        super().__init__(model, fixed_shapes)
        if allowed_threads(threads):
            cv2.setNumThreads(allowed_threads(threads))
        data = np.frombuffer(self._serialized(model, fixed_shapes), np.uint8)
        try:
            self._net = cv2.dnn.readNetFromONNX(data, cv2.dnn.ENGINE_NEW)
        except cv2.error as error:
            raise _translated(error) from error
        self._outputs = list(self._net.getUnconnectedOutLayersNames())

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            for name, value in feeds.items():
                self._net.setInput(value, name)
            return dict(zip(self._outputs, self._net.forward(self._outputs), strict=True))
        except cv2.error as error:
            raise _translated(error) from error


def _translated(error: cv2.error) -> Exception:
    if getattr(error, "code", 0) == cv2.Error.StsNoMem:
        return OutOfMemoryError()
    return BackendError(f"OpenCV failed: {getattr(error, 'err', '') or first_line(error)}")
