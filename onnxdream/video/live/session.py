"""Dreaming what is happening now: the newest picture of a feed, dreamed, shown and written until somebody stops it."""

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

from ...dream.dreamer import Dreamer
from ...errors import LayerError, OnnxDreamError
from ...images import Picture, write_picture
from ...settings import Settings, build_objective
from ..dreamer import VideoDreamer
from .capture import Latest, Shot
from .outputs import Output, Recording
from .window import HELP, Window

_STRONGER = 1.25
_FAINTEST, _STRONGEST = 1e-3, 1e3  # what keys make of strength and step
_PATIENCE = 0.05  # seconds between looks at the keys while no picture comes


@dataclass
class LiveResult:
    """What came, what was dreamed, and how fast."""

    frames: int = 0  # dreamed
    dropped: int = 0  # came while another was being dreamed
    losses: int = 0  # times the source was lost and reached again
    seconds: float = 0.0
    files: list[str] = field(default_factory=list)  # written because keys asked for it
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=1000))  # of the newest, from coming to shown
    times: deque[float] = field(default_factory=lambda: deque(maxlen=50))  # when the newest were shown

    def shown(self, shot: Shot) -> None:
        """Count a picture whose dream has just been shown and written."""
        now = time.perf_counter()
        self.frames += 1
        self.latencies.append(now - shot.time)
        self.times.append(now)

    @property
    def fps(self) -> float:
        """Frames a second, of late."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0]) if len(self.times) > 1 else 0.0

    @property
    def latency(self) -> float:
        """Median seconds from the moment a picture came to that its dream was shown and written."""
        return median(self.latencies) if self.latencies else 0.0


class Live:
    """One live session: `run` it until it ends.

    `outputs` take every dream; `window` shows it and says what keys are pressed. Snapshots and recordings asked for by
    keys go into `folder`, with the settings that they were dreamed with inside: `settings` are those that `video` was
    made with. Where another layer has no such channels, or no places for the guide, it is dreamed by l2. `note` is told
    in a line what happens.
    """

    def __init__(
        self,
        video: VideoDreamer,
        latest: Latest,
        outputs: Sequence[Output],
        window: Window | None = None,
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
        self._said = ("", 0.0)
        self._layers = _layers(video.dreamer)
        self._wanted = video.getLayer()
        self._making: Future[tuple[Dreamer, Settings, str]] | None = None

    def run(self, *, frames: int | None = None, seconds: float | None = None) -> LiveResult:
        """Dream until the feed ends, `frames` are dreamed, `seconds` have passed, or a key says so.

        Whatever ends it, outputs and recordings are finished. Raises VideoError when the feed is lost for good, and
        what dreaming and writing raise.
        """
        began = time.perf_counter()
        with ExitStack() as stack:
            stack.callback(self._stop_recording)
            while not self.stopped:
                shot = self.latest.take(_PATIENCE)
                if shot is None and self.latest.ended:
                    break
                self._change_layer()
                if self.frozen:
                    shot = None
                if shot is not None:
                    self._dream_one(shot)
                self._look()
                if shot is not None:
                    self.result.shown(shot)
                self.result.seconds = time.perf_counter() - began
                enough = frames is not None and self.result.frames >= frames
                if enough or (seconds is not None and self.result.seconds >= seconds):
                    break
            self.result.losses = self.latest.losses
            self.result.dropped = self.latest.count - self.result.frames
        return self.result

    @property
    def rate(self) -> Fraction:
        """Pictures a second: what the feed says, or else a whole number near to what was shown of late."""
        return self.latest.feed.rate or Fraction(max(1, round(self.result.fps)))

    def status(self) -> dict[str, Any]:
        """How it goes, for people (`text`) and programs."""
        result, effort = self.result, self.video.getEffort()
        layer, objective = self.video.getLayer(), repr(self.video.dreamer.objective)
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
        """Do what a key means; the actions are the values of `window.KEYS`."""
        if action in ("stronger", "weaker"):
            factor = _STRONGER if action == "stronger" else 1 / _STRONGER
            self.video.setStrength(min(max(_FAINTEST, self.video.getStrength() * factor), _STRONGEST))
            self.video.setFrameStep(min(max(_FAINTEST, self.video.getFrameStep() * factor), _STRONGEST))
            self._say(f"strength {self.video.getStrength():.2g}")
        elif action in ("next layer", "previous layer"):
            self._want(1 if action == "next layer" else -1)
        elif action == "freeze":
            self.frozen = not self.frozen
            self._say("frozen" if self.frozen else "going on")
        elif action == "snapshot" and self._dream is not None:
            path = self._new_name(".png")
            rgb = cv2.cvtColor(self._dream, cv2.COLOR_BGR2RGB).astype(np.float32)
            write_picture(path, Picture(rgb), self.settings.stored())
            self.result.files.append(str(path))
            self._say(f"wrote {path.name}")
        elif action == "record":
            if not self._stop_recording():
                path = self._new_name(".mp4")
                stored = self.settings.stored() | {"source": self.latest.feed.name}
                self._recording = Recording(path, self.rate, stored)
                self._say(f"recording {path.name}")
        elif action == "text":
            self.text = not self.text
        elif action == "quit":
            self.stopped = True

    def _dream_one(self, shot: Shot) -> None:
        dream = self._dream = self.video.apply(shot.image)
        for output in self._all_outputs():
            output.put(dream, shot.time)

    def _all_outputs(self) -> list[Output]:
        return [*self.outputs, *([self._recording] if self._recording else [])]

    def _look(self) -> None:
        """Show the newest dream, once, and heed the keys."""
        if self.window is not None and self._dream is not None:
            self.window.show(self._dream, self._lines() if self.text else [])
            for action in self.window.pressed():
                self.act(action)

    def _lines(self) -> list[str]:
        said, when = self._said
        lines = [
            self.status()["text"] + (", recording" if self._recording else "") + (", frozen" if self.frozen else "")
        ]
        return [*lines, HELP, *([said] if time.perf_counter() - when < 3 else [])]

    def _say(self, text: str) -> None:
        self._said = (text, time.perf_counter())
        self.note(text)

    def _want(self, step: int) -> None:
        """Have the next layer made ready, while the dream goes on with this one."""
        if self._making is not None or self._dream is None:
            return
        at = self._layers.index(self._wanted) + step
        if 0 <= at < len(self._layers):
            self._wanted = self._layers[at]
            self._say(f"making {self._wanted} ready")
            maker = ThreadPoolExecutor(1, thread_name_prefix="layer")
            self._making = maker.submit(_ready, self.video, self._given, self._wanted, self._dream.shape[:2])
            maker.shutdown(wait=False)  # when that is done

    def _change_layer(self) -> None:
        if self._making is None or not self._making.done():
            return
        making, self._making = self._making, None
        try:
            dreamer, self.settings, why = making.result()
            self.video.swap(dreamer)
            for output in self._all_outputs():
                output.change(self.settings)
            self._say(f"layer {self._wanted}{why}")
        except OnnxDreamError as error:
            self._layers.remove(self._wanted)
            self._wanted = self.video.getLayer()
            self._say(str(error))

    def _stop_recording(self) -> bool:
        recording, self._recording = self._recording, None
        if recording is None:
            return False
        recording.close()
        self.result.files.append(str(recording.target))
        self._say(f"wrote {recording.target.name}")
        return True

    def _new_name(self, suffix: str) -> Path:
        stem = time.strftime("onnxdream-%Y%m%d-%H%M%S")
        names = [stem, *(f"{stem}-{n}" for n in range(2, 100))]
        return next(p for p in (self.folder / (n + suffix) for n in names) if not p.exists())


def _layers(dreamer: Dreamer) -> list[str]:
    """The layers to go through, from the picture on: the recommended ones and the current one, or else all."""
    current = dreamer.objective.layers[0]
    all_ = [layer for layer in dreamer.model.layers.values() if layer.spatial or layer.name == current]
    chosen = [layer.name for layer in all_ if layer.recommended or layer.name == current]
    return chosen if len(chosen) > 1 else [layer.name for layer in all_]


def _ready(
    video: VideoDreamer, settings: Settings, layer: str, frame: tuple[int, ...]
) -> tuple[Dreamer, Settings, str]:
    """A Dreamer for another layer, its networks made ready for the size that is dreamed at now; its settings, and why
    objective, channels or guide are not those of `settings`, if they are not.

    Raises PictureError when the layer needs more than frames of size `frame` (height, width).
    """
    wanted, why = replace(settings, layers=(layer,)), ""
    try:
        dreamer = _with(video.dreamer, wanted)
    except LayerError as error:
        wanted, why = replace(wanted, objective="l2", channels=(), guide=""), f" by l2: {error}"
        dreamer = _with(video.dreamer, wanted)
    dreamer.check_size(dreamer.fixed_input_size or video.size or frame)
    if video.last is not None and dreamer.fixed_input_size is None:
        effort = video.getEffort()
        size = [max(pair) for pair in zip(video.last.shape[:2], dreamer.smallest, strict=True)]
        dreamer.ascend(np.full((1, 3, *size), 127, np.float32), steps=effort.steps if effort else 1)
    return dreamer, wanted, why


def _with(dreamer: Dreamer, settings: Settings) -> Dreamer:
    return dreamer.with_objective(build_objective(settings, dreamer.model, dreamer.device))
