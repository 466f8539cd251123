"""The two lines for an OpenCV program: make a dreamer, apply it to each frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..dream.dreamer import DEFAULT_MAX_MEMORY
from ..errors import OptionError
from ..settings import build_dreamer, layered
from .dreamer import VideoDreamer
from .habits import checked_size
from .timeline import video_defaults


def create_video_dreamer(
    layer: str | Sequence[str] = (),
    *,
    model: str | None = None,
    preset: str | None = None,
    target_fps: float = 0.0,
    size: tuple[int, int] | None = None,
    method: str = "flow",
    flow: str | None = None,
    frame_steps: int = 2,
    frame_step: float = 0.75,
    strength: float = 2.0,
    device: str = "auto",
    threads: int = 0,
    max_memory: int = DEFAULT_MAX_MEMORY,
    **settings: Any,
) -> VideoDreamer:
    """A filter for frames: `dreamer = create_video_dreamer("fire5"); out = dreamer.apply(frame)`.

    `layer` is a layer's name, or several, each with a weight if need be ("fire8:0.5"); `model` a network's name or an
    ONNX file; `preset` one of the named looks. `size` is the (width, height) to dream at. With `target_fps` the filter
    keeps that rate, and estimates the flow by "dis-ultrafast" rather than "dis-medium" unless `flow` says otherwise.
    `settings` are those of `onnxdream image`: objective, channels, guide, octaves, octave_scale, steps, step_size,
    jitter, smooth, seed. The rest is as in `VideoDreamer`.

    May be called from several threads at once. Raises OptionError, LayerError, ModelError or BackendError.
    """
    given = {"model": model, "layers": layer or None, **settings}
    given = video_defaults({k: v for k, v in given.items() if v is not None}, preset=preset is not None)
    look = layered(given, preset=preset)
    if look.keep_colors:
        raise OptionError("keep_colors is for pictures, not for video; leave it out")
    dreamer = build_dreamer(look, max_memory=max_memory, device=device, threads=threads)
    return VideoDreamer(
        dreamer,
        method=method,
        flow=flow or ("dis-ultrafast" if target_fps else "dis-medium"),
        frame_steps=frame_steps,
        frame_step=frame_step,
        strength=strength,
        size=None if size is None else checked_size(size)[::-1],
        target_fps=target_fps,
    )


def dream_frames(
    frames: Iterable[np.ndarray], dreamer: VideoDreamer | None = None, **options: Any
) -> Iterator[np.ndarray]:
    """The dream of each frame, in turn; frames are as `VideoDreamer.apply` takes them.

    `options` are those of `create_video_dreamer`, where no `dreamer` is given. Raises what these two raise.
    """
    filter_ = dreamer or create_video_dreamer(**options)
    for frame in frames:
        yield filter_.apply(frame)
