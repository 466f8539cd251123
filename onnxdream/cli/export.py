"""`onnxdream export`: one ONNX file that dreams anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import OptionError, VerifyError
from . import options as o
from .terminal import line, note_line, print_json


def export(
    model: Annotated[str, typer.Argument(help="A network's name or an ONNX file.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file to write. [MODEL-LAYER-step.onnx]")] = None,
    others: Annotated[list[str] | None, typer.Option("--model", "-m", hidden=True)] = None,
    layer: o.LayerOption = None,
    inputs: o.InputsOption = None,
    objective: o.ObjectiveOption = None,
    exponent: o.ExponentOption = None,
    channels: o.ChannelsOption = None,
    guide: o.GuideOption = None,
    bands: o.BandsOption = None,
    colors: o.ColorsOption = None,
    headroom: o.HeadroomOption = None,
    smooth: o.SmoothOption = None,
    gradient_only: Annotated[
        bool, typer.Option("--gradient-only", help="The gradient alone, without the step of ascent.")
    ] = False,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Fix the picture's size.")] = None,
    target: Annotated[str, typer.Option(help="The runtime to write for: cpu, cuda, openvino, opencv or web.")] = "cpu",
    half: o.HalfOption = None,
    check: Annotated[
        bool, typer.Option("--verify", help="Compare the file's gradient with differences of its objective.")
    ] = False,
    overwrite: o.OverwriteOption = False,
    offline: o.OfflineOption = False,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
) -> None:
    """Write the network up to a layer, with the gradient of an objective and a step of ascent, as one ONNX file."""
    from .. import export
    from ..dream.build import build_objective
    from ..dream.shaping import Shaping
    from ..dream.step_graph import build_gradient_model
    from ..networks.model import load_model
    from ..networks.registry import locate
    from ..output_files import check_apart, check_free

    if others:
        raise OptionError(f"a file holds the step of one network, {model}; export {', '.join(others)} by itself")
    given = {
        "model": model, "layers": layer or None, "objective": objective, "channels": channels, "guide": guide,
        "exponent": exponent, "bands": bands, "colors": colors, "headroom": headroom, "smooth": smooth, "half": half,
    }  # fmt: skip
    settings = o.settings_from(given)
    loaded = load_model(model, inputs=inputs or ())
    goal = build_objective(settings, loaded)
    path = out or Path(
        f"{loaded.name}-{goal.layers[0].replace('/', '_')}-{'gradient' if gradient_only else 'step'}.onnx"
    )
    check_free(path, overwrite=overwrite)
    check_apart(path, [locate(model)[0], guide])
    shaping = Shaping(settings.smooth, settings.bands, settings.colors, settings.headroom)
    if gradient_only and all(option is None for option in (smooth, bands, colors, headroom)):
        shaping = export.PLAIN  # there is no step to shape
    fixed = o.parse_size(size) if size else None
    error: float | None = None

    def verify(draft: Path) -> None:
        nonlocal error
        low = loaded.smallest_picture(goal.layers)
        at = fixed or loaded.fixed_input_size(goal.layers)
        at = at or loaded.nearest_size(goal.layers, (max(low[0], 160), max(low[1], 192)))
        gradients = None
        if shaping != export.PLAIN:
            gradients = build_gradient_model(loaded, goal, target=target, half=settings.half)
        error = export.verify(draft, size=at, shaping=shaping, gradient_model=gradients, half=settings.half)
        if not error <= (export.HALF_TOLERANCE if settings.half else export.TOLERANCE):
            raise VerifyError(f"{path}: not written: its gradient is off by {error:.1e} of its directional derivatives")

    staircase = check and export.is_staircase(loaded.proto)
    export.export_model(
        loaded, goal, path,
        gradient_only=gradient_only, shaping=shaping, size=fixed, target=target, half=settings.half,
        check=verify if check and not staircase else None,
    )  # fmt: skip
    record: dict[str, Any] = {
        "model": loaded.name, "objective": repr(goal), "kind": "gradient" if gradient_only else "step",
        "target": target, "half": settings.half, "size": fixed and list(fixed),
        "bytes": path.stat().st_size, "output": str(path),
    }  # fmt: skip
    if check:
        record["error"] = error
    if as_json:
        print_json(record)
    elif not quiet:
        multiple = 1 if fixed else loaded.size_multiple(goal.layers)
        if multiple > 1:
            note_line(f"{path} takes pictures whose sides are multiples of {multiple}")
        checked = "" if error is None else f", directional derivatives within {error:.1e}"
        if staircase:
            checked = ", not verified: the network rounds its numbers, so differences do not tell its gradient"
        line("", f"{path}: {record['kind']} model of {goal!r}, {record['bytes'] / 1e6:.1f} MB{checked}")
