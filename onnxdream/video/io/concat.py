"""Segments: encoded runs of frames on their way into a result, and how they are joined.

A segment notes down times in ticks of the source's time base as if they were milliseconds, the only unit Matroska
knows, counted from its first frame; so they come back exactly.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import floor, lcm
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

from ...errors import OutputError, VideoError
from . import hdr
from .color import read_frame
from .frames import VideoFrame, VideoInfo
from .mux import Timed, decode_times

if TYPE_CHECKING:
    import av
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream

log = logging.getLogger(__name__)

TICK = Fraction(1, 1000)
OPTIONS: dict[str, dict[str, str]] = {"matroska": {}, "mov": {"use_editlist": "0", "video_track_timescale": "1000"}}
# These say themselves when pixels are not square; for others PyAV has no way to make Matroska say it.
_TELL_ASPECT = ("h264", "hevc", "mpeg4")
_LONGEST = 10  # seconds the last picture may stay, by what the source says of its duration
# Tags that MP4 has places for; others need its newer way of storing tags, which fewer programs read.
_MP4_TAGS = {"title", "artist", "album", "comment", "date", "genre", "copyright", "description", "synopsis", "grouping"}


def first_tick_tag(first: int, info: VideoInfo) -> dict[str, str]:
    """The tag of a segment that says when it begins, in ticks."""
    return {"comment": json.dumps({"first": first, "unit": str(info.time_base)})}


def stamp(packet: av.Packet[Any], number: int, kind: str) -> None:
    """Prepare the `number`-th packet of an encoder for a segment in a container of `kind`.

    Decoding times are made anew when segments are joined, and x265 leaves those of a very short run to chance. Here
    only their order counts: before any `pts`, or, in a mov, where every frame stands alone, at it.
    """
    packet.time_base = TICK
    packet.dts = number - (1 << 40) if kind == "matroska" else packet.pts


def packet_ticks(container: InputContainer, name: str, info: VideoInfo) -> list[int]:
    """The time of every packet of a segment, in ticks, in decoding order.

    Raises:
        VideoError: The file is no segment of a result like `info`.
    """
    text = next((value for key, value in container.metadata.items() if key.lower() == "comment"), "")
    try:
        noted = json.loads(text)
        first, unit = int(noted["first"]), Fraction(noted["unit"])
    except (ValueError, KeyError, TypeError) as error:
        raise VideoError(f"{name}: is not a segment of a result") from error
    if unit != info.time_base:
        raise VideoError(f"{name}: counts time in {unit} s, the source in {info.time_base} s; it belongs to another")
    found = [int(p.pts * p.time_base / TICK) for p in container.demux(video=0) if p.size and p.pts is not None]
    if not found:
        raise VideoError(f"{name}: the segment is empty")
    return [time - min(found) + first for time in found]


def muxer_options(kind: str, metadata: dict[str, str], clocks: list[Fraction]) -> dict[str, str]:
    """Options of the result's container: the same bytes each time, no moving of times, the index of an MP4 in front.

    Args:
        kind: FFmpeg's name of the muxer.
        metadata: The result's tags.
        clocks: The time bases of its streams; MP4 notes down when each begins in a unit for all of them.
    """
    options = {"fflags": "+bitexact", "avoid_negative_ts": "disabled"}
    if kind in ("mp4", "mov"):
        unit = lcm(*(clock.denominator for clock in clocks))
        options["movie_timescale"] = str(unit if unit < 1 << 31 else clocks[0].denominator)
        options["movflags"] = "+faststart" if set(metadata) <= _MP4_TAGS else "+faststart+use_metadata_tags"
    return options


class JoinedSegments:
    """The frames of several segments as one run.

    Attributes:
        shown: The frames' times in ticks, rising.
        end: When the last one goes away, in ticks.

    Args:
        parts: The segments, in order.
        info: The source's.
        reopen: Opens a segment.
        end: Where the source was cut, in seconds, if it was.

    Raises:
        OutputError: The segments do not follow each other or were not encoded alike.
        VideoError: One is damaged.
    """

    def __init__(
        self, parts: list[Path], info: VideoInfo, reopen: Callable[[Path], InputContainer], end: Fraction | None
    ) -> None:
        self.parts, self.info, self._reopen = parts, info, reopen
        self._coded: list[int] = []
        alike: Any = None
        for part in parts:
            with reopen(part) as container:
                found = packet_ticks(container, str(part), info)
                context: Any = container.streams.video[0].codec_context
                kind = context.name, context.width, context.height, context.extradata
            if alike is not None and kind != alike:
                raise OutputError(
                    f"{part}: was encoded otherwise than the segments before it; encode all of them alike"
                )
            if self._coded and min(found) <= max(self._coded):
                raise OutputError(f"{part}: does not begin after the segment before it ends")
            alike = kind
            self._coded += found
        self.shown = sorted(self._coded)
        gaps = [b - a for a, b in zip(self.shown, self.shown[1:], strict=False)]
        self._step = median_low(gaps) if gaps else max(1, round(1 / ((info.rate or 25) * info.time_base)))
        self.end = self._end(end)

    def _end(self, end: Fraction | None) -> int:
        """When the last picture goes away, in ticks."""
        usual, unit = self.shown[-1] + self._step, self.info.time_base
        until = end if end is not None else self.info.duration
        if until is None:
            return usual
        ticks = round((self.info.start + until) / unit)
        if end is not None:
            return ticks if self.shown[-1] < ticks < usual else usual
        return ticks if self.shown[-1] < ticks <= self.shown[-1] + _LONGEST / unit else usual

    def shift(self, start: Fraction | None) -> int:
        """Ticks to take away from every time: see `finish`."""
        return self.shown[0] if start is not None else floor(self.info.start / self.info.time_base)

    def add_to(self, out: OutputContainer, kind: str) -> Stream:
        """A stream in `out` for the packets."""
        with self._reopen(self.parts[0]) as container:
            template: Any = container.streams.video[0]
            video: Stream
            if self.info.hdr is None:
                video = out.add_stream_from_template(template, opaque=True)
            else:
                with hdr.template(template, self.info.hdr) as marked:
                    video = out.add_stream_from_template(marked, opaque=True)
            alpha, tag = template.metadata.get("alpha_mode"), template.codec_context.codec_tag
        video.time_base = self.info.time_base
        context: Any = video.codec_context
        if self.info.rate is not None:
            context.framerate = self.info.rate
        context.sample_aspect_ratio = self.info.aspect
        if self.info.aspect != 1 and kind in ("matroska", "webm") and context.name not in _TELL_ASPECT:
            log.warning(
                f"pixels of {self.info.aspect} cannot be noted down for {context.name} in this container; "
                "players will show them square"
            )
        if context.name == "hevc" and kind in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # what Apple's players want
        elif context.name == "prores":
            context.codec_tag = tag  # tells 4444 from 422
        video.metadata.update({"alpha_mode": alpha} if alpha else {})
        return video

    def packets(self, video: Stream, shift: int) -> Iterator[Timed]:
        """The packets to mux into `video`, with their times in seconds."""
        unit = self.info.time_base
        after = dict(zip(self.shown, [*self.shown[1:], self.end], strict=True))
        decoding = decode_times(self._coded, self._step)
        place = 0
        for part in self.parts:
            with self._reopen(part) as container:
                for packet in container.demux(video=0):
                    if not packet.size or packet.pts is None:
                        continue
                    time = self._coded[place]
                    packet.stream = video  # type: ignore[assignment]
                    packet.time_base = unit
                    packet.pts, packet.dts = time - shift, decoding[place] - shift
                    packet.duration = after[time] - time
                    yield float(packet.dts * unit), packet
                    place += 1

    def frames(self) -> Iterator[VideoFrame]:
        """The frames decoded again, for results that are not video files."""
        index = 0
        for part in self.parts:
            with self._reopen(part) as container:
                for frame in container.decode(video=0):
                    image, alpha, _ = read_frame(frame, (frame.width, frame.height), 1, alpha=self.info.alpha)
                    yield VideoFrame(image, alpha, self.shown[index], index)
                    index += 1
