"""The temporal core: one frame in, one dreamed frame out, and what was dreamed before moves with the scene.

With source I, dream D and the flow F from frame t to t-1, estimated on the source, a frame starts from

    start = I_t + gain * M * warp(D_{t-1} - I_{t-1}, F)

and a few small ascent steps go on from there. The residual is warped, never the picture, so that the picture stays
sharp; M is 0 where the flow cannot be trusted (`flow.visible`), so that nothing is dragged along; the residual loses
its mean, so that a long scene grows neither brighter nor darker; and the gain keeps the objective near where the scene
began, so that what stands still grows no stronger than what moves. Warm starts along the flow follow Ruder,
Dosovitskiy and Brox 2016, "Artistic Style Transfer for Videos".
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from ..dream.dreamer import Dreamer, Progress
from ..errors import OptionError
from ..images import from_batch, to_batch
from . import frame_formats
from .flow import CutDetector, estimator, grey, soften, visible, warp
from .habits import Habits, checked_number, checked_size
from .rate_control import Budget, Effort, efforts

METHODS = ("flow", "warp", "blend", "independent")
_CATCH_UP = 3.0  # where a rate is kept, steps are at most this much larger while a dream is weaker than the first
_RISE = 1.25  # an objective this many times what the scene began with lets the residual fade
_FAINTEST = 0.7  # of the residual a scene began with; a source that responds more by itself fades the dream no further


@dataclass(frozen=True)
class Prepared:
    """A frame with what the source alone tells about it."""

    frame: np.ndarray  # RGB float32 [H,W,3] in 0..255
    small: np.ndarray  # the same at the working size
    cut: bool  # it begins a scene
    motion: np.ndarray | None = None  # flow [h,w,2] to the frame before
    trust: np.ndarray | None = None  # float32 [h,w] in 0..1, where that flow can be trusted


@dataclass(frozen=True)
class Memory:
    """What the dream of one frame passes on to the next."""

    residual: np.ndarray  # RGB float32 [h,w,3], dream minus source, at the working size
    dream: np.ndarray  # RGB float32 [h,w,3]
    strength: float  # root mean square of the residual that the scene began with
    level: float  # the objective that the scene began with, or the first frame with this objective
    goal: str  # the objective that this is of


class VideoDreamer(Habits):
    """Dreams the frames of a video one after the other and keeps the dream in place on what moves.

    An object in OpenCV's manner: `apply` takes a frame and gives one, `reset` forgets the past, getters and setters
    change what may change between frames. Several may work side by side, each in one thread at a time.

    `method` is "flow" (see the module's docstring), or one of the baselines it is measured against: "warp" warps the
    whole previous dream and blends it with the frame, "blend" blends without warping, both by `blend`, and
    "independent" dreams each frame alone; all three take the dreamer's full number of steps for each frame.

    `flow` is the flow method (`flow.METHODS`). A scene's first frame takes `dreamer.steps` steps an octave, later ones
    `frame_steps` at the full size and one in each smaller octave, for what is large has come along already; each is
    `frame_step` times the dreamer's step size. Nowhere may the carried residual exceed `strength` times the size it had
    in the scene's first frame, on average around each place: what stands still does not burn in. The residual fades a
    little while the objective is well above that of the scene's first frame.
    `size` (height, width) is the size to dream at; the residual is then scaled up onto the full frame.

    With `target_fps` above 0, `apply` keeps that many frames a second: it chooses steps, octaves and working size, none
    beyond the given ones, by the time that frames take (`getEffort`). Only the very first frame takes all steps then; a
    new scene's dream grows in over some frames.

    Raises OptionError for settings out of range.
    """

    def __init__(
        self,
        dreamer: Dreamer,
        *,
        method: str = "flow",
        flow: str = "dis-medium",
        frame_steps: int = 2,
        frame_step: float = 0.75,
        strength: float = 2.0,
        blend: float = 0.5,
        size: tuple[int, int] | None = None,
        target_fps: float = 0.0,
    ) -> None:
        if method not in METHODS:
            raise OptionError(f"unknown method {method!r}; methods are {', '.join(METHODS)}")
        if checked_number("blend", blend) > 1:
            raise OptionError(f"blend is {blend}; it must be between 0 and 1")
        self.dreamer, self.method, self.flow, self.blend = dreamer, method, flow, blend
        self.setFrameSteps(frame_steps)
        self.setFrameStep(frame_step)
        self.setStrength(strength)
        self.setTargetFPS(target_fps)
        self.size = None if size is None else checked_size(size)
        self._effort: Effort | None = None  # of this frame, where a rate is kept
        self._estimate, self._estimate_back = estimator(flow), estimator(flow, rough=True)
        self.cuts = CutDetector()
        self.last: np.ndarray | None = None  # the source frame before, at the working size
        self.memory: Memory | None = None
        self.count = 0  # frames before this one
        self.objective = float("nan")  # of the last frame, before its last step

    @property
    def provider(self) -> str:
        """What the last frame was dreamed on, as `Dreamer.provider` says, empty before the first."""
        return "" if self.last is None else self.dreamer.provider((1, 3, *self.last.shape[:2]))

    def reset(self, count: int = 0) -> None:
        """Forget the past: the next frame begins a scene and is the one after `count` others."""
        self.cuts, self.last, self.memory, self.count = CutDetector(), None, None, count
        self.objective = float("nan")

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies have the same settings and no past: those of the copy module, and those that Ray sends to others.

        Objectives hold functions that pickle alone does not know; cloudpickle, which Ray uses, does.
        """
        settings = {n: getattr(self, n) for n in ("method", "flow", "frame_steps", "frame_step", "strength", "blend")}
        rate = 0.0 if self.budget is None else self.budget.target_fps
        return partial(VideoDreamer, **settings, size=self.size, target_fps=rate), (self.dreamer,)

    def __enter__(self) -> VideoDreamer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reset()

    def apply(self, frame: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Dream the next frame: BGR uint8 [H,W,3] in and out, or any other kind that `frame_formats.as_bgr` knows.

        `mask` [H,W], bool, uint8 or floating point in 0..1, is where the dream is to show; it goes on everywhere.
        Raises PictureError for what is no frame or no mask of its size.
        """
        began = time.perf_counter()
        bgr, restore = frame_formats.as_bgr(frame)
        weight = None if mask is None else frame_formats.as_weight(mask, bgr.shape[:2])
        usual = self.memory is not None
        if self.budget is None:
            self._effort = None
        else:
            usual = self._choose(bgr, self.budget) and usual
        residual = cv2.cvtColor(self._residual(self._prepare(self._rgb(bgr))), cv2.COLOR_RGB2BGR)
        if residual.shape != bgr.shape:
            if bgr.dtype == np.uint8:  # whole numbers are scaled and added three times as fast
                residual = np.rint(residual).astype(np.int16)
            residual = cv2.resize(residual, bgr.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        if weight is not None:
            residual = residual * weight
        result = restore(frame_formats.add(bgr, residual))
        if self.budget is not None and self._effort is not None and usual:
            cost = self._effort.cost(bgr.shape[:2], self.dreamer.octave_scale)
            self.budget.measured(time.perf_counter() - began, cost)
        return result

    def _rgb(self, bgr: np.ndarray) -> np.ndarray:
        """A frame at the working size, RGB float32."""
        size = self.size if self._effort is None else self._effort.size
        if size is not None and bgr.shape[:2] != size:
            bgr = cv2.resize(bgr, size[::-1], interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.float32)

    def _choose(self, bgr: np.ndarray, budget: Budget) -> bool:
        """Set the effort for this frame; whether it is the one before's, so that nothing has to be made ready."""
        shape, scale = bgr.shape[:2], self.dreamer.octave_scale
        dreamer = self.dreamer
        options = efforts(self.size or shape, dreamer.octaves, self.frame_steps, scale, dreamer.smallest)
        if dreamer.fixed_input_size is not None:
            options = [Effort(dreamer.fixed_input_size, (n,)) for n in (self.frame_steps, 1)]
        if not budget.knows_pace:
            trial = options[len(options) // 2]
            self._effort = trial
            small = to_batch(self._rgb(bgr))
            took = []
            for _ in range(4):  # the first makes the networks ready
                began = time.perf_counter()
                self.dreamer.ascend(small, steps=trial.steps)
                took.append(time.perf_counter() - began)
            budget.measured(min(took), trial.ascent(scale))
        before, self._effort = self._effort, budget.choose(options, shape, scale)
        self.scale_past(self._effort.size)
        return before == self._effort

    def scale_past(self, size: tuple[int, int]) -> None:
        """See Habits."""
        if self.last is None or self.memory is None or self.last.shape[:2] == size:
            return
        if abs(math.log(self.last.shape[0] * size[1] / (self.last.shape[1] * size[0]))) > 0.1:
            self.last = None
            return

        def scaled(picture: np.ndarray) -> np.ndarray:
            return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR)

        self.last = scaled(self.last)
        memory = self.memory
        self.memory = replace(memory, residual=scaled(memory.residual), dream=scaled(memory.dream))

    def dream(self, frame: np.ndarray) -> np.ndarray:
        """Dream the next frame, RGB float32 [H,W,3] in 0..255 in and out, whatever time it takes."""
        self._effort = None
        return self.develop(self.prepare(frame))

    def prepare(self, frame: np.ndarray, cut: bool | None = None) -> Prepared:
        """The half of the work that needs the source alone; it may run ahead of `develop`, in another thread.

        `cut` says whether the frame begins a scene, where that is known already.
        """
        small = frame
        if self.size is not None and frame.shape[:2] != self.size:
            small = cv2.resize(frame, self.size[::-1], interpolation=cv2.INTER_AREA)
        return replace(self._prepare(small, cut), frame=frame)

    def _prepare(self, small: np.ndarray, cut: bool | None = None) -> Prepared:
        """The same for a frame at the working size."""
        before, self.last = self.last, small
        same_size = before is not None and before.shape == small.shape
        if cut is None:
            cut = self.cuts(cv2.cvtColor(cv2.convertScaleAbs(small), cv2.COLOR_RGB2BGR))
        if cut or not same_size:
            return Prepared(small, small, cut=True)
        if self.method not in ("flow", "warp"):
            return Prepared(small, small, cut=False)
        light, light_before = grey(small), grey(before)  # type: ignore[arg-type]
        backward = self._estimate(light, light_before)
        if self.method == "warp":
            return Prepared(small, small, cut=False, motion=backward)
        forward = self._estimate_back(light_before, light)
        trust = soften(visible(backward, forward, spacing=2))
        return Prepared(small, small, cut=False, motion=backward, trust=trust)

    def develop(self, prepared: Prepared, *, steps: int | None = None) -> np.ndarray:
        """The dream of a prepared frame, RGB float32 [H,W,3] in 0..255.

        `steps` takes the place of `frame_steps`; with 0 the dream only moves along.
        """
        frame = prepared.frame
        residual = self._residual(prepared, steps=steps)
        if prepared.small is not frame:
            residual = cv2.resize(residual, frame.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        return frame_formats.add(frame, residual)

    def _residual(self, prepared: Prepared, *, steps: int | None = None) -> np.ndarray:
        """What the dream adds to a prepared frame, RGB float32 [h,w,3] at the working size."""
        small = prepared.small
        steps = self.frame_steps if steps is None else steps
        each = (*[1] * (self.dreamer.octaves - 1), steps) if self._effort is None else self._effort.steps
        step_size = self.frame_step * self.dreamer.step_size
        strength = None if self.memory is None else self.memory.strength
        if self.memory is None:
            dreamed = self._ascend(small, [self.dreamer.steps] * len(each))
        elif prepared.cut:
            if self._effort is None:
                dreamed, strength = self._ascend(small), None
            else:
                dreamed = self._ascend(small, each, _CATCH_UP * step_size)
        else:
            start = self._start(prepared, self.memory)
            if self._effort is not None and not self.objective > self.memory.level:
                behind = self.memory.strength / max(_rms(start - small), 1e-6)
                step_size *= min(max(behind, 1.0), _CATCH_UP)
            if self.method == "flow":
                dreamed = self._ascend(start, each, step_size) if steps else start
            else:
                dreamed = self._ascend(start)
        self.count += 1
        residual = np.asarray(dreamed - small)
        goal = repr(self.dreamer.objective)
        before = None if strength is None else self.memory
        level = before.level if before is not None and before.goal == goal else self.objective
        self.memory = Memory(residual, dreamed, _rms(residual) if strength is None else strength, level, goal)
        return residual

    def _start(self, prepared: Prepared, memory: Memory) -> np.ndarray:
        """Where the ascent of this frame starts."""
        small = prepared.small
        if self.method == "independent":
            return small
        if self.method == "blend":
            return cv2.addWeighted(memory.dream, self.blend, small, 1 - self.blend, 0)
        assert prepared.motion is not None
        if self.method == "warp":
            return cv2.addWeighted(warp(memory.dream, prepared.motion), self.blend, small, 1 - self.blend, 0)
        assert prepared.trust is not None
        carried = warp(memory.residual, prepared.motion)
        carried = cv2.subtract(carried, cv2.mean(carried))  # type: ignore[call-overload]
        gain = np.minimum(1, self.strength * memory.strength / np.maximum(_local_rms(carried), 1e-6))
        share = cv2.multiply(gain, prepared.trust, scale=self._fading(memory))
        start = cv2.add(small, cv2.multiply(carried, cv2.merge([share, share, share])))
        return np.clip(start, 0, 255, out=start)

    def _fading(self, memory: Memory) -> float:
        """The share of the residual to go on with, below 1 where the objective is over `_RISE` times the first."""
        highest = _RISE * memory.level
        if memory.goal != repr(self.dreamer.objective) or not self.objective > highest > 0:
            return 1.0
        faintest = _FAINTEST * memory.strength / max(_rms(memory.residual), 1e-6)
        return min(1.0, max(highest / self.objective, faintest))

    def _ascend(
        self, start: np.ndarray, steps: Sequence[int] | None = None, step_size: float | None = None
    ) -> np.ndarray:
        def note(progress: Progress) -> None:
            self.objective = progress.objective

        # New jitter for every frame: the same again and again would let the network's grid build up in the residual.
        rng = np.random.default_rng([self.dreamer.seed, self.count])
        dreamed, _, _ = self.dreamer.ascend(to_batch(start), on_step=note, rng=rng, steps=steps, step_size=step_size)
        return from_batch(dreamed)

    def source_state(self) -> dict[str, np.ndarray]:
        """What `prepare` remembers, as arrays."""
        return {"last": _none if self.last is None else self.last, **self.cuts.state()}

    def memory_state(self) -> dict[str, np.ndarray]:
        """What `develop` remembers, as arrays."""
        memory = self.memory or Memory(_none, _none, 0.0, 0.0, "")
        return {
            "residual": memory.residual,
            "dream": memory.dream,
            "strength": np.array(memory.strength),
            "level": np.array(memory.level),
            "goal": np.array(memory.goal),
            "count": np.array(self.count),
            "objective": np.array(self.objective),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `source_state` and `memory_state` gave between two frames."""
        self.last = state["last"] if state["last"].size else None
        self.cuts = CutDetector.restored(state)
        residual, self.count = state["residual"], int(state["count"])
        self.objective = float(state["objective"])
        scene = float(state["strength"]), float(state["level"]), str(state["goal"])
        self.memory = Memory(residual, state["dream"], *scene) if residual.size else None


_none = np.zeros((0, 0, 3), np.float32)


def _rms(residual: np.ndarray) -> float:
    return cv2.norm(residual) / math.sqrt(residual.size)


def _local_rms(residual: np.ndarray) -> np.ndarray:
    """Root mean square [h,w] of a residual [h,w,3] around each place, in a window of a sixth of the picture."""
    height, width = residual.shape[:2]
    small = (max(1, width // 8), max(1, height // 8))
    square = cv2.resize(cv2.multiply(residual, residual), small, interpolation=cv2.INTER_AREA)
    mean = cv2.GaussianBlur(square, (0, 0), min(small) / 12, borderType=cv2.BORDER_REFLECT).mean(2)
    return np.asarray(cv2.resize(np.sqrt(mean), (width, height), interpolation=cv2.INTER_LINEAR))
