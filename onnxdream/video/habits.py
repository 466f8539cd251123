"""Getters and setters named as OpenCV's own objects have them; each is one attribute of the dreamer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import OptionError
from ..objectives import l2
from .budget import Budget, Effort

if TYPE_CHECKING:
    import numpy as np

    from ..dream import Dreamer


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

    def setLayer(self, layer: str) -> None:
        """Dream with another layer from the next frame on. Raises LayerError or NoGradientError."""
        self.swap(self.dreamer.with_objective(l2(layer)))

    def swap(self, dreamer: Dreamer) -> None:
        """Go on with another Dreamer; what has been dreamed stays."""
        self.dreamer = dreamer
        if self.budget is not None:
            self.budget.forget()

    def getStrength(self) -> float:
        """How far a dream may build up, in multiples of what a scene's first frame gets."""
        return self.strength

    def setStrength(self, strength: float) -> None:
        """Let the dream build up more or less. Raises OptionError for less than 0."""
        self.strength = _not_negative("strength", strength)

    def getFrameSteps(self) -> int:
        """Ascent steps a frame at the full size."""
        return self.frame_steps

    def setFrameSteps(self, steps: int) -> None:
        """Take that many; with a target rate, at most. Raises OptionError for less than 0."""
        self.frame_steps = int(_not_negative("frame_steps", steps))

    def getFrameStep(self) -> float:
        """The size of a frame's steps, as a share of the dreamer's."""
        return self.frame_step

    def setFrameStep(self, share: float) -> None:
        """Take larger or smaller steps. Raises OptionError for less than 0."""
        self.frame_step = _not_negative("frame_step", share)

    def getTargetFPS(self) -> float:
        """The rate that is kept, 0 when none is."""
        return 0.0 if self.budget is None else self.budget.target_fps

    def setTargetFPS(self, rate: float) -> None:
        """Keep that rate; 0 for none. Raises OptionError for one that cannot be, and for methods that keep none."""
        if rate and self.method != "flow":
            raise OptionError(f"method {self.method} takes all steps for each frame; only flow keeps a rate")
        self.budget = Budget(rate) if rate else None

    def getEffort(self) -> Effort | None:
        """What was chosen to keep the rate, None where there is no choice; `str` says it in words."""
        return None if self.budget is None else self.budget.effort

    def getWorkingSize(self) -> tuple[int, int]:
        """(width, height) that the last frame was dreamed at, zeros before the first."""
        return (0, 0) if self.last is None else (self.last.shape[1], self.last.shape[0])

    def setWorkingSize(self, size: tuple[int, int] | None) -> None:
        """Dream at this (width, height), at most with a target rate; None: at the frames' own."""
        self.size = None if size is None else (size[1], size[0])


def _not_negative(name: str, value: float) -> float:
    if not value >= 0:
        raise OptionError(f"{name} is {value}; it must not be negative")
    return value
