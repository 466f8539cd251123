"""`onnxdream models`, `layers` and `info`: what there is to dream with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .terminal import print_json

if TYPE_CHECKING:
    from ..networks.card import Card


def models(as_json: o.JsonOption = False) -> None:
    """List the networks, those that are downloaded on demand too, and the presets."""
    from ..networks import download, registry
    from ..settings import PRESETS

    records = [_network(name, card) for name, card in registry.networks().items()]
    if as_json:
        print_json({"models": records, "presets": PRESETS})
        return
    show_table("Networks", ["name", "what", "size", "downloaded", "recommended layers", "licence"], [
        [r["name"], r["title"], download.size_text(r["bytes"]), "yes" if r["downloaded"] else "no",
         " ".join(r["recommended"]), r["licence"].partition(";")[0]]
        for r in records
    ])  # fmt: skip
    show_table("Presets", ["name", "network", "layers", "and"], [
        [name, p["model"], " ".join(p["layers"]), " ".join(f"{k}={v}" for k, v in list(p.items())[2:])]
        for name, p in PRESETS.items()
    ])  # fmt: skip


def _network(name: str, card_path: Path) -> dict[str, Any]:
    """What is known about a network without loading it. Raises ModelError naming what is wrong with its card."""
    from ..networks import download, registry
    from ..networks.card import Card

    fields = ("title", "licence", "source", "sha256", "recommended")
    about: dict[str, Any] = dict.fromkeys(fields, "") | {"recommended": []}
    if card_path.is_file():
        card = Card.read(card_path)
        about = {field: getattr(card, field) for field in fields}
    file = registry.network_file(card_path)
    if file:
        return {"name": name, **about, "bytes": file.stat().st_size, "downloaded": True, "file": str(file), "urls": []}
    source = download.Source.read(card_path)
    return {
        "name": name, **about, "bytes": source.bytes, "downloaded": source.is_cached(), "file": str(source.path),
        "urls": source.urls,
    }  # fmt: skip


def layers(
    model: Annotated[str, typer.Argument(help="A network's name or an ONNX file.")],
    inputs: o.InputsOption = None,
    offline: o.OfflineOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """List the layers of a network: operator, channels, stride, receptive field; * marks the recommended ones."""
    from ..networks.model import load_model

    loaded = load_model(model, inputs=inputs or ())
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
    multiple = loaded.size_multiple([loaded.output_name]) if loaded.output_name in loaded.layers else 1
    if multiple > 1:
        _note(f"{loaded.name} takes multiples of {multiple} pixels; other pictures are continued by reflection")
    if loaded.card.assumed:
        _note(f"{model} comes without a card; {_assumed(loaded.card)}")
    if loaded.probe[0] == 1 != loaded.input_dims[0]:
        _note(f"{model} takes one picture at a time")
    show_table(loaded.card.title or loaded.name, ["", "layer", "operator", "channels", "stride", "sees"], [
        ["*" if at.recommended else "", at.name, at.operator, str(at.channels), f"{at.stride:g}",
         "everything" if math.isinf(at.receptive_field) else f"{at.receptive_field:g} px"]
        for at in found
    ])  # fmt: skip


def _assumed(card: Card) -> str:
    """What a network without a card is taken to expect, in words."""
    from ..networks.card import IMAGENET

    expected = card.preprocessing
    if expected == IMAGENET:
        return "ImageNet's RGB mean and deviation are assumed"
    if set(expected.mean) == {0.0} and set(expected.std) == {1.0}:
        return f"{expected.channels} values of 0 to 255 as they are, since it takes whole numbers"
    return f"channels {expected.channels} with mean {expected.mean} and deviation {expected.std} are assumed"


def info(as_json: o.JsonOption = False) -> None:
    """Show versions, devices, and what is wrong with the installation."""
    from ..environment import diagnose

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
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console(highlight=False, emoji=False).print(table)


def _note(text: str) -> None:
    from .terminal import note_line

    note_line(text)
