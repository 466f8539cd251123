"""Reading frames out of an open video file: where they are, what they look like, and where the file is broken."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from itertools import chain, islice
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import VideoError
from .clock import FrameClock, JoinedClock, demuxed, frame_step, is_unsteady
from .color import (
    FULL,
    LIMITED,
    MATRIX_OF_PRIMARIES,
    ColorTags,
    chroma_steps,
    depth_of,
    has_alpha,
    is_rgb,
    matrix_of,
    read_frame,
    siting_of,
)
from .frames import VideoFrame, VideoInfo, VideoSource, seconds
from .hdr import hdr_of, lost_side_data
from .interlace import Deinterlacer, Interlaced, field_order
from .mux import main_video
from .pipe import PipeInput

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

log = logging.getLogger(__name__)

# FFmpeg's own decoders of these leave opacity out.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# Containers in which one packet is one frame, so that the packets tell the frames' times.
_ONE_PACKET_A_FRAME = ("mov", "matroska")
# Containers whose header tells the duration; the others' is estimated from what is there.
_TELLS_DURATION = ("matroska", "avi", "flv", "asf")
_NEAR = 50  # so many frames are sooner decoded than looked up
_LOOKED_AT = 64  # packets from which it is told whether times can be believed
_THREADS = 4  # for what is decoded frame by frame, each with a frame of its own in memory
_MOST_LOST = 1  # seconds of pictures that a transport stream may lack at its end
Decoded = tuple["av.VideoFrame", int]
Located = tuple["av.VideoFrame", tuple[int, int]]  # and its time and index
Orientation = tuple[bool, bool, bool]  # transpose, then mirror left-right, then mirror top-bottom


class FileSource(VideoSource):
    """The video stream of a file or pipe.

    Args:
        name: The source, for messages.
        reopen: Opens the file from its beginning.
        decoder: Makes a decoder by its name, or returns None.
        damage: What either raises for a damaged file.
        pipe: Standard input, if the source is that.
        interlaced: What becomes of interlaced frames.

    Raises:
        VideoError: There is no video, or not one whole frame.
    """

    def __init__(
        self,
        name: str,
        reopen: Callable[[], InputContainer],
        decoder: Callable[[str], av.CodecContext | None],
        damage: type[Exception],
        *,
        pipe: PipeInput | None = None,
        interlaced: Interlaced = "deinterlace",
    ) -> None:
        self.name, self._reopen, self._new_decoder, self._damage = name, reopen, decoder, damage
        self._input = pipe
        self._deinterlaces = interlaced == "deinterlace"
        self._told: set[str] = set()
        self._first_packets: list[tuple[int | None, int | None]] = []
        self._reorders = False
        container = reopen()
        self._number = self._main(container)
        self._unit = container.streams[self._number].time_base or Fraction(1)
        self._origin = _begin(container)
        frames = self._decode(container)
        try:
            first = next(frames, None)
        except VideoError:
            container.close()
            raise
        if first is None:
            container.close()
            raise VideoError(f"{name}: not one frame of it can be decoded")
        self._coded = first[0].width, first[0].height
        self._orientation = _orientation_of(first[0])
        self._siting = siting_of(first[0])
        self.info = self._describe(container, first[0])
        self._matrix = matrix_of(self.info.color, self.info.width, self.info.height)
        self._times: list[int] | None = None
        self._keys: list[int] = []
        self._rest: Iterator[Decoded] | None = None
        self._pipe = container if pipe else None
        codec: Any = container.streams[self._number].codec_context
        if not (pipe or is_unsteady(container)) and (first[0].pts is None or codec.has_b_frames):
            with reopen() as again:
                packets = (p for p in again.demux(again.streams[self._number]) if p.size)
                self._first_packets = [(p.pts, p.dts) for p in islice(packets, _LOOKED_AT)]
            self._reorders = bool(codec.has_b_frames)
        if pipe:
            self._rest = chain([first], frames)
        else:
            frames.close()
            container.close()

    def close(self) -> None:
        """See VideoSource."""
        if self._pipe is not None:
            self._pipe.close()

    def frames(
        self, start: Fraction | None = None, end: Fraction | None = None, skip_to: int | None = None
    ) -> Iterator[VideoFrame]:
        """See VideoSource."""
        unit, origin = self.info.time_base, self.info.start
        first = None if start is None else ceil((origin + start) / unit)
        last = None if end is None else ceil((origin + end) / unit)
        located = self._located(first, skip_to or 0)
        if self._deinterlaces:
            located = Deinterlacer(self.info.rate, self._tell_interlaced)(located)
        size: tuple[int, int] | None = None
        for frame, (pts, index) in located:
            if last is not None and pts >= last:
                return
            before, size = size, (frame.width, frame.height)
            cut = before not in (None, size)
            if cut:
                changed = f"changes from {'x'.join(map(str, before or ()))} to {size[0]}x{size[1]}"
                self._tell("its size", f"pictures are scaled to {self._coded[0]}x{self._coded[1]}", pts, changed)
            if index < (skip_to or 0) or (first is not None and pts < first):
                continue
            info = self.info
            image, alpha, planes = read_frame(frame, self._coded, self._matrix, self._siting, alpha=info.alpha)
            if any(self._orientation):
                image, planes = _upright(image, self._orientation), None
                alpha = None if alpha is None else _upright(alpha, self._orientation)
            yield VideoFrame(image, alpha, pts, index, cut, planes)

    def _main(self, container: InputContainer) -> int:
        """The number of the stream that is the video, not a cover picture."""
        chosen = main_video(container)
        if chosen is None:
            container.close()
            raise VideoError(f"{self.name}: has no video stream")
        if not chosen.codec_context:
            container.close()
            raise VideoError(f"{self.name}: there is no decoder for its video")
        return int(chosen.index)

    def _describe(self, container: InputContainer, first: av.VideoFrame) -> VideoInfo:
        stream: Any = container.streams[self._number]
        unit = stream.time_base
        tags = ColorTags(
            first.color_primaries or 2,
            first.color_trc or 2,
            first.colorspace,
            FULL if first.format.name.startswith("yuvj") else first.color_range,
        )
        chroma = chroma_steps(first.format) if len(first.format.components) > 2 else (2, 2)
        if is_rgb(first.format):
            tags = ColorTags(tags.primaries, tags.transfer, MATRIX_OF_PRIMARIES.get(tags.primaries, 1), LIMITED)
            chroma = (1, 1)
        start = self._origin
        length, duration = None, None
        if stream.duration:
            length = stream.duration * unit
            duration = length + (stream.start_time or 0) * unit - start
        elif container.duration:
            length = duration = Fraction(container.duration, 1_000_000)
        rate = stream.average_rate or stream.guessed_rate or None
        frames = stream.frames or (round(length * rate) if length and rate else None)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        depth = depth_of(first.format)
        width, height = self._coded
        return VideoInfo(
            width=height if self._orientation[0] else width,
            height=width if self._orientation[0] else height,
            rate=rate,
            time_base=unit,
            frames=frames,
            duration=duration,
            bits=next(bits for bits in (8, 10, 12, 16) if depth <= bits),
            alpha=has_alpha(first.format),
            color=tags,
            pix_fmt=first.format.name,
            codec=stream.codec_context.codec.canonical_name,
            has_audio=bool(container.streams.audio),
            start=start,
            aspect=1 / aspect if self._orientation[0] else aspect,
            field_order="" if self._deinterlaces else field_order(first),
            chroma=chroma[::-1] if self._orientation[0] else chroma,
            siting="left" if any(self._orientation) else self._siting,
            hdr=hdr_of(first),
            side_data=lost_side_data(first),
        )

    def _located(self, first: int | None, skip_to: int) -> Iterator[Located]:
        """Frames with their times and indices, from some frame before `first` and `skip_to` on."""
        if self._pipe is not None:
            if self._rest is None:
                raise VideoError(f"{self.name}: a pipe can be read only once")
            rest, self._rest = self._rest, None
            yield from ((frame, (pts, index)) for index, (frame, pts) in enumerate(rest))
            return
        if skip_to > _NEAR or (first is not None and first > 0):
            found = self._sought(first, skip_to)
            if found is not None:
                yield from found
                return
        with self._reopen() as container:
            yield from ((frame, (pts, index)) for index, (frame, pts) in enumerate(self._decode(container)))

    def _sought(self, first: int | None, skip_to: int) -> Iterator[Located] | None:
        """Like `_located`, from the keyframe before; None when the file does not reliably lead there."""
        if self._times is None:
            self._times, self._keys = self._scan()
        times = self._times
        target = max(skip_to, 0 if first is None else bisect_left(times, first))
        if target >= len(times):
            return None
        target = max(0, target - 1)  # what the frame asked for is compared with
        key = bisect_left(self._keys, times[target] + 1) - 1
        if key < 1:
            return None
        container = self._reopen()
        expected = None
        try:
            container.seek(self._keys[key], stream=container.streams[self._number])
            decoded = self._decode(container)
            for frame, pts in decoded:
                if pts < self._keys[key]:
                    continue
                place = bisect_left(times, pts)
                if place > target or times[place] != pts or (expected is not None and place != expected):
                    break
                if place == target:
                    return self._followed(container, chain([(frame, pts)], decoded), target)
                expected = place + 1
        except (VideoError, self._damage):
            pass
        container.close()
        return None

    @staticmethod
    def _followed(container: InputContainer, decoded: Iterator[Decoded], index: int) -> Iterator[Located]:
        with container:
            for place, (frame, pts) in enumerate(decoded, index):
                yield frame, (pts, place)

    def _scan(self) -> tuple[list[int], list[int]]:
        """The times of all frames and of all keyframes, from the packets alone; empty when they do not tell."""
        with self._reopen() as container:
            stream: Any = container.streams[self._number]
            if self._frame_clock(stream).guessed:
                return [], []
            codec = stream.codec_context
            if not container.format.name.startswith(_ONE_PACKET_A_FRAME) or (codec and codec.name in ("vp8", "theora")):
                return [], []
            times, keys = [], []
            try:
                for packet in container.demux(container.streams[self._number]):
                    if packet.size and not packet.is_discard:
                        if packet.pts is None:
                            return [], []
                        times.append(packet.pts)
                        keys += [packet.pts] if packet.is_keyframe else []
            except self._damage:
                pass
        return (sorted(times), sorted(keys)) if len(set(times)) == len(times) else ([], [])

    def _decode(self, container: InputContainer) -> Generator[Decoded, None, None]:
        """Frames in the order they are shown, with rising times.

        Raises VideoError where the file is broken. A transport stream goes on after what is broken in it.
        """
        stream: Any = container.streams[self._number]
        decoder = stream.codec_context
        if ("alpha_mode", "1") in ((key.lower(), value) for key, value in stream.metadata.items()):
            decoder = self._new_decoder(ALPHA_DECODERS.get(decoder.name, "")) or decoder
        joined = None
        if is_unsteady(container):
            joined = JoinedClock(stream)
            decoder.thread_type = "FRAME"  # H.264 neither mends nor marks damaged frames with threads for slices
            decoder.thread_count = _THREADS
        clock = self._frame_clock(stream)
        reached, decoding_time, place = Fraction(0), None, 0
        key: int | None = None
        torn, broken_at = False, None  # and the time shown of what is broken
        sound_end = pictures_end = Fraction(0)  # on the file's own clock
        try:
            for packet in demuxed(container):
                if packet.stream_index != stream.index or not packet.size:
                    reached = max(reached, _end_of(packet))
                    if packet.size and packet.stream.type == "audio":
                        sound_end = _end_of(packet)
                    continue
                if joined is not None:
                    pictures_end = _end_of(packet)
                    parts = len(joined.shifts)
                    if not joined.place(packet):
                        continue
                    if len(joined.shifts) > parts:
                        self._tell("its clock jumps", "the dream goes on without a gap", joined.key)
                        for frame in self._drained(decoder):
                            yield frame, clock(frame)
                        decoder.flush_buffers()
                    key = joined.key
                elif packet.is_corrupt:
                    torn, broken_at = True, packet.pts
                    break
                reached, decoding_time = max(reached, _end_of(packet)), packet.dts
                place = (packet.pos or 0) + packet.size
                key = packet.pts if key is None else key
                clock.add(packet)
                try:
                    decoded = decoder.decode(packet)
                except self._damage:
                    if key is not None and packet.pts is not None and packet.pts < key:
                        continue  # shown before the first keyframe, made from what is not there
                    if joined is not None:
                        self._tell("is damaged", "the dream goes on after that", packet.pts)
                        continue
                    torn, broken_at = True, packet.pts
                    break
                for frame in decoded:
                    if frame.is_corrupt:
                        if key is not None and frame.pts is not None and frame.pts < key:
                            continue
                        if joined is None:
                            torn, broken_at = True, frame.pts
                            break
                        self._tell("is damaged", "the dream goes on after that", frame.pts)
                    yield frame, clock(frame)
                if torn:
                    break
        except self._damage:
            torn = True
        try:
            held = self._drained(decoder) if joined is not None else decoder.decode(None)
        except self._damage:
            held, torn = [], True
        for frame in held:
            if joined is None:
                torn = torn or frame.is_corrupt
                if frame.is_corrupt or (broken_at is not None and frame.pts is not None and frame.pts >= broken_at):
                    break
            yield frame, clock(frame)
        last, unit = clock.last, stream.time_base
        if joined is not None and joined.end is not None:
            torn = torn or last is None or (joined.end - last) * unit > _MOST_LOST
            if joined.key is None:
                self._tell("has pictures that cannot be decoded", "they are left out", last)
            elif sound_end > pictures_end + _MOST_LOST:
                self._tell("has no more pictures", f"its sound goes on for {seconds(sound_end - pictures_end)}", last)
        cut = self._input is not None and self._input.taken > place  # y4m ends in a frame without a word
        if torn or cut or self._ends_early(container, reached, decoding_time, clock.step * unit):
            where = "at 0 s" if last is None else f"after {seconds(last * unit - self.info.start)}"
            raise VideoError(f"{self.name}: the video is damaged or cut off {where}")

    def _drained(self, decoder: Any) -> list[av.VideoFrame]:
        """What a decoder still holds back, but for what is damaged."""
        held: list[av.VideoFrame] = []
        for _ in range(_THREADS):
            try:
                held += decoder.decode(None)
            except EOFError:
                break
            except self._damage:
                continue
        return held

    def _frame_clock(self, stream: Any) -> FrameClock:
        return FrameClock(frame_step(stream), self._first_packets, reorders=self._reorders)

    def _tell_interlaced(self, what: str) -> None:
        if what == "interlaced":
            self._tell("is interlaced", "its frames are deinterlaced; --interlaced keep leaves them as they are")
        else:
            self._tell("is telecined film", "fields that repeat stay in; FFmpeg's fieldmatch and decimate undo that")

    def _tell(self, what: str, then: str, pts: int | None = None, how: str = "") -> None:
        """Log a note about the source, once for each `what`."""
        if what not in self._told:
            self._told.add(what)
            where = "" if pts is None else f" at {seconds(pts * self._unit - self._origin)}"
            log.warning(f"{self.name}: {what}{how and ' ' + how}{where}; {then}")

    def _ends_early(
        self, container: InputContainer, reached: Fraction, decoding_time: int | None, step: Fraction
    ) -> bool:
        """Whether the file promised more than there was; `step` is the usual time from one frame to the next."""
        kind = container.format.name
        stream = container.streams[self._number]
        if kind.startswith("mov") and len(stream.index_entries):
            return decoding_time is None or decoding_time < stream.index_entries[-1].timestamp
        if kind.startswith(_TELLS_DURATION) and container.duration:
            return reached + max(Fraction(1, 4), 2 * step) < Fraction(container.duration, 1_000_000)
        return False


def _begin(container: InputContainer) -> Fraction:
    """The time on the container's own clock, in seconds, that a user calls 0."""
    begins = [s.start_time * s.time_base for s in container.streams if s.start_time is not None and s.time_base]
    return max(min(begins), Fraction(0)) if begins and is_unsteady(container) else Fraction(0)


def _end_of(packet: av.Packet[Any]) -> Fraction:
    time = packet.pts if packet.pts is not None else packet.dts
    return Fraction(0) if time is None else (time + (packet.duration or 0)) * packet.time_base


def _orientation_of(frame: av.VideoFrame) -> Orientation:
    """How to bring the frame upright, from the display matrix it carries."""
    carried: Any = frame.side_data
    matrix = carried.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _upright(array: np.ndarray, orientation: Orientation) -> np.ndarray:
    """[H,W] or [H,W,C] brought upright, contiguous."""
    transpose, mirror_x, mirror_y = orientation
    if transpose:
        array = array.swapaxes(0, 1)
    if mirror_x:
        array = array[:, ::-1]
    if mirror_y:
        array = array[::-1]
    return np.ascontiguousarray(array)
