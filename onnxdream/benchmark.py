"""How fast this machine dreams: steps and frames a second, beside what the convolutions alone would take."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .dream.build import build_dreamer
from .dream.dreamer import Dreamer
from .dream.step_graph import build_gradient_model
from .errors import OptionError
from .graph.shapes import known_shapes
from .images import to_batch
from .picture_files import noise
from .settings import Settings
from .video.dreamer import VideoDreamer

# (height, width) by the names video has for them.
SIZES = {"360p": (360, 640), "720p": (720, 1280), "1080p": (1080, 1920)}
_PAN = 3  # pixels by which the picture moves from frame to frame


@dataclass(frozen=True)
class Speed:
    """What was measured at one size: medians, in seconds.

    Attributes:
        size: (height, width).
        provider: What ran the network.
        step: One step of ascent.
        floor: The step's convolutions alone at the rate of this machine's matrix products; None where they do not run
            on the CPU.
        frame: One frame of a steady video, flow and all, without reading and writing files.
    """

    size: tuple[int, int]
    provider: str
    step: float
    floor: float | None
    frame: float


def measure(
    settings: Settings, size: tuple[int, int], *, seconds: float, max_memory: int, device: str, threads: int
) -> Speed:
    """Time steps and frames, at least three of each.

    Args:
        settings: What to dream.
        size: (height, width).
        seconds: About how long to time each of them, above 0.
        max_memory: See `Dreamer`, and so are the others.
        device: See there.
        threads: See there.

    Returns:
        The medians.

    Raises:
        OptionError: `seconds` is not above 0, or another setting is out of range.
        OnnxDreamError: The network cannot be loaded or dreamed with.
    """
    if not seconds > 0:
        raise OptionError(f"seconds is {seconds}; it must be above 0")
    dreamer = build_dreamer(settings, max_memory=max_memory, device=device, threads=threads)
    picture = noise((size[0], size[1] + 400), 0)
    provider = dreamer.provider((1, 3, *size))
    rate = matrix_product_rate() if provider != "CUDAExecutionProvider" else math.inf
    return Speed(
        size=size,
        provider=provider,
        step=_step(dreamer, picture[:, : size[1]], seconds),
        floor=convolution_operations(dreamer, size) / rate or None,
        frame=_frame(dreamer, picture, size, seconds),
    )


def _step(dreamer: Dreamer, picture: np.ndarray, seconds: float) -> float:
    """One step of ascent at the picture's own size."""
    ends: list[float] = []

    def on_step(_: object) -> bool:
        ends.append(time.perf_counter())
        return len(ends) < 5 or ends[-1] - ends[0] < seconds

    dreamer.ascend(to_batch(picture), steps=[10_000], on_step=on_step)
    return statistics.median(b - a for a, b in itertools.pairwise(ends[1:]))


def _frame(dreamer: Dreamer, picture: np.ndarray, size: tuple[int, int], seconds: float) -> float:
    """One frame of a video that pans over the picture, after the scene's first."""
    video = VideoDreamer(dreamer)
    bgr = np.rint(picture[..., ::-1]).astype(np.uint8)
    return statistics.median(_durations(lambda left: video.apply(bgr[:, left : left + size[1]]), seconds))


def _durations(frame: Callable[[int], object], seconds: float) -> Iterator[float]:
    frame(0)
    began = time.perf_counter()
    for count in range(1, 400 // _PAN):
        start = time.perf_counter()
        frame(count * _PAN)
        yield time.perf_counter() - start
        if count >= 4 and time.perf_counter() - began > seconds:
            return


def matrix_product_rate() -> float:
    """Floating-point operations a second of a large float32 matrix product, the best of a few."""
    a = np.random.default_rng(0).random((1536, 1536), np.float32)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return 2 * 1536**3 / min(times)


def convolution_operations(dreamer: Dreamer, size: tuple[int, int]) -> float:
    """Floating-point operations of the convolutions in the gradient of one picture of `size` (height, width)."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(build_gradient_model(dreamer.model, dreamer.objective, size=size)).graph
    shapes = known_shapes(graph)
    total = 0.0
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in shapes:
            # Each number of the larger side meets the kernel of one channel of its group once.
            at = node.output[0] if node.op_type == "Conv" else node.input[0]
            total += 2.0 * math.prod(shapes.get(at, (0,))) * math.prod(shapes[node.input[1]][1:])
    return total
