"""OpenCV's own engine (`cv2.dnn`, ENGINE_NEW of OpenCV 5): dreams where ONNX Runtime is not installed.

Never ENGINE_AUTO: the older engine it falls back to gives wrong gradients without a word.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from ..errors import BackendError, OutOfMemoryError
from .base import HostSession

DEVICE = "opencv"  # its name among the devices
PROVIDER = "OpenCV"


def unusable() -> str:
    """Why this OpenCV cannot run the graphs, empty when it can."""
    if hasattr(cv2.dnn, "ENGINE_NEW"):
        return ""
    return f"OpenCV {cv2.__version__} has no engine that can dream; install it with `pip install 'opencv-python>=5'`"


class Session(HostSession):
    """One ONNX model, built for the target "opencv", on OpenCV's engine; the counterpart of `onnxruntime.Session`.

    Each session is meant for pictures of one size: a new size costs a new plan. `fixed` is not needed and ignored.
    `threads` above 0 sets the threads of the whole process (`cv2.setNumThreads`), for OpenCV has no others. Raises
    BackendError when OpenCV is older than 5 or cannot run the graph.
    """

    device, provider, unusable = DEVICE, PROVIDER, staticmethod(unusable)

    def _open(self, data: bytes, fixed: Mapping[str, int], threads: int) -> None:
        if threads:
            cv2.setNumThreads(threads)
        try:
            self._net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8), cv2.dnn.ENGINE_NEW)
        except cv2.error as error:
            raise _translated(error) from error
        self._outputs = list(self._net.getUnconnectedOutLayersNames())

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises OutOfMemoryError or BackendError."""
        try:
            for name, value in feeds.items():
                self._net.setInput(value, name)
            return dict(zip(self._outputs, self._net.forward(self._outputs), strict=True))
        except cv2.error as error:
            raise _translated(error) from error


def _translated(error: cv2.error) -> Exception:
    if getattr(error, "code", 0) == cv2.Error.StsNoMem:
        return OutOfMemoryError()
    return BackendError(f"OpenCV failed: {str(getattr(error, 'err', '') or error).strip().splitlines()[0]}")
