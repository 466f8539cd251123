"""Rate control: how much to dream in each frame so that it is done in time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ..errors import OptionError

# What a frame costs besides its ascent, in ascent steps per pixel: flow both ways, its mask and the warp at the working
# size; conversion and scaling at the frame's own size. Measured with `tools/bench_live.py`.
_FLOW, _FRAME = 0.4, 0.04
_SIZES = (0.8, 0.64, 0.5, 0.4, 0.32, 0.25, 0.2, 0.16, 0.125, 0.1)
_AIM = 0.8  # share of the time per frame that a newly chosen effort may be expected to take
_LIMIT = 0.95  # share that an effort may take before a cheaper one is chosen
_PATIENCE = 12  # frames between two choices; twice as many before a more expensive one


@dataclass(frozen=True)
class Effort:
    """How a frame is dreamed.

    Attributes:
        size: (height, width) in pixels.
        steps: Ascent steps in each octave, smallest octave first.
    """

    size: tuple[int, int]
    steps: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.size[1]}x{self.size[0]}, {'+'.join(map(str, self.steps))} steps"

    def cost(self, frame: tuple[int, int], octave_scale: float) -> float:
        """The cost of a frame.

        Args:
            frame: Its own (height, width).
            octave_scale: Ratio between the sizes of two octaves.

        Returns:
            Pixels times ascent steps.
        """
        return self.ascent(octave_scale) + _FLOW * math.prod(self.size) + _FRAME * math.prod(frame)

    def ascent(self, octave_scale: float) -> float:
        """The part of the cost that is ascent steps, in pixels times steps."""
        octaves = sum(n / octave_scale ** (2 * i) for i, n in enumerate(reversed(self.steps)))
        return octaves * math.prod(self.size)


def efforts(
    size: tuple[int, int], octaves: int, frame_steps: int, octave_scale: float, smallest: tuple[int, int]
) -> list[Effort]:
    """The efforts to choose from, best first.

    Octaves are given up first, then size. Two octaves are kept while they fit, since one alone would dream details of a
    single size.

    Args:
        size: (height, width) of the best effort.
        octaves: Number of octaves of the best effort.
        frame_steps: Its steps at full size.
        octave_scale: Ratio between the sizes of two octaves.
        smallest: (height, width) that no octave may fall below.

    Returns:
        At least one effort.
    """
    best = [(1.0, (*[1] * (octaves - 1), frame_steps)), (1.0, (1,) * min(octaves, 3)), (0.8, (1,) * min(octaves, 3))]
    rest = [(scale, (1,) * min(octaves, 2)) for scale in _SIZES]
    chosen = []
    for scale, steps in [*best, *rest]:
        at = (round(size[0] * scale), round(size[1] * scale))
        room = min(at[0] / smallest[0], at[1] / smallest[1])
        if room >= 1:
            chosen.append(Effort(at, steps[-1 - int(math.log(room, octave_scale)) :]))
    return chosen or [Effort(size, (1,))]


class RateControl:
    """Chooses the effort for each frame from the time that earlier frames took.

    The effort changes at most every dozen frames.

    Args:
        target_fps: The rate to keep, in frames per second, above 0 and below 1000.

    Raises:
        OptionError: The rate is out of range.
    """

    def __init__(self, target_fps: float) -> None:
        if not 0 < target_fps < 1000:
            raise OptionError(f"target_fps is {target_fps}; it must be above 0 and below 1000")
        self.target_fps = target_fps
        self.effort: Effort | None = None  # the last choice
        self._pace: float | None = None  # seconds per unit of cost
        self._recent: deque[float] = deque(maxlen=2 * _PATIENCE)  # paces since the last choice

    @property
    def knows_pace(self) -> bool:
        """Whether any frame has been timed."""
        return self._pace is not None or bool(self._recent)

    def reset(self) -> None:
        """Forget all timings, as after a change of layer."""
        self.effort, self._pace = None, None
        self._recent.clear()

    def record(self, seconds: float, cost: float) -> None:
        """Record how long a frame took.

        Args:
            seconds: The time.
            cost: The frame's cost, from `Effort.cost`.
        """
        self._recent.append(seconds / cost)

    def choose(self, options: Sequence[Effort], frame: tuple[int, int], octave_scale: float) -> Effort:
        """Choose the effort for the next frame.

        Args:
            options: The efforts to choose from, best first (see `efforts`).
            frame: (height, width) of the frame.
            octave_scale: Ratio between the sizes of two octaves.

        Returns:
            One of the options.
        """
        costs = {option: option.cost(frame, octave_scale) for option in options}
        if self.effort not in costs:
            self.effort = None
        settled = len(self._recent) >= _PATIENCE or self.effort is None
        if self._recent and settled:
            self._pace = median(list(self._recent)[-_PATIENCE:])
        if self._pace is None:
            return options[-1]
        allowed = 1 / self.target_fps / self._pace
        fitting = next((o for o in options if costs[o] <= _AIM * allowed), options[-1])
        if self.effort is None:
            self._take(fitting)
        elif settled:
            too_slow = costs[self.effort] > _LIMIT * allowed
            patient = len(self._recent) == self._recent.maxlen
            if (too_slow and costs[fitting] < costs[self.effort]) or (patient and costs[fitting] > costs[self.effort]):
                self._take(fitting)
        assert self.effort is not None
        return self.effort

    def _take(self, effort: Effort) -> None:
        self.effort = effort
        self._recent.clear()
