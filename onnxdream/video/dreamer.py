"""Dream frames one after the other: each dream starts from the one before, moved along with the scene.

With source I, dream D and the flow F from frame t to t-1, estimated on the source, a frame starts from

    start = I_t + gain * M * warp(D_{t-1} - I_{t-1}, F)

and takes a few small ascent steps. The residual is warped, never the picture, so the picture stays sharp. M is 0 where
the flow cannot be trusted (`flow.visible`), so nothing is dragged along. The residual's mean is subtracted, so a long
scene grows neither brighter nor darker. The gain keeps the objective near its value at the start of the scene, so still
areas grow no stronger than moving ones. Warm starts along the flow follow Ruder, Dosovitskiy and Brox 2016, "Artistic
Style Transfer for Videos".
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from ..dream.build import build_dreamer, build_objective
from ..dream.dreamer import Dreamer, Progress
from ..errors import OptionError
from ..images import from_batch, to_batch
from ..settings import RunSettings, Settings, VideoSettings, layered
from . import frame_formats
from .flow import CutDetector, estimator, soften, visible, warp
from .rate_control import Effort, RateControl, efforts

_CATCH_UP = 3.0  # with a target rate, steps grow by at most this factor while a dream is weaker than the scene's first
_FAINTEST = 0.5  # of the scene's first residual; a source with a strong response of its own fades the dream no further
_COUNTS = (int, np.integer)


@dataclass(frozen=True)
class Prepared:
    """A frame and what is known of it from the source alone."""

    frame: np.ndarray  # RGB float32 [H,W,3] in 0..255
    small: np.ndarray  # the same at the working size
    cut: bool  # whether it begins a scene
    motion: np.ndarray | None = None  # flow [h,w,2] to the frame before
    trust: np.ndarray | None = None  # float32 [h,w] in 0..1: how far that flow can be trusted


@dataclass(frozen=True)
class Memory:
    """What the dream of one frame hands to the next."""

    residual: np.ndarray  # RGB float32 [h,w,3], dream minus source, at the working size
    dream: np.ndarray  # RGB float32 [h,w,3]
    strength: float  # root mean square of the scene's first residual
    level: float  # the objective's value in the scene's first frame, or in the first frame with this objective
    goal: str  # the objective that `level` is a value of


class VideoDreamer:
    """Dreams the frames of a video one after the other and keeps the dream in place on what moves.

    It works like OpenCV's own objects, such as `cv2.BackgroundSubtractor`: `apply` takes a frame and returns one,
    `reset` forgets the past, and getters and setters change settings between frames. Several may work side by side,
    each in one thread at a time.

    The methods are "flow" (see the module's docstring) and the baselines it is measured against: "warp" warps the whole
    previous dream and blends it with the frame, "blend" blends without warping, and "independent" dreams each frame on
    its own. The baselines take the dreamer's full number of steps for each frame.

    With "flow", a scene's first frame takes `dreamer.steps` steps per octave. Later frames take `frame_steps` at full
    size and one in each smaller octave, since large structures have already moved along. The residual fades a little
    while the objective is above its value in the scene's first frame.

    With `target_fps` above 0, `apply` keeps that rate: it chooses steps, octaves and working size, none above the given
    ones, by the time that frames take (`getEffort`). Only the very first frame then takes all steps; the dream of a new
    scene builds up over some frames.

    Args:
        dreamer: Dreams single pictures; gives the objective, octaves and step size.
        method: One of `settings.Method`.
        flow: The optical flow, one of `settings.Flow`.
        frame_steps: Ascent steps at full size for frames within a scene, at least 0.
        frame_step: The size of those steps, as a share of the dreamer's step size.
        strength: How far a still area may build up: the carried residual's limit, averaged around each place, as a
            multiple of the residual in the scene's first frame.
        blend: Share of the previous dream, 0 to 1, for the methods "warp" and "blend".
        size: (height, width) to dream at, the frame's own if None. The residual is scaled up onto the full frame.
        target_fps: Frames per second to keep, 0 for no target.

    Raises:
        OptionError: A setting is out of range.
    """

    def __init__(
        self,
        dreamer: Dreamer,
        *,
        method: str = VideoSettings.method,
        flow: str = VideoSettings.flow,
        frame_steps: int = VideoSettings.frame_steps,
        frame_step: float = VideoSettings.frame_step,
        strength: float = VideoSettings.strength,
        blend: float = VideoSettings.blend,
        size: tuple[int, int] | None = None,
        target_fps: float = VideoSettings.target_fps,
    ) -> None:
        VideoSettings.check(method=method, flow=flow, blend=blend)
        self.dreamer, self.method, self.flow, self.blend = dreamer, method, flow, blend
        self.setFrameSteps(frame_steps)
        self.setFrameStep(frame_step)
        self.setStrength(strength)
        self.setTargetFPS(target_fps)
        self.size = None if size is None else _checked_size(size)
        self._effort: Effort | None = None  # for this frame, with a target rate
        self._estimate, self._estimate_back = estimator(flow), estimator(flow, rough=True)
        self.cuts = CutDetector()
        self.last: np.ndarray | None = None  # luminance uint8 [h,w] of the previous source frame, at the working size
        self.memory: Memory | None = None
        self.count = 0  # frames before this one
        self.objective = float("nan")  # of the last frame, before its last step

    @property
    def provider(self) -> str:
        """What the last frame was dreamed on (see `Dreamer.provider`); empty before the first."""
        return "" if self.last is None else self.dreamer.provider((1, 3, *self.last.shape[:2]))

    def reset(self, count: int = 0) -> None:
        """Forget the past: the next frame begins a scene.

        Args:
            count: How many frames come before it.
        """
        self.cuts, self.last, self.memory, self.count = CutDetector(), None, None, count
        self.objective = float("nan")

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, by the copy module or by Ray, have the same settings and no past.

        Objectives hold functions that pickle cannot store; cloudpickle, which Ray uses, can.
        """
        settings = {n: getattr(self, n) for n in ("method", "flow", "frame_steps", "frame_step", "strength", "blend")}
        return partial(VideoDreamer, **settings, size=self.size, target_fps=self.getTargetFPS()), (self.dreamer,)

    def __enter__(self) -> VideoDreamer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reset()

    def apply(self, frame: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Dream the next frame.

        Args:
            frame: BGR uint8 [H,W,3], or any other kind that `frame_formats.as_bgr` accepts.
            mask: Where the dream is to show, [H,W], bool, uint8 or floating point in 0..1; everywhere if None. The
                dream goes on beneath it.

        Returns:
            The dreamed frame, of the frame's own shape and type.

        Raises:
            PictureError: `frame` is no frame, or `mask` no mask of its size.
        """
        began = time.perf_counter()
        bgr, restore = frame_formats.as_bgr(frame)
        weight = None if mask is None else frame_formats.as_weight(mask, bgr.shape[:2])
        typical = self.memory is not None  # its time tells what the next frames will take
        if self.rate_control is None:
            self._effort = None
        else:
            typical = self._choose_effort(bgr, self.rate_control) and typical
        residual = cv2.cvtColor(self._residual(self._prepare(self._rgb(bgr))), cv2.COLOR_RGB2BGR)
        if residual.shape != bgr.shape:
            if bgr.dtype == np.uint8:  # integers are scaled and added three times as fast
                residual = np.rint(residual).astype(np.int16)
            residual = cv2.resize(residual, bgr.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        if weight is not None:
            residual = residual * weight
        result = restore(frame_formats.add(bgr, residual))
        if self.rate_control is not None and self._effort is not None and typical:
            cost = self._effort.cost(bgr.shape[:2], self.dreamer.octave_scale)
            self.rate_control.record(time.perf_counter() - began, cost)
        return result

    def _rgb(self, bgr: np.ndarray) -> np.ndarray:
        """A frame at the working size, RGB float32."""
        size = self.size if self._effort is None else self._effort.size
        if size is not None and bgr.shape[:2] != size:
            bgr = cv2.resize(bgr, size[::-1], interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.float32)

    def _choose_effort(self, bgr: np.ndarray, rate_control: RateControl) -> bool:
        """Set the effort for this frame; return whether it is the previous frame's, so no session must be opened."""
        shape, scale = bgr.shape[:2], self.dreamer.octave_scale
        dreamer = self.dreamer
        options = efforts(self.size or shape, dreamer.octaves, self.frame_steps, scale, dreamer.smallest_accepted)
        if dreamer.fixed_input_size is not None:
            options = [Effort(dreamer.fixed_input_size, (n,)) for n in (self.frame_steps, 1)]
        if not rate_control.knows_pace:
            trial = options[len(options) // 2]
            self._effort = trial
            small = to_batch(self._rgb(bgr))
            took = []
            for _ in range(4):  # the first opens the sessions
                began = time.perf_counter()
                self.dreamer.ascend(small, steps=trial.steps)
                took.append(time.perf_counter() - began)
            rate_control.record(min(took), trial.ascent(scale))
        before, self._effort = self._effort, rate_control.choose(options, shape, scale)
        self._resize_memory(self._effort.size)
        return before == self._effort

    def _resize_memory(self, size: tuple[int, int]) -> None:
        """Go on at another working size (height, width); one of another aspect ratio begins a scene."""
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
        """Dream the next frame, regardless of any target rate.

        Args:
            frame: RGB float32 [H,W,3] in 0..255.

        Returns:
            The dream, like the frame.
        """
        self._effort = None
        return self.develop(self.prepare(frame))

    def prepare(self, frame: np.ndarray, cut: bool | None = None) -> Prepared:
        """Do the part of the work that needs the source alone; it may run ahead of `develop`, in another thread.

        Args:
            frame: RGB float32 [H,W,3] in 0..255.
            cut: Whether the frame begins a scene; detected if None.
        """
        small = frame
        if self.size is not None and frame.shape[:2] != self.size:
            small = cv2.resize(frame, self.size[::-1], interpolation=cv2.INTER_AREA)
        return replace(self._prepare(small, cut), frame=frame)

    def _prepare(self, small: np.ndarray, cut: bool | None = None) -> Prepared:
        """Prepare a frame that has the working size."""
        eight_bit = cv2.convertScaleAbs(small)
        light = cv2.cvtColor(eight_bit, cv2.COLOR_RGB2GRAY)
        before, self.last = self.last, light
        if cut is None:
            cut = self.cuts(eight_bit)
        if cut or before is None or before.shape != light.shape:
            return Prepared(small, small, cut=True)
        if self.method not in ("flow", "warp"):
            return Prepared(small, small, cut=False)
        backward = self._estimate(light, before)
        if self.method == "warp":
            return Prepared(small, small, cut=False, motion=backward)
        forward = self._estimate_back(before, light)
        trust = soften(visible(backward, forward, spacing=2))
        return Prepared(small, small, cut=False, motion=backward, trust=trust)

    def develop(self, prepared: Prepared, *, steps: int | None = None) -> np.ndarray:
        """Dream a prepared frame.

        Args:
            prepared: What `prepare` returned for it.
            steps: Replaces `frame_steps`; with 0 the dream only moves along.

        Returns:
            RGB float32 [H,W,3] in 0..255.
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
        goal = self.dreamer.goal
        if self.memory is None:
            dreamed = self._ascend(small, [self.dreamer.steps] * len(each))
        elif prepared.cut:
            if self._effort is None:
                dreamed, strength = self._ascend(small), None
            else:
                dreamed = self._ascend(small, each, _CATCH_UP * step_size)
        else:
            start = self._start(prepared, self.memory, goal)
            if self._effort is not None and not self.objective > self.memory.level:
                behind = self.memory.strength / max(_rms(start - small), 1e-6)
                step_size *= min(max(behind, 1.0), _CATCH_UP)
            if self.method == "flow":
                dreamed = self._ascend(start, each, step_size) if steps else start
            else:
                dreamed = self._ascend(start)
        self.count += 1
        residual = np.asarray(dreamed - small)
        if self.method == "flow" and strength is None:  # as what is carried on; else light would jump behind the first
            residual -= residual.mean(axis=(0, 1))
            dreamed = small + residual
        before = None if strength is None else self.memory
        level = before.level if before is not None and before.goal == goal else self.objective
        self.memory = Memory(residual, dreamed, _rms(residual) if strength is None else strength, level, goal)
        return residual

    def _start(self, prepared: Prepared, memory: Memory, goal: str) -> np.ndarray:
        """The picture that the ascent of this frame starts from; `goal` is its objective."""
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
        share = cv2.multiply(gain, prepared.trust, scale=self._fading(memory, goal))
        start = cv2.add(small, cv2.multiply(carried, cv2.merge([share, share, share])))
        return np.clip(start, 0, 255, out=start)

    def _fading(self, memory: Memory, goal: str) -> float:
        """The share of the residual to keep, below 1 where the objective is above the scene's first."""
        if memory.goal != goal or not self.objective > memory.level > 0:
            return 1.0
        faintest = _FAINTEST * memory.strength / max(_rms(memory.residual), 1e-6)
        return min(1.0, max(memory.level / self.objective, faintest))

    def _ascend(
        self, start: np.ndarray, steps: Sequence[int] | None = None, step_size: float | None = None
    ) -> np.ndarray:
        def note(progress: Progress) -> None:
            self.objective = progress.objective

        # New jitter for every frame: with the same each time, the network's grid would build up in the residual.
        rng = np.random.default_rng([self.dreamer.seed, self.count])
        dreamed, _, _ = self.dreamer.ascend(to_batch(start), on_step=note, rng=rng, steps=steps, step_size=step_size)
        return from_batch(dreamed)

    def source_state(self) -> dict[str, np.ndarray]:
        """The state of `prepare`, as arrays."""
        return {"last": _EMPTY if self.last is None else self.last, **self.cuts.state()}

    def memory_state(self) -> dict[str, np.ndarray]:
        """The state of `develop`, as arrays."""
        memory = self.memory or Memory(_EMPTY, _EMPTY, 0.0, 0.0, "")
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
        """Continue from a state between two frames.

        Args:
            state: What `source_state` and `memory_state` returned.
        """
        self.last = state["last"] if state["last"].size else None
        self.cuts = CutDetector.restored(state)
        residual, self.count = state["residual"], int(state["count"])
        self.objective = float(state["objective"])
        scene = float(state["strength"]), float(state["level"]), str(state["goal"])
        self.memory = Memory(residual, state["dream"], *scene) if residual.size else None

    def replace_dreamer(self, dreamer: Dreamer) -> None:
        """Continue with another Dreamer; what has been dreamed stays.

        Args:
            dreamer: Dreams the next frames.
        """
        self.dreamer = dreamer
        if self.rate_control is not None:
            self.rate_control.reset()

    # Getters and setters, named as in OpenCV.

    def getLayer(self) -> str:
        """The layer, or the first of several; that of the first network."""
        return self.dreamer.objective.layers[0]

    def setLayer(self, layer: str | Sequence[str]) -> None:
        """Dream another layer, or several, from the next frame on; their objective is then l2.

        With several networks these are layers of the first, and the others stay.

        Args:
            layer: Named as for `create_video_dreamer`.

        Raises:
            OptionError: This names no layer.
            LayerError: The network has no such layer.
            NoGradientError: There is no gradient from that layer to the picture.
        """
        settings = Settings().updated({"layers": layer}, "setLayer")
        self.replace_dreamer(self.dreamer.with_objective(build_objective(settings, self.dreamer.model)))

    def getStrength(self) -> float:
        """How far a dream may build up, as a multiple of the residual in a scene's first frame."""
        return self.strength

    def setStrength(self, strength: float) -> None:
        """Let the dream build up more or less.

        Args:
            strength: As for `VideoDreamer`, at least 0.

        Raises:
            OptionError: It is not such a number.
        """
        self.strength: float = VideoSettings.check(strength=strength)["strength"]

    def getFrameSteps(self) -> int:
        """Ascent steps per frame at full size."""
        return self.frame_steps

    def setFrameSteps(self, steps: int) -> None:
        """Change the number of ascent steps per frame.

        Args:
            steps: At least 0; with a target rate, the maximum.

        Raises:
            OptionError: It is not such an integer.
        """
        self.frame_steps: int = VideoSettings.check(frame_steps=steps)["frame_steps"]

    def getFrameStep(self) -> float:
        """The size of a frame's steps, as a share of the dreamer's step size."""
        return self.frame_step

    def setFrameStep(self, share: float) -> None:
        """Take larger or smaller steps.

        Args:
            share: The size of a frame's steps, as a share of the dreamer's step size, at least 0.

        Raises:
            OptionError: It is not such a number.
        """
        self.frame_step: float = VideoSettings.check(frame_step=share)["frame_step"]

    def getTargetFPS(self) -> float:
        """The target rate in frames per second, 0 for none."""
        return 0.0 if self.rate_control is None else self.rate_control.target_fps

    def setTargetFPS(self, rate: float) -> None:
        """Keep a rate.

        Args:
            rate: In frames per second, 0 for none.

        Raises:
            OptionError: It is out of range, or the method is not "flow".
        """
        rate = VideoSettings.check(target_fps=rate)["target_fps"]
        if rate and self.method != "flow":
            raise OptionError(f"method {self.method} takes all steps for each frame; only flow keeps a rate")
        self.rate_control = RateControl(rate) if rate else None

    def getEffort(self) -> Effort | None:
        """What was chosen to keep the target rate, None without one; `str` describes it."""
        return None if self.rate_control is None else self.rate_control.effort

    def getWorkingSize(self) -> tuple[int, int]:
        """The (width, height) dreamed at; (0, 0) before the first frame if no size was set."""
        height, width = (self.size or (0, 0)) if self.last is None else self.last.shape[:2]
        return width, height

    def setWorkingSize(self, size: tuple[int, int] | None) -> None:
        """Dream at another size; what has been dreamed is scaled if the aspect ratio is the same.

        Args:
            size: (width, height), the maximum with a target rate; None for the frames' own size.

        Raises:
            OptionError: This is no size.
        """
        self.size = None if size is None else _checked_size(size)[::-1]
        if self.size is not None:
            self._resize_memory(self.size)


def create_video_dreamer(
    layer: str | Sequence[str] = (),
    *,
    model: str | None = None,
    preset: str | None = None,
    target_fps: float = VideoSettings.target_fps,
    size: tuple[int, int] | None = None,
    method: str = VideoSettings.method,
    flow: str | None = None,
    frame_steps: int = VideoSettings.frame_steps,
    frame_step: float = VideoSettings.frame_step,
    strength: float = VideoSettings.strength,
    device: str = RunSettings.device,
    threads: int = RunSettings.threads,
    max_memory: int = RunSettings.max_memory,
    **settings: Any,
) -> VideoDreamer:
    """Create a filter for frames: `dreamer = create_video_dreamer("fire5"); out = dreamer.apply(frame)`.

    May be called from several threads at once.

    Args:
        layer: A layer's name, or several, each optionally with a weight ("fire8:0.5"); the model's recommended layer
            if empty.
        model: A network's name or an ONNX file.
        preset: A named look.
        target_fps: Frames per second to keep, 0 for no target (see `VideoDreamer`).
        size: (width, height) to dream at, the frame's own if None.
        method: See `VideoDreamer`.
        flow: The optical flow; by default "dis-ultrafast" with a target rate and "dis-medium" without.
        frame_steps: See `VideoDreamer`.
        frame_step: See `VideoDreamer`.
        strength: See `VideoDreamer`.
        device: What to dream on, see `Dreamer`.
        threads: CPU threads, 0 for one per core.
        max_memory: Bytes a dream may take before it is split into tiles.
        **settings: Those of `onnxdream image`: also, objective, exponent, channels, guide, octaves, octave_scale,
            steps, step_size, jitter, bands, colors, headroom, smooth, seed.

    Raises:
        OptionError: A setting is unknown or out of range.
        LayerError: The network has no such layer.
        ModelError: The file is not a network that can be dreamed with.
        BackendError: The engine or the device is missing.
    """
    given = {"model": model, "layers": layer or None, **settings}
    look = layered({name: value for name, value in given.items() if value is not None}, preset=preset)
    if look.keep_colors:
        raise OptionError("keep_colors is for pictures, not for video; omit it")
    motion: dict[str, Any] = {
        "method": method, "flow": flow or ("dis-ultrafast" if target_fps else "dis-medium"),
        "frame_steps": frame_steps, "frame_step": frame_step, "strength": strength, "target_fps": target_fps,
    }  # fmt: skip
    VideoSettings.check(**motion)  # before anything is fetched or built
    within = None if size is None else _checked_size(size)[::-1]
    dreamer = build_dreamer(look, max_memory=max_memory, device=device, threads=threads)
    return VideoDreamer(dreamer, **motion, size=within)


def dream_frames(
    frames: Iterable[np.ndarray], dreamer: VideoDreamer | None = None, **options: Any
) -> Iterator[np.ndarray]:
    """Yield the dream of each frame in turn.

    Args:
        frames: Frames as `VideoDreamer.apply` takes them.
        dreamer: Dreams them; created from `options` if None.
        **options: Arguments of `create_video_dreamer`, used without `dreamer`.

    Raises what `create_video_dreamer` and `VideoDreamer.apply` raise.
    """
    video_dreamer = dreamer or create_video_dreamer(**options)
    for frame in frames:
        yield video_dreamer.apply(frame)


_EMPTY = np.zeros((0, 0, 3), np.float32)


def _rms(residual: np.ndarray) -> float:
    return cv2.norm(residual) / math.sqrt(residual.size)


def _local_rms(residual: np.ndarray) -> np.ndarray:
    """Root mean square [h,w] of a residual [h,w,3] around each pixel, in a window of a sixth of the picture."""
    height, width = residual.shape[:2]
    small = (max(1, width // 8), max(1, height // 8))
    square = cv2.resize(cv2.multiply(residual, residual), small, interpolation=cv2.INTER_AREA)
    mean = cv2.GaussianBlur(square, (0, 0), min(small) / 12, borderType=cv2.BORDER_REFLECT).mean(2)
    return np.asarray(cv2.resize(np.sqrt(mean), (width, height), interpolation=cv2.INTER_LINEAR))


def _checked_size(size: Any) -> tuple[int, int]:
    """`size` if it is a pair of side lengths. Raises OptionError."""
    pair = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(side, _COUNTS) and 0 < side < 1 << 15 for side in pair):
        raise OptionError(f"size is {size!r}; it must be two whole numbers between 1 and {(1 << 15) - 1}")
    return int(pair[0]), int(pair[1])
