"""A whole video: dreamed segment by segment here or on a cluster, and put together at the end.

A job that is started again goes on with the segments that are missing (`workspace`) and gives the same frames as one
that was never interrupted.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...cluster.ray import ClusterProgress, RayCluster
from ...dream.dreamer import Dreamer
from ...errors import ClusterError, OptionError, OutputError, PictureError, VideoError
from ..dreamer import VideoDreamer
from ..io.open import (
    Encoding,
    VideoSource,
    check_encoding,
    finish,
    open_source,
    read_segment,
    settings_metadata,
    sink_kind,
)
from . import chunks
from .checkpoint import PLAN, Checkpoint, Tally, fingerprint, same_frames
from .checks import check_files, check_options, working_size
from .chunks import OVERLAP, Chunk
from .identity import identity as identity_of
from .pipeline import JobSpec, Segments, Step
from .preview import Preview
from .worker import SegmentResult, dream_stretches

SEGMENT_FRAMES = 96


@dataclass(frozen=True)
class VideoProgress:
    """Where a job stands: after each frame, or on a cluster about twice a second."""

    frame: int  # frames finished so far, resumed ones included
    frames: int | None  # how many there will be, where that is known
    objective: float
    fps: float  # of this run
    image: np.ndarray  # the dreamed frame, BGR uint8 or uint16 [H,W,3]; on a cluster the newest that has come back
    workers: int = 1  # at work


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


def leave_processor_to(engine: str) -> None:
    """Where `engine` (`Dreamer.engine`) runs networks on the processor, let OpenCV in this process use few threads.

    Optical flow beside an ascent that keeps every core busy only takes more processor time with more threads.
    """
    if engine in ("cpu", "openvino"):
        cv2.setNumThreads(max(1, cv2.getNumThreads() // 8))


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
    identity: Mapping[str, str] | None = None,
    on_frame: Callable[[VideoProgress], bool | None] | None = None,
    preview: Path | None = None,
    source_options: Mapping[str, Any] | None = None,
    segment_frames: int = SEGMENT_FRAMES,
    overlap: int | None = None,
    cluster: RayCluster | None = None,
) -> VideoResult:
    """Dream the video `source` into `target`; audio, subtitles, chapters and metadata come along.

    `source` is anything `open_source` opens, with `source_options`. Only frames from `start` to `end` (seconds) are
    taken. The dream is made at `scale` times the source's size, or with its longer side at `longest` pixels, and
    delivered at the source's. Only each `every`-th frame takes ascent steps; the dream moves along on the others.
    `schedule` gives the Dreamer for a time in seconds, where it changes. `settings` identify the job and are stored in
    the result; `identity`, see there, is what else it depends on, by default that of `dreamer`. `on_frame` is called
    for each finished frame; when it returns False the job stops and can be resumed. `preview` is a JPEG that shows the
    newest frame about once a second.

    A segment ends at a cut when it has a quarter of `segment_frames`, and where a shot has gone on for
    `segment_frames`. There the next one goes on from the last one's state, or, with an `overlap` of K frames, begins
    anew K frames earlier and is faded into over those. So segments do not depend on each other, and a `cluster` dreams
    many at once; there 24 is the default, and with 0 a long shot is left to one worker. Where no shot is longer than
    `segment_frames`, all give the same frames; with the same `overlap` above 0 a cluster always gives the same as one
    machine, and each can go on with what the other began.

    An unfinished job with the same settings is resumed; with others, or with `resume` false, see `Checkpoint.open`.
    Raises ClusterError, naming the times that could not be dreamed, OutputError when `target` is the source, or exists
    and `overwrite` is false, and what reading, dreaming and writing raise; finished segments stay for the next try.
    Where the source is damaged, `target` ends and VideoError is raised; once it has been mended, the same job goes on
    from there.
    """
    encoding = encoding or Encoding()
    if overlap is None:
        overlap = 0 if cluster is None else min(OVERLAP, segment_frames)
    piped = sink_kind(target) == "pipe"
    planned = cluster is not None or overlap > 0
    check_options(dreamer.method, every, segment_frames, overlap)
    if planned and (piped or str(source) == "-"):
        raise OptionError("a pipe cannot be dreamed in parts; name files, or leave the cluster and the overlap out")
    check_files(source, target, preview, overwrite=overwrite)
    with ExitStack() as stack:
        if cluster is not None:
            stack.enter_context(cluster.connected())
        video = stack.enter_context(open_source(source, **(source_options or {})))
        check_encoding(target, video.info, encoding)
        dreamer.size = working_size(video.info, scale, longest) or dreamer.size
        options = [start, end, every, dreamer.size, segment_frames, *([f"overlap {overlap}"] if planned else [])]
        job = {
            "source": fingerprint(source),
            "format": repr(replace(video.info, frames=None, duration=None)),
            "encoding": repr(encoding),
            "options": [str(option) for option in options],
            "settings": dict(settings or {}),
            **(identity or identity_of([dreamer.dreamer])),
        }
        lasting = not piped and str(source) != "-"
        workspace = (
            Tally()
            if piped
            else Checkpoint.open(
                target,
                job,
                resume=resume and lasting,
                chain=not planned,
                unchanged=lambda segments: not planned and same_frames(segments, video.frames(start=start, end=end)),
            )
        )
        recipe = JobSpec(
            source,
            source_options or {},
            target,
            dreamer,
            encoding,
            start=start,
            end=end,
            every=every,
            schedule=schedule,
            longest=None if piped else segment_frames,
            overlap=overlap,
        )
        run = _Run(video, recipe, workspace, planned, lasting, cluster, on_frame, Preview(preview) if preview else None)
        try:
            return run(settings or {})
        finally:
            workspace.release(keep=lasting and bool(workspace.segments))


@dataclass
class _Run:
    """One run of a job, from where the last one stopped."""

    video: VideoSource
    recipe: JobSpec
    workspace: Checkpoint
    planned: bool  # in stretches that do not depend on each other
    lasting: bool  # the workspace outlives the run
    cluster: RayCluster | None
    on_frame: Callable[[VideoProgress], bool | None] | None
    preview: Preview | None

    def __post_init__(self) -> None:
        self.resumed = self.workspace.frames
        self.done = self.resumed
        self.total = self.video.info.frames_within(self.recipe.start, self.recipe.end)
        self.provider = ""
        self.began = time.perf_counter()
        self._broken_off: list[Path] = []  # the segment that damage ended
        self._objective, self._image = 0.0, np.zeros((0, 0, 3), np.uint8)

    def __call__(self, settings: Mapping[str, Any]) -> VideoResult:
        try:
            return self._run(settings)
        except (OutputError, ClusterError) as error:
            if not (self.lasting and self.workspace.segments):
                raise
            kept = self.workspace.frames
            told = type(error)(f"{error}; {kept} frames are kept, the same command goes on from there")
            told.exit_code = error.exit_code
            raise told from error

    def _run(self, settings: Mapping[str, Any]) -> VideoResult:
        damage: VideoError | None = None
        recipe = self.recipe
        try:
            self._dream_stretches() if self.planned else self._dream_on()
        except VideoError as error:
            # What could be read is dreamed and delivered before the damage is reported.
            damage = error
        files = self.workspace.files() + self._broken_off
        if not files:
            raise damage or PictureError(f"{recipe.source}: there is no frame in that range")
        metadata = settings_metadata(dict(settings)) if settings else {}
        end = recipe.end if damage is None or recipe.longest is None else self._end_of(files[-1])
        finish(
            recipe.target,
            files,
            recipe.source,
            self.video.info,
            metadata=metadata,
            start=recipe.start,
            end=end,
            scratch=self.workspace.folder,
        )
        if damage is not None:
            kept = f"; when it is mended, the same command with --overwrite goes on from {self.workspace.folder}"
            hint = kept if self.lasting and self.workspace.segments and not self.planned else ""
            if self.planned:
                self.workspace.remove()
            raise VideoError(f"{damage}; {recipe.target} ends there, with {self.done} frames{hint}")
        self.workspace.remove()
        return VideoResult(
            target=recipe.target,
            frames=self.workspace.frames,
            resumed_frames=self.resumed,
            segments=len(files),
            seconds=time.perf_counter() - self.began,
            objective=sum(s.objective for s in self.workspace.segments) / max(1, self.done),
            provider=self.provider or recipe.dreamer.provider,
        )

    def _dream_on(self) -> None:
        """Go on after the last segment, each one from the state of the one before."""
        segments = self.workspace.segments
        if segments and not segments[-1].state:
            return  # every frame is there; only the end of the job was cut off
        state = None
        if segments:
            with np.load(self.workspace.folder / segments[-1].state) as stored:
                state = dict(stored)
        stretch = Chunk(len(segments), segments[-1].next_frame if segments else 0)
        run = self._segments(stretch, state=state, keep_state=True)
        try:
            for segment in run:
                self.workspace.add(segment)
        finally:
            self._broken_off = [run.broken_off] if run.broken_off else []

    def _segments(self, stretch: Chunk, **options: Any) -> Segments:
        return Segments(self.recipe, self.video, stretch, self.workspace.folder, on_step=self._tell, **options)

    def _dream_stretches(self) -> None:
        """Dream the stretches that are missing, here or on the cluster. Raises VideoError after them for damage."""
        damage: list[VideoError] = []

        def missing() -> Iterator[Chunk]:
            try:
                yield from (
                    stretch for stretch in self._plan() if not self.workspace.has(stretch.number, stretch.segments)
                )
            except VideoError as error:
                damage.append(error)

        if self.cluster is None:
            for stretch in missing():
                for segment in self._segments(stretch):
                    self.workspace.add(segment)
        else:
            made = dream_stretches(self.cluster, self.recipe, self.workspace.folder, missing(), self._tell_cluster)
            with closing(made):  # before the connection, else its tasks run on
                for _, result in made:
                    self._take(result)
        if damage:
            raise damage[0]

    def _take(self, made: SegmentResult) -> None:
        """Note down what a worker has made."""
        for segment in made.segments:
            self.workspace.add(segment)
        self.done = self.workspace.frames
        self.provider, self._image = made.provider, made.image
        if self.cluster and self.cluster.gpus_per_worker and made.provider == "CPUExecutionProvider":
            warnings.warn("a worker with a GPU dreams on its CPU; see `onnxdream info` there", stacklevel=2)
        self._objective = made.segments[-1].objective / made.segments[-1].frames

    def _plan(self) -> Iterator[Chunk]:
        """The job's stretches, each as soon as it is known; the whole plan is kept for a resumed run."""
        path = self.workspace.folder / PLAN
        known = chunks.load(path)
        found, damage = known or ([], None)
        if known:
            yield from found
        else:
            try:
                for stretch in self.recipe.plan(self.video):
                    found.append(stretch)
                    yield stretch
            except VideoError as error:
                damage = str(error)
            chunks.save(path, found, damage)
        if damage:
            raise VideoError(damage)

    def _end_of(self, segment: Path) -> Fraction:
        """When the last frame of `segment` goes away, in seconds, if it stays as long as usual."""
        info = self.video.info
        return read_segment(segment, info)[-1] * info.time_base + 1 / (info.rate or Fraction(25)) - info.start

    def _tell(self, step: Step) -> None:
        self.done += 1
        self._objective, self._image = step.objective, step.dreamed
        self._tell_frames(self.done, workers=1)

    def _tell_cluster(self, progress: ClusterProgress) -> None:
        self._tell_frames(self.done + progress.amount, progress.workers)

    def _tell_frames(self, frame: int, workers: int) -> None:
        if self.preview is not None and self._image.size:
            self.preview.show(self._image)
        if self.on_frame is not None:
            fps = (frame - self.resumed) / (time.perf_counter() - self.began)
            progress = VideoProgress(frame, self.total, self._objective, fps, self._image, workers)
            if self.on_frame(progress) is False:
                raise KeyboardInterrupt
