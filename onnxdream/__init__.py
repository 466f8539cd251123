"""DeepDream from ONNX files, without a deep-learning framework.

import imageio.v3 as iio
import onnxdream
from onnxdream import objectives

model = onnxdream.load_model("squeezenet1_1")
dreamer = onnxdream.Dreamer(model, objectives.l2("fire6"))
iio.imwrite("dream.png", dreamer.dream(iio.imread("photo.jpg")).picture)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import errors, objectives
    from .cluster.ray import RayCluster
    from .dream.dreamer import Dream, Dreamer, Progress
    from .dream.step_graph import build_gradient_model, build_step_model
    from .errors import OnnxDreamError
    from .interpret.activations import activations
    from .interpret.grid import show
    from .interpret.visualizer import visualize
    from .networks.model import Model, load_model
    from .objectives import Objective
    from .video.dreamer import VideoDreamer
    from .video.filter import create_video_dreamer, dream_frames
    from .video.job.job import dream_video

# Where each public name lives; imported on first use, so that `import onnxdream` costs next to nothing.
_HOMES = {
    "Dream": "dream.dreamer",
    "Dreamer": "dream.dreamer",
    "Model": "networks.model",
    "Objective": "objectives",
    "OnnxDreamError": "errors",
    "Progress": "dream.dreamer",
    "RayCluster": "cluster.ray",
    "VideoDreamer": "video.dreamer",
    "activations": "interpret.activations",
    "build_gradient_model": "dream.step_graph",
    "build_step_model": "dream.step_graph",
    "create_video_dreamer": "video.filter",
    "dream_frames": "video.filter",
    "dream_video": "video.job.job",
    "errors": "",
    "load_model": "networks.model",
    "objectives": "",
    "show": "interpret.grid",
    "visualize": "interpret.visualizer",
}

__all__ = [
    "Dream",
    "Dreamer",
    "Model",
    "Objective",
    "OnnxDreamError",
    "Progress",
    "RayCluster",
    "VideoDreamer",
    "activations",
    "build_gradient_model",
    "build_step_model",
    "create_video_dreamer",
    "dream_frames",
    "dream_video",
    "errors",
    "load_model",
    "objectives",
    "show",
    "visualize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    return (
        getattr(importlib.import_module(f".{home}", __name__), name)
        if home
        else importlib.import_module(f".{name}", __name__)
    )


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
