"""OpenVINO, through its own package: often the fastest on Intel's processors.

Not through ONNX Runtime's OpenVINO provider, whose release 1.24 refuses the gradient graphs of networks with pools.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BackendError, OutOfMemoryError, first_line
from .base import Engine, Session, allowed_threads

if TYPE_CHECKING:
    import onnx


class OpenVinoEngine(Engine):
    """OpenVINO on the CPU.

    It computes in float32; where the model computes in half precision, in whichever of bfloat16 and float16 the
    processor is fast at.

    Raises:
        BackendError: OpenVINO is not installed.
    """

    device = target = "openvino"
    provider = "OpenVINO"

    def __init__(self) -> None:
        if importlib.util.find_spec("openvino") is None:
            raise BackendError("openvino is not installed; install it with `pip install onnxdream[openvino]`")

    @property
    def version(self) -> str:
        """See Engine."""
        return importlib.metadata.version("openvino")

    def open(
        self, model: onnx.ModelProto, *, fixed_shapes: Mapping[str, int] | None = None, threads: int = 0
    ) -> OpenVinoSession:
        """See Engine."""
        return OpenVinoSession(model, fixed_shapes or {}, threads)


class OpenVinoSession(Session):
    """A session of OpenVinoEngine."""

    provider = OpenVinoEngine.provider

    def __init__(self, model: onnx.ModelProto, fixed_shapes: Mapping[str, int], threads: int) -> None:
        super().__init__(model, fixed_shapes)
        core = _core()
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if allowed_threads(threads):
            settings["INFERENCE_NUM_THREADS"] = allowed_threads(threads)
        try:
            network = core.read_model(self._serialized(model, fixed_shapes))
            if fixed_shapes:
                shapes = {i.any_name: self.inputs[i.any_name] for i in network.inputs}
                network.reshape({n: [-1 if d is None else d for d in shape] for n, shape in shapes.items()})
            if not any(o.element_type.to_string() == "f16" for node in network.get_ops() for o in node.outputs()):
                settings["INFERENCE_PRECISION_HINT"] = "f32"
            self._request = core.compile_model(network, "CPU", settings).create_infer_request()
        except Exception as error:
            raise _translated(error) from error

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            results = self._request.infer(dict(feeds))
        except Exception as error:
            raise _translated(error) from error
        # Where the model is for every size and memory runs out, there is no error, but nothing is returned either.
        if not all(value.size for value in results.values()):
            raise OutOfMemoryError
        # What is returned lies in the request's own memory, which the next run overwrites.
        return {output.any_name: np.array(value) for output, value in results.items()}


@functools.cache
def _core() -> Any:
    try:
        import openvino
    except Exception as error:
        raise BackendError(f"openvino cannot be imported: {first_line(error)}") from error
    return openvino.Core()


def _translated(error: Exception) -> Exception:
    text = str(error)
    if isinstance(error, MemoryError) or "alloc" in text.lower():
        return OutOfMemoryError()
    # Before the reason come the places in its source that noticed, in lines that end with a colon.
    reason = RuntimeError(re.sub(r"^.*:\n", "", text, flags=re.MULTILINE))
    return BackendError(f"OpenVINO failed: {first_line(reason)}")
