"""How a video is cut into segments and into chunks, which can be dreamed independently of each other.

At the start of a scene nothing is remembered, so a chunk that begins at a cut needs no other. A shot longer than the
longest segment is either one chunk of several segments or, with an overlap of K frames, one chunk per segment: the next
chunk's dream begins K frames early, and over those K frames the earlier dream fades into it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt, TypeAdapter
from pydantic.dataclasses import dataclass

from ...errors import VideoError
from ..io.fsync import write_data
from .checkpoint import STRICT

OVERLAP = 24  # frames; from here up a fade's warp error equals that of an undivided dream (tools/bench_cluster.py)


class SegmentSplitter:
    """Decides at which frames segments begin.

    A segment ends at a cut once it has a quarter of `segment_frames`, and within a shot after `segment_frames` of it.

    Args:
        segment_frames: Frames in the longest segment within a shot; None for one segment without end.
    """

    def __init__(self, segment_frames: int | None) -> None:
        self.segment_frames = segment_frames
        self._length = self._shot = 0  # frames of this segment, and of its last shot

    def __call__(self, cut: bool) -> bool:
        """Whether the next frame begins a segment; `cut` tells whether it begins a scene."""
        if cut:
            self._shot = 0
        begins = self._length == 0
        if self.segment_frames is not None:
            begins |= self._shot >= self.segment_frames or (cut and 4 * self._length >= self.segment_frames)
        if begins:
            self._length = self._shot = 0
        self._length += 1
        self._shot += 1
        return begins


@dataclass(frozen=True, config=STRICT)
class Chunk:
    """Consecutive frames that are dreamed in one go; frames are given by their indices in the source.

    Attributes:
        number: Of its first segment.
        first: Its first frame.
        stop: The frame after its last; None for the end of the source.
        warm_up: Frames before `first` that are dreamed only for the state they leave.
        fade: Last frames, over which the dream fades into one that begins with them.
        cuts: The frames that begin scenes; None if they are still to be detected.
        segments: How many segments it has, if `cuts` are known.
        start_time: Time of its first frame in seconds, for messages.
        end_time: Time in seconds at which its last frame ends, for messages.
    """

    number: NonNegativeInt = 0
    first: NonNegativeInt = 0
    stop: NonNegativeInt | None = None
    warm_up: NonNegativeInt = 0
    fade: NonNegativeInt = 0
    cuts: tuple[NonNegativeInt, ...] | None = None
    segments: PositiveInt = 1
    start_time: float = 0.0
    end_time: float = 0.0

    def __str__(self) -> str:
        return f"{_clock(self.start_time)} to {_clock(self.end_time)}"


@dataclass(frozen=True, config=STRICT)
class ChunkList:
    """All chunks of a job, as a resumed run needs them.

    Attributes:
        chunks: In order of time.
        damage: The error's message if the source is damaged after them.
    """

    chunks: list[Chunk]
    damage: str | None = None

    def save(self, path: Path) -> None:
        """Write a file for `load`. Raises WriteError."""
        write_data(path, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, path: Path) -> ChunkList | None:
        """What was saved; None if nothing was, or the file is damaged."""
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except (OSError, ValueError):
            return None


def find_chunks(
    frames: Iterable[tuple[int, bool, Fraction]],
    segment_frames: int,
    overlap: int,
    *,
    last_duration: Fraction = Fraction(1, 25),
) -> Iterator[Chunk]:
    """Yield the chunks of a source, each as soon as it is known.

    Args:
        frames: (index, whether it begins a scene, its time in seconds) for each frame.
        segment_frames: Frames in the longest segment within a shot.
        overlap: Frames by which chunks within a shot overlap; with 0 a chunk ends only at a cut.
        last_duration: Seconds that the last frame is shown.

    Raises:
        VideoError: `frames` raised it; the chunks of the frames before are yielded first.
    """
    begins_segment = SegmentSplitter(segment_frames)
    number, segments = 0, 0
    first, warm_up, start_time = 0, 0, Fraction(0)
    cuts: list[int] = []
    index, time = -1, Fraction(0)

    def finished(fade: int, stop: int, end_time: Fraction) -> Chunk:
        return Chunk(number, first, stop, warm_up, fade, tuple(cuts), segments, float(start_time), float(end_time))

    damage: VideoError | None = None
    try:
        for index, cut, time in frames:
            if begins_segment(cut):
                within_shot = bool(segments) and not cut
                if segments and (cut or overlap):
                    yield finished(overlap if within_shot else 0, index, time)
                    number, segments, cuts = number + segments, 0, []
                if not segments:
                    first, warm_up, start_time = index, overlap if within_shot else 0, time
                segments += 1
            if cut:
                cuts.append(index)
    except VideoError as error:
        damage = error
    if segments:
        yield finished(0, index + 1, time + last_duration)
    if damage is not None:
        raise damage


def _clock(seconds: float) -> str:
    """75.2 -> '1:15.20'."""
    hours, minutes = divmod(int(seconds // 60), 60)
    if hours:
        return f"{hours}:{minutes:02d}:{seconds % 60:05.2f}"
    return f"{minutes}:{seconds % 60:05.2f}"
