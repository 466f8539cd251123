"""Getters and setters named as OpenCV's own objects have them; each is one attribute of the dreamer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import OptionError
from ..settings import Settings, build_objective
from .rate_control import Budget, Effort

if TYPE_CHECKING:
    from ..dream.dreamer import Dreamer

_COUNTS = (int, np.integer)
_NUMBERS = (float, np.floating, *_COUNTS)


class Habits:
    """What `VideoDreamer` adds for those who know `cv2.BackgroundSubtractor` and its kind."""

    dreamer: Dreamer
    method: str
    budget: Budget | None
    strength: float
    frame_step: float
    frame_steps: int
    size: tuple[int, int] | None
    last: np.ndarray | None

    def getLayer(self) -> str:
        """The layer, or the first of several."""
        return self.dreamer.objective.layers[0]

    def setLayer(self, layer: str | Sequence[str]) -> None:
        """Dream with another layer from the next frame on, or several, named as for `create_video_dreamer`.

        The objective is l2 then. Raises OptionError, LayerError or NoGradientError.
        """
        settings = Settings().updated({"layers": layer}, "setLayer")
        self.swap(self.dreamer.with_objective(build_objective(settings, self.dreamer.model)))

    def swap(self, dreamer: Dreamer) -> None:
        """Go on with another Dreamer; what has been dreamed stays."""
        self.dreamer = dreamer
        if self.budget is not None:
            self.budget.forget()

    def getStrength(self) -> float:
        """How far a dream may build up, in multiples of what a scene's first frame gets."""
        return self.strength

    def setStrength(self, strength: float) -> None:
        """Let the dream build up more or less. Raises OptionError for what is no number or below 0."""
        self.strength = checked_number("strength", strength)

    def getFrameSteps(self) -> int:
        """Ascent steps a frame at the full size."""
        return self.frame_steps

    def setFrameSteps(self, steps: int) -> None:
        """Take that many; with a target rate, at most. Raises OptionError for what is no whole number or below 0."""
        self.frame_steps = checked_count("frame_steps", steps)

    def getFrameStep(self) -> float:
        """The size of a frame's steps, as a share of the dreamer's."""
        return self.frame_step

    def setFrameStep(self, share: float) -> None:
        """Take larger or smaller steps. Raises OptionError for what is no number or below 0."""
        self.frame_step = checked_number("frame_step", share)

    def getTargetFPS(self) -> float:
        """The rate that is kept, 0 when none is."""
        return 0.0 if self.budget is None else self.budget.target_fps

    def setTargetFPS(self, rate: float) -> None:
        """Keep that rate; 0 for none. Raises OptionError for one that cannot be, and for methods that keep none."""
        rate = checked_number("target_fps", rate)
        if rate and self.method != "flow":
            raise OptionError(f"method {self.method} takes all steps for each frame; only flow keeps a rate")
        self.budget = Budget(rate) if rate else None

    def getEffort(self) -> Effort | None:
        """What was chosen to keep the rate, None where there is no choice; `str` says it in words."""
        return None if self.budget is None else self.budget.effort

    def getWorkingSize(self) -> tuple[int, int]:
        """(width, height) that is dreamed at, zeros while that is the size of a first frame to come."""
        height, width = (self.size or (0, 0)) if self.last is None else self.last.shape[:2]
        return width, height

    def setWorkingSize(self, size: tuple[int, int] | None) -> None:
        """Dream at this (width, height), at most with a target rate; None: at the frames' own.

        What has been dreamed is scaled, where the shape is the same. Raises OptionError for what is no size.
        """
        self.size = None if size is None else checked_size(size)[::-1]
        if self.size is not None:
            self.scale_past(self.size)

    def scale_past(self, size: tuple[int, int]) -> None:
        """Go on at another working size (height, width); one of another shape begins a scene."""
        raise NotImplementedError


def checked_number(name: str, value: Any) -> float:
    """`value`, if it is a number from 0 on. Raises OptionError."""
    if not isinstance(value, _NUMBERS) or not 0 <= value < 1e30:
        raise OptionError(f"{name} is {value!r}; it must be a number, at least 0")
    return float(value)


def checked_count(name: str, value: Any) -> int:
    """`value`, if it is a whole number from 0 on. Raises OptionError."""
    if not isinstance(value, _COUNTS) or not 0 <= value <= 100_000:
        raise OptionError(f"{name} is {value!r}; it must be a whole number between 0 and 100000")
    return int(value)


def checked_size(size: Any) -> tuple[int, int]:
    """`size`, if it is the two sides of a picture. Raises OptionError."""
    pair = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(side, _COUNTS) and 0 < side < 1 << 15 for side in pair):
        raise OptionError(f"size is {size!r}; it must be two whole numbers between 1 and {(1 << 15) - 1}")
    return int(pair[0]), int(pair[1])
