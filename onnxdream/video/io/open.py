"""Video in and out, for the pipeline: `open_source`, `open_writer`, `finish`.

A result grows as segments, each one run of encoded frames that appears when it is whole; `finish` joins them with what
the source has besides pictures.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ...errors import OptionError, VideoError, WriteError
from ...images import write_whole
from . import concat, mux
from .codec import ANIMATIONS, CONTAINERS, Encoding, EncodingPlan, target_kind
from .color import ColorTags
from .frames import FrameWriter, VideoFrame, VideoInfo, VideoSource
from .fsync import fsync_file
from .interlace import Interlaced
from .mux import SourceStreams, Trim, settings_in, settings_metadata
from .pipe import PipeInput, pipe_input
from .reader import FileSource
from .sequences import (
    RATE,
    AnimationSource,
    PictureSource,
    find_pictures,
    read_picture_settings,
    write_animation,
    write_pictures,
)
from .writer import VideoWriter, check_encoding, open_writer

__all__ = [
    "ColorTags",
    "Encoding",
    "EncodingPlan",
    "FrameWriter",
    "VideoFrame",
    "VideoInfo",
    "VideoSource",
    "VideoWriter",
    "check_encoding",
    "finish",
    "open_source",
    "open_writer",
    "read_segment",
    "read_video_settings",
    "settings_metadata",
    "target_kind",
]  # fmt: skip


# Streams of recordings joined into one transport stream are one stream, though they bear other numbers.
_ONE_PROGRAM = {"merge_pmt_versions": "1"}


def open_source(
    spec: str | Path,
    *,
    rate: Fraction | None = None,
    size: tuple[int, int] | None = None,
    pix_fmt: str | None = None,
    interlaced: Interlaced = "deinterlace",
) -> VideoSource:
    """Open a video file, a folder or pattern of pictures, an animated GIF or WebP, or `-`, a pipe on standard input.

    A pattern is a glob (frames/*.png) or holds a printf number (f_%05d.png); pictures come in natural order. A pipe
    carries y4m, or, when `size` is given, bare frames.

    Args:
        spec: Names the source.
        rate: Frames a second, of pictures (25 by default) and of bare frames.
        size: (width, height) of bare frames.
        pix_fmt: FFmpeg's name of their pixel format, bgr24 by default.
        interlaced: What becomes of the interlaced frames of a video: "deinterlace" or "keep".

    Raises:
        VideoError: There is nothing that can be read.
        OptionError: `rate`, `size` or `pix_fmt` is given where none is needed, or missing where one is.
    """
    if rate is not None and rate <= 0:
        raise OptionError(f"rate {rate} is not above 0")
    name = str(spec)
    if name == "-":
        kind, options = pipe_input(rate, size, pix_fmt)
        pipe = PipeInput()
        return FileSource(
            "-",
            lambda: _open("-", pipe, kind, options),
            _new_decoder,
            av.FFmpegError,
            pipe=pipe,
            interlaced=interlaced,
        )
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
    return FileSource(name, lambda: _open(name, f"file:{path}"), _new_decoder, av.FFmpegError, interlaced=interlaced)


def _open(name: str, url: str | PipeInput, kind: str | None = None, options: dict[str, str] | None = None) -> Any:
    try:
        container = av.open(url, format=kind, options=options or _ONE_PROGRAM, metadata_errors="replace")
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


def read_segment(path: Path, info: VideoInfo) -> list[int]:
    """The times of a segment's frames, in ticks of `info.time_base`, rising.

    Raises:
        VideoError: The file is no segment.
    """
    with _open(str(path), f"file:{path}") as container:
        return sorted(concat.packet_ticks(container, str(path), info))


def finish(
    target: str | Path,
    segments: list[Path],
    source: str | Path | None,
    info: VideoInfo,
    *,
    metadata: dict[str, str],
    start: Fraction | None = None,
    end: Fraction | None = None,
    scratch: Path | None = None,
) -> None:
    """Join `segments` into `target`, which appears when it is whole, with what `source` has besides pictures.

    Encoded frames are taken over as they are, with their times; so are sound, subtitles, cover pictures, chapters and
    tags of a source that is a video file, as far as the container can hold them, else a note says what became of
    them. A source whose clock starts anywhere (MPEG-TS) is moved to 0. Matroska and WebM round times to milliseconds. A
    pipe has nothing to finish.

    Args:
        target: The result, see `target_kind`.
        segments: The files, in order.
        source: What the frames were made from, if anything of it is to be taken over.
        info: The source's.
        metadata: Tags of the result; see `settings_metadata`.
        start: Seconds; everything moves so that the first frame is at 0.
        end: Seconds; what begins then or later is left out.
        scratch: A folder on the same disk for what is not whole yet.

    Raises:
        OutputError: The segments do not follow each other or were not encoded alike.
        WriteError: The result cannot be written.
        VideoError: A segment is damaged.
    """
    kind, path = target_kind(target), Path(target)
    if kind == "pipe":
        return
    if not segments:
        raise ValueError("there is nothing to join")
    run = concat.JoinedSegments(segments, info, lambda part: _open(str(part), f"file:{part}"), end)
    if kind == "pictures":
        write_pictures(path, run.frames(), settings_in(metadata) or {}, scratch=scratch)
    elif kind == "animation":
        shown = [Fraction(t) * info.time_base for t in run.shown]
        last = run.end * info.time_base
        write_animation(path, run.frames(), shown, last, settings_in(metadata) or {}, scratch=scratch)
    else:
        plays = source is not None and str(source) != "-" and find_pictures(source) is None
        beside = source if plays and Path(str(source)).suffix.lower() not in ANIMATIONS else None
        write_whole(
            path, lambda to: _finish_video(to, path, run, beside, metadata, start=start, end=end), scratch=scratch
        )


def _finish_video(
    to: Path,
    path: Path,
    run: concat.JoinedSegments,
    beside: str | Path | None,
    metadata: dict[str, str],
    *,
    start: Fraction | None,
    end: Fraction | None,
) -> None:
    kind = CONTAINERS[path.suffix.lower()]
    ticks = run.shift(start)
    shift = ticks * run.info.time_base
    trim = Trim(shift, None if end is None else run.info.start + end - shift)

    def reopen() -> Any:
        return _open(str(beside), f"file:{beside}")

    source = None if beside is None else reopen()
    try:
        clocks = [] if source is None else [s.time_base for s in source.streams if s.type == "audio" and s.time_base]
        options = concat.muxer_options(kind, metadata, [run.info.time_base, *clocks])
        with av.open(f"file:{to}", "w", format=kind, container_options=options) as out:
            video = run.add_to(out, kind)
            others = None
            if source is not None:
                main = mux.main_video(source)
                assert main is not None, "what has given frames has a film"
                rate = run.info.rate or Fraction(25)
                cut = 0 if start is None else round((shift - run.info.start) * rate)
                for key, value in mux.tags(main.metadata).items():
                    moves = cut and key.lower() == "timecode"
                    video.metadata[key] = mux.timecode_after(value, cut, rate) if moves else value
                video.disposition = main.disposition
                others = SourceStreams(source, main, out, reopen=reopen, kind=kind, name=path.name, trim=trim)
                out.metadata.update(mux.tags(source.metadata))
                out.set_chapters(mux.chapters(source, trim))
            out.metadata.update(metadata)
            mux.interleave(out, run.packets(video, ticks), others)
        fsync_file(to)
    except av.FFmpegError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if source is not None:
            source.close()


def read_video_settings(path: Path) -> dict[str, Any]:
    """The settings that `settings_metadata` put into a result.

    Raises:
        VideoError: There are none.
    """
    if not path.is_file() or path.suffix.lower() in ANIMATIONS:
        return read_picture_settings(path)
    with _open(str(path), f"file:{path}") as container:
        settings = settings_in(container.metadata)
    if settings is None:
        raise VideoError(f"{path}: carries no onnxdream settings")
    return settings
