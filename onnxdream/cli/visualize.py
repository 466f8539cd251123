"""`onnxdream activations` and `visualize`: what a network sees in a picture, and what it learned to see."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ..errors import OptionError
from . import options as o
from . import terminal
from .terminal import line, note_line, print_json, progress_bar

if TYPE_CHECKING:
    from ..feature.visualize import Climb, Visualizer
    from ..feature.wanted import Wanted
    from ..model import Model

_WHAT, _HOW = "What to show", "How it is made"

ModelArgument = Annotated[str, typer.Argument(help="A network's name or an ONNX file.")]
RecipeOption = Annotated[str, typer.Option(help="fourier, maco or pixel.", rich_help_panel=_HOW)]
StepsOption = Annotated[int, typer.Option(help="Ascent steps.", rich_help_panel=_HOW)]
SeedOption = Annotated[int, typer.Option(help="Same seed, same pictures.", rich_help_panel=_HOW)]


def activations(
    picture: Annotated[Path, typer.Argument(help="A picture.")],
    *,
    layer: Annotated[str | None, typer.Option("--layer", "-l", help="The layer. [a recommended one]")] = None,
    model: o.ModelOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The grid. [NAME-LAYER.png]")] = None,
    channels: Annotated[str | None, typer.Option(metavar="3,5-8", help="Only these channels.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Only the strongest.")] = 16,
    colors: Annotated[str, typer.Option(help="grey, viridis, magma, inferno or turbo.")] = "viridis",
    overlay: Annotated[bool, typer.Option("--overlay", help="Lay the activations over the picture.")] = False,
    npz: Annotated[Path | None, typer.Option(help="Write the raw numbers of all channels here.")] = None,
    size: Annotated[int, typer.Option(min=16, help="Bring the longer side down to this many pixels first.")] = 384,
    tile: Annotated[int, typer.Option(min=16, max=2048, help="Pixels of a tile's longer side.")] = 160,
    columns: Annotated[int | None, typer.Option(min=1, help="Tiles in a row.")] = None,
    device: o.DeviceOption = "auto",
    offline: o.OfflineOption = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Show what the channels of a layer answer to a picture, strongest first."""
    import numpy as np

    from .. import catalog, images
    from ..feature import grid
    from ..feature.activations import activations as compute
    from ..feature.activations import strength
    from ..feature.wanted import channel_label, chosen_channels
    from ..model import load_model

    loaded = load_model(model or catalog.DEFAULT)
    name = layer or loaded.default_layer()
    target = out or Path(f"{picture.stem}-{name.replace('/', '_')}.png")
    images.check_writable(target)
    if npz is not None:
        _check_npz(npz)
    if colors not in grid.COLORMAPS:
        raise OptionError(f"unknown colours {colors!r}; there are {', '.join(grid.COLORMAPS)}")
    rgb = images.read_picture(picture).rgb
    picked = chosen_channels(loaded, name, channels or "all")
    answer = compute(loaded, rgb, name, longest=size, device=device)
    strengths = strength(answer)
    order = sorted(picked, key=lambda c: -float(strengths[c]))[:top]
    labels = [channel_label(loaded, name, c) for c in order]
    if answer.ndim == 1:
        shown = grid.bars(answer[order], labels)
    else:
        over = np.rint(np.clip(rgb, 0, 255)).astype(np.uint8) if overlay else None
        tiles = grid.maps(answer[order], colors=colors, tile=tile, over=over)
        shown = grid.show(
            tiles, [f"{t}: {strengths[c]:.3g}" for t, c in zip(labels, order, strict=True)], columns=columns
        )
    _write(target, shown, {"model": loaded.name, "layer": name, "channels": [int(c) for c in order]})
    if npz is not None:
        images.write_whole(npz, lambda to: _save_npz(to, activation=answer, mean=strengths, order=np.array(order)))
    if as_json:
        strongest = [{"channel": int(c), "mean": float(strengths[c])} for c in order]
        print_json({"model": loaded.name, "layer": name, "shape": list(answer.shape), "strongest": strongest,
                    "output": str(target), "npz": str(npz) if npz else None})  # fmt: skip
    elif not quiet:
        line(f"[green]{escape(str(target))}[/]", f"{len(order)} of {answer.shape[0]} channels of {name}")


def visualize(
    model: ModelArgument,
    *,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", "-l", help="A layer; repeatable, a column each.", rich_help_panel=_WHAT),
    ] = None,
    channels: Annotated[
        str | None, typer.Option(metavar="0-15", help="Channels, or all. [the first 16]", rich_help_panel=_WHAT)
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="A class by name or number; repeatable.", rich_help_panel=_WHAT)
    ] = None,
    objective: Annotated[
        str, typer.Option(help="channel, neuron, cosine or layer.", rich_help_panel=_WHAT)
    ] = "channel",
    neuron: Annotated[
        bool, typer.Option("--neuron", help="The neuron in the middle: --objective neuron.", rich_help_panel=_WHAT)
    ] = False,
    sign: Annotated[
        str, typer.Option(help="positive, negative or both: what excites, what inhibits.", rich_help_panel=_WHAT)
    ] = "positive",
    diversity: Annotated[
        int, typer.Option(min=0, metavar="N", help="N pictures unlike each other of each.", rich_help_panel=_WHAT)
    ] = 0,
    diversity_weight: Annotated[float, typer.Option(min=0, help="How unlike.", rich_help_panel=_WHAT)] = 0.3,
    interpolate: Annotated[
        str | None, typer.Option(metavar="A,B", help="The way from channel A to B.", rich_help_panel=_WHAT)
    ] = None,
    frames: Annotated[int, typer.Option(help="Pictures on that way.", rich_help_panel=_WHAT)] = 7,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The grid, or a folder for single ones. [MODEL-LAYER.png]")
    ] = None,
    recipe: RecipeOption = "fourier",
    spectrum: Annotated[
        Path | None,
        typer.Option(help="For maco: a folder of pictures whose mean spectrum to keep. [1/f]", rich_help_panel=_HOW),
    ] = None,
    steps: StepsOption = 256,
    size: Annotated[int, typer.Option(help="Pixels a side of each picture.", rich_help_panel=_HOW)] = 128,
    start: Annotated[
        Path | None, typer.Option(help="Start from this picture, not noise.", rich_help_panel=_HOW)
    ] = None,
    seed: SeedOption = 0,
    columns: Annotated[int | None, typer.Option(min=1, help="Pictures in a row.", rich_help_panel=_HOW)] = None,
    device: o.DeviceOption = "auto",
    threads: o.ThreadsOption = 0,
    offline: o.OfflineOption = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Make pictures of what channels, neurons or classes of a network look for."""
    from .. import images
    from ..feature import wanted as w
    from ..feature.visualize import Visualizer
    from ..model import load_model

    began = time.perf_counter()
    loaded = load_model(model)
    layers = [loaded.layer(name).name for name in layer or []]
    goals = _goals(
        loaded, layers, channels, classes or [], "neuron" if neuron else objective, sign, interpolate, frames
    )
    shown = list(dict.fromkeys(goal.objective.layers[0] for goal in goals))
    name = ", ".join(shown)
    target = out or Path(f"{loaded.name}-{'-'.join(shown).replace('/', '_')}.png")
    files = [
        target / re.sub(r"[^\w.-]+", "_", f"{loaded.name}-{goal.objective.layers[0]}-{goal.label}.png")
        for goal in goals
    ]
    for file in files if target.is_dir() else [target]:
        images.check_writable(file)
    began_from = images.read_picture(start).rgb if start else None
    only = loaded.only_size(shown)
    if spectrum and recipe != "maco":
        raise OptionError(f"--spectrum is for the recipe maco, not {recipe}")
    visualizer = Visualizer(
        loaded,
        recipe=w.natural_maco(spectrum, only or (size, size)) if spectrum else recipe,
        size=only or (size, size),
        steps=steps,
        seed=seed,
        device=device,
        threads=threads,
    )
    if diversity:
        visualizer.check([goal.objective for goal in goals])
        if target.is_dir():
            raise OptionError("--diversity makes one grid; name a file with -o")
        facets = [w.diversified(visualizer, goal, diversity, diversity_weight) for goal in goals]
        columns = columns or diversity
    else:
        facets = [goals]
    pictures, values = _climbed(visualizer, facets, began_from, quiet=quiet)
    labels = [goal.label for facet in facets for goal in facet]
    about: dict[str, Any] = {
        "model": loaded.name, "layer": name, "recipe": recipe, "steps": steps, "seed": seed,
        "size": list(visualizer.size), "objectives": [repr(goal.objective) for facet in facets for goal in facet],
    }  # fmt: skip
    if target.is_dir():
        for file, picture, text in zip(files, pictures, about["objectives"], strict=True):
            images.write_picture(file, images.Picture(picture.astype("float32")), {**about, "objectives": [text]})
    else:
        from ..feature.grid import show

        columns = columns or (len(labels) if interpolate else len(shown) if len(shown) > 1 else None)
        _write(target, show(pictures, labels, columns=columns), about)
    seconds = time.perf_counter() - began
    if as_json:
        found = [{"label": text, "objective": value} for text, value in zip(labels, values, strict=True)]
        print_json({**about, "pictures": found, "seconds": round(seconds, 3), "output": str(target)})
    elif not quiet:
        line(f"[green]{escape(str(target))}[/]", f"{len(labels)} pictures of {name} in {seconds:.1f} s")


def _goals(
    model: Model,
    layers: list[str],
    channels: str | None,
    classes: list[str],
    kind: str,
    sign: str,
    interpolate: str | None,
    frames: int,
) -> list[Wanted]:
    """What was asked for. Raises OptionError where it contradicts itself."""
    from ..feature import wanted as w
    from ..settings import parse_channels

    if classes and (channels or interpolate):
        raise OptionError("--class, --channels and --interpolate each say what to show; choose one")
    if len(layers) > 1 and (classes or interpolate):
        raise OptionError("--class and --interpolate take one --layer")
    if classes:
        return w.wanted_classes(model, classes, layers[0] if layers else None)
    layers = layers or [model.default_layer()]
    if interpolate:
        ends = parse_channels(interpolate.replace("-", ","))
        if len(ends) != 2 or channels:
            raise OptionError(f"--interpolate {interpolate} needs two channels such as 3,17, and no --channels")
        w.chosen_channels(model, layers[0], interpolate.replace("-", ","))
        return w.between(layers[0], *ends, frames)
    columns = []
    for name in layers:
        numbers = w.chosen_channels(model, name, channels)
        if not terminal.quiet and channels is None and kind != "layer" and len(numbers) < model.layer(name).channels:
            first = f"the first {len(numbers)} of {model.layer(name).channels} channels of {name}"
            note_line(f"{first}; --channels names others, or all")
        column = w.wanted_channels(model, name, numbers, kind=kind, sign=sign)
        columns.append(column if len(layers) == 1 else [w.Wanted(f"{name} {g.label}", g.objective) for g in column])
    if len({len(column) for column in columns}) > 1:
        raise OptionError("these layers have different numbers of channels; name those to show with --channels")
    return [goal for row in zip(*columns, strict=True) for goal in row]


def _climbed(visualizer: Visualizer, facets: list[list[Wanted]], start: Any, *, quiet: bool) -> tuple[Any, list[float]]:
    """The pictures of all facets, [n,H,W,3], and what each reaches."""
    import numpy as np

    pictures: list[np.ndarray] = []
    values: list[float] = []
    with progress_bar(quiet=quiet) as bar:
        total = visualizer.steps * sum(map(len, facets))
        task = bar.add_task("climbing", total=total, state="")

        def on_step(progress: Climb) -> None:
            bar.update(task, advance=progress.pictures, state=f"step {progress.step}/{progress.steps}")

        for facet in facets:
            goals = [goal.objective for goal in facet]
            pictures.append(visualizer(goals, start=start, on_step=on_step))
            values += map(float, visualizer.measure(goals, pictures[-1]))
    return np.concatenate(pictures), values


def _write(path: Path, grid: Any, about: dict[str, Any]) -> None:
    """Write a Pillow picture, with what it shows inside."""
    import numpy as np

    from .. import images

    images.check_size(path, grid.size[::-1])
    images.write_picture(path, images.Picture(np.asarray(grid, np.float32)), about)


def _check_npz(path: Path) -> None:
    """Raise OutputError or OptionError when numbers cannot be written to `path`."""
    from ..images import check_writable

    if path.suffix.lower() != ".npz":
        raise OptionError(f"{path}: raw values go into a file ending in .npz")
    check_writable(path.with_suffix(".png"))  # the same folder


def _save_npz(to: Path, **arrays: Any) -> None:
    import numpy as np

    with to.open("wb") as file:
        np.savez_compressed(file, **arrays)
