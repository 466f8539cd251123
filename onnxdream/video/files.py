"""Video in and out, for the pipeline: `open_source`, `open_sink`, `finish`. Nothing else imports PyAV.

A result grows as segments, each one run of encoded frames that appears when it is whole; `finish` joins them with what
the source has besides pictures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..errors import OnnxDreamError, OptionError, OutputError, VideoError
from ..images import write_whole
from . import joined, pixels, streams
from .colors import over_white
from .decode import FileSource
from .encoding import ANIMATIONS, CONTAINERS, Encoder, Encoding, Plan, plan, sink_kind
from .frames import ColorTags, FrameCheck, FrameSink, VideoFrame, VideoInfo, VideoSource
from .raw import PipeSink, pipe_format, pipe_input
from .sequences import (
    RATE,
    AnimationSource,
    PictureSource,
    find_pictures,
    read_picture_settings,
    write_animation,
    write_pictures,
)
from .streams import Cut, SourceStreams, settings_in, settings_metadata

__all__ = [
    "ColorTags", "Encoding", "FrameSink", "Plan", "VideoFrame", "VideoInfo", "VideoSink", "VideoSource",
    "check_encoding", "finish", "open_sink", "open_source", "read_segment", "read_video_settings",
    "settings_metadata", "sink_kind",
]  # fmt: skip

_THREADS = 4  # whatever the machine has: encoders write something else with another number
os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 writes to the terminal past every logger; errors only


def open_source(
    spec: str | Path,
    *,
    rate: Fraction | None = None,
    size: tuple[int, int] | None = None,
    pix_fmt: str | None = None,
) -> VideoSource:
    """Open a video file, a folder or pattern of pictures, an animated GIF or WebP, or `-`, a pipe on standard input.

    A pattern is a glob (frames/*.png) or holds a printf number (f_%05d.png); pictures come in natural order, `rate` a
    second (25 by default). A pipe carries y4m, or, when `size` (width, height) is given, bare frames of `pix_fmt`
    (bgr24 by default) at `rate`. Raises VideoError when there is nothing that can be read, OptionError for a `rate`,
    `size` or `pix_fmt` where none is needed or missing where one is.
    """
    if rate is not None and rate <= 0:
        raise OptionError(f"rate {rate} is not above 0")
    name = str(spec)
    if name == "-":
        kind, options = pipe_input(rate, size, pix_fmt)
        return FileSource("-", lambda: _open("-", "pipe:0", kind, options), _new_decoder, av.FFmpegError, once=True)
    if size is not None or pix_fmt is not None:
        raise OptionError(f"{name}: size and pixel format are for bare frames on standard input")
    pictures = find_pictures(spec)
    if pictures is not None:
        return PictureSource(name, pictures, rate or RATE)
    if rate is not None:
        raise OptionError(f"{name}: has a rate of its own; rate is for pictures and bare frames")
    path = Path(spec)
    if not path.exists():
        raise VideoError(f"{name}: no such file")
    if path.stat().st_size == 0:
        raise VideoError(f"{name}: the file is empty")
    if path.suffix.lower() in ANIMATIONS:
        return AnimationSource(path)
    return FileSource(name, lambda: _open(name, f"file:{path}"), _new_decoder, av.FFmpegError)


def _open(name: str, url: str, kind: str | None = None, options: dict[str, str] | None = None) -> Any:
    try:
        container = av.open(url, format=kind, options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        text = "not a y4m stream" if kind == "yuv4mpegpipe" else "not a video, or of a kind that cannot be read"
        reason = error.strerror if isinstance(error, OSError) else None
        raise VideoError(f"{name}: {reason or text}") from error
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        container.close()
        raise VideoError(f"{name}: is a still picture; a video of pictures is a folder or a pattern such as f_%05d.png")
    return container


def _new_decoder(name: str) -> Any:
    try:
        return av.CodecContext.create(name, "r")
    except ValueError:
        return None


@lru_cache(maxsize=64)
def _find_encoder(name: str) -> Encoder | None:
    try:
        codec = av.Codec(name, "w")
    except ValueError:
        return None
    if codec.type != "video":
        return None
    return Encoder(codec.name, tuple(f.name for f in codec.video_formats or ()))


@lru_cache(maxsize=8)
def _held(kind: str) -> frozenset[str]:
    """The names of all codecs that a container can hold."""
    with av.open(BytesIO(), "w", format=kind) as container:
        return frozenset(container.supported_codecs)


def check_encoding(target: str | Path, info: VideoInfo, encoding: Encoding) -> Plan | None:
    """Make sure, before any work is done, that frames like `info` can be encoded so and written to `target`.

    Returns what was chosen, None for a pipe. Raises OptionError for an unknown codec, one the container cannot hold,
    and a pixel format, crf or option the encoder does not take; OutputError when `target` cannot be written.
    """
    kind = sink_kind(target)
    if kind == "pipe":
        pipe_format(encoding)
        return None
    path = Path(target)
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder to write into")
    if (path.is_dir() and kind != "pictures") or not os.access(folder, os.W_OK):
        raise OutputError(f"{target}: cannot be written (is it a folder, or is the folder read-only?)")
    chosen = _planned(target, info, encoding)
    _start(av.CodecContext.create(chosen.codec, "w"), chosen, info)
    return chosen


def _planned(target: str | Path, info: VideoInfo, encoding: Encoding) -> Plan:
    chosen = plan(target, info, encoding, _find_encoder)
    suffix = Path(target).suffix.lower()
    if suffix in CONTAINERS and chosen.codec not in _held(CONTAINERS[suffix]):
        raise OptionError(f"codec {chosen.codec} does not go into {suffix}; use another codec, or .mkv")
    return chosen


def _start(context: Any, chosen: Plan, info: VideoInfo) -> None:
    """Set up and open an encoder. Raises OptionError when it refuses."""
    try:
        av.VideoFormat(chosen.pix_fmt)
    except ValueError as error:
        raise OptionError(f"there is no pixel format {chosen.pix_fmt!r}") from error
    context.width, context.height, context.pix_fmt = info.width, info.height, chosen.pix_fmt
    context.time_base, context.framerate = info.time_base, info.rate or Fraction(25)
    context.sample_aspect_ratio = info.aspect
    context.color_primaries, context.color_trc = chosen.color.primaries, chosen.color.transfer
    context.colorspace, context.color_range = chosen.color.matrix, chosen.color.range
    context.thread_count, context.thread_type = _THREADS, "AUTO"
    context.options = dict(chosen.options)
    try:
        context.open(strict=False)
    except (av.FFmpegError, ValueError) as error:
        asked = " ".join(f"{key}={value}" for key, value in chosen.options.items()) or "no options"
        what = f"{info.width}x{info.height} {chosen.pix_fmt} with {asked}"
        raise OptionError(f"codec {chosen.codec} refuses {what}: {getattr(error, 'strerror', error)}") from error
    if context.options:
        raise OptionError(f"codec {chosen.codec} has no option {', '.join(context.options)}")


class VideoSink(FrameSink):
    """Encodes one run of frames into the segment `path`, which appears when it is closed, for the result `target`.

    `info` says size, rate, time base and colours. Raises OptionError like `check_encoding`, and OutputError.
    """

    def __init__(self, path: Path, info: VideoInfo, encoding: Encoding, target: str | Path) -> None:
        self.path, self._whole, self.info = path, path, info
        self.plan = _planned(target, info, encoding)
        self._check = FrameCheck(info)
        self._part = path.with_name(f".{path.name}.part")
        self._kind = kind = "matroska" if self.plan.codec in _held("matroska") else "mov"
        with self._told():
            self._container = av.open(str(self._part), "w", format=kind, container_options=joined.OPTIONS[kind])
            self._stream: Any = self._container.add_stream(self.plan.codec, info.rate or Fraction(25))
        self._stream.time_base = joined.TICK
        try:
            _start(self._stream.codec_context, self.plan, info)
        except OnnxDreamError:
            self.discard()
            raise
        self._first: int | None = None
        self._packets = 0

    def write(self, image: np.ndarray, pts: int, alpha: np.ndarray | None = None) -> None:
        """See FrameSink."""
        self._check(image, pts, alpha)
        if self._first is None:
            self._first = pts
            self._container.metadata.update(joined.note(pts, self.info))
        if alpha is not None and not self.plan.alpha:
            image, alpha = over_white(image, alpha), None
        working = pixels.working_format(av.VideoFormat(self.plan.pix_fmt))
        blank = av.VideoFrame(self.info.width, self.info.height, working)
        pixels.write(blank, image, alpha, self.plan.matrix, full=self.plan.full)
        frame = pixels.encodable(blank, self.plan.pix_fmt)
        frame.pts, frame.time_base = pts - self._first, self.info.time_base
        self._mux(frame)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        with self._told():
            for packet in self._stream.encode(frame):
                self._packets += 1
                joined.noted(packet, self._packets, self._kind)
                self._container.mux(packet)

    def close(self) -> None:
        """See FrameSink. Raises ValueError when nothing was written."""
        if self._first is None:
            self.discard()
            raise ValueError(f"{self.path}: a segment needs a frame")
        self._mux(None)
        with self._told():
            self._container.close()
            self._part.replace(self._whole)

    def discard(self) -> None:
        """See FrameSink."""
        with suppress(av.FFmpegError, OSError):
            self._container.close()
        self._part.unlink(missing_ok=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            self._part.unlink(missing_ok=True)
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from error


def open_sink(path: Path, info: VideoInfo, encoding: Encoding, target: str | Path) -> FrameSink:
    """Where to write frames for `target`: the segment `path`, or, when `target` is `-`, standard output itself.

    Raises OptionError like `check_encoding`, and OutputError.
    """
    return PipeSink(info, encoding) if sink_kind(target) == "pipe" else VideoSink(path, info, encoding, target)


def read_segment(path: Path, info: VideoInfo) -> list[int]:
    """The times of a segment's frames, in ticks of `info.time_base`, rising. Raises VideoError when it is not one."""
    with _open(str(path), f"file:{path}") as container:
        return sorted(joined.times(container, str(path), info))


def finish(
    target: str | Path,
    segments: list[Path],
    source: str | Path | None,
    info: VideoInfo,
    *,
    metadata: dict[str, str],
    start: Fraction | None = None,
    end: Fraction | None = None,
) -> None:
    """Join `segments` into `target`, which appears when it is whole, with what `source` has besides pictures.

    Encoded frames are taken over as they are, with their times; so are sound, subtitles, cover pictures, chapters and
    tags of a `source` that is a video file, as far as the container can hold them, else a warning says what became of
    them.
    With `start` (seconds) everything moves so that the first frame is at 0; what begins at `end` or later is left out.
    A source whose clock starts anywhere (MPEG-TS) is moved to 0 as well. Matroska and WebM round times to milliseconds.
    `metadata` becomes tags of the result; see `settings_metadata`. A pipe has nothing to finish. Raises OutputError,
    and VideoError for a damaged segment.
    """
    kind, path = sink_kind(target), Path(target)
    if kind == "pipe":
        return
    if not segments:
        raise ValueError("there is nothing to join")
    run = joined.Joined(segments, info, lambda part: _open(str(part), f"file:{part}"), end)
    if kind == "pictures":
        write_pictures(path, run.frames(), settings_in(metadata) or {})
    elif kind == "animation":
        shown = [Fraction(t) * info.time_base for t in run.shown]
        write_animation(path, run.frames(), shown, run.end * info.time_base, settings_in(metadata) or {})
    else:
        plays = source is not None and str(source) != "-" and find_pictures(source) is None
        beside = source if plays and Path(str(source)).suffix.lower() not in ANIMATIONS else None
        write_whole(path, lambda to: _finish_video(to, path, run, beside, metadata, start=start, end=end))


def _finish_video(
    to: Path,
    path: Path,
    run: joined.Joined,
    beside: str | Path | None,
    metadata: dict[str, str],
    *,
    start: Fraction | None,
    end: Fraction | None,
) -> None:
    kind = CONTAINERS[path.suffix.lower()]
    ticks = run.shift(start)
    shift = ticks * run.info.time_base
    cut = Cut(shift, None if end is None else run.info.start + end - shift)

    def reopen() -> Any:
        return _open(str(beside), f"file:{beside}")

    source = None if beside is None else reopen()
    try:
        clocks = [] if source is None else [s.time_base for s in source.streams if s.type == "audio" and s.time_base]
        options = joined.muxer_options(kind, metadata, [run.info.time_base, *clocks])
        with av.open(f"file:{to}", "w", format=kind, container_options=options) as out:
            video = run.add_to(out, kind)
            packets = [run.packets(video, ticks)]
            if source is not None:
                main = next(s for s in source.streams.video if not streams.is_cover(s))
                video.metadata.update(streams.tags(main.metadata))
                video.disposition = main.disposition
                others = SourceStreams(
                    source, main, out, reopen=reopen, kind=kind, name=path.name, cut=cut, damage=av.FFmpegError
                )
                packets.append(others.packets())
                out.metadata.update(streams.tags(source.metadata))
                out.set_chapters(streams.chapters(source, cut))
            out.metadata.update(metadata)
            streams.interleave(out, *packets)
    except av.FFmpegError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if source is not None:
            source.close()


def read_video_settings(path: Path) -> dict[str, Any]:
    """The settings that `settings_metadata` put into a result. Raises VideoError when there are none."""
    if not path.is_file() or path.suffix.lower() in ANIMATIONS:
        return read_picture_settings(path)
    with _open(str(path), f"file:{path}") as container:
        settings = settings_in(container.metadata)
    if settings is None:
        raise VideoError(f"{path}: carries no onnxdream settings")
    return settings
