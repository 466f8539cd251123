"""The temporal core: one frame in, one dreamed frame out, and what was dreamed before moves with the scene.

With source I, dream D and the flow F from frame t to t-1, estimated on the source, a frame starts from

    start = I_t + gain * M * warp(D_{t-1} - I_{t-1}, F)

and a few small ascent steps go on from there. The residual is warped, never the picture, so that the picture stays
sharp; M is 0 where the flow cannot be trusted (`flow.visible`), so that nothing is dragged along; and the residual
loses its mean, so that a long scene grows neither brighter nor darker. Warm starts along the flow follow Ruder,
Dosovitskiy and Brox 2016, "Artistic Style Transfer for Videos".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from ..dream import Dreamer, Progress
from ..errors import OptionError
from ..images import from_batch, to_batch
from .flow import CutDetector, estimator, grey, soften, visible, warp

METHODS = ("flow", "warp", "blend", "independent")


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


class VideoDreamer:
    """Dreams the frames of a video one after the other and keeps the dream in place on what moves.

    `method` is "flow" (see the module's docstring), or one of the baselines it is measured against: "warp" warps the
    whole previous dream and blends it with the frame, "blend" blends without warping, both by `blend`, and
    "independent" dreams each frame alone; all three take the dreamer's full number of steps for each frame.

    `flow` is the flow method (`flow.METHODS`). A scene's first frame takes `dreamer.steps` steps an octave, later ones
    `frame_steps`, each `frame_step` times the dreamer's step size. Nowhere may the carried residual exceed `strength`
    times the size it had in the scene's first frame, on average around each place: what stands still does not burn in.
    `size` (height, width) is the size to dream at; the residual is then scaled up onto the full frame.

    Raises OptionError for settings out of range.
    """

    def __init__(
        self,
        dreamer: Dreamer,
        *,
        method: str = "flow",
        flow: str = "dis-medium",
        frame_steps: int = 2,
        frame_step: float = 0.65,
        strength: float = 2.0,
        blend: float = 0.5,
        size: tuple[int, int] | None = None,
    ) -> None:
        if method not in METHODS:
            raise OptionError(f"unknown method {method!r}; methods are {', '.join(METHODS)}")
        if not 0 <= blend <= 1:
            raise OptionError(f"blend is {blend}; it must be between 0 and 1")
        if frame_steps < 0 or frame_step < 0 or strength < 0:
            given = f"{frame_steps}, {frame_step} and {strength}"
            raise OptionError(f"frame_steps, frame_step and strength are {given}; none may be negative")
        self.dreamer, self.method = dreamer, method
        self.frame_steps, self.frame_step, self.strength = frame_steps, frame_step, strength
        self.blend, self.size = blend, size
        self._estimate = estimator(flow)
        self.cuts = CutDetector()
        self.last: np.ndarray | None = None  # the source frame before, at the working size
        self.memory: Memory | None = None
        self.count = 0  # frames that took steps
        self.objective = float("nan")  # of the last frame, before its last step

    @property
    def provider(self) -> str:
        """The ONNX Runtime provider the last frame was dreamed on, empty before the first."""
        return "" if self.last is None else self.dreamer.provider((1, 3, *self.last.shape[:2]))

    def reset(self) -> None:
        """Forget the past: the next frame begins a scene."""
        self.cuts, self.last, self.memory, self.count = CutDetector(), None, None, 0

    def apply(self, frame: np.ndarray) -> np.ndarray:
        """Dream the next frame, BGR uint8 [H,W,3] in and out."""
        rgb = self.dream(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.float32))
        return np.asarray(cv2.cvtColor(np.rint(rgb).astype(np.uint8), cv2.COLOR_RGB2BGR))

    def dream(self, frame: np.ndarray) -> np.ndarray:
        """Dream the next frame, RGB float32 [H,W,3] in 0..255 in and out."""
        return self.develop(self.prepare(frame))

    def prepare(self, frame: np.ndarray) -> Prepared:
        """The half of the work that needs the source alone; it may run ahead of `develop`, in another thread."""
        small = frame
        if self.size is not None and frame.shape[:2] != self.size:
            small = cv2.resize(frame, self.size[::-1], interpolation=cv2.INTER_AREA)
        before, self.last = self.last, small
        same_size = before is not None and before.shape == small.shape
        if self.cuts(cv2.convertScaleAbs(small[..., ::-1])) or not same_size:
            return Prepared(frame, small, cut=True)
        if self.method not in ("flow", "warp"):
            return Prepared(frame, small, cut=False)
        light, light_before = grey(small[..., ::-1]), grey(before[..., ::-1])  # type: ignore[index]
        backward = self._estimate(light, light_before)
        if self.method == "warp":
            return Prepared(frame, small, cut=False, motion=backward)
        forward = self._estimate(light_before, light)
        return Prepared(frame, small, cut=False, motion=backward, trust=soften(visible(backward, forward)))

    def develop(self, prepared: Prepared, *, steps: int | None = None) -> np.ndarray:
        """The dream of a prepared frame, RGB float32 [H,W,3] in 0..255.

        `steps` takes the place of `frame_steps`; with 0 the dream only moves along.
        """
        small, frame = prepared.small, prepared.frame
        if prepared.cut or self.memory is None:
            dreamed, strength = self._ascend(small), None
        else:
            start = self._start(prepared, self.memory)
            if self.method == "flow":
                steps = self.frame_steps if steps is None else steps
                dreamed = self._ascend(start, steps, self.frame_step * self.dreamer.step_size) if steps else start
            else:
                dreamed = self._ascend(start)
            strength = self.memory.strength
        residual = dreamed - small
        self.memory = Memory(residual, dreamed, _rms(residual) if strength is None else strength)
        if small is not frame:
            residual = cv2.resize(residual, frame.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        return np.asarray(np.clip(frame + residual, 0, 255))

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
        carried -= carried.mean((0, 1))
        gain = np.minimum(1, self.strength * memory.strength / np.maximum(_local_rms(carried), 1e-6))
        return np.asarray(np.clip(small + carried * (gain * prepared.trust)[:, :, None], 0, 255))

    def _ascend(self, start: np.ndarray, steps: int | None = None, step_size: float | None = None) -> np.ndarray:
        def note(progress: Progress) -> None:
            self.objective = progress.objective

        # New jitter for every frame: the same again and again would let the network's grid build up in the residual.
        rng = np.random.default_rng([self.dreamer.seed, self.count])
        self.count += 1
        dreamed, _, _ = self.dreamer.ascend(to_batch(start), on_step=note, rng=rng, steps=steps, step_size=step_size)
        return from_batch(dreamed)

    def source_state(self) -> dict[str, np.ndarray]:
        """What `prepare` remembers, as arrays."""
        return {"last": _none if self.last is None else self.last, **self.cuts.state()}

    def memory_state(self) -> dict[str, np.ndarray]:
        """What `develop` remembers, as arrays."""
        memory = self.memory or Memory(_none, _none, 0.0)
        return {
            "residual": memory.residual,
            "dream": memory.dream,
            "strength": np.array(memory.strength),
            "count": np.array(self.count),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `source_state` and `memory_state` gave between two frames."""
        self.last = state["last"] if state["last"].size else None
        self.cuts = CutDetector.restored(state)
        residual, self.count = state["residual"], int(state["count"])
        self.memory = Memory(residual, state["dream"], float(state["strength"])) if residual.size else None


_none = np.zeros((0, 0, 3), np.float32)


def _rms(residual: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(residual))))


def _local_rms(residual: np.ndarray) -> np.ndarray:
    """Root mean square [h,w] of a residual [h,w,3] around each place, in a window of a sixth of the picture."""
    square = np.square(residual).mean(2)
    return np.asarray(np.sqrt(cv2.GaussianBlur(square, (0, 0), min(square.shape) / 12, borderType=cv2.BORDER_REFLECT)))
