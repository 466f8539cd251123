"""`onnxdream activations`: what the channels of a layer answer to a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ..errors import LayerError, OptionError, OutputError
from . import options as o
from .outputs import check_file, counted, default_name, is_folder, write_grid
from .terminal import line, print_json


def activations(
    picture: Annotated[Path, typer.Argument(help="A picture.")],
    *,
    layer: Annotated[str | None, typer.Option("--layer", "-l", help="The layer. \\[a recommended one]")] = None,
    model: o.ModelOption = None,
    inputs: o.InputsOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The grid. [NAME-LAYER.png]")] = None,
    channels: Annotated[str | None, typer.Option(metavar="3,5-8", help="Only these channels.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Only the strongest.")] = 16,
    colors: Annotated[str, typer.Option(help="grey, viridis, magma, inferno or turbo.")] = "viridis",
    overlay: Annotated[bool, typer.Option("--overlay", help="Lay the activations over the picture.")] = False,
    npz: Annotated[Path | None, typer.Option(help="Write the raw numbers of all channels here.")] = None,
    size: Annotated[int, typer.Option(min=16, help="Bring the longer side down to this many pixels first.")] = 384,
    tile: Annotated[int, typer.Option(min=16, max=2048, help="Pixels of a tile's longer side.")] = 160,
    columns: Annotated[int | None, typer.Option(min=1, help="Tiles in a row.")] = None,
    overwrite: o.OverwriteOption = False,
    device: o.DeviceOption = "auto",
    offline: o.OfflineOption = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Show what the channels of a layer answer to a picture, strongest first."""
    import numpy as np

    from .. import images
    from ..interpret import grid
    from ..interpret.activations import activations as compute
    from ..interpret.activations import mean_activation
    from ..interpret.targets import channel_label, select_channels
    from ..networks import registry
    from ..networks.model import load_model
    from ..output_files import check_free

    loaded = load_model(model or registry.DEFAULT, inputs=inputs or ())
    name = layer or loaded.default_layer()
    target = out or Path(default_name(picture.stem, [name]))
    check_file(target, picture, overwrite=overwrite, own_name=out is None)
    if npz is not None:
        _check_npz(npz)
        check_free(npz, overwrite=overwrite)
    if colors not in grid.COLORMAPS:
        raise OptionError(f"unknown colours {colors!r}; there are {', '.join(grid.COLORMAPS)}")
    rgb = images.read_picture(picture).rgb
    picked = select_channels(loaded, name, channels or "all")
    if overlay and len(loaded.shapes[loaded.layer(name).name]) == 2:
        raise LayerError(f"layer {name} has no places to lay over the picture; leave --overlay out")
    answer = compute(loaded, rgb, name, longest=size, device=device)
    strengths = mean_activation(answer)
    order = sorted(picked, key=lambda c: -float(strengths[c]))[:top]
    labels = [channel_label(loaded, name, c) for c in order]
    if answer.ndim == 1:
        shown = grid.bar_chart(answer[order], labels)
    else:
        over = np.rint(np.clip(rgb, 0, 255)).astype(np.uint8) if overlay else None
        side = grid.map_size(answer.shape[1:] if over is None else over.shape[:2], tile)
        images.check_size(target, grid.grid_layout(len(order), side, columns)[1])
        tiles = grid.activation_maps(answer[order], colors=colors, tile=tile, over=over)
        shown = grid.show(
            tiles, [f"{t}: {strengths[c]:.3g}" for t, c in zip(labels, order, strict=True)], columns=columns
        )
    write_grid(target, shown, {"model": loaded.name, "layer": name, "channels": [int(c) for c in order]})
    if npz is not None:
        images.write_whole(npz, lambda to: _save_npz(to, activation=answer, mean=strengths, order=np.array(order)))
    if as_json:
        strongest = [{"channel": int(c), "mean": float(strengths[c])} for c in order]
        print_json({"model": loaded.name, "layer": name, "shape": list(answer.shape), "strongest": strongest,
                    "output": str(target), "npz": str(npz) if npz else None})  # fmt: skip
    elif not quiet:
        line(f"[green]{escape(str(target))}[/]", f"{len(order)} of {counted(answer.shape[0], 'channel')} of {name}")


def _check_npz(path: Path) -> None:
    """Raise OutputError or OptionError when numbers cannot be written to `path`."""
    if path.suffix.lower() != ".npz":
        raise OptionError(f"{path}: raw values go into a file ending in .npz")
    if is_folder(path):
        raise OutputError(f"{path}: is a folder; name a file in it")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent} to write into; create it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: the folder {path.parent} is read-only; choose another")


def _save_npz(to: Path, **arrays: Any) -> None:
    import numpy as np

    with to.open("wb") as file:
        np.savez_compressed(file, **arrays)
