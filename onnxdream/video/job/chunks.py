"""How a video is cut into segments, and those into stretches that can be dreamed by themselves.

Where a scene begins nothing is remembered, so a stretch that begins at a cut needs no other. A shot longer than the
longest segment is either one stretch of several segments, or, with an overlap of K frames, one stretch for each: the
dream of the next stretch begins K frames early, and over those K frames the dream before fades into it.
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

OVERLAP = 24  # frames; from there on a fade's warp error is that of an undivided dream (tools/bench_cluster.py)


class SegmentSplitter:
    """Tells at which frames segments begin.

    A segment ends at a cut when it has a quarter of `longest` frames, and within a shot after `longest` frames of it.
    """

    def __init__(self, longest: int | None) -> None:
        self.longest = longest  # None: one segment without end
        self._length = self._shot = 0  # frames of this segment, and of its last shot

    def __call__(self, cut: bool) -> bool:
        """Whether the next frame begins a segment; `cut`: it begins a scene."""
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
    """Frames that are dreamed in one go; indices are those of the source's frames.

    `number` is that of its first segment. `warm_up` frames before `first` are dreamed for their effect alone, and over
    the last `fade` frames the dream turns into one begun with them. `cuts` are the frames that begin scenes, where that
    is known, and `segments` is how many it gives then. `begins` and `ends` are seconds, for messages.
    """

    number: int = 0
    first: int = 0
    stop: int | None = None  # the frame after the last; None: the end of the source
    warm_up: int = 0
    fade: int = 0
    cuts: tuple[int, ...] | None = None
    segments: int = 1
    begins: float = 0.0
    ends: float = 0.0

    def __str__(self) -> str:
        return f"{_clock(self.begins)} to {_clock(self.ends)}"


def stretches(
    frames: Iterable[tuple[int, bool, Fraction]], longest: int, overlap: int, *, last: Fraction = Fraction(1, 25)
) -> Iterator[Chunk]:
    """The stretches of a source, each as soon as it is known.

    `frames` are (index, whether it begins a scene, seconds); the last one stays for `last` seconds. With `overlap` 0 a
    stretch ends only where a scene does.
    """
    divide = SegmentSplitter(longest)
    number, segments = 0, 0
    first, warm_up, begins = 0, 0, Fraction(0)
    cuts: list[int] = []
    index, time = -1, Fraction(0)

    def finished(fade: int, stop: int, ends: Fraction) -> Chunk:
        return Chunk(number, first, stop, warm_up, fade, tuple(cuts), segments, float(begins), float(ends))

    damage: VideoError | None = None
    try:
        for index, cut, time in frames:
            if divide(cut):
                goes_on = bool(segments) and not cut
                if segments and (cut or overlap):
                    yield finished(overlap if goes_on else 0, index, time)
                    number, segments, cuts = number + segments, 0, []
                if not segments:
                    first, warm_up, begins = index, overlap if goes_on else 0, time
                segments += 1
            if cut:
                cuts.append(index)
    except VideoError as error:
        damage = error
    if segments:
        yield finished(0, index + 1, time + last)
    if damage is not None:
        raise damage


def save(path: Path, found: list[Chunk], damage: str | None) -> None:
    """Note down a whole plan, and what is wrong with the source after its end. Raises OutputError."""
    text = json.dumps({"damage": damage, "stretches": [asdict(stretch) for stretch in found]})
    write_data(path, text.encode())


def load(path: Path) -> tuple[list[Chunk], str | None] | None:
    """What was saved; None when nothing was, or it is damaged."""
    try:
        plan: dict[str, Any] = json.loads(path.read_bytes())
        found = [Chunk(**{**stretch, "cuts": tuple(stretch["cuts"])}) for stretch in plan["stretches"]]
        return found, plan["damage"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _clock(seconds: float) -> str:
    """75.2 -> '1:15.20'."""
    minutes, rest = divmod(seconds, 60)
    return (
        f"{int(minutes // 60)}:{int(minutes % 60):02d}:{rest:05.2f}"
        if minutes >= 60
        else f"{int(minutes)}:{rest:05.2f}"
    )
