"""`onnxdream visualize`: pictures of what a network learned to see."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ..errors import OptionError
from ..settings import VisualizationSettings, explanation
from . import options as o
from . import terminal
from .outputs import check_file, check_folder, counted, default_name, is_folder, make_folder, plain, write_grid
from .terminal import line, note_line, print_json, progress_bar

if TYPE_CHECKING:
    import numpy as np

    from ..interpret.targets import VisualizationTarget
    from ..interpret.visualizer import StepProgress, Visualizer
    from ..networks.model import Model

_WHAT, _HOW = "What to show", "How it is made"

ModelArgument = Annotated[str, typer.Argument(help="A network's name or an ONNX file.")]


def _how(name: str) -> Any:
    return typer.Option(help=explanation(VisualizationSettings, name), rich_help_panel=_HOW)


RecipeOption = Annotated[str, _how("recipe")]
StepsOption = Annotated[int, _how("steps")]
SizeOption = Annotated[int, _how("size")]
SeedOption = Annotated[int, _how("seed")]


def visualize(
    model: ModelArgument,
    *,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", "-l", help="A layer; repeatable, a column each.", rich_help_panel=_WHAT),
    ] = None,
    inputs: o.InputsOption = None,
    channels: Annotated[
        str | None, typer.Option(metavar="0-15", help="Channels, or all. \\[the first 16]", rich_help_panel=_WHAT)
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="A class by name or number; repeatable.", rich_help_panel=_WHAT)
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="channel, neuron, cosine or layer. \\[channel]", rich_help_panel=_WHAT)
    ] = None,
    neuron: Annotated[
        bool, typer.Option("--neuron", help="The neuron in the middle: --objective neuron.", rich_help_panel=_WHAT)
    ] = False,
    sign: Annotated[
        str | None,
        typer.Option(
            help="positive, negative or both: what excites, what inhibits. \\[positive]", rich_help_panel=_WHAT
        ),
    ] = None,
    diversity: Annotated[
        int, typer.Option(min=0, metavar="N", help="N pictures unlike each other of each.", rich_help_panel=_WHAT)
    ] = 0,
    diversity_weight: Annotated[
        float | None, typer.Option(min=0, help="How unlike. [0.3]", rich_help_panel=_WHAT)
    ] = None,
    interpolate: Annotated[
        str | None, typer.Option(metavar="A,B", help="The way from channel A to B.", rich_help_panel=_WHAT)
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Pictures on that way. [7]", rich_help_panel=_WHAT)] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="The grid, or a folder/ for single ones as they are made. [MODEL-LAYER.png]"),
    ] = None,
    recipe: RecipeOption = VisualizationSettings.recipe,
    spectrum: Annotated[
        Path | None,
        typer.Option(help="For maco: a folder of pictures whose mean spectrum to keep. [1/f]", rich_help_panel=_HOW),
    ] = None,
    steps: StepsOption = VisualizationSettings.steps,
    size: SizeOption = VisualizationSettings.size,
    start: Annotated[
        Path | None, typer.Option(help="Start from this picture, not noise.", rich_help_panel=_HOW)
    ] = None,
    seed: SeedOption = VisualizationSettings.seed,
    columns: Annotated[int | None, typer.Option(min=1, help="Pictures in a row.", rich_help_panel=_HOW)] = None,
    overwrite: o.OverwriteOption = False,
    device: o.DeviceOption = "auto",
    threads: o.ThreadsOption = 0,
    offline: o.OfflineOption = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Make pictures of what channels, neurons or classes of a network look for."""
    from .. import images
    from ..interpret import targets as t
    from ..interpret.grid import grid_layout, show
    from ..interpret.visualizer import Visualizer
    from ..networks.model import load_model
    from ..output_files import check_apart

    began = time.perf_counter()
    _check_together({
        "--class": bool(classes), "--channels": channels is not None, "--interpolate": interpolate is not None,
        "--objective": objective is not None, "--neuron": neuron, "--sign": sign is not None,
        "--objective layer": objective == "layer", "--frames": frames is not None,
        "--diversity": diversity > 0, "--diversity-weight": diversity_weight is not None,
        "--spectrum": spectrum is not None, "--recipe maco": recipe == "maco",
    })  # fmt: skip
    loaded = load_model(model, inputs=inputs or ())
    layers = list(dict.fromkeys(loaded.layer(name).name for name in layer or []))
    kind = "neuron" if neuron else objective or "channel"
    goals = _goals(
        loaded, layers, channels, classes or [], kind, sign or "positive", interpolate, 7 if frames is None else frames
    )
    shown = list(dict.fromkeys(goal.objective.layers[0] for goal in goals))
    name = ", ".join(shown)
    target = Path(out or default_name(loaded.name, shown))
    single = (out or "").endswith(("/", os.sep)) or is_folder(target)
    if single and (diversity or columns):
        raise OptionError(f"{'--diversity' if diversity else '--columns'} is for one grid; name a file with -o")
    files = _single_files(target, loaded.name, goals) if single else []
    if single:
        check_folder(target)
        check_apart(target, [spectrum])
    for file in files if target.is_dir() else [] if single else [target]:
        check_file(file, start, overwrite=overwrite, own_name=single or not out)
    only = loaded.fixed_input_size(shown, channels=True)
    sides = only or loaded.nearest_size(shown, (size, size))
    columns = columns or diversity or (len(goals) if interpolate else len(shown) if len(shown) > 1 else None)
    began_from = images.read_picture(start).rgb if start else None
    visualizer = Visualizer(
        loaded,
        recipe=t.maco_from_folder(spectrum, sides, lambda text: None if quiet else note_line(text))
        if spectrum
        else recipe,
        size=sides,
        steps=steps,
        seed=seed,
        device=device,
        threads=threads,
    )
    visualizer.check([goal.objective for goal in goals])
    if not single:
        images.check_size(target, grid_layout(len(goals) * (diversity or 1), sides, columns)[1])
    facets = [goals]
    if diversity:
        weight = 0.3 if diversity_weight is None else diversity_weight
        facets = [t.diverse_targets(visualizer, goal, diversity, weight) for goal in goals]
    goals = [goal for facet in facets for goal in facet]
    labels = [goal.label for goal in goals]
    about: dict[str, Any] = {
        "model": loaded.name, "layer": name, "recipe": recipe, "steps": steps, "seed": seed,
        "size": list(visualizer.size), "objectives": [repr(goal.objective) for goal in goals],
    }  # fmt: skip
    if single:
        make_folder(target)

    def keep(position: int, picture: np.ndarray) -> None:
        if single:
            record = {**about, "objectives": [about["objectives"][position]]}
            images.write_picture(files[position], images.Picture(picture.astype("float32")), record)

    pictures, values, inactive = _visualize(visualizer, facets, began_from, keep, quiet=quiet)
    if not single:
        write_grid(target, show(pictures, labels, columns=columns), about)
    if inactive and not (quiet or as_json):
        inactive_by_layer: dict[str, list[str]] = defaultdict(list)
        for position in inactive:
            at = goals[position].objective.layers[0]
            inactive_by_layer[at].append(labels[position].removeprefix(f"{at} "))
        note_line(t.describe_inactive(inactive_by_layer))
    seconds = time.perf_counter() - began
    if as_json:
        found = [{"label": text, "objective": value} for text, value in zip(labels, values, strict=True)]
        print_json({**about, "pictures": found, "seconds": round(seconds, 3), "output": str(target)})
    elif not quiet:
        line(f"[green]{escape(str(target))}[/]", f"{counted(len(labels), 'picture')} of {name} in {seconds:.1f} s")


# Options that do not go together, and those that mean nothing without another.
_APART = (
    ("--class", "--channels"), ("--class", "--interpolate"), ("--class", "--objective"), ("--class", "--neuron"),
    ("--interpolate", "--channels"), ("--interpolate", "--objective"), ("--interpolate", "--neuron"),
    ("--interpolate", "--sign"), ("--neuron", "--objective"), ("--objective layer", "--channels"),
    ("--objective layer", "--sign"),
)  # fmt: skip
_NEEDS = {"--frames": "--interpolate", "--diversity-weight": "--diversity", "--spectrum": "--recipe maco"}


def _check_together(given: dict[str, bool]) -> None:
    """Raise OptionError for options that contradict each other, or would be ignored."""
    for one, other in _APART:
        if given[one] and given[other]:
            raise OptionError(f"{one} and {other} do not go together; choose one")
    for one, needed in _NEEDS.items():
        if given[one] and not given[needed]:
            raise OptionError(f"{one} is for {needed}; give that too, or leave it out")


def _single_files(folder: Path, model: str, goals: list[VisualizationTarget]) -> list[Path]:
    """A file in `folder` for each of `goals`."""
    from ..interpret.site import slug

    names = [(goal.objective.layers[0], goal.label) for goal in goals]
    return [
        folder / f"{plain(model, 60)}-{slug(layer)}-{plain(label.removeprefix(f'{layer} '), 40)}.png"
        for layer, label in names
    ]


def _goals(
    model: Model,
    layers: list[str],
    channels: str | None,
    classes: list[str],
    kind: str,
    sign: str,
    interpolate: str | None,
    frames: int,
) -> list[VisualizationTarget]:
    """What was asked for. Raises OptionError and LayerError."""
    from ..interpret import targets as t
    from ..settings import parse_channels

    if len(layers) > 1 and (classes or interpolate):
        raise OptionError("--class and --interpolate take one --layer")
    if classes:
        return t.class_targets(model, classes, layers[0] if layers else None, sign)
    layers = layers or [model.default_layer()]
    if interpolate:
        ends = parse_channels(interpolate.replace("-", ","))
        if len(set(ends)) != 2 or len(ends) != 2:
            raise OptionError(f"--interpolate {interpolate} needs two channels such as 3,17")
        t.select_channels(model, layers[0], interpolate.replace("-", ","))
        return t.interpolation_targets(layers[0], *ends, frames)
    columns = []
    for name in layers:
        numbers = t.select_channels(model, name, channels)
        if not terminal.quiet and channels is None and kind != "layer" and len(numbers) < model.layer(name).channels:
            first = f"the first {len(numbers)} of {model.layer(name).channels} channels of {name}"
            note_line(f"{first}; --channels names others, or all")
        column = t.channel_targets(model, name, numbers, kind=kind, sign=sign)
        columns.append(
            column if len(layers) == 1 else [t.VisualizationTarget(f"{name} {g.label}", g.objective) for g in column]
        )
    if len({len(column) for column in columns}) > 1:
        raise OptionError("these layers have different numbers of channels; name those to show with --channels")
    return [goal for row in zip(*columns, strict=True) for goal in row]


def _visualize(
    visualizer: Visualizer,
    facets: list[list[VisualizationTarget]],
    start: Any,
    keep: Callable[[int, np.ndarray], None],
    *,
    quiet: bool,
) -> tuple[np.ndarray, list[float], list[int]]:
    """The pictures of all facets [n,H,W,3], the value each reaches, and the positions of those left inactive.

    `keep` gets each picture, and its position, as soon as it is finished.
    """
    import numpy as np

    pictures: list[np.ndarray] = []
    values: list[float] = []
    inactive: list[int] = []
    with progress_bar(quiet=quiet) as bar:
        total = visualizer.steps * sum(map(len, facets))
        task = bar.add_task("ascending", total=total, state="")

        def on_step(progress: StepProgress) -> None:
            bar.update(task, advance=progress.pictures, state=f"step {progress.step}/{progress.steps}")

        for facet in facets:
            goals = [goal.objective for goal in facet]
            pictures.append(visualizer(goals, start=start, on_step=on_step, on_picture=keep).pictures)
            reached = visualizer.measure(goals, pictures[-1])
            inactive += [len(values) + position for position in visualizer.find_inactive(goals, reached)]
            values += map(float, reached)
    return pictures[0] if len(pictures) == 1 else np.concatenate(pictures), values, inactive
