"""Which engine dreams: ONNX Runtime where it is installed, else OpenCV's own."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import BackendError, OptionError
from . import cuda, onnxruntime, opencv, openvino
from .base import HostSession

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """What runs the graphs, the target they are built for (`lowering.targets`), and whether its memory is its own."""

    session: Callable[..., onnxruntime.Session | HostSession]
    target: str
    has_memory: bool = False


ONNXRUNTIME, CUDA = Engine(onnxruntime.Session, "cpu"), Engine(cuda.open_session, "cuda", has_memory=True)
# The engines that are devices of their own, which their targets are called after.
_OWN = {module.DEVICE: module for module in (opencv, openvino)}
BACKENDS = ("auto", "onnxruntime", *_OWN)


def choose(device: str = "auto") -> Engine:
    """The engine for a device's name: "opencv", "openvino", those of ONNX Runtime, or "auto".

    "auto" logs it when it takes OpenCV because ONNX Runtime is missing. Raises OptionError for an unknown name,
    BackendError when there is no engine or it lacks the device.
    """
    if device in _OWN:
        if reason := _OWN[device].unusable():
            raise BackendError(reason)
        return Engine(_OWN[device].Session, device)
    if device == "auto" and importlib.util.find_spec("onnxruntime") is None:
        if opencv.unusable():
            raise BackendError(f"onnxruntime is not installed (`pip install onnxdream[cpu]`), and {opencv.unusable()}")
        log.warning(
            "onnxruntime is not installed; OpenCV's engine dreams instead and takes about twice as long "
            "(`pip install onnxdream[cpu]` for the faster one)"
        )
        return Engine(opencv.Session, opencv.DEVICE)
    return CUDA if onnxruntime.resolve_device(device)[0] == "cuda" else ONNXRUNTIME


def resolved(device: str) -> str:
    """The device that `choose` gives for a device's name. Raises as it does."""
    if device in _OWN:
        return device
    if device == "auto" and importlib.util.find_spec("onnxruntime") is None:
        return opencv.DEVICE
    return onnxruntime.resolve_device(device)[0]


def device_for(backend: str, device: str) -> str:
    """The device's name for a backend's name and a device's, as the command line has them. Raises OptionError."""
    if backend not in BACKENDS:
        raise OptionError(f"unknown backend {backend!r}; backends are {', '.join(BACKENDS)}")
    if backend in _OWN:
        if device not in ("auto", "cpu", backend):
            raise OptionError(f"the {backend} backend runs on the CPU; it has no device {device!r}")
        return backend
    if backend == "onnxruntime":
        if device in _OWN:
            raise OptionError(f"device {device} is a backend of its own; leave --backend out")
        onnxruntime.runtime()  # not another one when it is missing
    return device
