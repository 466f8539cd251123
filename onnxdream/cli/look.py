"""`onnxdream models`, `layers` and `info`: what there is to dream with."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from . import options as o
from .terminal import print_json


def models(as_json: o.JsonOption = False) -> None:
    """List the bundled networks and the presets."""
    from .. import catalog
    from ..model import Card
    from ..settings import PRESETS

    cards = {name: Card.read(path.with_suffix(".json")) for name, path in catalog.bundled().items()}
    if as_json:
        records = [
            {"name": name, "title": c.title, "licence": c.licence, "source": c.source, "sha256": c.sha256,
             "recommended": list(c.recommended)}
            for name, c in cards.items()
        ]  # fmt: skip
        print_json({"models": records, "presets": PRESETS})
        return
    show_table("Networks", ["name", "what", "recommended layers", "licence"], [
        [name, c.title, " ".join(c.recommended), c.licence.partition(";")[0]] for name, c in cards.items()
    ])  # fmt: skip
    show_table("Presets", ["name", "network", "layers", "and"], [
        [name, p["model"], " ".join(p["layers"]), " ".join(f"{k}={v}" for k, v in list(p.items())[2:])]
        for name, p in PRESETS.items()
    ])  # fmt: skip


def layers(
    model: Annotated[str, typer.Argument(help="A bundled network's name or an ONNX file.")],
    as_json: o.JsonOption = False,
) -> None:
    """List the layers of a network: operator, channels, stride, receptive field; * marks the recommended ones."""
    from ..model import load_model

    loaded = load_model(model)
    found = loaded.layers.values()
    if as_json:
        records = [
            {"name": at.name, "operator": at.operator, "channels": at.channels, "spatial": at.spatial,
             "stride": at.stride, "receptive_field": None if math.isinf(at.receptive_field) else at.receptive_field,
             "recommended": at.recommended}
            for at in found
        ]  # fmt: skip
        print_json({"model": loaded.name, "layers": records})
        return
    if loaded.card.assumed:
        _note(f"{model} comes without a card; ImageNet's RGB mean and deviation are assumed")
    show_table(loaded.card.title or loaded.name, ["", "layer", "operator", "channels", "stride", "sees"], [
        ["*" if at.recommended else "", at.name, at.operator, str(at.channels), f"{at.stride:g}",
         "everything" if math.isinf(at.receptive_field) else f"{at.receptive_field:g} px"]
        for at in found
    ])  # fmt: skip


def info(as_json: o.JsonOption = False) -> None:
    """Show versions, devices, and what is wrong with the installation."""
    from ..diagnosis import diagnose

    report = diagnose()
    if as_json:
        print_json(report)
        return
    show_table("onnxdream", ["part", "version"], [[k, str(v)] for k, v in report["versions"].items()])
    show_table("Devices", ["device", "provider"], [[k, v] for k, v in report["devices"].items()])
    for problem in report["problems"]:
        _note(problem)
    if not report["problems"]:
        print("nothing wrong found")


def show_table(title: str, headings: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console(highlight=False, emoji=False).print(table)


def _note(text: str) -> None:
    from .terminal import note_line

    note_line(text)
