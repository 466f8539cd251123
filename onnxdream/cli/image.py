"""`onnxdream image`: dream pictures."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import OnnxDreamError, OptionError
from . import options as o
from .terminal import console, error_line, print_json, progress_bar


def image(
    pictures: Annotated[list[Path] | None, typer.Argument(metavar="IN…", help="Pictures to dream.")] = None,
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
    noise_size = _size(from_noise) if from_noise else (0, 0)
    if from_noise and pictures:
        raise OptionError("--from-noise starts from nothing; leave the picture out")
    sequence = frames > 1
    jobs = stills.plan_jobs(
        pictures or [], out, sequence=sequence, noise_seed=settings.seed if from_noise else None
    )
    memory = o.parse_bytes(max_memory)
    began = time.perf_counter()
    # A single bad picture is found before the network is loaded; in a batch it must not stop the others.
    first = stills.load_source(jobs[0], size=size, noise_size=noise_size, seed=settings.seed) if len(jobs) == 1 else None
    dreamer = build_dreamer(settings, max_memory=memory, device=device, threads=threads)
    stored = settings.stored()
    records: list[dict[str, Any]] = []
    failure: OnnxDreamError | None = None

    with progress_bar(quiet=quiet) as bar:
        for job in jobs:
            try:
                picture = first or stills.load_source(job, size=size, noise_size=noise_size, seed=settings.seed)
                shade = stills.load_mask(mask, picture.rgb.shape[:2]) if mask else None
                total = len(dreamer.octave_sizes(picture.rgb.shape[:2])) * settings.steps * frames
                task = bar.add_task(job.source.name if job.source else "noise", total=total, state="")
                on_step = _reporter(bar, task)
                if sequence:
                    parts = stills.ouroboros(
                        dreamer, picture, settings, frames=frames, zoom=zoom, rotate=rotate, mask=shade, on_step=on_step
                    )
                    dreams = []
                    stills.write_sequence(job.target, (dreams.append(d) or p for p, d in parts), stored)
                else:
                    dreamed, dream = stills.dream_picture(dreamer, picture, settings, mask=shade, on_step=on_step)
                    stills.write_picture(job.target, dreamed, stored)
                    dreams = [dream]
                bar.remove_task(task)
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
                console.print(
                    f"[green]{job.target}[/]  {dreamer.model.name} {dreamer.objective!r}  "
                    f"x{gain:.1f} in {sum(d.seconds for d in dreams):.1f} s on {last.provider}",
                    soft_wrap=True,
                )
    if as_json:
        _print_records(records, dreamer.model.name, repr(dreamer.objective), time.perf_counter() - began)
    if failure is not None:
        raise typer.Exit(failure.exit_code)


def _reporter(bar: Any, task: Any) -> Callable[[Any], None]:
    def report(progress: Any) -> None:
        height, width = progress.size
        bar.update(task, advance=1, state=f"{width}x{height}  objective {progress.objective:.4g}")

    return report


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


def _print_records(records: list[dict[str, Any]], model: str, objective: str, seconds: float) -> None:
    """One object: of the picture itself, or with a list of pictures."""
    common = {"model": model, "layer": objective, "seconds_total": round(seconds, 4)}
    print_json({**common, **records[0]} if len(records) == 1 else {**common, "pictures": records})


def _size(text: str) -> tuple[int, int]:
    """'640x480' -> (480, 640)."""
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise OptionError(f"size {text!r} is not of the form 640x480")
    return int(height), int(width)
