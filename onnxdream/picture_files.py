"""Dream picture files: one job for each picture, and the zooming sequence made of many dreams."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .dream.dreamer import Dream, Dreamer, Progress
from .errors import OptionError, OutputError, PictureError, WriteError
from .images import (
    MAX_PIXELS,
    Picture,
    check_size,
    check_writable,
    eight_bit,
    read_picture,
    resize,
    to_srgb,
    write_frames,
    write_picture,
    write_whole,
)
from .output_files import check_apart, check_free
from .photo_metadata import Metadata
from .settings import Settings

ANIMATED = (".gif", ".webp")
_LONGEST_TURNED = 32766  # OpenCV's limit for turning a picture


@dataclass(frozen=True)
class Job:
    """One picture to dream.

    Attributes:
        source: The picture's file; None: it begins as noise.
        target: Where the dream goes.
    """

    source: Path | None
    target: Path


def plan_jobs(
    sources: list[Path],
    out: Path | None,
    *,
    sequence: bool,
    noise_seed: int | None = None,
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
) -> list[Job]:
    """One job for each picture.

    Args:
        sources: The pictures.
        out: A file, or a folder that exists. If None, the dream of NAME goes to NAME-dream.png in the current folder.
        sequence: Each job writes a sequence, into a folder of that name or an animated `out`.
        noise_seed: If given, there is a single job, from noise.
        overwrite: Whether to replace what is there; under the default name what onnxdream made is replaced anyway.
        inputs: What else the dreams are made from.

    Raises:
        OptionError: There are no sources.
        OutputError: A target cannot be written, is there already, or would overwrite an input or another target.
    """
    if not sources and noise_seed is None:
        raise OptionError("name at least one picture, or use --from-noise")
    into_folder = out is not None and out.is_dir()
    if len(sources) > 1 and out is not None and not into_folder:
        raise OutputError(f"{out}: several pictures need a folder to go into; create it first")
    jobs = []
    for source in sources if noise_seed is None else [None]:
        name = f"{source.stem if source is not None else f'noise-{noise_seed}'}-dream{'' if sequence else '.png'}"
        if out is not None and (not into_folder or (sequence and len(sources) <= 1)):
            target = out
        else:
            target = (out or Path()) / name
        (_check_sequence_target if sequence else check_writable)(target)
        check_apart(target, [*inputs, *sources])
        jobs.append(Job(source, target))
    counts = Counter(job.target.resolve() for job in jobs)
    for job in jobs:
        if counts[job.target.resolve()] > 1:
            raise OutputError(f"{job.target}: two of the pictures would go there; rename one, or dream them separately")
        check_free(job.target, overwrite=overwrite, own_name=job.target != out)
    return jobs


def _check_sequence_target(target: Path) -> None:
    suffix = target.suffix.lower()
    if suffix and suffix not in ANIMATED and "-dream" not in suffix and not target.is_dir():
        raise OutputError(f"{target}: a sequence goes into a folder or a file ending in {' or '.join(ANIMATED)}")
    if target.exists() and target.is_dir() == (suffix in ANIMATED):
        raise OutputError(f"{target}: is {'a folder' if target.is_dir() else 'a file'}; choose another -o")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: there is no folder {target.parent} to write into; create it first")


def load_source(job: Job, *, size: int | None, noise_size: tuple[int, int], seed: int) -> Picture:
    """The job's picture, or noise.

    Args:
        job: The job.
        size: Pixels that the longer side is brought to, if given.
        noise_size: (height, width) of noise.
        seed: Of noise.

    Raises:
        PictureError: The picture cannot be read or would have more than 400 million pixels.
        OutputError: A picture of this size does not fit into the target's format.
    """
    _check_pixels(*noise_size)
    picture = Picture(noise(noise_size, seed)) if job.source is None else read_picture(job.source)
    if size is not None:
        height, width = picture.rgb.shape[:2]
        scale = size / max(height, width)
        target = (max(1, round(height * scale)), max(1, round(width * scale)))
        _check_pixels(*target)
        rgb = resize(picture.rgb.transpose(2, 0, 1)[None], target)[0].transpose(1, 2, 0)
        alpha = picture.alpha
        if alpha is not None:
            alpha = np.clip(cv2.resize(alpha, target[::-1], interpolation=cv2.INTER_AREA), 0, 1)
        picture = dataclasses.replace(picture, rgb=np.clip(rgb, 0, 255), alpha=alpha)
    check_size(job.target, picture.rgb.shape[:2])
    return picture


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise PictureError(f"{width}x{height} is more than {MAX_PIXELS:,} pixels; choose a smaller size")


def noise(size: tuple[int, int], seed: int) -> np.ndarray:
    """A grey picture [H,W,3] float32 of coloured noise to dream from, smooth at every scale."""
    rng = np.random.default_rng(seed)
    height, width = size
    picture = np.full((height, width, 3), 117.0, np.float32)
    for scale in (1, 4, 16, 64):
        coarse = rng.normal(0, 9, (max(1, height // scale), max(1, width // scale), 3)).astype(np.float32)
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255)


def load_mask(path: Path) -> np.ndarray:
    """A mask picture as float32 [H,W] in 0..1; white: dream here. A picture with see-through parts is taken by those.

    Raises:
        PictureError: The picture cannot be read.
    """
    picture = read_picture(path)
    if picture.alpha is not None and picture.alpha.min() < 1:
        return picture.alpha
    return np.asarray(picture.rgb.mean(2) / 255, np.float32)


def dream_picture(
    dreamer: Dreamer,
    picture: Picture,
    settings: Settings,
    *,
    mask: np.ndarray | None = None,
    on_step: Callable[[Progress], bool | None] | None = None,
) -> tuple[Picture, Dream]:
    """Dream one picture; depth, alpha and colour profile are kept, and its colours where the settings say so.

    Args:
        dreamer: Dreams it.
        picture: The picture.
        settings: Say whether to keep colours.
        mask: float32 [H,W] in 0..1, how much of the dream each place gets; all of it if None.
        on_step: Called after each step; when it returns False the dream stops there and has `cancelled=True`.

    Returns:
        The dreamed picture, and what the dreamer returned.
    """
    dream = dreamer.dream(picture.rgb, mask=mask, on_step=on_step)
    rgb = keep_colors(dream.exact, picture.rgb) if settings.keep_colors else dream.exact
    return dataclasses.replace(picture, rgb=rgb), dream


def zoom_sequence(
    dreamer: Dreamer,
    picture: Picture,
    settings: Settings,
    *,
    frames: int,
    zoom: float,
    rotate: float,
    mask: np.ndarray | None = None,
    on_step: Callable[[Progress], bool | None] | None = None,
) -> Iterator[tuple[Picture, Dream]]:
    """Dreams, each dreamed from the one before, enlarged and turned.

    Args:
        dreamer: Dreams them.
        picture: The first is dreamed from it.
        settings: Say whether to keep colours.
        frames: How many, at least 1.
        zoom: Times each is enlarged, 0.5 to 2.
        rotate: Degrees each is turned, counter-clockwise.
        mask: See `dream_picture`.
        on_step: Called after each step; when it returns False the sequence ends with the dream that it stops, which has
            `cancelled=True`.

    Raises:
        OptionError: There can be no such sequence; raised at once.
        PictureError: The picture is too large to be turned; raised at once.
    """
    check_sequence(frames, zoom, rotate)
    if max(picture.rgb.shape) > _LONGEST_TURNED:
        raise PictureError(f"a sequence's pictures have at most {_LONGEST_TURNED} pixels a side; make it smaller")

    def dreams(picture: Picture) -> Iterator[tuple[Picture, Dream]]:
        for _ in range(frames):
            dreamed, dream = dream_picture(dreamer, picture, settings, mask=mask, on_step=on_step)
            yield dreamed, dream
            if dream.cancelled:
                return
            alpha = None if dreamed.alpha is None else np.clip(zoomed(dreamed.alpha, zoom, rotate), 0, 1)
            picture = dataclasses.replace(dreamed, rgb=np.clip(zoomed(dreamed.rgb, zoom, rotate), 0, 255), alpha=alpha)

    return dreams(picture)


def keep_colors(dreamed: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The lightness of `dreamed` with the colours of `source`; both float32 [H,W,3] RGB in 0..255 (CIE L*a*b*)."""
    lab, original = (cv2.cvtColor(np.ascontiguousarray(p) / 255, cv2.COLOR_RGB2LAB) for p in (dreamed, source))
    mixed = np.dstack([lab[:, :, :1], original[:, :, 1:]])
    return np.clip(cv2.cvtColor(mixed, cv2.COLOR_LAB2RGB), 0, 1) * 255


def check_sequence(frames: int, zoom: float, rotate: float) -> None:
    """Raise OptionError when there can be no such sequence."""
    if frames < 1 or not 0.5 <= zoom <= 2 or not math.isfinite(rotate):
        raise OptionError(
            f"a sequence needs frames from 1, zoom from 0.5 to 2 and a finite rotation, not {frames}, {zoom}, {rotate}"
        )


def zoomed(picture: np.ndarray, zoom: float, degrees: float) -> np.ndarray:
    """`picture` [H,W,3] or [H,W] enlarged `zoom` times and turned counter-clockwise round its middle; edges mirror."""
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, zoom)
    return cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def write_sequence(target: Path, pictures: Iterator[Picture], settings: dict[str, Any], *, fps: float = 12) -> int:
    """Write a sequence as an animated GIF or WebP, in sRGB, or as numbered PNGs into a folder.

    An animation appears when it is whole; into a folder each frame does, and then older ones of such names go.

    Args:
        target: The file or folder.
        pictures: The frames.
        settings: Stored in the animation or in each picture.
        fps: Frames a second of an animation.

    Returns:
        How many frames there were.

    Raises:
        WriteError: They cannot be written.
    """
    suffix = target.suffix.lower()
    if suffix in ANIMATED:
        frames, metadata = [], Metadata()
        for picture in pictures:
            frames.append(eight_bit(to_srgb(picture)))
            metadata = picture.metadata
        timing: dict[str, Any] = {"save_all": True, "duration": round(1000 / fps), "loop": 0}
        write_whole(target, lambda to: write_frames(to, frames, settings, metadata, **timing))
        return len(frames)
    new = not target.exists()
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise WriteError(f"{target}: cannot be created: {error.strerror}") from error
    count = 0
    try:
        for picture in pictures:
            write_picture(target / f"{count:05d}.png", picture, settings)
            count += 1
        for old in target.glob("[0-9][0-9][0-9][0-9][0-9].png"):
            if int(old.stem) >= count:
                old.unlink()
    except OSError as error:
        raise WriteError(f"{target}: older pictures cannot be removed: {error.strerror}") from error
    finally:
        if new and not count:
            with contextlib.suppress(OSError):
                target.rmdir()
    return count
