"""Reading frames out of an open video file: where they are, what they look like, and where the file is broken."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from itertools import chain
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import VideoError
from .color import FULL, ColorTags, depth_of, has_alpha, matrix_of, read_frame
from .frames import VideoFrame, VideoInfo, VideoSource, seconds
from .mux import main_video
from .pipe import PipeInput

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

# FFmpeg's own decoders of these leave opacity out.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# Containers in which one packet is one frame, so that the packets tell the frames' times.
_ONE_PACKET_A_FRAME = ("mov", "matroska")
# Containers whose header tells the duration; the others' is estimated from what is there.
_TELLS_DURATION = ("matroska", "avi", "flv", "asf")
_NEAR = 50  # so many frames are sooner decoded than looked up
_UNSTEADY_CLOCK = 1 << 9  # FFmpeg's flag for containers whose clock starts anywhere (AVFMT_TS_DISCONT)
Decoded = tuple["av.VideoFrame", int]
Orientation = tuple[bool, bool, bool]  # transpose, then mirror left-right, then mirror top-bottom


class FileSource(VideoSource):
    """The video stream of a file or pipe.

    Args:
        name: The source, for messages.
        reopen: Opens the file from its beginning.
        decoder: Makes a decoder by its name, or returns None.
        damage: What either raises for a damaged file.
        pipe: Standard input, if the source is that.

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
    ) -> None:
        self.name, self._reopen, self._new_decoder, self._damage = name, reopen, decoder, damage
        self._input = pipe
        container = reopen()
        self._number = self._main(container)
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
        self.info = self._describe(container, first[0])
        self._matrix = matrix_of(self.info.color, self.info.width, self.info.height)
        self._times: list[int] | None = None
        self._keys: list[int] = []
        self._rest: Iterator[Decoded] | None = None
        self._pipe = container if pipe else None
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
        for frame, pts, index in self._located(first, skip_to or 0):
            if last is not None and pts >= last:
                return
            if index < (skip_to or 0) or (first is not None and pts < first):
                continue
            image, alpha = read_frame(frame, self._coded, self._matrix, alpha=self.info.alpha)
            opacity = None if alpha is None else _upright(alpha, self._orientation)
            yield VideoFrame(_upright(image, self._orientation), opacity, pts, index)

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
        begins = [s.start_time * s.time_base for s in container.streams if s.start_time is not None and s.time_base]
        unsteady = begins and container.format.flags & _UNSTEADY_CLOCK
        start = max(min(begins), Fraction(0)) if unsteady else Fraction(0)
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
        )

    def _located(self, first: int | None, skip_to: int) -> Iterator[tuple[av.VideoFrame, int, int]]:
        """Frames with their times and indices, from some frame before `first` and `skip_to` on."""
        if self._pipe is not None:
            if self._rest is None:
                raise VideoError(f"{self.name}: a pipe can be read only once")
            rest, self._rest = self._rest, None
            yield from ((frame, pts, index) for index, (frame, pts) in enumerate(rest))
            return
        if skip_to > _NEAR or (first is not None and first > 0):
            found = self._sought(first, skip_to)
            if found is not None:
                yield from found
                return
        with self._reopen() as container:
            yield from ((frame, pts, index) for index, (frame, pts) in enumerate(self._decode(container)))

    def _sought(self, first: int | None, skip_to: int) -> Iterator[tuple[av.VideoFrame, int, int]] | None:
        """Like `_located`, from the keyframe before; None when the file does not reliably lead there."""
        if self._times is None:
            self._times, self._keys = self._scan()
        times = self._times
        target = max(skip_to, 0 if first is None else bisect_left(times, first))
        if target >= len(times):
            return None
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
    def _followed(
        container: InputContainer, decoded: Iterator[Decoded], index: int
    ) -> Iterator[tuple[av.VideoFrame, int, int]]:
        with container:
            for place, (frame, pts) in enumerate(decoded, index):
                yield frame, pts, place

    def _scan(self) -> tuple[list[int], list[int]]:
        """The times of all frames and of all keyframes, from the packets alone; empty when they do not tell."""
        with self._reopen() as container:
            codec: Any = container.streams[self._number].codec_context
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
        """Frames in the order they are shown, with rising times; raises VideoError where the file is broken."""
        stream: Any = container.streams[self._number]
        decoder = stream.codec_context
        if ("alpha_mode", "1") in ((key.lower(), value) for key, value in stream.metadata.items()):
            decoder = self._new_decoder(ALPHA_DECODERS.get(decoder.name, "")) or decoder
        step = max(1, round(1 / (stream.average_rate * stream.time_base))) if stream.average_rate else 1
        last: int | None = None
        key: int | None = None
        reached, decoding_time, place = Fraction(0), None, 0
        torn, broken_at = False, None  # and the time shown of what is broken

        def timed(frame: av.VideoFrame) -> int:
            nonlocal last
            pts = frame.pts if frame.pts is not None else frame.dts
            if pts is None:
                pts = 0 if last is None else last + step
            last = pts if last is None else max(pts, last + 1)
            return last

        try:
            for packet in container.demux():
                if packet.stream_index != stream.index or not packet.size:
                    reached = max(reached, _end_of(packet))
                    continue
                if key is None and not packet.is_keyframe and container.format.name == "mpegts":
                    continue  # a recording that begins between keyframes
                if packet.is_corrupt:
                    torn, broken_at = True, packet.pts
                    break
                reached, decoding_time = max(reached, _end_of(packet)), packet.dts
                place = (packet.pos or 0) + packet.size
                key = packet.pts if key is None else key
                try:
                    decoded = decoder.decode(packet)
                except self._damage:
                    if key is not None and packet.pts is not None and packet.pts < key:
                        continue  # shown before the first keyframe, made from what is not there
                    torn, broken_at = True, packet.pts
                    break
                for frame in decoded:
                    if frame.is_corrupt:
                        if key is not None and frame.pts is not None and frame.pts < key:
                            continue
                        torn, broken_at = True, frame.pts
                        break
                    yield frame, timed(frame)
                if torn:
                    break
        except self._damage:
            torn = True
        try:
            held = decoder.decode(None)
        except self._damage:
            held, torn = [], True
        for frame in held:
            torn = torn or frame.is_corrupt
            if frame.is_corrupt or (broken_at is not None and frame.pts is not None and frame.pts >= broken_at):
                break
            yield frame, timed(frame)
        cut = self._input is not None and self._input.taken > place  # y4m ends in a frame without a word
        if torn or cut or self._ends_early(container, reached, decoding_time, step * stream.time_base):
            where = "at 0 s" if last is None else f"after {seconds(last * stream.time_base - self.info.start)}"
            raise VideoError(f"{self.name}: the video is damaged or cut off {where}")

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
