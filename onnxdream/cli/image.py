"""`onnxdream image`: dream pictures."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ..errors import OnnxDreamError, OptionError
from . import options as o
from .cluster import CpusOption, GpusOption, RayOption, WorkersOption, cluster_from, own_stdout
from .exit_codes import exit_code
from .terminal import error_line, line, print_json, progress_bar

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress

    from ..cluster.ray import RayCluster
    from ..dream.dreamer import Dream, Dreamer
    from ..images import Picture
    from ..picture_files import Job
    from ..settings import Settings

log = logging.getLogger(__name__)


@o.with_options()
def image(
    pictures: Annotated[list[Path] | None, typer.Argument(metavar="IN…", help="Pictures to dream.")] = None,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A file; a folder for several. [NAME-dream.png]")
    ] = None,
    look: o.Look,
    mask: Annotated[Path | None, typer.Option(help="Dream only where this picture is white.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Bring the longer side to this many pixels first.")] = None,
    from_noise: Annotated[
        str | None, typer.Option(metavar="WxH", help="Start from noise of this size instead of a picture.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Dream again and again: a sequence of this many.")] = 1,
    zoom: Annotated[float, typer.Option(help="Enlarge this much between the frames.")] = 1.04,
    rotate: Annotated[float, typer.Option(help="Rotate this many degrees between the frames.")] = 0.0,
    overwrite: o.OverwriteOption = False,
    ray: RayOption = None,
    workers: WorkersOption = None,
    cpus_per_worker: CpusOption = 1,
    gpus_per_worker: GpusOption = 0.0,
    run: o.Run,
) -> None:
    """Dream a picture, or several, or a sequence that falls into itself (--frames)."""
    from .. import picture_files
    from ..dream.build import build_dreamer
    from ..engines.select import device_for

    cluster = cluster_from(ray, workers, cpus_per_worker, gpus_per_worker)
    settings = o.settings_from(look)
    device = device_for(run.backend, run.device)
    if from_noise and pictures:
        raise OptionError("--from-noise starts from nothing; leave the picture out")
    picture_files.check_sequence(frames, zoom, rotate)
    began = time.perf_counter()
    batch = _Batch(
        settings=settings,
        stored=settings.stored(),
        size=size,
        noise_size=o.parse_size(from_noise) if from_noise else (0, 0),
        mask=picture_files.load_mask(mask) if mask else None,
        frames=frames,
        zoom=zoom,
        rotate=rotate,
    )
    jobs = picture_files.plan_jobs(
        pictures or [], out, sequence=frames > 1, noise_seed=settings.seed if from_noise else None,
        overwrite=overwrite, inputs=[*o.files_in(look), *([mask] if mask else [])],
    )  # fmt: skip
    # A single bad picture is found before the network is loaded; in a batch it must not stop the others.
    first = batch.load(jobs[0]) if len(jobs) == 1 else None
    dreamer = build_dreamer(settings, max_memory=run.max_memory, device=device, threads=run.threads)
    records: list[dict[str, Any]] = []
    failure: OnnxDreamError | None = None
    with own_stdout(cluster), progress_bar(quiet=run.quiet) as bar:
        done = (
            _here(batch, dreamer, jobs, first, bar) if cluster is None else _spread(cluster, batch, dreamer, jobs, bar)
        )
        for job, dreams in done:
            if isinstance(dreams, OnnxDreamError):
                if len(jobs) == 1:
                    raise dreams
                error_line(str(dreams))
                failure = dreams
                continue
            records.append(_record(job, dreams))
            if not run.quiet:
                last = dreams[-1]
                gain = last.objective_after / last.objective_before if last.objective_before else float("inf")
                seconds = sum(d.seconds for d in dreams)
                about = dreamer.goal if dreamer.also else f"{dreamer.model.name} {dreamer.goal}"
                line(
                    f"[green]{escape(str(job.target))}[/]",
                    f"{about} x{gain:.1f} in {seconds:.1f} s on {last.provider}",
                )
    if run.as_json:
        order = [str(job.target) for job in jobs]
        records.sort(key=lambda record: order.index(record["output"]))
        common = {
            "model": ", ".join(model.name for model in dreamer.models),
            "layer": ", ".join(dreamer.layers),
            "objective": dreamer.goal,
            "seconds_total": round(time.perf_counter() - began, 4),
        }
        print_json({**common, **records[0]} if len(jobs) == 1 else {**common, "pictures": records})
    if failure is not None:
        raise typer.Exit(exit_code(failure))


@dataclass(frozen=True)
class _Batch:
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
        from .. import picture_files

        return picture_files.load_source(job, size=self.size, noise_size=self.noise_size, seed=self.settings.seed)

    def parts(
        self, dreamer: Dreamer, picture: Picture, on_step: Callable[[Any], None] | None = None
    ) -> Iterable[tuple[Picture, Dream]]:
        """Dream one picture, again and again where a sequence is asked for."""
        from .. import picture_files

        if self.frames == 1:
            return [picture_files.dream_picture(dreamer, picture, self.settings, mask=self.mask, on_step=on_step)]
        return picture_files.zoom_sequence(
            dreamer, picture, self.settings, frames=self.frames, zoom=self.zoom, rotate=self.rotate, mask=self.mask,
            on_step=on_step,
        )  # fmt: skip

    def write(self, job: Job, parts: Iterable[tuple[Picture, Dream]]) -> list[Dream]:
        """Write what was dreamed; the dreams without their pictures."""
        from .. import images, picture_files

        dreams: list[Dream] = []

        def kept() -> Iterator[Picture]:
            for part, dream in parts:
                if not dreams:
                    self._say_what_goes(job, part)
                dreams.append(_bare(dream))
                yield part

        if self.frames > 1:
            picture_files.write_sequence(job.target, kept(), self.stored)
        else:
            for dreamed in kept():
                images.write_picture(job.target, dreamed, self.stored)
        return dreams

    def _say_what_goes(self, job: Job, picture: Picture) -> None:
        """Log what the target cannot keep of a picture; into a folder go PNGs."""
        from .. import images, picture_files

        folder = self.frames > 1 and job.target.suffix.lower() not in picture_files.ANIMATED
        for text in images.unkept(job.target / "00000.png" if folder else job.target, picture, self.stored):
            log.warning(text)

    def dream(self, dreamer: Dreamer, job: Job, picture: Picture, bar: Progress) -> list[Dream]:
        """Dream one job and write it."""
        total = len(dreamer.octave_sizes(picture.rgb.shape[:2])) * self.settings.steps * self.frames
        task = bar.add_task(escape(job.source.name) if job.source else "noise", total=total, state="")

        def on_step(progress: Any) -> None:
            height, width = progress.size
            bar.update(task, advance=1, state=f"{width}x{height}  objective {progress.objective:.4g}")

        try:
            return self.write(job, self.parts(dreamer, picture, on_step))
        finally:
            bar.remove_task(task)


_Done = Iterator[tuple["Job", "list[Dream] | OnnxDreamError"]]


def _here(batch: _Batch, dreamer: Dreamer, jobs: list[Job], first: Picture | None, bar: Progress) -> _Done:
    """Dream the jobs one after the other; what is wrong with one does not stop the others."""
    for job in jobs:
        try:
            yield job, batch.dream(dreamer, job, first or batch.load(job), bar)
        except OnnxDreamError as error:
            yield job, error


@dataclass(frozen=True)
class _Loaded:
    """A job with its picture, which goes to the cluster with it; named by its source in errors."""

    job: Job
    picture: Picture

    def __str__(self) -> str:
        return str(self.job.source or self.job.target)


@dataclass(frozen=True)
class _Hand:
    """Dreams a job's picture on a machine of the cluster; an error is handed back like a dream."""

    batch: _Batch
    dreamer: Dreamer

    def __call__(self, loaded: _Loaded, report: Callable[[int], None]) -> list[tuple[Picture, Dream]] | OnnxDreamError:
        try:
            return [(part, _bare(dream)) for part, dream in self.batch.parts(self.dreamer, loaded.picture)]
        except OnnxDreamError as error:
            return error


def _spread(cluster: RayCluster, batch: _Batch, dreamer: Dreamer, jobs: list[Job], bar: Progress) -> _Done:
    """Dream the jobs on a cluster: pictures are read and written here, and travel through its object store."""
    task = bar.add_task("pictures", total=len(jobs), state="")
    unread: list[tuple[Job, OnnxDreamError]] = []

    def loaded() -> Iterator[_Loaded]:
        for job in jobs:
            try:
                yield _Loaded(job, batch.load(job))
            except OnnxDreamError as error:
                unread.append((job, error))

    def on_progress(progress: Any) -> None:
        bar.update(task, state=f"{progress.workers} workers")

    for item, parts in cluster.map(_Hand(batch, dreamer), loaded(), on_progress=on_progress):
        bar.update(task, advance=1)
        try:
            yield item.job, parts if isinstance(parts, OnnxDreamError) else batch.write(item.job, parts)
        except OnnxDreamError as error:
            yield item.job, error
    yield from unread


def _bare(dream: Dream) -> Dream:
    return dataclasses.replace(dream, exact=dream.exact[:0], picture=dream.picture[:0])


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
