"""What a video is to the rest of the package: its facts, its frames, and the two ends they travel between."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

from .color import ColorTags, YuvPlanes, to_float
from .hdr import HdrMetadata
from .interlace import FieldOrder


@dataclass(frozen=True)
class VideoInfo:
    """What the pipeline must know about a source.

    Attributes:
        width: Pixels, upright, after rotation; may be odd.
        height: Likewise.
        rate: The average number of frames a second, None when unknown.
        time_base: The unit of the frames' times, in seconds.
        frames: How many there are, exact or as the container estimates; None when unknown.
        duration: When the last one goes away, in seconds; None when unknown.
        bits: 8, 10, 12 or 16 per channel.
        alpha: Whether frames have opacity.
        color: How the colours are meant.
        pix_fmt: FFmpeg's name of the pixel format.
        codec: FFmpeg's name of the codec.
        has_audio: Whether there is sound.
        start: The time on the source's own clock, in seconds, that a user calls 0.
        aspect: Width to height of one pixel.
        field_order: "tff" or "bff" for interlaced frames that stay so, by the field that comes first; else empty.
        chroma: How many pixels, (across, down), share one sample of chroma; (2, 2) is 4:2:0.
        siting: Where chroma's samples lie, see YuvFormat.
        hdr: HDR10's static metadata, None without any.
        side_data: In words, what else its frames carry that their dreams cannot keep.
    """

    width: int
    height: int
    rate: Fraction | None
    time_base: Fraction
    frames: int | None
    duration: Fraction | None
    bits: int
    alpha: bool
    color: ColorTags
    pix_fmt: str
    codec: str
    has_audio: bool
    start: Fraction = Fraction(0)
    aspect: Fraction = Fraction(1)
    field_order: FieldOrder = ""
    chroma: tuple[int, int] = (2, 2)
    siting: str = "left"
    hdr: HdrMetadata | None = None
    side_data: tuple[str, ...] = ()

    def frames_within(self, start: Fraction | None, end: Fraction | None) -> int | None:
        """About how many frames lie between two times in seconds, where the source says enough."""
        if start is None and end is None:
            return self.frames
        if self.rate is None or self.duration is None:
            return None
        length = min(end or self.duration, self.duration) - (start or 0)
        return max(1, round(length * self.rate))


@dataclass(frozen=True)
class VideoFrame:
    """One frame, upright.

    Attributes:
        image: RGB, contiguous [H,W,3], uint8 for sources of 8 bits, else uint16 over the full range.
        alpha: Opacity [H,W] of the same type or None; colours are not multiplied by it.
        pts: The time in `time_base`s, rising from frame to frame.
        index: Counts the frames of the source from 0.
        cut: Whether the source says that it begins a scene, by another size than the frame before.
        planes: What `image` was made from, if that was YCbCr and upright.
    """

    image: np.ndarray
    alpha: np.ndarray | None
    pts: int
    index: int
    cut: bool = False
    planes: YuvPlanes | None = None

    def with_planes(self) -> tuple[np.ndarray, YuvPlanes] | None:
        """The image and the planes it was made from, if that is known."""
        return None if self.planes is None else (self.image, self.planes)

    @property
    def rgb(self) -> np.ndarray:
        """The picture as RGB float32 [H,W,3] in 0..255."""
        return to_float(self.image)


class VideoSource(ABC):
    """A video to read, as `open_source` opens it; a context manager."""

    info: VideoInfo

    @abstractmethod
    def frames(
        self, start: Fraction | None = None, end: Fraction | None = None, skip_to: int | None = None
    ) -> Iterator[VideoFrame]:
        """The frames of a part of the video; each call begins anew, except from a pipe, which can be read once.

        Args:
            start: Seconds from the beginning; frames before it are left out.
            end: Seconds from the beginning; frames at it or later are left out.
            skip_to: Frames of a lower index are left out.

        Raises:
            VideoError: The source is damaged or cut off; raised after the frames before that.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open."""

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FrameWriter(ABC):
    """Takes frames; a context manager that throws away what was written when it is left by an exception.

    Attributes:
        path: The file it writes, None when there is none.
    """

    path: Path | None = None

    @abstractmethod
    def write(
        self, image: np.ndarray, pts: int, alpha: np.ndarray | None = None, source: VideoFrame | None = None
    ) -> None:
        """Add a frame.

        Args:
            image: RGB [H,W,3], uint8 or uint16 over its full range.
            pts: Its time in `time_base`s, later than the frame's before.
            alpha: Opacity [H,W] of the same type.
            source: The frame that `image` was made from: where both are the same, so are the planes written, if the
                format is.

        Raises:
            ValueError: Another shape or type, or a time that does not rise.
            WriteError: The frame cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish; what was written is whole afterwards.

        Raises:
            WriteError: It cannot be written.
        """

    @abstractmethod
    def discard(self) -> None:
        """Throw away what was written."""

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class FrameCheck:
    """Checks that what is written fits it."""

    def __init__(self, info: VideoInfo) -> None:
        self.shape = (info.height, info.width, 3)
        self.last: int | None = None

    def __call__(self, image: np.ndarray, pts: int, alpha: np.ndarray | None) -> None:
        """Raise ValueError for a frame of the wrong shape or type, or one that is not later than the one before."""
        if image.shape != self.shape or image.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"a frame here is uint8 or uint16 {list(self.shape)}, not {image.dtype} {list(image.shape)}"
            )
        if alpha is not None and (alpha.shape != self.shape[:2] or alpha.dtype != image.dtype):
            raise ValueError(
                f"alpha here is {image.dtype} {list(self.shape[:2])}, not {alpha.dtype} {list(alpha.shape)}"
            )
        if self.last is not None and pts <= self.last:
            raise ValueError(f"a frame at {pts} cannot follow one at {self.last}")
        self.last = pts


def seconds(time: Fraction) -> str:
    """A time for a message: '1.24 s'."""
    return f"{float(time):.2f} s"
