"""OpenVINO, through its own package: often the fastest on Intel's processors.

Not through ONNX Runtime's OpenVINO provider, whose release 1.24 refuses the gradient graphs of networks with pools.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import BackendError, OutOfMemoryError
from .base import HostSession

DEVICE = "openvino"  # its name among the devices
PROVIDER = "OpenVINO"


def unusable() -> str:
    """Why OpenVINO cannot be used, empty when it can."""
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed; install it with `pip install onnxdream[openvino]`"
    return ""


@functools.cache
def _core() -> Any:
    try:
        import openvino
    except Exception as error:
        raise BackendError(f"openvino cannot be imported: {error}") from error
    return openvino.Core()


class Session(HostSession):
    """One ONNX model, built for the target "openvino", on the CPU; the counterpart of `onnxruntime.Session`.

    `fixed` gives sizes to the symbolic axes of the inputs. It computes in float32; where the model computes in half
    precision, in whichever of bfloat16 and float16 the processor is fast at. Raises BackendError when OpenVINO is
    missing or cannot run the graph.
    """

    device, provider, unusable = DEVICE, PROVIDER, staticmethod(unusable)

    def _open(self, data: bytes, fixed: Mapping[str, int], threads: int) -> None:
        core = _core()
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(data)
            if fixed:
                n, h, w = (fixed[axis] for axis in "NHW")
                sizes = {"image": [n, 3, h, w], "mask": [1, 1, h, w]}
                model.reshape({i.any_name: sizes.get(i.any_name, i.partial_shape) for i in model.inputs})
            if not any(o.element_type.to_string() == "f16" for node in model.get_ops() for o in node.outputs()):
                settings["INFERENCE_PRECISION_HINT"] = "f32"
            self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        except Exception as error:
            raise _translated(error) from error

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. Raises OutOfMemoryError or BackendError."""
        try:
            results = self._request.infer(dict(feeds))
        except Exception as error:
            raise _translated(error) from error
        # What is returned lies in the request's own memory, which the next run overwrites.
        return {output.any_name: np.array(value) for output, value in results.items()}


def _translated(error: Exception) -> Exception:
    text = str(error).strip()
    if isinstance(error, MemoryError) or "bad_alloc" in text or "allocate" in text.lower():
        return OutOfMemoryError()
    return BackendError(f"OpenVINO failed: {text.splitlines()[-1] if text else type(error).__name__}")
