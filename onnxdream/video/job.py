"""A whole video: stages that overlap, segments that survive a crash, and the file put together at the end.

A segment ends at a scene cut or when it is long enough. A job that is started again goes on after the last finished
segment (`workspace`) and gives the same frames as one that was never interrupted.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..dream import Dreamer
from ..errors import OptionError, OutputError, PictureError, VideoError
from ..images import write_whole
from .ahead import ahead
from .files import (
    Encoding,
    FrameSink,
    VideoFrame,
    VideoInfo,
    VideoSource,
    check_encoding,
    finish,
    open_sink,
    open_source,
    settings_metadata,
    sink_kind,
)
from .temporal import Prepared, VideoDreamer
from .workspace import Segment, Workspace

SEGMENT_FRAMES = 96
_AHEAD = 3  # frames each stage may run before the next


@dataclass(frozen=True)
class VideoProgress:
    """Where a job stands after one frame."""

    frame: int  # frames finished so far, resumed ones included
    frames: int | None  # how many there will be, where that is known
    objective: float
    fps: float  # of this run
    image: np.ndarray  # the dreamed frame, BGR uint8 or uint16 [H,W,3]


@dataclass(frozen=True)
class VideoResult:
    """A finished video and what it took."""

    target: Path
    frames: int
    resumed_frames: int
    segments: int
    seconds: float
    objective: float  # mean over the frames
    provider: str


@dataclass
class _Step:
    """A frame on its way through the stages."""

    frame: VideoFrame
    prepared: Prepared
    begins_segment: bool
    state: dict[str, np.ndarray]  # of the dreamer before this frame, where a segment begins
    dreamed: np.ndarray
    objective: float = math.nan


def dream_video(
    source: str | Path,
    target: Path,
    dreamer: VideoDreamer,
    *,
    encoding: Encoding | None = None,
    start: Fraction | None = None,
    end: Fraction | None = None,
    every: int = 1,
    scale: float = 1.0,
    longest: int | None = None,
    schedule: Callable[[Fraction], Dreamer] | None = None,
    resume: bool = True,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    on_frame: Callable[[VideoProgress], bool | None] | None = None,
    preview: Path | None = None,
    source_options: Mapping[str, Any] | None = None,
    segment_frames: int = SEGMENT_FRAMES,
) -> VideoResult:
    """Dream the video `source` into `target`; audio, subtitles, chapters and metadata come along.

    `source` is anything `open_source` opens, with `source_options`. Only frames from `start` to `end` (seconds) are
    taken. The dream is made at `scale` times the source's size, or with its longer side at `longest` pixels, and
    delivered at the source's. Only each `every`-th frame takes ascent steps; the dream moves along on the others.
    `schedule` gives the Dreamer for a time in seconds, where it changes. `settings` identify the job and are stored in
    the result. `on_frame` is called for each finished frame; when it returns False the job stops and can be resumed.
    `preview` is a picture file that shows the newest frame about once a second. A segment has at most `segment_frames`
    frames, and at a cut at least a quarter.

    An unfinished job with the same settings is resumed; with others, or with `resume` false, see `Workspace.open`.
    Raises OutputError when `target` exists and `overwrite` is false, and what reading, dreaming and writing raise;
    finished segments stay for the next try.
    """
    encoding = encoding or Encoding()
    piped = sink_kind(target) == "pipe"
    if every < 1:
        raise OptionError(f"every is {every}; it must be at least 1")
    if target.exists() and not overwrite and not piped:
        raise OutputError(f"{target}: exists already; choose another name or use --overwrite")
    with open_source(source, **(source_options or {})) as video:
        check_encoding(target, video.info, encoding)
        dreamer.size = _working_size(video.info, scale, longest) or dreamer.size
        job = _identity(source, encoding, [start, end, every, dreamer.size, segment_frames], settings or {})

        def run(workspace: Workspace) -> VideoResult:
            here = _Run(
                video,
                target,
                dreamer,
                workspace,
                encoding,
                every=every,
                schedule=schedule,
                on_frame=on_frame,
                preview=preview,
                start=start,
                end=end,
                longest=segment_frames,
            )
            return here(source, settings or {})

        if piped:  # cannot be resumed; its workspace only keeps count
            with tempfile.TemporaryDirectory(prefix="onnxdream-") as folder:
                workspace = Workspace.open(Path(folder) / "pipe", job, resume=False)
                return run(workspace)
        return run(Workspace.open(target, job, resume=resume and str(source) != "-"))


def _identity(
    source: str | Path, encoding: Encoding, options: list[Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that decides the frames of a job."""
    path = Path(source)
    stat = path.stat() if path.is_file() else None
    return {
        "source": [str(path), *([stat.st_size, stat.st_mtime_ns] if stat else [])],
        "encoding": repr(encoding),
        "options": [str(option) for option in options],
        "settings": dict(settings),
    }


class _Run:
    """One run of a job, from where the last one stopped."""

    def __init__(
        self,
        video: VideoSource,
        target: Path,
        dreamer: VideoDreamer,
        workspace: Workspace,
        encoding: Encoding,
        *,
        every: int,
        schedule: Callable[[Fraction], Dreamer] | None,
        on_frame: Callable[[VideoProgress], bool | None] | None,
        preview: Path | None,
        start: Fraction | None,
        end: Fraction | None,
        longest: int,
    ) -> None:
        self.video, self.target, self.dreamer, self.workspace = video, target, dreamer, workspace
        self.encoding, self.every, self.schedule = encoding, every, schedule
        self.on_frame, self.preview = on_frame, preview
        self.start, self.end = start, end
        self.piped = sink_kind(target) == "pipe"
        self.longest = longest
        self.resumed = workspace.frames
        self.done = self.resumed
        self.total = _expected(video.info, start, end)
        self.objectives = sum(s.objective for s in workspace.segments)
        self.began = time.perf_counter()
        self._previewed = 0.0

    def __call__(self, source: str | Path, settings: Mapping[str, Any]) -> VideoResult:
        damage: VideoError | None = None
        try:
            self._dream_segments()
        except VideoError as error:
            # What could be read is dreamed and delivered before the damage is reported.
            damage = error
        if not self.workspace.segments:
            raise damage or PictureError(f"{source}: there is no frame in that range")
        metadata = settings_metadata(dict(settings)) if settings else {}
        files = self.workspace.files()
        finish(self.target, files, source, self.video.info, metadata=metadata, start=self.start, end=self.end)
        self.workspace.remove()
        if damage is not None:
            raise VideoError(f"{damage}; {self.target} ends there, with {self.done} frames")
        return VideoResult(
            target=self.target,
            frames=self.done,
            resumed_frames=self.resumed,
            segments=len(files),
            seconds=time.perf_counter() - self.began,
            objective=self.objectives / max(1, self.done),
            provider=self.dreamer.provider,
        )

    def _dream_segments(self) -> None:
        """Decode and flow in one thread, ascent in another, encoding here; one file for each segment."""
        segments = self.workspace.segments
        if segments and not segments[-1].state:
            return  # every frame is there; only the end of the job was cut off
        if segments:
            with np.load(self.workspace.folder / segments[-1].state) as state:
                self.dreamer.restore(dict(state))
        else:
            self.dreamer.reset()
        skip_to = segments[-1].next_frame if segments else None
        sink: FrameSink | None = None
        frames, objective, last = 0, 0.0, -1
        steps = ahead(self._developed(ahead(self._prepared(skip_to), _AHEAD)), _AHEAD)
        try:
            for step in steps:
                if step.begins_segment:
                    if sink is not None:
                        self._close(sink, frames, objective, last + 1, step.state)
                    sink, frames, objective = self._open(), 0, 0.0
                assert sink is not None, "the first frame begins a segment"
                sink.write(step.dreamed, step.frame.pts, step.frame.alpha)
                frames, objective, last = frames + 1, objective + step.objective, step.frame.index
                self.objectives += step.objective
                self._tell(step)
        except VideoError:
            if sink is not None and frames:
                self._close(sink, frames, objective, last + 1)
                sink = None
            raise
        except BaseException:
            if sink is not None:
                sink.discard()
            raise
        finally:
            steps.close()
        if sink is not None:
            self._close(sink, frames, objective, last + 1)

    def _prepared(self, skip_to: int | None) -> Iterator[_Step]:
        """Frames with what the source tells about them."""
        length = 0
        for frame in self.video.frames(start=self.start, end=self.end, skip_to=skip_to):
            state = self.dreamer.source_state()
            scale = 255 / np.iinfo(frame.image.dtype).max
            rgb = cv2.cvtColor(frame.image, cv2.COLOR_BGR2RGB).astype(np.float32) * np.float32(scale)
            prepared = self.dreamer.prepare(rgb)
            full = length >= self.longest or (prepared.cut and 4 * length >= self.longest)
            begins = length == 0 or (full and not self.piped)
            length = 1 if begins else length + 1
            yield _Step(frame, prepared, begins, state if begins else {}, frame.image)

    def _developed(self, steps: Iterator[_Step]) -> Iterator[_Step]:
        """The same frames, dreamed."""
        for step in steps:
            if step.begins_segment:
                step.state |= self.dreamer.memory_state()
            if self.schedule is not None:
                self.dreamer.dreamer = self.schedule(step.frame.pts * self.video.info.time_base)
            rests = self.every > 1 and step.frame.index % self.every
            rgb = self.dreamer.develop(step.prepared, steps=0 if rests else None)
            top = np.iinfo(step.frame.image.dtype).max
            values = np.rint(rgb * np.float32(top / 255)).astype(step.frame.image.dtype)
            step.dreamed = cv2.cvtColor(values, cv2.COLOR_RGB2BGR)
            step.objective = self.dreamer.objective
            yield step

    def _open(self) -> FrameSink:
        path = self.workspace.folder / self._segment_name()
        return open_sink(path, self.video.info, self.encoding, self.target)

    def _segment_name(self) -> str:
        return f"segment-{len(self.workspace.segments):05d}"

    def _close(
        self,
        sink: FrameSink,
        frames: int,
        objective: float,
        next_frame: int,
        state: dict[str, np.ndarray] | None = None,
    ) -> None:
        """Finish a segment's file and note it; without `state` it is the last one."""
        sink.close()
        number = len(self.workspace.segments)
        name = f"state-{number:05d}.npz" if state else ""
        if state:
            write_whole(self.workspace.folder / name, lambda to: np.savez(to, allow_pickle=False, **state))
        self.workspace.add(Segment(self._segment_name(), frames, objective, next_frame, name))

    def _tell(self, step: _Step) -> None:
        self.done += 1
        now = time.perf_counter()
        if self.preview is not None and now - self._previewed > 1:
            self._previewed = now
            _write_preview(self.preview, step.dreamed)
        if self.on_frame is not None:
            fps = (self.done - self.resumed) / (now - self.began)
            progress = VideoProgress(self.done, self.total, step.objective, fps, step.dreamed)
            if self.on_frame(progress) is False:
                raise KeyboardInterrupt


def _expected(info: VideoInfo, start: Fraction | None, end: Fraction | None) -> int | None:
    """How many frames the job will have, where the container says enough."""
    if start is None and end is None:
        return info.frames
    if info.rate is None or info.duration is None:
        return None
    length = min(end or info.duration, info.duration) - (start or 0)
    return max(1, round(length * info.rate))


def _write_preview(path: Path, image: np.ndarray) -> None:
    scale = min(1.0, 480 / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    pixels = cv2.convertScaleAbs(small, alpha=255 / np.iinfo(image.dtype).max)
    write_whole(path, lambda to: np.asarray(cv2.imencode(".jpg", pixels)[1]).tofile(to))


def _working_size(info: VideoInfo, scale: float, longest: int | None) -> tuple[int, int] | None:
    """(height, width) to dream at; None: the source's own."""
    if longest is not None:
        scale = min(1.0, longest / max(info.height, info.width))
    if not 0 < scale <= 1:
        raise OptionError(f"scale is {scale}; it must be above 0 and at most 1")
    return None if scale == 1 else (max(1, round(info.height * scale)), max(1, round(info.width * scale)))
