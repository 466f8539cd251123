"""Measure dreamed video files against their source, and draw a chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...dream.build import build_dreamer
from ...errors import InputError, OptionError, VideoError
from ...images import check_writable, to_batch, write_whole
from ...settings import RunSettings, Settings
from ..io.open import open_source, read_video_settings
from .metrics import compare


def measure_videos(
    source: str, dreams: list[str], given: Mapping[str, Any], *, device: str = "auto"
) -> dict[str, dict[str, float]]:
    """Measure dreamed videos against their source.

    Args:
        source: The video the dreams were made from.
        dreams: The dreamed videos.
        given: The settings model, layers and also of the objective that measures the strength, None for those not
            given. If none is, it is the one stored in the first dream that has one.
        device: What to run the network on, see `Dreamer`.

    Returns:
        The metrics (`Metrics.as_dict`) of each dream, by its name.

    Raises:
        VideoError: A video cannot be read, or a dream does not have the size and the frames of the source.
    """
    given = {name: value for name, value in given.items() if value is not None}
    settings = Settings().updated(given or _stored(dreams), "option")
    dreamer = build_dreamer(settings, max_memory=RunSettings.max_memory, device=device)
    metrics = {}
    for name in dreams:
        found = compare(_pairs(source, name), lambda picture: dreamer.measure(to_batch(picture)))
        metrics[name] = found.as_dict()
    return metrics


def _stored(dreams: list[str]) -> dict[str, Any]:
    """Networks, layers and objective of the first dream that stores its settings."""
    names = ("model", "inputs", "layers", "also", "objective", "exponent", "channels")
    for name in dreams:
        try:
            return {k: v for k, v in read_video_settings(Path(name)).items() if k in names}
        except InputError:
            continue
    return {}


def _pairs(source: str, dream: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (source, dream) for each frame of a dream."""
    start, end = _time_range(dream)
    with open_source(source) as first, open_source(dream) as second:
        if (first.info.width, first.info.height) != (second.info.width, second.info.height):
            raise VideoError(
                f"{dream}: is {second.info.width}x{second.info.height}, the source "
                f"{first.info.width}x{first.info.height}; they must have the same size"
            )
        count = 0
        for original, frame in zip_longest(first.frames(start, end), second.frames()):
            if original is None or frame is None:
                more = "more" if original is None else "fewer"
                where = " between the times it was made from" if start or end else ""
                raise VideoError(f"{dream}: has {more} frames than the source{where}")
            count += 1
            yield original.rgb, frame.rgb
        if not count:
            raise VideoError(f"{dream}: has no frames")


def _time_range(dream: str) -> tuple[Fraction | None, Fraction | None]:
    """The start and end in seconds that a dream was made with, if it stores them."""
    try:
        stored = read_video_settings(Path(dream))
    except InputError:
        return None, None
    start, end = (Fraction(stored[name]) if name in stored else None for name in ("start", "end"))
    return start, end


def check_chart(path: Path) -> None:
    """Raise OptionError or OutputError, before anything is measured, if a chart cannot be written to `path`."""
    if path.suffix.lower() != ".png":
        raise OptionError(f"{path}: a chart is written as .png")
    check_writable(path)


def plot_metrics(path: Path, videos: Mapping[str, Mapping[str, float]]) -> None:
    """Draw a bar chart of each metric, one bar per video.

    Args:
        path: A PNG.
        videos: What `measure_videos` returned.

    Raises:
        OptionError: `path` is no .png.
        OutputError: Its folder does not exist.
        WriteError: It cannot be written.
    """
    check_chart(path)
    names = ("excess", "flicker", "strength", "color_drift")
    titles = ("warp error beyond the source's", "flicker where nothing moves", "strength", "colour drift")
    row, left, width = 26, 330, 900
    height = len(names) * (len(videos) + 2) * row + row
    chart = np.full((height, width, 3), 255, np.uint8)
    y = row
    for name, title in zip(names, titles, strict=True):
        _text(chart, title, 10, y, (0, 0, 0))
        y += row
        largest = max([abs(v[name]) for v in videos.values() if np.isfinite(v[name])], default=1.0) or 1.0
        for video, metrics in videos.items():
            value = metrics[name]
            length = int((width - left - 130) * abs(value) / largest) if np.isfinite(value) else 0
            _text(chart, Path(video).name[:36], 24, y, (90, 90, 90))
            cv2.rectangle(chart, (left, y - 14), (left + max(1, length), y + 2), (160, 110, 40), -1)
            _text(chart, f"{value:.3g}", left + length + 8, y, (60, 60, 60))
            y += row
        y += row
    write_whole(path, lambda to: np.asarray(cv2.imencode(".png", chart)[1]).tofile(to))


def _text(chart: np.ndarray, text: str, x: int, y: int, color: tuple[int, int, int]) -> None:
    cv2.putText(chart, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv2.LINE_AA)
