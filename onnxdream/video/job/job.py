"""A whole video: dreamed segment by segment, here or on a cluster, and concatenated at the end.

A job that is started again dreams the segments that are missing (see `checkpoint`). Its frames are the same as without
the interruption.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ...cluster.ray import ClusterProgress, RayCluster
from ...dream.dreamer import Dreamer
from ...errors import ClusterError, OptionError, OutputError, PictureError, VideoError, WriteError
from ...images import write_whole
from ...output_files import check_free, same_file
from ...photo_metadata import settings_note
from ..dreamer import VideoDreamer
from ..io.codec import target_kind
from ..io.color import to_eight_bit
from ..io.frames import VideoInfo, VideoSource, seconds
from ..io.open import Encoding, check_encoding, finish, open_source, read_segment, settings_metadata
from ..io.sequences import is_there, source_files, would_write
from .checkpoint import CHUNKS, Checkpoint, JobRecord, PipeCheckpoint, same_frames, source_stamp
from .chunks import OVERLAP, Chunk, ChunkList
from .identity import JobInputs, identify_inputs
from .pipeline import FrameInFlight, JobSpec, SegmentPipeline, State
from .worker import SegmentResult, dream_chunks

log = logging.getLogger(__name__)

SEGMENT_FRAMES = 96

_PREVIEW_SIZE = 480  # pixels of the longer side
_PREVIEW_INTERVAL = 1.0  # seconds


@dataclass(frozen=True)
class VideoProgress:
    """How far a job is: reported after each frame, or about twice a second on a cluster.

    Attributes:
        frame: Frames finished so far, including resumed ones.
        frames: How many there will be, if known.
        objective: Of the dreamed frame.
        fps: Frames per second of this run.
        image: The dreamed frame, BGR uint8 or uint16 [H,W,3]; on a cluster the newest that was returned.
        workers: How many are at work.
    """

    frame: int
    frames: int | None
    objective: float
    fps: float
    image: np.ndarray
    workers: int = 1


@dataclass(frozen=True)
class VideoResult:
    """A finished video, or the state of a cancelled job.

    Attributes:
        target: The video.
        frames: How many it has; of a cancelled job, how many are kept for the next run.
        resumed_frames: How many of these are from earlier runs.
        segments: In how many segments it was dreamed.
        seconds: How long this run took.
        objective: Mean over the frames.
        provider: What it was dreamed on (see `Dreamer.provider`).
        cancelled: Whether `on_frame` returned False; there is no video yet.
    """

    target: Path
    frames: int
    resumed_frames: int
    segments: int
    seconds: float
    objective: float
    provider: str
    cancelled: bool = False


def limit_opencv_threads(engine: str) -> None:
    """Let OpenCV use few threads in this process if the dream runs on the CPU.

    While the ascent keeps every core busy, optical flow on more threads only takes more CPU time.

    Args:
        engine: The engine's name, from `Dreamer.engine`.
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
    timeline: Callable[[Fraction], Dreamer] | None = None,
    resume: bool = True,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    inputs: JobInputs | None = None,
    on_frame: Callable[[VideoProgress], bool | None] | None = None,
    preview: Path | None = None,
    source_options: Mapping[str, Any] | None = None,
    segment_frames: int = SEGMENT_FRAMES,
    overlap: int | None = None,
    cluster: RayCluster | None = None,
) -> VideoResult:
    """Dream a video file; audio, subtitles, chapters and metadata are kept.

    The video is dreamed in segments. A segment ends at a cut once it has a quarter of `segment_frames`, and within a
    shot after `segment_frames`. There the next segment continues from the state of the last one or, with an `overlap`
    of K frames, starts K frames earlier and is faded into over those. Such segments do not depend on each other, so a
    `cluster` dreams many at once. If no shot is longer than `segment_frames`, all ways give the same frames. With the
    same `overlap` above 0 a cluster always gives the same frames as one machine, and each can resume a job of the
    other.

    Finished segments are kept beside `target` until the video is complete. Calling the function again with the same
    settings resumes an unfinished job. Where the source is damaged, `target` ends and VideoError is raised; once the
    source is repaired, the same job continues from there.

    Args:
        source: Anything that `open_source` opens.
        target: A video, GIF, WebP, folder of pictures, pattern of pictures, or "-" for standard output.
        dreamer: Dreams the frames.
        encoding: Codec, quality and pixel format of the video.
        start: First time to dream, in seconds; the beginning if None.
        end: Time to end at, in seconds; the end of the source if None.
        every: Only each `every`-th frame takes ascent steps; on the others the dream moves along.
        scale: The size to dream at, as a share of the source's, above 0 and at most 1. The video has the source's size.
        longest: The longer side to dream at, in pixels; replaces `scale`.
        timeline: Gives the Dreamer for a time in seconds, if it changes.
        resume: Whether to resume an unfinished job rather than start over.
        overwrite: Whether to replace an existing `target`.
        settings: Stored in the video; an unfinished job is resumed only with the same settings.
        inputs: What else the job depends on, from `identify_inputs`; by default that of `dreamer`.
        on_frame: Called for each finished frame, on a cluster about twice a second. If it returns False, the job stops;
            it can be resumed later.
        preview: A JPEG that shows the newest frame, rewritten about once a second.
        source_options: Keyword arguments for `open_source`.
        segment_frames: Longest segment within a shot, in frames.
        overlap: Frames by which segments within a shot overlap, at most `segment_frames`. The default is 24 on a
            cluster and 0 elsewhere; with 0 a cluster leaves each long shot to one worker.
        cluster: Dream on its machines.

    Returns:
        The result; with `cancelled=True` if `on_frame` returned False.

    Raises:
        OptionError: A setting is out of range, contradicts another, or the unfinished job has other settings.
        OutputError: `target` is the source, exists without `overwrite`, or another run is making it.
        WriteError: `target`, its folder or the preview cannot be written.
        VideoError: The source cannot be read, or is damaged.
        PictureError: There is no frame between `start` and `end`, or frames are too small.
        ClusterError: The cluster cannot be reached, or parts failed again and again; it names their times.
    """
    encoding = encoding or Encoding()
    if overlap is None:
        overlap = 0 if cluster is None else min(OVERLAP, segment_frames)
    piped = target_kind(target) == "pipe"
    independent = cluster is not None or overlap > 0
    _check_options(dreamer.method, every, segment_frames, overlap)
    _check_times(start, end)
    if independent and (piped or str(source) == "-"):
        raise OptionError("a pipe cannot be dreamed in parts; name files, or omit the cluster and the overlap")
    _check_files(source, target, preview, overwrite=overwrite)
    with ExitStack() as stack:
        if cluster is not None:
            stack.enter_context(cluster.connected())
        video = stack.enter_context(open_source(source, **(source_options or {})))
        check_encoding(target, video.info, encoding)
        dreamer.size = _working_size(video.info, scale, longest) or dreamer.size
        options = [str(option) for option in (start, end, every, dreamer.size, segment_frames)]
        if independent:
            options.append(f"overlap {overlap}")
        job = JobRecord(
            source=source_stamp(source),
            format=repr(replace(video.info, frames=None, duration=None)),
            encoding=repr(encoding),
            options=options,
            settings=dict(settings or {}),
            **asdict(inputs or identify_inputs([dreamer.dreamer])),
        )
        resumable = not piped and str(source) != "-"
        if piped:
            checkpoint: Checkpoint = PipeCheckpoint()
        else:
            checkpoint = Checkpoint.open(
                target,
                job,
                resume=resume and resumable,
                chain=not independent,
                unchanged=lambda segments: (
                    not independent and same_frames(segments, video.frames(start=start, end=end))
                ),
            )
        spec = JobSpec(
            source,
            source_options or {},
            target,
            dreamer,
            encoding,
            start=start,
            end=end,
            every=every,
            timeline=timeline,
            segment_frames=None if piped else segment_frames,
            overlap=overlap,
        )
        run = _Run(
            video,
            spec,
            checkpoint,
            independent,
            resumable,
            cluster,
            on_frame,
            _Preview(preview) if preview else None,
        )
        try:
            return run(settings or {})
        finally:
            checkpoint.release(keep=resumable and bool(checkpoint.segments))


def _check_options(method: str, every: int, segment_frames: int, overlap: int) -> None:
    """Raise OptionError for what is out of range or contradicts another option."""
    if every < 1:
        raise OptionError(f"every is {every}; it must be at least 1")
    if every > 1 and method != "flow":
        raise OptionError(f"every is {every}, but the method {method} dreams every frame; omit one of them")
    if not 0 <= overlap <= segment_frames:
        raise OptionError(
            f"overlap is {overlap}; it must be at least 0 and at most the {segment_frames} frames of a segment"
        )


def _check_times(start: Fraction | None, end: Fraction | None) -> None:
    """Raise OptionError if no frame can lie between two times."""
    if start is not None and start < 0:
        raise OptionError(f"start is {seconds(start)}; the video begins at 0")
    if end is not None and end <= (start or 0):
        after = "the beginning" if start is None else f"the start, {seconds(start)}"
        raise OptionError(f"there is no frame in that range; its end, {seconds(end)}, must be after {after}")


def _check_files(source: str | Path, target: Path, preview: Path | None, *, overwrite: bool) -> None:
    """Raise OutputError if the result or the preview would replace a file that must stay."""
    given = source_files(source)
    piped = target_kind(target) == "pipe"
    if not piped and any(would_write(target, file) for file in given):
        raise OutputError(f"{target}: is what the dream is made from; choose another name")
    if not (overwrite or piped) and is_there(target):
        raise OutputError(f"{target}: exists already; choose another name or use --overwrite")
    if preview is None:
        return
    if not preview.parent.is_dir():
        raise OutputError(f"{preview}: there is no folder {preview.parent} to write into; create it first")
    if any(same_file(preview, file) for file in given) or same_file(preview.parent, Path(source)):
        raise OutputError(f"{preview}: is what the dream is made from; choose another name for the preview")
    if not piped and would_write(target, preview):
        raise OutputError(f"{preview}: is where the result goes; choose another name for the preview")
    check_free(preview, overwrite=overwrite, own_name=True)


def _working_size(info: VideoInfo, scale: float, longest: int | None) -> tuple[int, int] | None:
    """(height, width) to dream at; None: the source's own. Raises OptionError."""
    if not 0 < scale <= 1:
        raise OptionError(f"scale is {scale}; it must be above 0 and at most 1")
    if longest is not None:
        scale = min(1.0, longest / max(info.height, info.width))
    return None if scale == 1 else (max(1, round(info.height * scale)), max(1, round(info.width * scale)))


class _Preview:
    """Keeps the newest frame in a JPEG, rewritten about once a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = 0.0

    def show(self, image: np.ndarray) -> None:
        """Take a dreamed frame, RGB uint8 or uint16 [H,W,3]. Raises WriteError."""
        now = time.perf_counter()
        if now - self._written < _PREVIEW_INTERVAL:
            return
        self._written = now
        scale = min(1.0, _PREVIEW_SIZE / max(image.shape[:2]))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        picture, mark = Image.fromarray(to_eight_bit(small)), settings_note({"preview": True})
        write_whole(self.path, lambda to: picture.save(to, "JPEG", quality=95, comment=mark))


@dataclass
class _Run:
    """One run of a job, from where the last one stopped."""

    video: VideoSource
    spec: JobSpec
    checkpoint: Checkpoint
    independent: bool  # its chunks do not depend on each other
    resumable: bool  # the checkpoint outlives the run
    cluster: RayCluster | None
    on_frame: Callable[[VideoProgress], bool | None] | None
    preview: _Preview | None

    def __post_init__(self) -> None:
        self.resumed = self.checkpoint.frames
        self.done = self.resumed
        self.total = self.video.info.frames_within(self.spec.start, self.spec.end)
        self.provider = ""
        self.began = time.perf_counter()
        self.cancelled = False
        self._truncated: list[Path] = []  # the segment that ended at damage
        self._objective, self._image = 0.0, np.zeros((0, 0, 3), np.uint8)

    def __call__(self, settings: Mapping[str, Any]) -> VideoResult:
        try:
            return self._run(settings)
        except (OutputError, WriteError, ClusterError) as error:
            if not (self.resumable and self.checkpoint.segments):
                raise
            kept = self.checkpoint.frames
            raise type(error)(f"{error}; {kept} frames are kept, the same command resumes from there") from error

    def _run(self, settings: Mapping[str, Any]) -> VideoResult:
        damage: VideoError | None = None
        spec = self.spec
        try:
            if self.independent:
                self._dream_chunks()
            else:
                self._dream_chain()
        except VideoError as error:
            # What could be read is dreamed and written before the damage is reported.
            damage = error
        if self.cancelled:
            return self._result()
        files = self.checkpoint.files() + self._truncated
        if not files:
            length = self.video.info.duration
            ends = "" if length is None else f"; it ends at {seconds(length)}"
            raise damage or PictureError(f"{spec.source}: there is no frame in that range{ends}")
        metadata = settings_metadata(dict(settings)) if settings else {}
        end = spec.end if damage is None or spec.segment_frames is None else self._end_of(files[-1])
        finish(
            spec.target,
            files,
            spec.source,
            self.video.info,
            metadata=metadata,
            start=spec.start,
            end=end,
            scratch=self.checkpoint.folder,
        )
        if damage is not None:
            hint = ""
            if self.independent:
                self.checkpoint.remove()
            elif self.resumable and self.checkpoint.segments:
                folder = self.checkpoint.folder
                hint = f"; once it is repaired, the same command with --overwrite resumes from {folder}"
            raise VideoError(f"{damage}; {spec.target} ends there, with {self.done} frames{hint}")
        self.checkpoint.remove()
        return self._result()

    def _result(self) -> VideoResult:
        frames, segments = self.checkpoint.frames, self.checkpoint.segments
        return VideoResult(
            target=self.spec.target,
            frames=frames,
            resumed_frames=self.resumed,
            segments=len(segments),
            seconds=time.perf_counter() - self.began,
            objective=sum(segment.objective for segment in segments) / max(1, frames),
            provider=self.provider or self.spec.dreamer.provider,
            cancelled=self.cancelled,
        )

    def _dream_chain(self) -> None:
        """Dream what follows the last segment, each segment from the state of the one before."""
        segments = self.checkpoint.segments
        if segments and not segments[-1].state:
            return  # every frame is there; only the end of the job was cut off
        state = None
        if segments:
            with np.load(self.checkpoint.folder / segments[-1].state) as stored:
                state = dict(stored)
        chunk = Chunk(len(segments), segments[-1].next_frame if segments else 0)
        pipeline = self._pipeline(chunk, state=state, keep_state=True)
        try:
            for segment in pipeline:
                self.checkpoint.add(segment)
        finally:
            self._truncated = [pipeline.truncated] if pipeline.truncated else []

    def _pipeline(self, chunk: Chunk, *, state: State | None = None, keep_state: bool = False) -> SegmentPipeline:
        folder = self.checkpoint.folder
        return SegmentPipeline(self.spec, self.video, chunk, folder, state, keep_state, on_frame=self._frame_done)

    def _dream_chunks(self) -> None:
        """Dream the missing chunks, here or on the cluster. Raises VideoError after them if the source is damaged."""
        damage: list[VideoError] = []

        def missing() -> Iterator[Chunk]:
            try:
                for chunk in self._chunks():
                    if not self.checkpoint.has(chunk.number, chunk.segments):
                        yield chunk
            except VideoError as error:
                damage.append(error)

        if self.cluster is None:
            for chunk in missing():
                for segment in self._pipeline(chunk):
                    self.checkpoint.add(segment)
                if self.cancelled:
                    return
        else:
            folder = self.checkpoint.folder
            results = dream_chunks(self.cluster, self.spec, folder, missing(), self._cluster_progressed)
            with closing(results):  # before the connection, or its tasks would run on
                for result in results:
                    self._record(result)
        if damage:
            raise damage[0]

    def _record(self, result: SegmentResult) -> None:
        """Record the segments that a worker has dreamed."""
        for segment in result.segments:
            self.checkpoint.add(segment)
        self.done = self.checkpoint.frames
        self.provider, self._image = result.provider, result.image
        if self.cluster and self.cluster.gpus_per_worker and result.provider == "CPUExecutionProvider":
            log.warning("a worker with a GPU dreams on its CPU; see `onnxdream info` there")
        self._objective = result.segments[-1].objective / result.segments[-1].frames

    def _chunks(self) -> Iterator[Chunk]:
        """Yield the job's chunks, each as soon as it is known; all of them are saved for a resumed run."""
        path = self.checkpoint.folder / CHUNKS
        saved = ChunkList.load(path)
        if saved is not None:
            yield from saved.chunks
        else:
            chunks, damage = [], None
            try:
                for chunk in self.spec.find_chunks(self.video):
                    chunks.append(chunk)
                    yield chunk
            except VideoError as error:
                damage = str(error)
            saved = ChunkList(chunks, damage)
            saved.save(path)
        if saved.damage is not None:
            raise VideoError(saved.damage)

    def _end_of(self, segment: Path) -> Fraction:
        """The time in seconds at which the last frame of `segment` ends, if it is shown as long as usual."""
        info = self.video.info
        return read_segment(segment, info)[-1] * info.time_base + 1 / (info.rate or Fraction(25)) - info.start

    def _frame_done(self, frame: FrameInFlight) -> bool:
        self.done += 1
        self._objective, self._image = frame.objective, frame.dreamed
        return self._report(self.done, workers=1)

    def _cluster_progressed(self, progress: ClusterProgress) -> bool:
        return self._report(self.done + progress.amount, progress.workers)

    def _report(self, frame: int, workers: int) -> bool:
        """Report the progress; return whether to continue."""
        if self.preview is not None and self._image.size:
            self.preview.show(self._image)
        if self.on_frame is not None:
            fps = (frame - self.resumed) / (time.perf_counter() - self.began)
            total = None if self.total is None else max(self.total, frame)  # a joined stream may be longer than it says
            progress = VideoProgress(frame, total, self._objective, fps, self._image[..., ::-1], workers)
            self.cancelled = self.on_frame(progress) is False
        return not self.cancelled
