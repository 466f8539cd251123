"""Which engine runs what: the only way to one."""

from __future__ import annotations

import importlib.util
import logging

from ..errors import BackendError, OptionError
from .base import Engine
from .cuda_graph import CudaEngine
from .onnxruntime import PROVIDERS, OnnxRuntimeEngine, resolve_device, runtime
from .opencv import OpenCvEngine
from .openvino import OpenVinoEngine

log = logging.getLogger(__name__)

# Engines that are devices of their own.
_OWN: dict[str, type[OpenCvEngine | OpenVinoEngine]] = {e.device: e for e in (OpenCvEngine, OpenVinoEngine)}
DEVICES = (*PROVIDERS, *_OWN)
BACKENDS = ("auto", "onnxruntime", *_OWN)


def select(device: str = "auto") -> Engine:
    """The engine for a device.

    Args:
        device: One of DEVICES, or "auto" for the best one here. That is OpenCV, as is logged, where ONNX Runtime is
            missing.

    Raises:
        OptionError: There is no device of this name.
        BackendError: What it needs is not installed, or lacks the device.
    """
    if device in _OWN:
        return _OWN[device]()
    if device == "auto" and importlib.util.find_spec("onnxruntime") is None:
        try:
            engine = OpenCvEngine()
        except BackendError as error:
            raise BackendError(f"onnxruntime is not installed (`pip install onnxdream[cpu]`), and {error}") from error
        log.warning(
            "onnxruntime is not installed; OpenCV's engine dreams instead and takes about twice as long "
            "(`pip install onnxdream[cpu]` for the faster one)"
        )
        return engine
    devices = resolve_device(device)
    return CudaEngine(devices) if devices[0] == "cuda" else OnnxRuntimeEngine(devices)


def device_for(backend: str, device: str) -> str:
    """The device that a backend and a device name together, as the command line has them.

    Args:
        backend: One of BACKENDS.
        device: See `select`.

    Raises:
        OptionError: There is no backend of this name, or it lacks the device.
        BackendError: ONNX Runtime was asked for and is missing.
    """
    if backend not in BACKENDS:
        raise OptionError(f"unknown backend {backend!r}; backends are {', '.join(BACKENDS)}")
    if backend in _OWN:
        if device not in ("auto", "cpu", backend):
            raise OptionError(f"the {backend} backend runs on the CPU; it has no device {device!r}")
        return backend
    if backend == "onnxruntime":
        if device in _OWN:
            raise OptionError(f"device {device} is a backend of its own; leave --backend out")
        runtime()  # not another one when it is missing
    return device
