"""`onnxdream looks`: one photograph under every look, on one sheet."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ..errors import OnnxDreamError
from . import options as o
from .outputs import check_file, counted, write_grid
from .terminal import line, note_line, print_json, progress_bar


def looks(
    picture: Annotated[Path, typer.Argument(help="A photograph.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The sheet. [NAME-looks.jpg]")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The recommended layers of this network in place of the presets."),
    ] = None,
    size: Annotated[int, typer.Option(min=64, max=2048, help="Pixels of a dream's longer side.")] = 360,
    columns: Annotated[int | None, typer.Option(min=1, help="Dreams in a row.")] = None,
    overwrite: o.OverwriteOption = False,
    device: o.DeviceOption = "auto",
    threads: o.ThreadsOption = 0,
    offline: o.OfflineOption = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Show a photograph under every preset, or every recommended layer of a network, to find a look for it."""
    import numpy as np

    from .. import picture_files
    from ..dream.build import build_dreamer
    from ..dream.looks import looks as find_looks
    from ..images import check_size
    from ..interpret import grid
    from ..settings import RunSettings

    target = out or Path(f"{picture.stem}-looks.jpg")
    check_file(target, picture, overwrite=overwrite, own_name=out is None)
    job = picture_files.Job(picture, target)
    photo = picture_files.load_source(job, size=size, noise_size=(0, 0), seed=0).rgb
    found = find_looks(model)
    check_size(target, grid.grid_layout(len(found) + 1, photo.shape[:2], columns)[1])
    command = f"onnxdream image {shlex.quote(picture.name)}"
    tiles, labels = [np.rint(photo).astype(np.uint8)], [picture.name]
    records: list[dict[str, Any]] = []
    failure: OnnxDreamError | None = None
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("looks", total=len(found), state="")
        for options, settings in found.items():
            bar.update(task, state=options)
            try:
                dreamer = build_dreamer(settings, max_memory=RunSettings.max_memory, device=device, threads=threads)
                dream = dreamer.dream(photo)
            except OnnxDreamError as error:
                note_line(f"{options}: {error}")
                failure = error
                continue
            finally:
                bar.update(task, advance=1)
            tiles.append(dream.picture)
            labels.append(f"{command} {options}".rstrip())
            records.append({"command": labels[-1], "seconds": round(dream.seconds, 4), "settings": settings.stored()})
    if failure is not None and not records:
        raise failure
    write_grid(target, grid.show(tiles, labels, columns=columns), {"looks": labels[1:]})
    if as_json:
        print_json({"source": str(picture), "output": str(target), "looks": records})
    elif not quiet:
        line(f"[green]{escape(str(target))}[/]", f"{counted(len(records), 'look')} of {picture.name}")
