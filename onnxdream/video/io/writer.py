"""Encoding, through PyAV: checked before any work is done, then one run of frames as a segment, there when whole."""

from __future__ import annotations

import logging
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
from av.codec.context import Flags

from ...errors import OnnxDreamError, OptionError, OutputError, WriteError
from . import concat
from .codec import CONTAINERS, Encoder, Encoding, EncodingPlan, losses, plan_encoding, target_kind
from .color import make_frame, over_white
from .frames import FrameCheck, FrameWriter, VideoFrame, VideoInfo
from .fsync import fsync_file
from .interlace import FieldMarker
from .pipe import PipeWriter, pipe_format

log = logging.getLogger(__name__)

_THREADS = 4  # whatever the machine has: encoders write something else with another number
# Encoders that mark frames as interlaced, and encode their fields as such.
_INTERLACED = ("libx264", "mpeg2video", "mpeg4", "prores_ks", "prores_aw", "prores", "dnxhd", "ffv1")
_FIELD_ORDERS = {"tff": 2, "bff": 3}  # FFmpeg's numbers (AV_FIELD_TT, AV_FIELD_BB)
_REFUSING = ("Error parsing option", "Unknown option", "Invalid value")
os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 writes to the terminal past every logger; errors only


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


def check_encoding(target: str | Path, info: VideoInfo, encoding: Encoding) -> EncodingPlan | None:
    """Make sure, before any work is done, that frames can be encoded and written.

    Args:
        target: The result, see `target_kind`.
        info: Size, depth and colours of the frames.
        encoding: What is asked of the encoder.

    Returns:
        What was chosen, None for a pipe.

    Raises:
        OptionError: The codec is unknown, the container cannot hold it, or it does not take the pixel format, crf or an
            option.
        OutputError: `target` cannot be written.
    """
    kind = target_kind(target)
    if kind == "pipe":
        pipe_format(encoding)
        _note_losses(target, info, None)
        return None
    path = Path(target)
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder to write into")
    if (path.is_dir() and kind != "pictures") or not os.access(folder, os.W_OK):
        raise OutputError(f"{target}: cannot be written (is it a folder, or is the folder read-only?)")
    chosen = _planned(target, info, encoding)
    with _refusals() as refused:
        _start(av.CodecContext.create(chosen.codec, "w"), chosen, info)
    if refused:
        raise OptionError(f"codec {chosen.codec}: {'; '.join(refused)}")
    _note_losses(target, info, chosen)
    if info.field_order and not (_marks_fields(chosen, info) and kind == "video"):
        log.warning(
            f"{target}: cannot be marked as interlaced, so players will show combed lines; "
            "H.264 can, at heights that 4 divides"
        )
    return chosen


def _marks_fields(chosen: EncodingPlan, info: VideoInfo) -> bool:
    """Whether frames are marked as interlaced."""
    uneven = chosen.codec == "libx264" and "420" in chosen.pix_fmt and info.height % 4
    return bool(info.field_order) and chosen.codec in _INTERLACED and not uneven


def _note_losses(target: str | Path, info: VideoInfo, plan: EncodingPlan | None) -> None:
    for loss in losses(target, info, plan):
        log.warning(f"{target}: {loss}")


@contextmanager
def _refusals() -> Iterator[list[str]]:
    """What encoders only mention of x264-params and their like, and then go on without."""
    refused: list[str] = []
    before = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture(local=True) as told:
            yield refused
    finally:
        av.logging.set_level(before)
    refused += [text.strip(" .\n") for _, _, text in told if text.startswith(_REFUSING)]


def _planned(target: str | Path, info: VideoInfo, encoding: Encoding) -> EncodingPlan:
    chosen = plan_encoding(target, info, encoding, _find_encoder)
    suffix = Path(target).suffix.lower()
    if suffix in CONTAINERS and chosen.codec not in _held(CONTAINERS[suffix]):
        raise OptionError(f"codec {chosen.codec} does not go into {suffix}; use another codec, or .mkv")
    return chosen


@contextmanager
def _scheduled_as_before() -> Iterator[None]:
    """Undo what SVT-AV1 does when the superuser runs it: real-time priority, for its threads and the one that opens it.

    Processes that begin later would inherit it, and hold up the whole machine.
    """
    if not Path("/proc/self/task").is_dir():
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in map(int, os.listdir("/proc/self/task")):
            with suppress(ProcessLookupError):
                if os.sched_getscheduler(thread) != policy:
                    os.sched_setscheduler(thread, policy, parameters)


def _start(context: Any, chosen: EncodingPlan, info: VideoInfo) -> None:
    """Set up and open an encoder. Raises OptionError when it refuses."""
    context.width, context.height, context.pix_fmt = info.width, info.height, chosen.pix_fmt
    context.time_base, context.framerate = info.time_base, info.rate or Fraction(25)
    context.sample_aspect_ratio = info.aspect
    context.color_primaries, context.color_trc = chosen.color.primaries, chosen.color.transfer
    context.colorspace, context.color_range = chosen.color.matrix, chosen.color.range
    if _marks_fields(chosen, info):
        context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        context.field_order = _FIELD_ORDERS[info.field_order]
    context.thread_count, context.thread_type = _THREADS, "AUTO"
    context.options = dict(chosen.options)
    try:
        with _scheduled_as_before():
            context.open(strict=False)
    except (av.FFmpegError, ValueError) as error:
        asked = " ".join(f"{key}={value}" for key, value in chosen.options.items()) or "no options"
        what = f"{info.width}x{info.height} {chosen.pix_fmt} with {asked}"
        raise OptionError(f"codec {chosen.codec} refuses {what}: {getattr(error, 'strerror', error)}") from error
    if context.options:
        raise OptionError(f"codec {chosen.codec} has no option {', '.join(context.options)}")


class VideoWriter(FrameWriter):
    """Encodes one run of frames into a segment, which appears when it is closed.

    Args:
        path: The segment.
        info: Size, rate, time base and colours of the frames.
        encoding: What is asked of the encoder.
        target: The result that the segment is for, see `target_kind`.

    Raises:
        OptionError: See `check_encoding`.
        WriteError: The segment cannot be written.
    """

    def __init__(self, path: Path, info: VideoInfo, encoding: Encoding, target: str | Path) -> None:
        self.path, self._whole, self.info = path, path, info
        self.plan = _planned(target, info, encoding)
        self._check = FrameCheck(info)
        self._mark = FieldMarker(info.field_order) if _marks_fields(self.plan, info) else None
        self._part = path.with_name(f".{path.name}.part")
        self._kind = kind = "matroska" if self.plan.codec in _held("matroska") else "mov"
        with self._as_write_error():
            self._container = av.open(f"file:{self._part}", "w", format=kind, container_options=concat.OPTIONS[kind])
            self._stream: Any = self._container.add_stream(self.plan.codec, info.rate or Fraction(25))
        self._stream.time_base = concat.TICK
        try:
            _start(self._stream.codec_context, self.plan, info)
        except OnnxDreamError:
            self.discard()
            raise
        self._first: int | None = None
        self._packets = 0

    def write(
        self, image: np.ndarray, pts: int, alpha: np.ndarray | None = None, source: VideoFrame | None = None
    ) -> None:
        """See FrameWriter."""
        self._check(image, pts, alpha)
        if self._first is None:
            self._first = pts
            self._container.metadata.update(concat.first_tick_tag(pts, self.info))
        if alpha is not None and not self.plan.alpha:
            image, alpha = over_white(image, alpha), None
        planes = None if source is None else source.with_planes()
        frame = make_frame(image, alpha, self.plan.pix_fmt, self.plan.yuv, planes)
        # ProRes goes by what its frames say.
        frame.color_primaries, frame.color_trc = self.plan.color.primaries, self.plan.color.transfer
        frame.pts, frame.time_base = pts - self._first, self.info.time_base
        self._mux(frame if self._mark is None else self._mark(frame))

    def _mux(self, frame: av.VideoFrame | None) -> None:
        with self._as_write_error():
            for packet in self._stream.encode(frame):
                self._packets += 1
                concat.stamp(packet, self._packets, self._kind)
                self._container.mux(packet)

    def close(self) -> None:
        """See FrameWriter.

        Raises:
            ValueError: Nothing was written.
        """
        if self._first is None:
            self.discard()
            raise ValueError(f"{self.path}: a segment needs a frame")
        self._mux(None)
        with self._as_write_error():
            self._container.close()
            fsync_file(self._part)
            self._part.replace(self._whole)

    def discard(self) -> None:
        """See FrameWriter."""
        with suppress(av.FFmpegError, OSError):
            self._container.close()
        self._part.unlink(missing_ok=True)

    @contextmanager
    def _as_write_error(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            self._part.unlink(missing_ok=True)
            raise WriteError(f"{self.path}: cannot be written: {error.strerror or error}") from error


def open_writer(path: Path, info: VideoInfo, encoding: Encoding, target: str | Path) -> FrameWriter:
    """Where to write frames: a segment, or, when `target` is `-`, standard output itself.

    Args:
        path: The segment.
        info: Size, rate, time base and colours of the frames.
        encoding: What is asked of the encoder.
        target: The result.

    Raises:
        OptionError: See `check_encoding`.
        WriteError: The segment cannot be written.
    """
    return PipeWriter(info, encoding) if target_kind(target) == "pipe" else VideoWriter(path, info, encoding, target)
