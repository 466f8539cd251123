"""Moving pictures that are not video files: folders and patterns of stills, animated GIF and WebP."""

from __future__ import annotations

import glob
import logging
import re
import uuid
from collections.abc import Iterable, Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import PictureError, VideoError, WriteError, first_line
from ...images import (
    ENDINGS,
    Picture,
    open_frames,
    read_picture,
    read_settings,
    to_srgb,
    write_frames,
    write_picture,
    write_whole,
)
from ...output_files import same_file
from .color import SRGB, from_float, over_white, to_eight_bit
from .frames import VideoFrame, VideoInfo, VideoSource, seconds
from .fsync import fsync_file

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

RATE = Fraction(25)
_NUMBER = re.compile(r"%(0?)(\d*)d")
_UNSAID = 100  # milliseconds a browser shows a GIF frame of no duration


def find_pictures(spec: str | Path) -> list[Path] | None:
    """The pictures that a folder, a glob pattern or a printf pattern (f_%05d.png) names, in natural order.

    Returns:
        None when `spec` is none of these.

    Raises:
        VideoError: It names no picture.
    """
    path, text = Path(spec), str(spec)
    if not text:
        raise VideoError("the source has no name; name a file, a folder or a pattern, or - for a pipe")
    try:
        folder = path.is_dir()
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from error
    if folder:
        found = [p for p in path.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith(".")]
        missing = f"{path}: there are no pictures in this folder"
    elif path.exists():
        return None
    elif _NUMBER.search(path.name):
        found = [p for p in path.parent.iterdir() if _fits(path.name, p.name)] if path.parent.is_dir() else []
        missing = f"{path}: no picture fits this pattern"
    elif glob.has_magic(text):
        found = [p for p in map(Path, glob.glob(text)) if p.is_file()]
        missing = f"{path}: no picture fits this pattern"
    else:
        return None
    if not found:
        raise VideoError(missing)
    return sorted(found, key=_natural)


def source_files(source: str | Path) -> list[Path]:
    """The files that a source is made of; none for a pipe."""
    return [] if str(source) == "-" else find_pictures(source) or [Path(source)]


def _fits(pattern: str, name: str) -> bool:
    """Whether a printf pattern gives a name for some number."""
    number = _NUMBER.search(pattern)
    assert number is not None
    digits = f"\\d{{{number[2] or 1},}}" if number[1] else "\\d+"
    before, after = pattern[: number.start()], pattern[number.end() :]
    return re.fullmatch(re.escape(before) + digits + re.escape(after), name) is not None


def _numbered(pattern: str, number: int) -> str:
    """The name that a printf pattern gives for a number; any other % in it is a plain one."""
    return _NUMBER.sub(lambda found: found[0] % number, pattern, count=1)


def would_write(target: Path, file: Path) -> bool:
    """Whether writing to `target`, a file, a folder or a pattern of pictures, may replace `file` or mix with it."""
    if target.is_dir():
        return same_file(target, file.parent) and file.suffix.lower() in ENDINGS
    if _NUMBER.search(target.name) and target.suffix:
        return same_file(target.parent, file.parent) and _fits(target.name, file.name)
    return same_file(target, file)


def is_there(target: Path) -> bool:
    """Whether writing to `target`, a file, a folder or a pattern of pictures, would replace anything."""
    if target.is_dir():
        return any(target.iterdir())
    try:
        return target.exists() or bool(_NUMBER.search(target.name) and find_pictures(target))
    except VideoError:
        return False


def _natural(path: Path) -> list[tuple[int, str]]:
    """f2 before f10."""
    return [(int(p), p) if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", path.name)]


class PictureSource(VideoSource):
    """Stills of one size, shown `rate` a second."""

    def __init__(self, name: str, pictures: list[Path], rate: Fraction) -> None:
        self.name, self.pictures = name, pictures
        first = self._read(0)
        height, width = first.rgb.shape[:2]
        self.info = VideoInfo(
            width=width,
            height=height,
            rate=rate,
            time_base=1 / rate,
            frames=len(pictures),
            duration=len(pictures) / rate,
            bits=first.bits,
            alpha=first.alpha is not None,
            color=SRGB,
            pix_fmt=("rgba" if first.alpha is not None else "rgb24") if first.bits == 8 else "rgb48le",
            codec=pictures[0].suffix.lower().lstrip("."),
            has_audio=False,
        )

    def frames(
        self, start: Fraction | None = None, end: Fraction | None = None, skip_to: int | None = None
    ) -> Iterator[VideoFrame]:
        """See VideoSource."""
        assert self.info.rate is not None
        first = max(skip_to or 0, 0 if start is None else ceil(start * self.info.rate))
        last = len(self.pictures) if end is None else min(len(self.pictures), ceil(end * self.info.rate))
        for index in range(first, last):
            picture = self._read(index)
            size = (self.info.width, self.info.height)
            if picture.rgb.shape[1::-1] != size:
                found = "x".join(map(str, picture.rgb.shape[1::-1]))
                raise VideoError(f"{self.pictures[index]}: is {found}; the pictures before it are {size[0]}x{size[1]}")
            image, alpha = _to_codes(picture, self.info)
            yield VideoFrame(image, alpha, index, index)

    def close(self) -> None:
        """See VideoSource."""

    def _read(self, index: int) -> Picture:
        try:
            # What is left out of the first is left out of all.
            say = log.warning if index == 0 else lambda text: None
            return to_srgb(read_picture(self.pictures[index], say=say))
        except PictureError as error:
            raise VideoError(f"{error}; it is frame {index} of {self.name}") from error


def _to_codes(picture: Picture, info: VideoInfo) -> tuple[np.ndarray, np.ndarray | None]:
    kind: np.dtype[Any] = np.dtype(np.uint8 if info.bits == 8 else np.uint16)
    image = from_float(picture.rgb, kind)
    alpha = None if picture.alpha is None else from_float(picture.alpha * 255, kind)
    if info.alpha:
        return image, np.full(image.shape[:2], 255 if info.bits == 8 else 65535, kind) if alpha is None else alpha
    return (image if alpha is None else over_white(image, alpha)), None


class AnimationSource(VideoSource):
    """An animated GIF or WebP; its durations become exact times."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.times = [0]  # in milliseconds, of the frames and of the end
        self.broken: str | None = None
        alpha = False
        try:
            with open_frames(path) as file:
                width, height = file.size
                for rgba, duration in _shown(file):
                    alpha = alpha or bool(rgba[:, :, 3].min() < 255)
                    self.times.append(self.times[-1] + duration)
        except Exception as error:  # Pillow raises what its decoders happen to
            reason = first_line(error)
            if len(self.times) == 1:
                raise VideoError(f"{path}: not an animated picture that can be read ({reason})") from error
            self.broken = reason
        data = path.read_bytes()
        gif = data.startswith(b"GIF8")
        if gif and not data.rstrip(b"\0").endswith(b";"):
            self.broken = "its end is missing"
        count, unit = len(self.times) - 1, 10 if gif else 1
        self.info = VideoInfo(
            width=width,
            height=height,
            rate=Fraction(1000 * count, self.times[-1]),
            time_base=Fraction(unit, 1000),
            frames=count,
            duration=Fraction(self.times[-1], 1000),
            bits=8,
            alpha=alpha,
            color=SRGB,
            pix_fmt="rgba" if alpha else "rgb24",
            codec="gif" if gif else "webp",
            has_audio=False,
        )

    def frames(
        self, start: Fraction | None = None, end: Fraction | None = None, skip_to: int | None = None
    ) -> Iterator[VideoFrame]:
        """See VideoSource."""
        unit = int(self.info.time_base * 1000)
        with open_frames(self.path) as file:
            shown = _shown(file)
            for index, time in enumerate(self.times[:-1]):
                rgba, _ = next(shown)
                if end is not None and Fraction(time, 1000) >= end:
                    return
                if index < (skip_to or 0) or (start is not None and Fraction(time, 1000) < start):
                    continue
                alpha = np.ascontiguousarray(rgba[:, :, 3]) if self.info.alpha else None
                yield VideoFrame(np.ascontiguousarray(rgba[:, :, :3]), alpha, time // unit, index)
        if self.broken:
            raise VideoError(f"{self.path}: is cut off at {seconds(Fraction(self.times[-1], 1000))} ({self.broken})")

    def close(self) -> None:
        """See VideoSource."""


def _shown(image: Image.Image) -> Iterator[tuple[np.ndarray, int]]:
    """Each frame, RGBA uint8 [H,W,4], and how many milliseconds it is shown."""
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        yield np.asarray(image.convert("RGBA")), int(image.info.get("duration", 0)) or _UNSAID


def write_pictures(
    target: Path, frames: Iterable[VideoFrame], settings: dict[str, Any], *, scratch: Path | None = None
) -> None:
    """Write frames as numbered pictures from 0 on: into a folder, as 00000.png, or by a pattern such as f_%05d.png.

    A new folder appears when it is whole, in one that exists each picture does, and then older ones of such names go.

    Args:
        target: The folder or pattern.
        frames: The frames.
        settings: Stored in each picture.
        scratch: Where a new folder is made up.

    Raises:
        WriteError: A picture cannot be written.
    """
    number = _NUMBER.search(target.name)
    if number:
        folder, name = target.parent, target.name
    else:
        folder, name = target, "%05d.png"
    if not folder.is_dir() and not number:
        building = (scratch or folder.parent) / f".onnxdream-{uuid.uuid4().hex}"
        try:
            building.mkdir()
            _write_each(building / name, frames, settings)
            building.rename(folder)
        except OSError as error:
            raise WriteError(f"{target}: cannot be written: {error.strerror}") from error
        finally:
            if building.is_dir():
                for leftover in building.iterdir():
                    leftover.unlink()
                building.rmdir()
        return
    written = _write_each(folder / name, frames, settings)
    try:
        for old in folder.iterdir():
            if _fits(name, old.name) and old.name not in written:
                old.unlink()
    except OSError as error:
        raise WriteError(f"{target}: older pictures cannot be removed: {error.strerror}") from error


def _write_each(pattern: Path, frames: Iterable[VideoFrame], settings: dict[str, Any]) -> set[str]:
    """Write the frames; the pictures' names."""
    written = set()
    for number, frame in enumerate(frames):
        top = np.iinfo(frame.image.dtype).max
        alpha = None if frame.alpha is None else frame.alpha.astype(np.float32) / top
        picture = Picture(frame.rgb, alpha, 8 if top == 255 else 16)
        path = pattern.with_name(_numbered(pattern.name, number))
        write_picture(path, picture, settings)
        fsync_file(path)
        written.add(path.name)
    return written


def write_animation(
    target: Path,
    frames: Iterable[VideoFrame],
    times: list[Fraction],
    end: Fraction,
    settings: dict[str, Any],
    *,
    scratch: Path | None = None,
) -> None:
    """Write frames as an endless animated GIF or WebP.

    GIF counts hundredths of a second, rounded without drift, and no player shows a frame for less than two of them:
    frames in between are left out.

    Args:
        target: The file.
        frames: The frames.
        times: When each is shown, in seconds.
        end: When the last one goes away, in seconds.
        settings: Stored in the file.
        scratch: A folder for what is not whole yet.

    Raises:
        WriteError: The file cannot be written.
    """
    gif = target.suffix.lower() == ".gif"
    unit, shortest = (10, 2) if gif else (1, 1)
    ticks = [round((t - times[0]) * 1000 / unit) for t in times]
    kept = [0]
    for place, tick in enumerate(ticks):
        if tick - ticks[kept[-1]] >= shortest:
            kept.append(place)
    ends = [*(ticks[k] for k in kept[1:]), max(round((end - times[0]) * 1000 / unit), ticks[kept[-1]] + shortest)]
    durations = [(b - ticks[a]) * unit for a, b in zip(kept, ends, strict=True)]
    wanted = set(kept)
    options: dict[str, Any] = {"save_all": True, "duration": durations, "loop": 0}
    if not gif:
        options["quality"] = 90

    def write(to: Path) -> None:
        pixels = _eight_bit_pixels(f for place, f in enumerate(frames) if place in wanted)
        write_frames(to, pixels, settings, **options)
        fsync_file(to)

    write_whole(target, write, scratch=scratch)


def _eight_bit_pixels(frames: Iterable[VideoFrame]) -> Iterator[np.ndarray]:
    """Frames as RGB or RGBA uint8 [H,W,3|4]."""
    for frame in frames:
        rgb = to_eight_bit(frame.image)
        yield rgb if frame.alpha is None else np.dstack([rgb, to_eight_bit(frame.alpha)])


def read_picture_settings(path: Path) -> dict[str, Any]:
    """The settings stored in an animated picture, or in the first picture of a folder or pattern.

    Raises:
        VideoError: There are none.
    """
    pictures = find_pictures(path)
    try:
        return read_settings(pictures[0] if pictures else path)
    except PictureError as error:
        raise VideoError(str(error)) from error
