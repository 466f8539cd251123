"""A live session: the newest frame of a feed is dreamed, shown and written until somebody stops it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np

from ...dream.build import build_objective
from ...dream.dreamer import Dreamer
from ...errors import LayerError, OnnxDreamError
from ...images import Picture, write_picture
from ...settings import Settings
from ..dreamer import VideoDreamer
from .capture import CapturedFrame, LatestFrame
from .outputs import Output, Recording
from .window import HELP, DisplayWindow

_STRONGER = 1.25
_FAINTEST, _STRONGEST = 1e-3, 1e3  # limits of strength and step size when changed by keys
_PATIENCE = 0.05  # seconds between checks for keys while no frame arrives


@dataclass
class LiveResult:
    """What a session has dreamed so far, and how fast.

    Attributes:
        frames: How many were dreamed.
        dropped: How many arrived while another was being dreamed.
        losses: How often the source was lost.
        seconds: How long the session has lasted.
        files: Snapshots and recordings made by keys.
        cancelled: Whether `on_frame` returned False.
        latencies: Seconds from arrival to display of the newest frames.
        times: When the newest frames were shown, by `time.perf_counter`.
    """

    frames: int = 0
    dropped: int = 0
    losses: int = 0
    seconds: float = 0.0
    files: list[str] = field(default_factory=list)
    cancelled: bool = False
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    times: deque[float] = field(default_factory=lambda: deque(maxlen=50))

    def add(self, frame: CapturedFrame) -> None:
        """Count a frame whose dream has just been shown and written."""
        now = time.perf_counter()
        self.frames += 1
        self.latencies.append(now - frame.time)
        self.times.append(now)

    @property
    def fps(self) -> float:
        """Frames per second over the newest frames."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0]) if len(self.times) > 1 else 0.0

    @property
    def latency(self) -> float:
        """Median seconds from the arrival of a frame until its dream was shown and written."""
        return median(self.latencies) if self.latencies else 0.0


class Live:
    """A live session, which lasts until `run` returns.

    Keys in the window change the layer and the strength, take snapshots and make recordings. Both store the settings
    they were dreamed with. A layer that does not have the objective's channels, or no places for its guide, is dreamed
    by l2.

    Args:
        video: Dreams the frames.
        latest: The feed's newest frame.
        outputs: Take every dream.
        window: Shows every dream and tells which keys are pressed; None for no window.
        folder: Where snapshots and recordings made by keys go.
        settings: Those that `video` was created with.
        note: Called with a line of text about each event.
    """

    def __init__(
        self,
        video: VideoDreamer,
        latest: LatestFrame,
        outputs: Sequence[Output],
        window: DisplayWindow | None = None,
        *,
        folder: Path = Path(),
        settings: Settings | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.video, self.latest, self.outputs, self.window = video, latest, outputs, window
        self.folder, self.note = folder, note
        self.settings = self._given = settings or Settings()
        if not self.settings.layers:
            self.settings = replace(self.settings, layers=(video.getLayer(),))
        self.result = LiveResult()
        self.frozen, self.text, self.stopped = False, True, False
        self._recording: Recording | None = None
        self._dream: np.ndarray | None = None
        self._message = ("", 0.0)  # and when it came
        self._layers = _layers(video.dreamer)
        self._next_layer = video.getLayer()
        self._preparing: Future[tuple[Dreamer, Settings, str]] | None = None

    def run(
        self,
        *,
        frames: int | None = None,
        seconds: float | None = None,
        on_frame: Callable[[LiveResult], bool | None] = lambda result: None,
    ) -> LiveResult:
        """Dream until the feed ends, the limits are reached, `on_frame` returns False, or a key quits.

        Recordings made by keys are finished however it ends.

        Args:
            frames: The number of frames to dream, counted over all calls.
            seconds: How long to dream.
            on_frame: Called after each dreamed frame. If it returns False, the session ends.

        Returns:
            The result so far; with `cancelled=True` if `on_frame` returned False.

        Raises:
            VideoError: The feed cannot be opened, or is lost for good.
            OutputError: A recording cannot go where it should.
            WriteError: An output or a recording cannot be written.
        """
        began = time.perf_counter()
        with ExitStack() as stack:
            stack.callback(self._stop_recording)
            while not self.stopped:
                frame = self.latest.take(_PATIENCE)
                if frame is None and self.latest.ended:
                    break
                self._change_layer()
                if self.frozen:
                    frame = None
                if frame is not None:
                    self._dream_one(frame)
                self._update_window()
                if frame is not None:
                    self.result.add(frame)
                self.result.seconds = time.perf_counter() - began
                if frame is not None and on_frame(self.result) is False:
                    self.result.cancelled = True
                    break
                enough = frames is not None and self.result.frames >= frames
                if enough or (seconds is not None and self.result.seconds >= seconds):
                    break
            self.result.losses = self.latest.losses
            self.result.dropped = self.latest.count - self.result.frames
        return self.result

    @property
    def rate(self) -> Fraction:
        """Frames per second: the feed's rate if known, otherwise that of the newest dreams, rounded."""
        return self.latest.feed.rate or Fraction(max(1, round(self.result.fps)))

    def status(self) -> dict[str, Any]:
        """The state of the session, for people (`text`) and programs."""
        result, effort = self.result, self.video.getEffort()
        layer, objective = self.video.getLayer(), self.video.dreamer.goal
        parts = [
            layer if objective == f"l2({layer})" else objective,
            f"{result.fps:.1f} fps",
            f"{1e3 * result.latency:.0f} ms late",
        ]
        parts += [str(effort)] if effort else []
        return {
            "text": ", ".join(parts),
            "layer": layer,
            "fps": result.fps,
            "latency": result.latency,
            "frames": result.frames,
            "effort": str(effort) if effort else None,
            "frozen": self.frozen,
            "recording": self._recording is not None,
        }

    def act(self, action: str) -> None:
        """Do what a key stands for; `action` is one of the values of `window.KEYS`."""
        if action in ("stronger", "weaker"):
            factor = _STRONGER if action == "stronger" else 1 / _STRONGER
            self.video.setStrength(min(max(_FAINTEST, self.video.getStrength() * factor), _STRONGEST))
            self.video.setFrameStep(min(max(_FAINTEST, self.video.getFrameStep() * factor), _STRONGEST))
            self._notify(f"strength {self.video.getStrength():.2g}")
        elif action in ("next layer", "previous layer"):
            self._prepare_layer(1 if action == "next layer" else -1)
        elif action == "freeze":
            self.frozen = not self.frozen
            self._notify("frozen" if self.frozen else "resumed")
        elif action == "snapshot" and self._dream is not None:
            path = self._new_name(".png")
            rgb = cv2.cvtColor(self._dream, cv2.COLOR_BGR2RGB).astype(np.float32)
            write_picture(path, Picture(rgb), self.settings.stored())
            self.result.files.append(str(path))
            self._notify(f"wrote {path.name}")
        elif action == "record":
            if not self._stop_recording():
                path = self._new_name(".mp4")
                stored = self.settings.stored() | {"source": self.latest.feed.name}
                self._recording = Recording(path, self.rate, stored)
                self._notify(f"recording {path.name}")
        elif action == "text":
            self.text = not self.text
        elif action == "quit":
            self.stopped = True

    def _dream_one(self, frame: CapturedFrame) -> None:
        dream = self._dream = self.video.apply(frame.image)
        for output in self._all_outputs():
            output.put(dream, frame.time)

    def _all_outputs(self) -> list[Output]:
        return [*self.outputs, *([self._recording] if self._recording else [])]

    def _update_window(self) -> None:
        """Show the newest dream and act on the keys."""
        if self.window is not None and self._dream is not None:
            self.window.show(self._dream, self._lines() if self.text else [])
            for action in self.window.pressed():
                self.act(action)

    def _lines(self) -> list[str]:
        state = self.status()["text"]
        if self._recording:
            state += ", recording"
        if self.frozen:
            state += ", frozen"
        message, when = self._message
        recent = time.perf_counter() - when < 3
        return [state, HELP, message] if recent else [state, HELP]

    def _notify(self, text: str) -> None:
        self._message = (text, time.perf_counter())
        self.note(text)

    def _prepare_layer(self, step: int) -> None:
        """Prepare the next layer in a thread, while the dream continues with this one."""
        if self._preparing is not None or self._dream is None:
            return
        at = self._layers.index(self._next_layer) + step
        if 0 <= at < len(self._layers):
            self._next_layer = self._layers[at]
            self._notify(f"preparing {self._next_layer}")
            executor = ThreadPoolExecutor(1, thread_name_prefix="layer")
            self._preparing = executor.submit(
                _prepare_dreamer, self.video, self._given, self._next_layer, self._dream.shape[:2]
            )
            executor.shutdown(wait=False)  # once that is done

    def _change_layer(self) -> None:
        if self._preparing is None or not self._preparing.done():
            return
        preparing, self._preparing = self._preparing, None
        try:
            dreamer, self.settings, why = preparing.result()
            self.video.replace_dreamer(dreamer)
            for output in self._all_outputs():
                output.change(self.settings)
            self._notify(f"layer {self._next_layer}{why}")
        except OnnxDreamError as error:
            self._layers.remove(self._next_layer)
            self._next_layer = self.video.getLayer()
            self._notify(str(error))

    def _stop_recording(self) -> bool:
        recording, self._recording = self._recording, None
        if recording is None:
            return False
        recording.close()
        self.result.files.append(str(recording.target))
        self._notify(f"wrote {recording.target.name}")
        return True

    def _new_name(self, suffix: str) -> Path:
        stem = time.strftime("onnxdream-%Y%m%d-%H%M%S")
        names = [stem, *(f"{stem}-{n}" for n in range(2, 100))]
        return next(p for p in (self.folder / (n + suffix) for n in names) if not p.exists())


def _layers(dreamer: Dreamer) -> list[str]:
    """The layers for the keys, from the input up: the recommended ones and the current one, or else all."""
    current = dreamer.objective.layers[0]
    all_ = [layer for layer in dreamer.model.layers.values() if layer.spatial or layer.name == current]
    chosen = [layer.name for layer in all_ if layer.recommended or layer.name == current]
    return chosen if len(chosen) > 1 else [layer.name for layer in all_]


def _prepare_dreamer(
    video: VideoDreamer, settings: Settings, layer: str, frame: tuple[int, ...]
) -> tuple[Dreamer, Settings, str]:
    """A Dreamer for another layer, with its sessions open for the size dreamed at now.

    Returns:
        The Dreamer, its settings, and a text that says why objective, channels or guide differ from those of `settings`
        if they do.

    Raises:
        PictureError: Frames of size `frame` (height, width) are too small for the layer.
    """
    changed, why = replace(settings, layers=(layer,)), ""
    try:
        dreamer = _with_objective(video.dreamer, changed)
    except LayerError as error:
        changed, why = replace(changed, objective="l2", channels=(), guide=""), f" by l2: {error}"
        dreamer = _with_objective(video.dreamer, changed)
    dreamer.check_size(dreamer.fixed_input_size or video.size or frame)
    if video.last is not None and dreamer.fixed_input_size is None:
        effort = video.getEffort()
        size = [max(pair) for pair in zip(video.last.shape[:2], dreamer.smallest_accepted, strict=True)]
        dreamer.ascend(np.full((1, 3, *size), 127, np.float32), steps=effort.steps if effort else 1)
    return dreamer, changed, why


def _with_objective(dreamer: Dreamer, settings: Settings) -> Dreamer:
    return dreamer.with_objective(build_objective(settings, dreamer.model, dreamer.device))
