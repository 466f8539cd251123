"""`onnxdream atlas`: every channel of a network's layers, as a site that opens from the disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..settings import VisualizationSettings
from . import options as o
from .cluster import CpusOption, GpusOption, RayOption, WorkersOption, cluster_from, own_stdout
from .outputs import counted
from .terminal import line, note_line, print_json, progress_bar
from .visualize import ModelArgument, RecipeOption, SeedOption, SizeOption, StepsOption

if TYPE_CHECKING:
    from ..interpret.atlas import AtlasProgress


def atlas(
    model: ModelArgument,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the site; a second run goes on with it.")],
    layer: Annotated[
        list[str] | None, typer.Option("--layer", "-l", help="A layer, or all; repeatable. \\[the recommended ones]")
    ] = None,
    inputs: o.InputsOption = None,
    channels: Annotated[str, typer.Option(metavar="0-15", help="Only these channels of each layer.")] = "all",
    pictures: Annotated[
        Path | None, typer.Option("--images", help="A folder of pictures: what in them excites each channel.")
    ] = None,
    recipe: RecipeOption = VisualizationSettings.recipe,
    steps: StepsOption = 128,
    size: SizeOption = 112,
    seed: SeedOption = VisualizationSettings.seed,
    device: o.DeviceOption = "auto",
    threads: o.ThreadsOption = 0,
    ray: RayOption = None,
    workers: WorkersOption = None,
    cpus_per_worker: CpusOption = 1,
    gpus_per_worker: GpusOption = 0.0,
    offline: o.OfflineOption = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Make a site that shows what every channel looks for, and what excites it; open its index.html in a browser."""
    from ..interpret.atlas import AtlasPlan, make_atlas, network_digest, select_layers
    from ..interpret.targets import describe_inactive
    from ..networks.model import load_model

    cluster = cluster_from(ray, workers, cpus_per_worker, gpus_per_worker)
    began = time.perf_counter()
    loaded = load_model(model, inputs=inputs or ())
    plan = AtlasPlan(
        model=loaded.name,
        network=network_digest(loaded),
        layers=select_layers(loaded, layer or []),
        channels=channels,
        images=str(pictures.resolve()) if pictures else "",
        recipe=recipe,
        steps=steps,
        size=size,
        seed=seed,
    )
    with own_stdout(cluster), progress_bar(quiet=quiet) as bar:
        task = bar.add_task("atlas", total=None, state="")

        def on_progress(progress: AtlasProgress) -> None:
            bar.update(task, completed=progress.done, total=progress.total, state=escape(progress.layer))

        done = make_atlas(
            loaded, out, plan, device=device, threads=threads, cluster=cluster, on_progress=on_progress,
            on_skip=lambda message: None if quiet else note_line(message),
        )  # fmt: skip
    seconds = time.perf_counter() - began
    page = out / "index.html"
    if done.inactive and not (quiet or as_json):
        note_line(describe_inactive(done.inactive))
    if as_json:
        print_json({"model": loaded.name, "layers": list(done.layers), "made": done.made, "found": done.found,
                    "seconds": round(seconds, 3), "output": str(page)})  # fmt: skip
    elif not quiet:
        made = f"{counted(done.made, 'channel')} made, {done.found} found"
        line(f"[green]{escape(str(page))}[/]", f"{made}, {seconds:.0f} s")
