"""What a result takes over from its source besides the pictures: sound, subtitles, chapters, tags."""

from __future__ import annotations

import heapq
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from math import floor
from typing import TYPE_CHECKING, Any

import av
from av.stream import Discard

from .clock import FollowingClock, JoinedClock, demuxed, is_unsteady, joined_shifts

if TYPE_CHECKING:
    from av.container import Chapter, InputContainer, OutputContainer
    from av.stream import Stream

log = logging.getLogger(__name__)

SETTINGS_MARK = "onnxdream "
# Facts about the source's bytes, not about what is in it; the muxer writes its own.
_OWN = ("major_brand", "minor_version", "compatible_brands", "encoder", "rotate", "vendor_id", "duration", "alpha_mode")
_STATISTICS = ("BPS", "DURATION", "NUMBER_OF_", "_STATISTICS_")
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}  # what both encoders take
_TEXTS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}  # what texts are converted to
_STYLED = ("ass", "ssa")
_SILENCE = b"\0\0"  # MP4's subtitle of no text, between two others; the muxer writes it itself
Timed = tuple[float, "av.Packet[Any]"]


@dataclass(frozen=True)
class Trim:
    """How the source's times become the result's.

    Attributes:
        shift: Seconds taken from every time.
        length: Seconds; what then begins at this time or later is left out. None: nothing is.
    """

    shift: Fraction
    length: Fraction | None = None


def decode_times(pts: list[int], step: int) -> list[int]:
    """Decoding times for packets: strictly rising, never after the times shown, as late as that allows.

    Args:
        pts: When each packet is shown, in decoding order.
        step: The distance of decoding times before the first picture.
    """
    shown = sorted(pts)
    rank = {time: place for place, time in enumerate(shown)}
    delay = max(place - rank[time] for place, time in enumerate(pts))
    return [shown[0] - (delay - i) * step if i < delay else shown[i - delay] for i in range(len(pts))]


def is_cover(stream: Stream) -> bool:
    """Whether a video stream is only a picture to show with the file."""
    return stream.disposition.attached_pic in stream.disposition


def main_video(container: InputContainer) -> Stream | None:
    """The stream that is the film: the default one of those that are no cover, else the first; None without any."""
    films = [stream for stream in container.streams.video if not is_cover(stream)]
    default = (stream for stream in films if stream.disposition.default in stream.disposition)
    return next(default, films[0] if films else None)


def tags(metadata: dict[str, str]) -> dict[str, str]:
    """The tags of a container or stream that are true of the result as well."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _OWN and not key.upper().startswith(_STATISTICS)
    }


def timecode_after(code: str, frames: int, rate: Fraction) -> str:
    """A timecode some frames later.

    Args:
        code: The timecode, 01:00:00:00; with ; before the frames it skips numbers to keep step with the clock.
        frames: How many frames.
        rate: Frames a second.

    Returns:
        The later timecode; `code` itself if it has another form.
    """
    found = re.fullmatch(r"(\d+):(\d+):(\d+)([:;])(\d+)", code)
    if not found:
        return code
    hours, minutes, seconds, last = (int(found[n]) for n in (1, 2, 3, 5))
    minutes += 60 * hours
    base = round(rate)
    skipped = base // 15 if found[4] == ";" else 0  # at the start of each minute but every tenth
    number = (60 * minutes + seconds) * base + last - skipped * (minutes - minutes // 10) + frames
    tens, rest = divmod(number, 600 * base - 9 * skipped)
    number += skipped * (9 * tens + max(0, (rest - skipped) // (60 * base - skipped)))
    seconds, last = divmod(number, base)
    return f"{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{found[4]}{last:02d}"


def settings_metadata(settings: dict[str, Any]) -> dict[str, str]:
    """Settings as a tag that every container can hold."""
    return {"comment": SETTINGS_MARK + json.dumps(settings)}


def settings_in(metadata: dict[str, str]) -> dict[str, Any] | None:
    """The settings that `settings_metadata` put there, or that are there as bare JSON; None when there are none."""
    text = next((value for key, value in metadata.items() if key.lower() == "comment"), "")
    try:
        settings = json.loads(text.removeprefix(SETTINGS_MARK))
    except ValueError:
        return None
    return settings if isinstance(settings, dict) else None


def chapters(source: InputContainer, trim: Trim) -> list[Chapter]:
    """The source's chapters on the result's clock; those outside of it are left out."""
    moved: list[Chapter] = []
    for chapter in source.chapters():
        unit = chapter["time_base"] or Fraction(1, 1000)
        begin = max(chapter["start"] * unit - trim.shift, Fraction(0))
        end = chapter["end"] * unit - trim.shift
        if trim.length is not None:
            end = min(end, trim.length)
        if end > begin:
            moved.append({**chapter, "start": round(begin / unit), "end": round(end / unit), "time_base": unit})
    return moved


def interleave(out: OutputContainer, pictures: Iterable[Timed], others: SourceStreams | None) -> None:
    """Mux pictures and what goes beside them in the order of their times; what is damaged of the latter is left out."""
    beside = () if others is None else others.packets()
    for _, packet in heapq.merge(pictures, beside, key=lambda timed: timed[0]):
        try:
            out.mux(packet)
        except av.error.InvalidDataError:
            damaged = [] if others is None else [i for i, t in others.targets.items() if t is packet.stream]
            if others is None or not damaged:
                raise
            others.note_damage(damaged[0])


def _called(stream: Stream, codec: str | None) -> str:
    """What a stream is, with what tells it from others."""
    about = {key.lower(): value for key, value in stream.metadata.items()}
    if stream.type == "attachment":
        return f"attachment {stream.index} ({', '.join(filter(None, map(about.get, ('filename', 'mimetype'))))})"
    if "timecode" in about:
        return f"timecode track {stream.index} (from {about['timecode']})"
    if stream.type == "video":
        codec = codec or "of unknown kind"
        return (
            f"cover picture {stream.index} ({codec})" if is_cover(stream) else f"video stream {stream.index} ({codec})"
        )
    return f"{stream.type} stream {stream.index} ({codec or about.get('handler_name') or 'of unknown kind'})"


class SourceStreams:
    """The streams of a source that go into a result beside the video: copied bit by bit where the container allows it.

    Sound it cannot hold is encoded anew (Opus for WebM, else AAC), texts are converted, anything else is left out, each
    with a note where something is lost.

    Args:
        source: The source.
        video: Its stream that is not taken over.
        out: The result.
        reopen: Opens the source once more.
        kind: FFmpeg's name of the result's muxer.
        name: The result, for notes.
        trim: How times move.
    """

    def __init__(
        self,
        source: InputContainer,
        video: Stream,
        out: OutputContainer,
        *,
        reopen: Callable[[], InputContainer],
        kind: str,
        name: str,
        trim: Trim,
    ) -> None:
        self.source, self.out, self.kind, self.name, self.trim = source, out, kind, name, trim
        self.reopen, self.video = reopen, video
        self.targets: dict[int, Stream] = {}
        self.encoded: set[int] = set()
        self._damaged: set[int] = set()
        held = out.supported_codecs
        for stream in source.streams:
            if stream.index == video.index:
                continue
            take = {"audio": self._sound, "subtitle": self._subtitles}.get(stream.type, self._copied)
            target = take(stream, held)
            if target is None:
                continue
            target.metadata.update(tags(stream.metadata))
            target.disposition = stream.disposition
            if target.type != "attachment":
                self.targets[stream.index] = target

    def _copied(self, stream: Stream, held: set[str]) -> Stream | None:
        context: Any = stream.codec_context
        codec = context.codec.canonical_name if context else None
        if stream.type == "attachment" and self.kind == "matroska":
            return self._template(stream)
        if stream.type == "video" and is_cover(stream):
            if self.kind == "matroska":
                return self._attached(stream, codec or "")
            if self.kind in ("mp4", "mov") and context.name in held and self._goes_in(stream):
                return self._template(stream)
        if stream.type == "data" and stream.discard == Discard.all:
            return None  # the text of the chapters, which are kept as such
        if "timecode" in stream.metadata and self.kind in ("mp4", "mov"):
            return None  # the muxer writes this stream itself, from the tag of the video
        kept = "timecode" in stream.metadata and "timecode" in self.video.metadata
        why = "where it begins stays as a tag" if kept else "this container cannot take it over"
        self._warn(f"{_called(stream, codec)} is left out; {why}")
        return None

    def _subtitles(self, stream: Stream, held: set[str]) -> Stream | None:
        context: Any = stream.codec_context
        if context is not None and context.name in held and self._goes_in(stream):
            return self._template(stream)
        codec = context.codec.canonical_name if context else "of unknown kind"
        if context is None or not context.codec.text_sub:
            self._warn(f"subtitle stream {stream.index} ({codec}) is left out; this container takes only text")
            return None
        try:
            context.open(strict=False)
            target: Any = self.out.add_stream(_TEXTS[self.kind])
            target.codec_context.subtitle_header = context.subtitle_header
            target.codec_context.time_base = target.time_base = Fraction(1, 1000)
            target.codec_context.open(strict=False)
        except (av.FFmpegError, ValueError) as error:
            self._warn(f"subtitle stream {stream.index} ({codec}) is left out; it cannot be converted ({error})")
            return None
        self.encoded.add(stream.index)
        without = ", without styles and places" if codec in _STYLED else ""
        self._warn(
            f"subtitle stream {stream.index} ({codec}) is converted to {_TEXTS[self.kind]}{without}; "
            "this container cannot hold it as it is"
        )
        made: Stream = target
        return made

    def _attached(self, stream: Stream, codec: str) -> Stream:
        """A cover picture the way Matroska keeps it."""
        kind = {"mjpeg": "jpeg"}.get(codec, codec)
        with self.reopen() as again:
            data = bytes(next(again.demux(again.streams[stream.index])))
        return self.out.add_attachment(f"cover.{kind.replace('jpeg', 'jpg')}", f"image/{kind}", data)

    def _template(self, stream: Stream) -> Stream:
        return self.out.add_stream_from_template(stream, opaque=True)

    def _goes_in(self, stream: Stream) -> bool:
        """Whether the container takes a stream as it is. Tried: its list of codecs promises more than it keeps."""
        with self.reopen() as again:
            given = again.streams[stream.index]
            try:
                with av.open(BytesIO(), "w", format=self.kind) as trial:
                    target = trial.add_stream_from_template(given, opaque=True)
                    trial.start_encoding()
                    packet = next(again.demux(given)) if stream.type == "audio" else None
                    if packet is not None and packet.size:
                        packet.pts = packet.dts = 0
                        packet.stream = target
                        trial.mux(packet)
            except (av.FFmpegError, ValueError):
                return False
        return True

    def _sound(self, stream: Stream, held: set[str]) -> Stream | None:
        context: Any = stream.codec_context
        if context is None:
            self._warn(f"audio stream {stream.index} is left out; there is no decoder for it")
            return None
        if context.name in held and self._goes_in(stream):
            return self._template(stream)
        opus = self.kind == "webm"
        rate = 48000 if opus or context.sample_rate not in _AAC_RATES else context.sample_rate
        target: Any = self.out.add_stream("libopus" if opus else "aac", rate=rate)
        channels = len(context.layout.channels)
        target.codec_context.layout = _LAYOUTS.get(channels, "stereo" if channels < 6 else "5.1")
        target.codec_context.bit_rate = (64000 if opus else 96000) * channels
        self.encoded.add(stream.index)
        self._warn(
            f"audio stream {stream.index} ({context.codec.canonical_name}) is encoded anew as "
            f"{'Opus' if opus else 'AAC'}; this container cannot hold it as it is"
        )
        made: Stream = target
        return made

    def packets(self) -> Iterator[Timed]:
        """The packets to mux, cut and moved, with their times in seconds."""
        last: dict[int, int] = {}
        wanted = [self.source.streams[index] for index in self.targets]
        for packet in self._readable(wanted):
            stream = packet.stream
            made = self._moved(packet)
            if stream.index in self.encoded:
                made = self._encode(packet) if stream.type == "audio" else self._rewrite(made, stream.index)
            for ready in made:
                ready.stream = self.targets[stream.index]
                if ready.dts is not None:
                    ready.dts = max(ready.dts, last.get(stream.index, ready.dts - 1) + 1)
                    if ready.pts is not None:
                        ready.pts = max(ready.pts, ready.dts)
                    last[stream.index] = ready.dts
                yield float((ready.dts or 0) * ready.time_base), ready

    def _readable(self, wanted: list[Stream]) -> Iterator[av.Packet[Any]]:
        """The packets of the wanted streams, up to where the source breaks off."""
        if not wanted:
            return
        shifts = [Fraction(0)]
        if is_unsteady(self.source):
            with self.reopen() as again:
                shifts = joined_shifts(again, again.streams[self.video.index])
        try:
            if len(shifts) == 1:
                yield from demuxed(self.source, wanted)
            else:
                yield from self._on_one_clock(wanted, shifts)
        except av.FFmpegError as error:
            self._warn(f"sound and subtitles end early, where the source is damaged ({error})")

    def _on_one_clock(self, wanted: list[Stream], shifts: list[Fraction]) -> Iterator[av.Packet[Any]]:
        """The packets of the wanted streams of joined recordings, on the clock of their pictures."""
        pictures = JoinedClock(self.video)
        clocks = {stream.index: FollowingClock(stream, shifts) for stream in wanted}
        for packet in demuxed(self.source, [self.video, *wanted]):
            if packet.stream.index == self.video.index:
                if packet.size:
                    pictures.place(packet)
            elif clocks[packet.stream.index].place(packet, len(pictures.shifts) - 1):
                yield packet

    def _moved(self, packet: av.Packet[Any]) -> Iterator[av.Packet[Any]]:
        time = packet.pts if packet.pts is not None else packet.dts
        if packet.size and is_cover(packet.stream):
            packet.pts = packet.dts = 0
            yield packet
        if packet.size == 0 or time is None or is_cover(packet.stream):
            return
        if packet.stream.type == "subtitle" and bytes(packet) == _SILENCE:
            return
        unit = packet.time_base
        by = round(self.trim.shift / unit)
        packet.pts = time - by
        packet.dts = packet.pts if packet.dts is None else packet.dts - by
        limit = None if self.trim.length is None else floor(self.trim.length / unit)
        if packet.stream.type == "subtitle" and packet.duration:
            end = packet.pts + packet.duration
            end = end if limit is None else min(end, limit)
            packet.pts = packet.dts = max(packet.pts, 0)
            packet.duration = end - packet.pts
            if packet.duration > 0:
                yield packet
            return
        if limit is not None and packet.pts >= limit:
            return
        # What lies before a cut is left out. At the very beginning it is what the decoder needs to get going; Matroska
        # knows no time before 0 except for Opus.
        early = packet.pts < 0 and (self.trim.shift > 0 or self.kind in ("matroska", "webm"))
        if not early or (self.trim.shift == 0 and packet.stream.codec_context.name in ("opus", "libopus")):
            yield packet

    def _encode(self, packet: av.Packet[Any]) -> Iterator[av.Packet[Any]]:
        target: Any = self.targets[packet.stream.index]
        unit = packet.time_base
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            frames = []
            self.note_damage(packet.stream.index)
        for frame in frames:
            if frame.pts is None:
                continue
            time = frame.pts * unit - self.trim.shift
            if time < 0 or (self.trim.length is not None and time >= self.trim.length):
                continue
            frame.pts = round(time / unit)
            yield from target.encode(frame)
        if packet.size == 0:
            yield from target.encode(None)

    def _rewrite(self, packets: Iterator[av.Packet[Any]], index: int) -> Iterator[av.Packet[Any]]:
        """Texts in the result's own form, at the same times."""
        reader: Any = self.source.streams[index].codec_context
        writer: Any = self.targets[index].codec_context
        for packet in packets:
            try:
                text = reader.decode2(packet)
                if text is None or not len(text):
                    continue
                written = writer.encode_subtitle(text)
            except av.FFmpegError:
                self.note_damage(index)
                continue
            written.pts, written.dts, written.duration = packet.pts, packet.dts, packet.duration
            written.time_base, written.is_keyframe = packet.time_base, True
            yield written

    def note_damage(self, index: int) -> None:
        """Say once that a stream of the source, given by its index, has packets that are damaged and left out."""
        if index not in self._damaged:
            self._damaged.add(index)
            kind = self.source.streams[index].type
            self._warn(f"{kind} stream {index} is damaged; what cannot be read of it is left out")

    def _warn(self, text: str) -> None:
        log.warning(f"{self.name}: {text}")
