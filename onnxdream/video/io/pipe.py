"""Frames without a container, for other programs to read: YUV4MPEG2 and bare BGR on standard output."""

from __future__ import annotations

import logging
import os
import sys
from fractions import Fraction
from typing import BinaryIO
from weakref import WeakSet

import av
import cv2
import numpy as np

from ...errors import OptionError, WriteError
from .codec import Encoding
from .color import FULL, ColorTags, YuvFormat, is_rgb, make_planes, matrix_of, over_white, to_eight_bit
from .frames import FrameCheck, FrameWriter, VideoFrame, VideoInfo

log = logging.getLogger(__name__)

_FORMATS = {"y4m": "y4m", "yuv4mpegpipe": "y4m", "rawvideo": "bgr24", "bgr24": "bgr24", "raw": "bgr24"}


# y4m's names for how chroma is halved, and, in 4:2:0 of 8 bits, for where its samples lie.
_CHROMA = {(1, 1): "444", (2, 1): "422", (2, 2): "420"}
_SITINGS = {"left": "mpeg2", "center": "jpeg", "topleft": "paldv"}
_BEGUN: WeakSet[BinaryIO] = WeakSet()


def pipe_format(encoding: Encoding) -> str:
    """'y4m' or 'bgr24', as the encoding's codec or pixel format says.

    Raises:
        OptionError: A pipe cannot carry it.
    """
    named = encoding.codec or encoding.pix_fmt or "y4m"
    if named not in _FORMATS:
        raise OptionError(f"a pipe carries y4m or rawvideo, not {named}")
    if encoding.crf is not None or encoding.options:
        raise OptionError("a pipe carries bare frames; crf and encoder options are for files")
    return "bgr24" if encoding.pix_fmt == "bgr24" else _FORMATS[named]


def pipe_input(rate: Fraction | None, size: tuple[int, int] | None, pix_fmt: str | None) -> tuple[str, dict[str, str]]:
    """FFmpeg's name of what comes on standard input, and its options.

    Args:
        rate: Frames a second of bare frames.
        size: Their (width, height); None for y4m.
        pix_fmt: FFmpeg's name of their pixel format, bgr24 by default.

    Raises:
        OptionError: `size` comes without `rate`, or one of the others without `size`.
    """
    if size is None:
        if rate is not None or pix_fmt is not None:
            raise OptionError("-: bare frames on standard input need a size; y4m knows its rate and format itself")
        return "yuv4mpegpipe", {}
    if rate is None:
        raise OptionError("-: bare frames on standard input need a rate")
    return "rawvideo", {
        "video_size": f"{size[0]}x{size[1]}",
        "pixel_format": pix_fmt or "bgr24",
        "framerate": f"{rate.numerator}/{rate.denominator}",
    }


class PipeInput:
    """Standard input, for FFmpeg to read, and how many bytes it has taken."""

    def __init__(self) -> None:
        self.taken = 0

    def read(self, size: int) -> bytes:
        """What has come so far, at most `size` bytes; empty at the end."""
        data = os.read(0, size)
        self.taken += len(data)
        return data


class PipeWriter(FrameWriter):
    """Frames to standard output as they come, at an even rate.

    The format is y4m (with the source's chroma where that is 4:2:0 or 4:2:2, else 4:4:4, as deep as the source, at most
    12 bits) unless the encoding's codec is rawvideo or its
    pixel format bgr24: then 8-bit BGR, row by row. Opacity is laid over white. One writer may go on after another; the
    header is written once.

    Args:
        info: Size, rate, depth and colours of the frames.
        encoding: The format.
        stream: Written to instead of standard output.

    Raises:
        OptionError: A pipe cannot carry this format.
    """

    def __init__(self, info: VideoInfo, encoding: Encoding, stream: BinaryIO | None = None) -> None:
        self.raw = pipe_format(encoding) == "bgr24"
        self.stream = stream or sys.stdout.buffer
        self.check = FrameCheck(info)
        self.info, self._told = info, False
        depth = 8 if info.bits == 8 else min(info.bits, 12)
        matrix = matrix_of(ColorTags(), info.width, info.height)  # y4m names none; readers go by the size
        steps = (1, 1) if is_rgb(av.VideoFormat(info.pix_fmt)) or info.chroma not in _CHROMA else info.chroma
        siting = info.siting if depth == 8 and steps == (2, 2) and info.siting in _SITINGS else "left"
        self.form = YuvFormat(depth, steps, matrix, info.color.range == FULL, siting)
        if not self.raw and self.stream not in _BEGUN:
            _BEGUN.add(self.stream)
            rate, aspect = info.rate or Fraction(25), info.aspect
            chroma = _CHROMA[steps]
            if depth > 8:
                chroma += f"p{depth} XYSCSS={chroma}P{depth}"
            elif steps == (2, 2):
                chroma += f"{_SITINGS[siting]} XYSCSS=420{_SITINGS[siting].upper()}"
            order = {"tff": "t", "bff": "b"}.get(info.field_order, "p")
            span = "FULL" if self.form.full else "LIMITED"
            self._send(
                f"YUV4MPEG2 W{info.width} H{info.height} F{rate.numerator}:{rate.denominator} I{order} "
                f"A{aspect.numerator}:{aspect.denominator} C{chroma} XCOLORRANGE={span}\n"
                .encode()
            )  # fmt: skip

    def write(
        self, image: np.ndarray, pts: int, alpha: np.ndarray | None = None, source: VideoFrame | None = None
    ) -> None:
        """See FrameWriter."""
        self._watch(pts)
        self.check(image, pts, alpha)
        if alpha is not None:
            image = over_white(image, alpha)
        if self.raw:
            self._send(cv2.cvtColor(to_eight_bit(image), cv2.COLOR_RGB2BGR).tobytes())
            return
        planes = make_planes(image, self.form, None if source is None else source.with_planes())
        self._send(b"FRAME\n" + b"".join(p.astype(p.dtype.newbyteorder("<")).tobytes() for p in planes))

    def _watch(self, pts: int) -> None:
        """Say once that the source's frames do not come at an even rate."""
        if self._told or self.check.last is None:
            return
        if abs((pts - self.check.last) * self.info.time_base * (self.info.rate or Fraction(25)) - 1) > Fraction(1, 2):
            self._told = True
            log.warning("-: the source's frames come at a varying rate, which a pipe evens out")

    def close(self) -> None:
        """Push out what is still held back."""
        self._send(b"")

    def discard(self) -> None:
        """What has been read cannot be taken back."""

    def _send(self, data: bytes) -> None:
        try:
            self.stream.write(data)
            if not data:
                self.stream.flush()
        except OSError as error:
            raise WriteError(f"-: standard output cannot be written: {error.strerror or error}") from error
