"""How a video is cut into segments and into chunks, which can be dreamed independently of each other.

At the start of a scene nothing is remembered, so a chunk that begins at a cut needs no other. A shot longer than the
longest segment is either one chunk of several segments or, with an overlap of K frames, one chunk per segment: the next
chunk's dream begins K frames early, and over those K frames the earlier dream fades into it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...errors import VideoError
from ..io.fsync import write_data

OVERLAP = 24  # frames; from here up a fade's warp error equals that of an undivided dream (tools/bench_cluster.py)


class SegmentSplitter:
    """Decides at which frames segments begin.

    A segment ends at a cut once it has a quarter of `longest` frames, and within a shot after `longest` frames of it.
    """

    def __init__(self, longest: int | None) -> None:
        self.longest = longest  # None: one segment without end
        self._length = self._shot = 0  # frames of this segment, and of its last shot

    def __call__(self, cut: bool) -> bool:
        """Whether the next frame begins a segment; `cut` says whether it begins a scene."""
        if cut:
            self._shot = 0
        begins = self._length == 0 or (
            self.longest is not None and (self._shot >= self.longest or (cut and 4 * self._length >= self.longest))
        )
        if begins:
            self._length = self._shot = 0
        self._length += 1
        self._shot += 1
        return begins


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames that are dreamed in one go, as indices of the source's frames."""

    number: int = 0  # of its first segment
    first: int = 0
    stop: int | None = None  # the frame after the last; None: the end of the source
    warm_up: int = 0  # frames before `first` that are dreamed only for the state they leave
    fade: int = 0  # last frames, over which the dream fades into one that begins with them
    cuts: tuple[int, ...] | None = None  # the frames that begin scenes; None: still to be detected
    segments: int = 1  # number of its segments, if `cuts` are known
    begins: float = 0.0  # seconds, for messages
    ends: float = 0.0

    def __str__(self) -> str:
        return f"{_clock(self.begins)} to {_clock(self.ends)}"


def find_chunks(
    frames: Iterable[tuple[int, bool, Fraction]], longest: int, overlap: int, *, last: Fraction = Fraction(1, 25)
) -> Iterator[Chunk]:
    """Yield the chunks of a source, each as soon as it is known.

    Args:
        frames: (index, whether it begins a scene, its time in seconds) for each frame.
        longest: frames in a segment within a shot.
        overlap: frames by which chunks within a shot overlap; with 0 a chunk ends only at a cut.
        last: seconds that the last frame is shown.

    Raises:
        VideoError: iterating over `frames` did; the chunks of the frames before are yielded first.
    """
    begins_segment = SegmentSplitter(longest)
    number, segments = 0, 0
    first, warm_up, begins = 0, 0, Fraction(0)
    cuts: list[int] = []
    index, time = -1, Fraction(0)

    def finished(fade: int, stop: int, ends: Fraction) -> Chunk:
        return Chunk(number, first, stop, warm_up, fade, tuple(cuts), segments, float(begins), float(ends))

    damage: VideoError | None = None
    try:
        for index, cut, time in frames:
            if begins_segment(cut):
                within_shot = bool(segments) and not cut
                if segments and (cut or overlap):
                    yield finished(overlap if within_shot else 0, index, time)
                    number, segments, cuts = number + segments, 0, []
                if not segments:
                    first, warm_up, begins = index, overlap if within_shot else 0, time
                segments += 1
            if cut:
                cuts.append(index)
    except VideoError as error:
        damage = error
    if segments:
        yield finished(0, index + 1, time + last)
    if damage is not None:
        raise damage


def save(path: Path, chunks: list[Chunk], damage: str | None) -> None:
    """Save all chunks of a job and, if the source is damaged after them, the error's message. Raises WriteError."""
    text = json.dumps({"damage": damage, "chunks": [asdict(chunk) for chunk in chunks]})
    write_data(path, text.encode())


def load(path: Path) -> tuple[list[Chunk], str | None] | None:
    """What was saved; None if nothing was, or it is damaged."""
    try:
        plan: dict[str, Any] = json.loads(path.read_bytes())
        chunks = [Chunk(**{**chunk, "cuts": tuple(chunk["cuts"])}) for chunk in plan["chunks"]]
        return chunks, plan["damage"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _clock(seconds: float) -> str:
    """75.2 -> '1:15.20'."""
    hours, minutes = divmod(int(seconds // 60), 60)
    if hours:
        return f"{hours}:{minutes:02d}:{seconds % 60:05.2f}"
    return f"{minutes}:{seconds % 60:05.2f}"
