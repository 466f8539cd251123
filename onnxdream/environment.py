"""What is installed, which devices that gives, and what is wrong with it."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from .engines.select import DEVICES, select
from .errors import BackendError
from .version import __version__

_PARTS = ("openvino", "onnx", "onnx-ir", "numpy", "imageio", "pillow")
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def diagnose() -> dict[str, Any]:
    """Versions of the parts, devices with their providers, and a line for each problem found."""
    versions = {"onnxdream": __version__, "python": platform.python_version()}
    for part in (*_RUNTIMES, *_OPENCV, *_PARTS):
        version = _version(part)
        if version is not None:
            versions[part] = version
    problems = []
    runtimes = [p for p in _RUNTIMES if p in versions]
    if len(runtimes) > 1:
        problems.append(
            f"{' and '.join(runtimes)} are both installed and overwrite each other, which disables the GPU; "
            f"uninstall both (`pip uninstall {' '.join(runtimes)}`) and install one"
        )
    found: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for device in DEVICES:
        try:
            found[device] = select(device).provider
        except BackendError as error:
            reasons[device] = str(error)
    if "cpu" in reasons:
        problems.append(reasons["cpu"])
    elif runtimes and (loaded := select("cpu").version) not in [versions[r] for r in runtimes]:
        problems.append(f"the onnxruntime that is imported is {loaded}, not {versions[runtimes[0]]} as installed")
    if "onnxruntime-gpu" in versions and "cpu" in found and "cuda" not in found:
        problems.append("onnxruntime-gpu is installed but offers no CUDA; install it with `pip install onnxdream[gpu]`")
    if not found:
        problems.append(reasons["opencv"])
    twice = [p for p in _OPENCV if p in versions]
    if len(twice) > 1:
        problems.append(f"{' and '.join(twice)} are both installed and overwrite each other; keep one")
    return {"versions": versions, "devices": found, "problems": problems}


def _version(part: str) -> str | None:
    try:
        return metadata.version(part)
    except metadata.PackageNotFoundError:
        return None
