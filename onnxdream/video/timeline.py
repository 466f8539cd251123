"""Settings for video: its defaults, and how they change over time."""

from __future__ import annotations

import math
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..dream.dreamer import Dreamer
from ..errors import OptionError
from ..settings import Settings, build_dreamer
from .job.identity import identity

# A little smoothing: what one frame leaves in speckle, the next ones would sharpen.
SMOOTH = 0.5


def video_defaults(given: Mapping[str, Any], *, preset: bool) -> dict[str, Any]:
    """`given` with the defaults that differ for video, unless a preset or file decides."""
    return dict(given) if preset or given.get("smooth") is not None else {**given, "smooth": SMOOTH}


def read_timeline(path: Path, settings: Settings) -> list[tuple[Fraction, Settings]]:
    """The settings from each time on: a TOML file of `[[at]]` tables, each with `time` in seconds and what changes
    then.

    Each table builds on the one before, the first on `settings`. Raises OptionError naming what is wrong.
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


class Schedule:
    """The Dreamer for a time in seconds. All are built now, so that what is wrong with one is found before any work."""

    def __init__(
        self, settings: Settings, timeline: Path | None, *, max_memory: int, device: str, threads: int
    ) -> None:
        self.moments = [(Fraction(0), settings)] if timeline is None else read_timeline(timeline, settings)
        if any(wanted.keep_colors for _, wanted in self.moments):
            raise OptionError("keep_colors is for pictures, not for video; leave it out")
        self.built: dict[Settings, Dreamer] = {}
        for _, wanted in self.moments:
            if wanted not in self.built:
                self.built[wanted] = build_dreamer(wanted, max_memory=max_memory, device=device, threads=threads)

    def __call__(self, time: Fraction) -> Dreamer:
        """The Dreamer at `time`."""
        place = bisect_right([moment for moment, _ in self.moments], time)
        return self.built[self.moments[max(0, place - 1)][1]]

    @property
    def identity(self) -> dict[str, str]:
        """What its dreams depend on besides the settings, see `identity`."""
        return identity(self.built.values(), [s.guide for s in self.built if s.guide])
