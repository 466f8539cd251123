"""What people read: everything here goes to stderr, so that stdout stays for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, emoji=False)


def error_line(text: str) -> None:
    """Print one error line."""
    line("[bold red]error:[/]", text)


def note_line(text: str) -> None:
    """Print one line of advice."""
    line("[yellow]note:[/]", text)


def line(head: str, text: str) -> None:
    """Print `head`, in rich's markup, and `text` as it is, on one line."""
    console.print(head, escape(" ".join(text.split())), soft_wrap=True)


def progress_bar(*, quiet: bool) -> Progress:
    """A progress bar with a free text field `state`, elapsed and remaining time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )


def print_json(record: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()
