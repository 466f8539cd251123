"""From source frames to finished segment files, on this machine or one of a cluster.

Decoding and optical flow run in one thread, the ascent in another, and encoding in the caller's.
"""

from __future__ import annotations

import copy
import math
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from ...dream.dreamer import Dreamer
from ...errors import VideoError
from ..dreamer import Prepared, VideoDreamer
from ..flow import CutDetector
from ..io.color import from_float, to_eight_bit
from ..io.fsync import write_data
from ..io.open import Encoding, FrameWriter, VideoFrame, VideoSource, open_source, open_writer
from .checkpoint import FramesDigest, Segment, segment_name
from .chunks import Chunk, SegmentSplitter, find_chunks

State = dict[str, np.ndarray]
T = TypeVar("T")

_PREFETCH = 3  # frames that a stage may run ahead of the next
_DONE = object()
_POLL = 0.1  # seconds between checks whether the consumer has stopped


@dataclass(frozen=True)
class JobSpec:
    """What all segments of a job have in common; it can be sent to another machine.

    Most attributes are arguments of `dream_video`.

    Attributes:
        segment_frames: Frames in the longest segment within a shot; None for one segment without end.
        overlap: Frames by which chunks within a shot overlap.
    """

    source: str | Path
    source_options: Mapping[str, Any]
    target: Path
    dreamer: VideoDreamer
    encoding: Encoding
    start: Fraction | None = None
    end: Fraction | None = None
    every: int = 1
    timeline: Callable[[Fraction], Dreamer] | None = None
    segment_frames: int | None = None
    overlap: int = 0

    def open(self) -> VideoSource:
        """Open the source. Raises what `open_source` raises."""
        return open_source(self.source, **self.source_options)

    def find_chunks(self, video: VideoSource) -> Iterator[Chunk]:
        """Yield the job's chunks, each as soon as it is known. Raises VideoError after them for a damaged source."""
        is_cut, info = CutDetector(), video.info
        assert self.segment_frames is not None, "a pipe has no chunks"

        def cuts() -> Iterator[tuple[int, bool, Fraction]]:
            for frame in video.frames(start=self.start, end=self.end):
                yield (
                    frame.index,
                    is_cut(to_eight_bit(frame.image)) or frame.cut,
                    frame.pts * info.time_base - info.start,
                )

        frames = prefetch(cuts(), _PREFETCH)
        return find_chunks(frames, self.segment_frames, self.overlap, last_duration=1 / (info.rate or Fraction(25)))


@dataclass
class FrameInFlight:
    """A frame on its way through the stages.

    Attributes:
        source: The source's frame.
        prepared: What is known from the source alone.
        begins_segment: Whether it is the first of a segment.
        state: The dreamer's before this frame, if it begins a segment.
        dreamed: The dream, RGB uint8 or uint16 [H,W,3]; the source's image before the ascent.
        objective: The objective's value in it; NaN before the ascent.
    """

    source: VideoFrame
    prepared: Prepared
    begins_segment: bool
    state: State
    dreamed: np.ndarray
    objective: float = math.nan


@dataclass
class SegmentPipeline:
    """Dreams a chunk into segment files; iterating yields each segment once it is complete.

    Where the source is damaged, iterating raises VideoError, and `truncated` is the file of the frames before the
    damage. That file is no finished segment, since a repaired source may continue differently.

    Attributes:
        spec: The job.
        video: The source.
        chunk: The chunk.
        folder: Where the files are written.
        state: The dreamer's state to continue from; None if the chunk begins a scene.
        keep_state: Whether each segment but the last gets a file with the state after it.
        on_frame: Called for each written frame. If it returns False, the unfinished segment is discarded and the
            iteration ends.
        truncated: The file of the frames before the damage, if there is damage.
    """

    spec: JobSpec
    video: VideoSource
    chunk: Chunk
    folder: Path
    state: State | None = None
    keep_state: bool = False
    on_frame: Callable[[FrameInFlight], bool | None] = lambda frame: None
    truncated: Path | None = field(default=None, init=False)

    def __iter__(self) -> Iterator[Segment]:
        dreamer, number = self.spec.dreamer, self.chunk.number
        dreamer.reset()
        if self.state is not None:
            dreamer.restore(self.state)
        writer: FrameWriter | None = None
        segment = _empty_segment(number)
        digest = FramesDigest()
        frames = prefetch(self._dream_frames(prefetch(self._prepare_frames(), _PREFETCH)), _PREFETCH)
        try:
            for frame in frames:
                if frame.begins_segment:
                    if writer is not None:
                        writer.close()
                        writer = None
                        yield self._with_state(replace(segment, digest=str(digest)), number, frame.state)
                        number += 1
                    writer, digest = self._open_writer(number), FramesDigest()
                    segment = _empty_segment(number)
                assert writer is not None, "the first frame begins a segment"
                writer.write(frame.dreamed, frame.source.pts, frame.source.alpha, frame.source)
                digest.add(frame.source)
                segment = replace(
                    segment,
                    frames=segment.frames + 1,
                    objective=segment.objective + frame.objective,
                    next_frame=frame.source.index + 1,
                )
                if self.on_frame(frame) is False:
                    writer.discard()
                    return
        except VideoError:
            if writer is not None:
                writer.close()
                self.truncated = self.folder / segment_name(number)
            raise
        except BaseException:
            if writer is not None:
                writer.discard()
            raise
        finally:
            frames.close()
        if writer is not None:
            writer.close()
            self._check_end(segment.next_frame)
            yield replace(segment, digest=str(digest))

    def _check_end(self, reached: int) -> None:
        """Raise VideoError if the source has yielded fewer frames than the chunk has."""
        if self.chunk.stop is not None and reached != self.chunk.stop:
            missing = self.chunk.stop - reached
            raise VideoError(f"{self.spec.source}: has {missing} fewer frames there than when cuts were looked for")

    def _open_writer(self, number: int) -> FrameWriter:
        return open_writer(self.folder / segment_name(number), self.video.info, self.spec.encoding, self.spec.target)

    def _with_state(self, segment: Segment, number: int, state: State) -> Segment:
        if not self.keep_state:
            return segment
        name, data = f"state-{number:05d}.npz", BytesIO()
        np.savez(data, allow_pickle=False, **state)
        write_data(self.folder / name, data.getvalue())
        return replace(segment, state=name)

    def _prepare_frames(self) -> Iterator[FrameInFlight]:
        """Decode the frames and prepare each from the source alone."""
        spec, chunk, dreamer = self.spec, self.chunk, self.spec.dreamer
        begins_segment = SegmentSplitter(spec.segment_frames)
        cuts = None if chunk.cuts is None else set(chunk.cuts)
        for source in self.video.frames(spec.start, spec.end, skip_to=chunk.first - chunk.warm_up):
            state = dreamer.source_state() if self.keep_state else {}
            detected = cuts is None and (dreamer.cuts(to_eight_bit(source.image)) or source.cut)
            cut = detected if cuts is None else source.index in cuts
            prepared = dreamer.prepare(source.rgb, cut)
            begins = source.index >= chunk.first and begins_segment(prepared.cut)
            yield FrameInFlight(source, prepared, begins, state if begins else {}, source.image)
            if chunk.stop is not None and source.index + 1 >= chunk.stop:
                return  # the frames after it may be damaged

    def _dream_frames(self, frames: Generator[FrameInFlight, None, None]) -> Iterator[FrameInFlight]:
        """Dream the prepared frames."""
        chunk, dreamer, following = self.chunk, self.spec.dreamer, copy.copy(self.spec.dreamer)
        fade_start = math.inf if chunk.stop is None else chunk.stop - chunk.fade
        with closing(frames):  # an error here must not leave the previous stage running
            for frame in frames:
                if frame.begins_segment and self.keep_state:
                    frame.state |= dreamer.memory_state()
                rgb = self._dream(dreamer, frame)
                frame.objective = dreamer.objective
                if frame.source.index >= fade_start:
                    share = (frame.source.index - fade_start + 1) / (chunk.fade + 1)
                    rgb = crossfade(frame.prepared.frame, rgb, self._dream(following, frame), share)
                if frame.source.index < chunk.first:
                    continue
                frame.dreamed = from_float(rgb, frame.source.image.dtype)
                yield frame

    def _dream(self, dreamer: VideoDreamer, frame: FrameInFlight) -> np.ndarray:
        """The dream of a frame, which depends on its index and on the state of `dreamer`."""
        spec, info, source = self.spec, self.video.info, frame.source
        if spec.timeline is not None:
            dreamer.dreamer = spec.timeline(source.pts * info.time_base - info.start)
        dreamer.count = source.index
        moves_only = spec.every > 1 and source.index % spec.every
        return dreamer.develop(frame.prepared, steps=0 if moves_only else None)


def _empty_segment(number: int) -> Segment:
    return Segment(segment_name(number), frames=0, objective=0.0, next_frame=0, state="", digest="")


def prefetch(stage: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Compute the items of a stage in a thread of its own.

    If the consumer stops early, the thread stops and the stage is closed.

    Args:
        stage: The stage; an exception in it is raised here, after the items before it.
        depth: How many items it may be ahead of the consumer.

    Yields:
        The items.
    """
    ready: queue.Queue[object] = queue.Queue(maxsize=depth)
    stopped = threading.Event()
    failure: list[BaseException] = []

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=_POLL)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in stage:
                if not put(item):
                    break
        except BaseException as error:
            failure.append(error)
        finally:
            close = getattr(stage, "close", None)
            if close is not None:
                close()
            put(_DONE)

    thread = threading.Thread(target=work, daemon=True, name=f"prefetch-{getattr(stage, '__name__', 'stage')}")
    thread.start()
    try:
        while (item := ready.get()) is not _DONE:
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
    if failure:
        raise failure[0]


def crossfade(source: np.ndarray, old: np.ndarray, new: np.ndarray, share: float) -> np.ndarray:
    """Blend two dreams of the same frame.

    The residuals of two different dreams partly cancel out when mixed. The mixture is amplified to their own strength
    (root mean square).

    Args:
        source: The frame, RGB float32 [H,W,3] in 0..255.
        old: One dream, likewise.
        new: The other, likewise.
        share: How far to go from `old` to `new`, 0 to 1.

    Returns:
        RGB float32 [H,W,3] in 0..255.
    """
    residuals = (old - source, new - source)
    mixed = cv2.addWeighted(residuals[0], 1 - share, residuals[1], share, 0)
    before, after, now = (cv2.norm(r) for r in (*residuals, mixed))
    gain = ((1 - share) * before + share * after) / max(now, 1e-6)
    return np.asarray(np.clip(source + np.float32(gain) * mixed, 0, 255))
