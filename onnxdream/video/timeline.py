"""Settings of a video that change over time."""

from __future__ import annotations

import math
import tomllib
from bisect import bisect_right
from fractions import Fraction
from pathlib import Path

from ..dream.build import build_dreamer
from ..dream.dreamer import Dreamer
from ..errors import OptionError
from ..settings import Settings


def read_timeline(path: Path, settings: Settings) -> list[tuple[Fraction, Settings]]:
    """Read a timeline: a TOML file of `[[at]]` tables, each with a `time` in seconds and the settings that change then.

    Args:
        path: The file.
        settings: The settings at time 0; each table changes those of the table before.

    Returns:
        (time in seconds, the settings from then on), in order of time.

    Raises:
        OptionError: The file cannot be read, or something in it is wrong.
    """
    try:
        tables = tomllib.loads(path.read_text()).get("at", [])
    except OSError as error:
        raise OptionError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise OptionError(f"{path}: not a TOML file: {error}") from error
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables) or not tables:
        raise OptionError(
            f"{path}: a timeline is made of [[at]] tables, each with a time and the settings from then on"
        )
    moments = [(Fraction(0), settings)]
    for table in tables:
        time = table.pop("time", None)
        if not isinstance(time, (int, float)) or isinstance(time, bool) or not 0 <= time < math.inf:
            raise OptionError(f"{path}: each [[at]] needs a time in seconds, such as time = 2.5; this one has {time!r}")
        moment = Fraction(str(time))
        if moment < moments[-1][0]:
            raise OptionError(f"{path}: the [[at]] tables must be in order of time; {time} comes after a later one")
        moments.append((moment, moments[-1][1].updated(table, f"{path}, time {time}")))
    return moments


class Timeline:
    """The Dreamer for each moment of a video.

    All are built at once, so that a mistake in one is found before any work.

    Args:
        settings: The settings at time 0.
        path: A file for `read_timeline`; None if the settings never change.
        max_memory: Bytes a dream may take before it is split into tiles.
        device: What to dream on, see `Dreamer`.
        threads: CPU threads, 0 for one per core.

    Raises:
        OptionError: A setting is wrong, or not for video.
    """

    def __init__(self, settings: Settings, path: Path | None, *, max_memory: int, device: str, threads: int) -> None:
        self.moments = [(Fraction(0), settings)] if path is None else read_timeline(path, settings)
        if any(at_moment.keep_colors for _, at_moment in self.moments):
            raise OptionError("keep_colors is for pictures, not for video; omit it")
        self.dreamers: dict[Settings, Dreamer] = {}
        for _, at_moment in self.moments:
            if at_moment not in self.dreamers:
                dreamer = build_dreamer(at_moment, max_memory=max_memory, device=device, threads=threads)
                self.dreamers[at_moment] = dreamer

    def __call__(self, time: Fraction) -> Dreamer:
        """The Dreamer at `time`, in seconds."""
        following = bisect_right([moment for moment, _ in self.moments], time)
        return self.dreamers[self.moments[max(0, following - 1)][1]]

    @property
    def guides(self) -> list[str]:
        """The guide pictures in use."""
        return [settings.guide for settings in self.dreamers if settings.guide]
