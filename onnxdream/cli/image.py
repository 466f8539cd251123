"""`onnxdream image`: dream pictures."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ..errors import OnnxDreamError, OptionError
from . import options as o
from .terminal import error_line, line, print_json, progress_bar

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress

    from ..dream import Dream, Dreamer
    from ..images import Picture
    from ..settings import Settings
    from ..stills import Job


def image(
    pictures: Annotated[list[Path] | None, typer.Argument(metavar="IN…", help="Pictures to dream.")] = None,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A file; a folder for several. [NAME-dream.png]")
    ] = None,
    preset: o.PresetOption = None,
    like: o.LikeOption = None,
    config: o.ConfigOption = None,
    model: o.ModelOption = None,
    layer: o.LayerOption = None,
    objective: o.ObjectiveOption = None,
    channels: o.ChannelsOption = None,
    guide: o.GuideOption = None,
    octaves: o.OctavesOption = None,
    octave_scale: o.ScaleOption = None,
    steps: o.StepsOption = None,
    step_size: o.StepSizeOption = None,
    jitter: o.JitterOption = None,
    smooth: o.SmoothOption = None,
    seed: o.SeedOption = None,
    keep_colors: o.KeepColorsOption = None,
    mask: Annotated[Path | None, typer.Option(help="Dream only where this picture is white.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Bring the longer side to this many pixels first.")] = None,
    from_noise: Annotated[
        str | None, typer.Option(metavar="WxH", help="Start from noise of this size instead of a picture.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Dream again and again: a sequence of this many.")] = 1,
    zoom: Annotated[float, typer.Option(help="Enlarge this much between the frames.")] = 1.04,
    rotate: Annotated[float, typer.Option(help="Turn this many degrees between the frames.")] = 0.0,
    device: o.DeviceOption = "auto",
    threads: o.ThreadsOption = 0,
    max_memory: o.MemoryOption = "4G",
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Dream a picture, or several, or a sequence that falls into itself (--frames)."""
    from .. import stills
    from ..settings import build_dreamer

    if quiet:
        warnings.simplefilter("ignore")
    given = {
        "model": model, "layers": layer or None, "objective": objective, "channels": channels, "guide": guide,
        "octaves": octaves, "octave_scale": octave_scale, "steps": steps, "step_size": step_size, "jitter": jitter,
        "smooth": smooth, "seed": seed, "keep_colors": keep_colors,
    }  # fmt: skip
    settings = o.settings_from(given, preset=preset, config=config, like=like)
    if from_noise and pictures:
        raise OptionError("--from-noise starts from nothing; leave the picture out")
    began = time.perf_counter()
    run = _Run(
        settings=settings,
        stored=settings.stored(),
        size=size,
        noise_size=_size(from_noise) if from_noise else (0, 0),
        mask=stills.load_mask(mask) if mask else None,
        frames=frames,
        zoom=zoom,
        rotate=rotate,
    )
    jobs = stills.plan_jobs(pictures or [], out, sequence=frames > 1, noise_seed=settings.seed if from_noise else None)
    memory = o.parse_bytes(max_memory)
    # A single bad picture is found before the network is loaded; in a batch it must not stop the others.
    first = run.load(jobs[0]) if len(jobs) == 1 else None
    dreamer = build_dreamer(settings, max_memory=memory, device=device, threads=threads)
    records: list[dict[str, Any]] = []
    failure: OnnxDreamError | None = None
    with progress_bar(quiet=quiet) as bar:
        for job in jobs:
            try:
                dreams = run.dream(dreamer, job, first or run.load(job), bar)
            except OnnxDreamError as error:
                if len(jobs) == 1:
                    raise
                error_line(str(error))
                failure = error
                continue
            records.append(_record(job, dreams))
            if not quiet:
                last = dreams[-1]
                gain = last.objective_after / last.objective_before if last.objective_before else float("inf")
                seconds = sum(d.seconds for d in dreams)
                line(
                    f"[green]{escape(str(job.target))}[/]",
                    f"{dreamer.model.name} {dreamer.objective!r} x{gain:.1f} in {seconds:.1f} s on {last.provider}",
                )
    if as_json:
        common = {
            "model": dreamer.model.name,
            "layer": ", ".join(dreamer.objective.layers),
            "objective": repr(dreamer.objective),
            "seconds_total": round(time.perf_counter() - began, 4),
        }
        print_json({**common, **records[0]} if len(jobs) == 1 else {**common, "pictures": records})
    if failure is not None:
        raise typer.Exit(failure.exit_code)


@dataclass(frozen=True)
class _Run:
    """What every picture of one call has in common."""

    settings: Settings
    stored: dict[str, Any]
    size: int | None
    noise_size: tuple[int, int]
    mask: np.ndarray | None
    frames: int
    zoom: float
    rotate: float

    def load(self, job: Job) -> Picture:
        from .. import stills

        return stills.load_source(job, size=self.size, noise_size=self.noise_size, seed=self.settings.seed)

    def dream(self, dreamer: Dreamer, job: Job, picture: Picture, bar: Progress) -> list[Dream]:
        """Dream one job and write it."""
        from .. import images, stills

        total = len(dreamer.octave_sizes(picture.rgb.shape[:2])) * self.settings.steps * self.frames
        task = bar.add_task(escape(job.source.name) if job.source else "noise", total=total, state="")

        def on_step(progress: Any) -> None:
            height, width = progress.size
            bar.update(task, advance=1, state=f"{width}x{height}  objective {progress.objective:.4g}")

        dreams: list[Dream] = []

        def kept(parts: Iterable[tuple[Picture, Dream]]) -> Iterator[Picture]:
            for part, dream in parts:
                dreams.append(dataclasses.replace(dream, exact=dream.exact[:0], picture=dream.picture[:0]))
                yield part

        try:
            if self.frames > 1:
                parts = stills.ouroboros(
                    dreamer, picture, self.settings, frames=self.frames, zoom=self.zoom, rotate=self.rotate,
                    mask=self.mask, on_step=on_step,
                )  # fmt: skip
                stills.write_sequence(job.target, kept(parts), self.stored)
            else:
                part = stills.dream_picture(dreamer, picture, self.settings, mask=self.mask, on_step=on_step)
                for dreamed in kept([part]):
                    images.write_picture(job.target, dreamed, self.stored)
        finally:
            bar.remove_task(task)
        return dreams


def _record(job: Any, dreams: list[Any]) -> dict[str, Any]:
    return {
        "source": str(job.source) if job.source else None,
        "output": str(job.target),
        "provider": dreams[-1].provider,
        "seconds": round(sum(d.seconds for d in dreams), 4),
        "steps": sum(d.steps for d in dreams),
        "frames": len(dreams),
        "objective_before": dreams[0].objective_before,
        "objective_after": dreams[-1].objective_after,
    }


def _size(text: str) -> tuple[int, int]:
    """'640x480' -> (480, 640)."""
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise OptionError(f"size {text!r} is not of the form 640x480")
    return int(height), int(width)
