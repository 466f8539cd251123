"""Clocks of video files: times that rise from frame to frame, and one clock for recordings joined into one stream."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.stream import Stream

_UNSTEADY = 1 << 9  # FFmpeg's flag for containers whose clock starts anywhere and may jump (AVFMT_TS_DISCONT)
_AHEAD, _BACK = 10, Fraction(1, 10)  # seconds by which a clock that is not broken may run ahead or go back


def is_unsteady(container: InputContainer) -> bool:
    """Whether it is of a kind that can be joined end to end and broadcast, as a transport stream."""
    return bool(container.format.flags & _UNSTEADY)


def frame_step(stream: Stream) -> int:
    """The usual time from one frame to the next, in ticks of the stream."""
    given: Any = stream
    return max(1, round(1 / (given.average_rate * given.time_base))) if given.average_rate else 1


class FrameClock:
    """Gives each frame of a stream a time, in ticks, later than that of the frame before.

    Args:
        step: The usual time between frames.
        first: (pts, dts) of the first packets in the order they are stored, None for what they do not tell.
        reorders: Whether frames are shown in another order than they are stored.

    Attributes:
        last: The time given last.
        guessed: Whether packets tell only when they are decoded, as in AVI, so that their order is all there is.
    """

    def __init__(
        self, step: int, first: Sequence[tuple[int | None, int | None]] = (), *, reorders: bool = False
    ) -> None:
        self.step = step
        self.last: int | None = None
        shown = [pts for pts, _ in first]
        self._by_dts = None in shown
        told = [pts for pts in shown if pts is not None]
        self.guessed = reorders and len(first) > 2 and (self._by_dts or told == sorted(told))
        self._pending: list[int] = []
        times = [dts if pts is None else pts for pts, dts in first]
        untold = next((place for place, time in enumerate(times) if time is not None), 0)
        self._first = max(0, (times[untold] or 0) - untold * step) if untold else 0

    def add(self, packet: av.Packet[Any]) -> None:
        """Take note of a packet on its way into the decoder."""
        time = packet.dts if self._by_dts else packet.pts
        if self.guessed and time is not None:
            heapq.heappush(self._pending, time)

    def __call__(self, frame: av.VideoFrame) -> int:
        """The time of the next frame out of the decoder."""
        pts = frame.pts if frame.pts is not None else frame.dts
        if self._pending:
            pts = heapq.heappop(self._pending)
        if self.last is None:
            self.last = self._first if pts is None else pts
        else:
            self.last = self.last + self.step if pts is None else max(pts, self.last + 1)
        return self.last


class JoinedClock:
    """Puts the pictures of joined recordings on one clock.

    Where the clock jumps, the next keyframe is shown right after the picture before. What cannot be decoded there, or
    would be shown before that keyframe, is left out.

    Args:
        stream: The pictures.

    Attributes:
        shifts: Ticks to add to the times of each part so far.
        key: When the first keyframe of the newest part is shown.
        end: When the last picture so far goes away.
    """

    def __init__(self, stream: Stream) -> None:
        self.shifts = [0]
        self.key: int | None = None
        self.end: int | None = None
        self._jumps = _Jumps(stream)
        self._step = frame_step(stream)

    def place(self, packet: av.Packet[Any]) -> bool:
        """Move a packet's times; False where it is to be left out."""
        time = _time_of(packet)
        shown = packet.pts if packet.pts is not None else time
        if not packet.is_keyframe and (self._jumps.goes_on_before(time) or self._jumps.goes_on_before(shown)):
            return False  # the end of the part before, which the demuxer has held back
        if self._jumps(time):
            self.key = None
        if self.key is None:
            if not packet.is_keyframe or shown is None:
                return False
            if self.end is not None:
                self.shifts.append(self.end - shown)
            self.key = shown + self.shifts[-1]
        _move(packet, self.shifts[-1])
        if packet.pts is not None:
            if len(self.shifts) > 1 and packet.pts < self.key:
                return False
            self.end = max(self.end or packet.pts, packet.pts + (packet.duration or self._step))
        return True


class FollowingClock:
    """Puts a stream beside the pictures of joined recordings on their clock.

    Args:
        stream: The stream.
        shifts: Seconds to add in each part, from `joined_shifts`.

    Attributes:
        part: The number of the part reached.
    """

    def __init__(self, stream: Stream, shifts: list[Fraction]) -> None:
        self.part, self._shifts = 0, shifts
        self._continuous = stream.type == "audio"
        self._jumps = _Jumps(stream)
        self._end = Fraction(0)

    def place(self, packet: av.Packet[Any], part: int) -> bool:
        """Move a packet's times; False where it lies in the part before.

        Args:
            packet: The packet.
            part: The part that another stream has reached, for those that have long pauses.
        """
        time = _time_of(packet)
        if time is None:
            return True
        if not self._continuous:
            self.part = part
        elif self._jumps(time) and self.part + 1 < len(self._shifts):
            self.part += 1
        _move(packet, round(self._shifts[self.part] / packet.time_base))
        begin = (_time_of(packet) or 0) * packet.time_base
        length = (packet.duration or 0) * packet.time_base
        if self._continuous and self.part and begin + length / 2 < self._end:
            return False
        self._end = max(self._end, begin + length)
        return True


def joined_shifts(container: InputContainer, stream: Stream) -> list[Fraction]:
    """Seconds to add to the times of each part of a stream, read to its end; [0] where its clock does not jump."""
    clock = JoinedClock(stream)
    for packet in demuxed(container, [stream]):
        if packet.size:
            clock.place(packet)
    assert stream.time_base is not None
    return [shift * stream.time_base for shift in clock.shifts]


def demuxed(container: InputContainer, streams: list[Stream] | None = None) -> Iterator[av.Packet[Any]]:
    """The packets of a file; those of streams that begin in the middle are left out, at which PyAV stumbles in the end.

    Args:
        container: The file.
        streams: Those to read; all if None.
    """
    try:
        yield from container.demux(streams)
    except IndexError:
        return


class _Jumps:
    """Whether a stream's clock jumps, told packet by packet."""

    def __init__(self, stream: Stream) -> None:
        assert stream.time_base is not None
        self._ahead, self._back = _AHEAD / stream.time_base, _BACK / stream.time_base
        self._last: int | None = None
        self._last_before: int | None = None  # the jump

    def __call__(self, time: int | None) -> bool:
        if time is None:
            return False
        before, self._last = self._last, time
        jumps = before is not None and not self._follows(before, time)
        if jumps:
            self._last_before = before
        return jumps

    def goes_on_before(self, time: int | None) -> bool:
        """Whether a time jumps back to where the clock was before its newest jump."""
        if time is None or self._last is None or self._last_before is None:
            return False
        return not self._follows(self._last, time) and self._follows(self._last_before, time)

    def _follows(self, before: int, time: int) -> bool:
        return before - self._back <= time <= before + self._ahead


def _time_of(packet: av.Packet[Any]) -> int | None:
    return packet.dts if packet.dts is not None else packet.pts


def _move(packet: av.Packet[Any], by: int) -> None:
    if packet.pts is not None:
        packet.pts += by
    if packet.dts is not None:
        packet.dts += by
