"""Dream picture files: one job for each picture, and the zooming sequence made of many dreams."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .dream import Dream, Dreamer, Progress
from .errors import OptionError, OutputError
from .images import Picture, check_writable, keep_colors, noise, read_picture, resize, write_picture, write_whole, zoomed
from .settings import Settings

ANIMATED = (".gif", ".webp")


@dataclass(frozen=True)
class Job:
    """One picture to dream: where it comes from and where it goes."""

    source: Path | None  # None: from noise
    target: Path


def plan_jobs(sources: list[Path], out: Path | None, *, sequence: bool, noise_seed: int | None = None) -> list[Job]:
    """One job a source. `out` is a file for one picture, a folder for several; by default NAME-dream.png in the
    current folder. Raises OutputError before anything is dreamed.
    """
    if noise_seed is not None:
        return [_checked(Job(None, out or Path(f"noise-{noise_seed}-dream.png")), sequence)]
    if not sources:
        raise OptionError("name at least one picture, or use --from-noise")
    several = len(sources) > 1 or (out is not None and out.is_dir())
    if several and out is not None and not out.is_dir():
        raise OutputError(f"{out}: several pictures need a folder to go into; create it first")
    jobs = []
    for source in sources:
        target = out if out is not None and not several else (out or Path()) / f"{source.stem}-dream.png"
        if target.exists() and source.exists() and target.samefile(source):
            raise OutputError(f"{target}: the dream would overwrite the picture it is made from; choose another -o")
        jobs.append(_checked(Job(source, target), sequence))
    targets = [job.target for job in jobs]
    for target in targets:
        if targets.count(target) > 1:
            raise OutputError(f"{target}: two pictures would be written there; their names differ only in their folder")
    return jobs


def _checked(job: Job, sequence: bool) -> Job:
    if sequence and job.target.suffix.lower() not in ANIMATED:
        if job.target.suffix:
            raise OutputError(f"{job.target}: a sequence goes into a folder (no ending) or {' or '.join(ANIMATED)}")
        return job
    if sequence:
        if not job.target.parent.is_dir():
            raise OutputError(f"{job.target.parent}: no such folder to write into")
        return job
    check_writable(job.target)
    return job


def load_source(job: Job, *, size: int | None, noise_size: tuple[int, int], seed: int) -> Picture:
    """The job's picture, or noise of `noise_size` (height, width); its longer side brought to `size` pixels if given.

    Raises PictureError.
    """
    picture = Picture(noise(noise_size, seed)) if job.source is None else read_picture(job.source)
    if size is None:
        return picture
    height, width = picture.rgb.shape[:2]
    scale = size / max(height, width)
    target = (max(1, round(height * scale)), max(1, round(width * scale)))
    rgb = resize(picture.rgb.transpose(2, 0, 1)[None], target)[0].transpose(1, 2, 0)
    alpha = None if picture.alpha is None else cv2.resize(picture.alpha, target[::-1], interpolation=cv2.INTER_AREA)
    return dataclasses.replace(picture, rgb=np.clip(rgb, 0, 255), alpha=alpha)


def load_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A mask picture as float32 [H,W] in 0..1 (white: dream here), scaled to `size` (height, width).

    A picture with alpha is taken by its alpha. Raises PictureError.
    """
    picture = read_picture(path)
    grey = picture.rgb.mean(2) / 255 if picture.alpha is None else picture.alpha
    return cv2.resize(grey.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)


def dream_picture(
    dreamer: Dreamer,
    picture: Picture,
    settings: Settings,
    *,
    mask: np.ndarray | None = None,
    on_step: Callable[[Progress], bool | None] | None = None,
) -> tuple[Picture, Dream]:
    """Dream one picture; depth, alpha and colour profile are kept, and its colours where the settings say so."""
    dream = dreamer.dream(picture.rgb, mask=mask, on_step=on_step)
    rgb = keep_colors(dream.exact, picture.rgb) if settings.keep_colors else dream.exact
    return dataclasses.replace(picture, rgb=rgb), dream


def ouroboros(
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
    """`frames` dreams, each dreamed from the one before, enlarged `zoom` times and turned `rotate` degrees."""
    if frames < 1 or not 0.5 <= zoom <= 2:
        raise OptionError(f"a sequence needs frames of at least 1 and a zoom of 0.5 to 2, not {frames} and {zoom}")
    for _ in range(frames):
        dreamed, dream = dream_picture(dreamer, picture, settings, mask=mask, on_step=on_step)
        yield dreamed, dream
        picture = dataclasses.replace(dreamed, rgb=np.clip(zoomed(dreamed.rgb, zoom, rotate), 0, 255))


def write_sequence(target: Path, pictures: Iterator[Picture], settings: dict[str, Any], *, fps: float = 12) -> int:
    """Write a sequence as an animated GIF or WebP, or as numbered PNGs into a folder; returns how many frames."""
    count = 0
    if target.suffix.lower() in ANIMATED:
        frames = [np.rint(np.clip(p.rgb, 0, 255)).astype(np.uint8) for p in pictures]
        count = len(frames)
        import imageio.v3 as iio

        duration = round(1000 / fps)
        options = {"duration": duration, "loop": 0} | ({"quality": 90} if target.suffix.lower() == ".webp" else {})
        write_whole(target, lambda to: iio.imwrite(to, frames, plugin="pillow", extension=target.suffix.lower(), **options))
        return count
    try:
        target.mkdir(parents=False, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{target}: cannot be created: {error.strerror}") from error
    for picture in pictures:
        write_picture(target / f"{count:05d}.png", picture, settings)
        count += 1
    return count
