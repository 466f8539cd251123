"""From source frames to finished segment files: the one way, wherever it is run.

Decoding and flow run in one thread, the ascent in another, encoding in the caller's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...dream.dreamer import Dreamer
from ...errors import VideoError
from ..dreamer import Prepared, VideoDreamer
from ..flow import CutDetector
from ..io.fsync import write_data
from ..io.open import Encoding, FrameSink, VideoFrame, VideoSource, open_sink, open_source
from .ahead import ahead
from .checkpoint import FramesDigest, segment_name
from .chunks import Chunk, SegmentSplitter, stretches
from .manifest import Segment

_AHEAD = 3  # frames each stage may run before the next
State = dict[str, np.ndarray]


@dataclass(frozen=True)
class JobSpec:
    """What all segments of a job have in common, see `dream_video`; it can be sent to another machine."""

    source: str | Path
    source_options: Mapping[str, Any]
    target: Path
    dreamer: VideoDreamer
    encoding: Encoding
    start: Fraction | None = None
    end: Fraction | None = None
    every: int = 1
    schedule: Callable[[Fraction], Dreamer] | None = None
    longest: int | None = None  # segment, in frames; None: one segment without end
    overlap: int = 0

    def open(self) -> VideoSource:
        """The source. Raises what `open_source` raises."""
        return open_source(self.source, **self.source_options)

    def plan(self, video: VideoSource) -> Iterator[Chunk]:
        """The job's stretches, as soon as each is known. Raises VideoError after them where the source is damaged."""
        is_cut, info = CutDetector(), video.info
        assert self.longest is not None, "a pipe has no plan"

        def seen() -> Iterator[tuple[int, bool, Fraction]]:
            for frame in video.frames(start=self.start, end=self.end):
                yield frame.index, is_cut(_eight_bit(frame.image)), frame.pts * info.time_base - info.start

        usual = 1 / (info.rate or Fraction(25))
        return stretches(ahead(seen(), _AHEAD), self.longest, self.overlap, last=usual)


@dataclass
class Step:
    """A frame on its way through the stages."""

    frame: VideoFrame
    prepared: Prepared
    begins_segment: bool
    state: State  # of the dreamer before this frame, where a segment begins
    dreamed: np.ndarray
    objective: float = math.nan


@dataclass
class Segments:
    """Dreams a stretch into segment files in `folder`; iterating gives each segment when it is whole.

    Without `state` the dreamer begins anew. With `keep_state` each segment but the last comes with a file of the state
    after it. `on_step` is called for each frame. Where the source is damaged, VideoError is raised and `broken_off` is
    the file of the frames before it; it is not noted as a segment, for a mended source may go on otherwise.
    """

    recipe: JobSpec
    video: VideoSource
    stretch: Chunk
    folder: Path
    state: State | None = None
    keep_state: bool = False
    on_step: Callable[[Step], None] = lambda step: None
    broken_off: Path | None = field(default=None, init=False)

    def __iter__(self) -> Iterator[Segment]:
        dreamer, number = self.recipe.dreamer, self.stretch.number
        dreamer.reset()
        if self.state is not None:
            dreamer.restore(self.state)
        sink: FrameSink | None = None
        made = Segment(segment_name(number), 0, 0.0, 0, "", "")
        digest = FramesDigest()
        steps = ahead(self._developed(ahead(self._prepared(), _AHEAD)), _AHEAD)
        try:
            for step in steps:
                if step.begins_segment:
                    if sink is not None:
                        sink.close()
                        sink = None
                        yield self._with_state(replace(made, digest=str(digest)), number, step.state)
                        number += 1
                    sink, digest = self._open(number), FramesDigest()
                    made = Segment(segment_name(number), 0, 0.0, 0, "", "")
                assert sink is not None, "the first frame begins a segment"
                sink.write(step.dreamed, step.frame.pts, step.frame.alpha)
                digest.add(step.frame)
                made = replace(
                    made,
                    frames=made.frames + 1,
                    objective=made.objective + step.objective,
                    next_frame=step.frame.index + 1,
                )
                self.on_step(step)
        except VideoError:
            if sink is not None:
                sink.close()
                self.broken_off = self.folder / segment_name(number)
            raise
        except BaseException:
            if sink is not None:
                sink.discard()
            raise
        finally:
            steps.close()
        if sink is not None:
            sink.close()
            self._check_end(made.next_frame)
            yield replace(made, digest=str(digest))

    def _check_end(self, reached: int) -> None:
        """Raise VideoError when the source has given fewer frames than were planned for."""
        if self.stretch.stop is not None and reached != self.stretch.stop:
            missing = self.stretch.stop - reached
            raise VideoError(f"{self.recipe.source}: has {missing} frames less there than when cuts were looked for")

    def _open(self, number: int) -> FrameSink:
        return open_sink(self.folder / segment_name(number), self.video.info, self.recipe.encoding, self.recipe.target)

    def _with_state(self, segment: Segment, number: int, state: State) -> Segment:
        if not self.keep_state:
            return segment
        name, data = f"state-{number:05d}.npz", BytesIO()
        np.savez(data, allow_pickle=False, **state)
        write_data(self.folder / name, data.getvalue())
        return replace(segment, state=name)

    def _prepared(self) -> Iterator[Step]:
        """Frames with what the source tells about them."""
        recipe, stretch, dreamer = self.recipe, self.stretch, self.recipe.dreamer
        divide = SegmentSplitter(recipe.longest)
        cuts = None if stretch.cuts is None else set(stretch.cuts)
        for frame in self.video.frames(recipe.start, recipe.end, skip_to=stretch.first - stretch.warm_up):
            state = dreamer.source_state() if self.keep_state else {}
            cut = dreamer.cuts(_eight_bit(frame.image)) if cuts is None else frame.index in cuts
            prepared = dreamer.prepare(frame.rgb, cut)
            begins = frame.index >= stretch.first and divide(prepared.cut)
            yield Step(frame, prepared, begins, state if begins else {}, frame.image)
            if stretch.stop is not None and frame.index + 1 >= stretch.stop:
                return  # what comes after may be damaged

    def _developed(self, steps: Generator[Step, None, None]) -> Iterator[Step]:
        """The same frames, dreamed."""
        stretch, dreamer, fresh = self.stretch, self.recipe.dreamer, copy.copy(self.recipe.dreamer)
        fades = math.inf if stretch.stop is None else stretch.stop - stretch.fade
        with closing(steps):  # an error here must not leave the stage before running
            for step in steps:
                if step.begins_segment and self.keep_state:
                    step.state |= dreamer.memory_state()
                rgb = self._dream(dreamer, step)
                step.objective = dreamer.objective
                if step.frame.index >= fades:
                    share = (step.frame.index - fades + 1) / (stretch.fade + 1)
                    rgb = faded(step.prepared.frame, rgb, self._dream(fresh, step), share)
                if step.frame.index < stretch.first:
                    continue
                top = np.iinfo(step.frame.image.dtype).max
                values = np.rint(rgb * np.float32(top / 255)).astype(step.frame.image.dtype)
                step.dreamed = cv2.cvtColor(values, cv2.COLOR_RGB2BGR)
                yield step

    def _dream(self, dreamer: VideoDreamer, step: Step) -> np.ndarray:
        """The dream of a frame, which depends on its index and on what `dreamer` remembers."""
        recipe, info = self.recipe, self.video.info
        if recipe.schedule is not None:
            dreamer.dreamer = recipe.schedule(step.frame.pts * info.time_base - info.start)
        dreamer.count = step.frame.index
        rests = recipe.every > 1 and step.frame.index % recipe.every
        return dreamer.develop(step.prepared, steps=0 if rests else None)


def faded(source: np.ndarray, old: np.ndarray, new: np.ndarray, share: float) -> np.ndarray:
    """Between two dreams of `source`, `share` of the way from `old` to `new`; all RGB float32 [H,W,3] in 0..255.

    What two different dreams add to the picture cancels out in part where it is mixed; the mixture gets as strong again
    as they are (root mean square).
    """
    residuals = (old - source, new - source)
    mixed = cv2.addWeighted(residuals[0], 1 - share, residuals[1], share, 0)
    before, after, now = (cv2.norm(r) for r in (*residuals, mixed))
    gain = ((1 - share) * before + share * after) / max(now, 1e-6)
    return np.asarray(np.clip(source + np.float32(gain) * mixed, 0, 255))


def _eight_bit(image: np.ndarray) -> np.ndarray:
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=255 / 65535)
