"""What people read: everything here goes to stderr, so that stdout stays for programs."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ..errors import WriteError
from ..networks.download import size_text

_log = logging.getLogger("onnxdream")
console = Console(stderr=True, highlight=False, emoji=False)
quiet = False  # set by --quiet, for what is printed from deep inside


def error_line(text: str) -> None:
    """Print one error line."""
    line("[bold red]error:[/]", text)


def note_line(text: str) -> None:
    """Print one line of advice."""
    line("[yellow]note:[/]", text)


class _NoteHandler(logging.Handler):
    """Prints what the package logs as notes, each text once."""

    def __init__(self) -> None:
        super().__init__()
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._printed:
            self._printed.add(text)
            note_line(text)


@contextmanager
def show_notes() -> Iterator[None]:
    """Print what the package logs, unless `hide_notes` is called."""
    handler = _NoteHandler()
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(logging.NOTSET)


def hide_notes() -> None:
    """Print none of what the package logs from now on."""
    _log.setLevel(logging.ERROR)


def line(head: str, text: str) -> None:
    """Print `head`, in rich's markup, and `text` as it is, on one line."""
    console.print(head, escape(" ".join(text.split())), soft_wrap=True)


def progress_bar(*, quiet: bool) -> Progress:
    """A progress bar with a free text field `state`, elapsed and remaining time."""
    return _bar(
        quiet,
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )


def _bar(quiet: bool, *figures: ProgressColumn) -> Progress:
    """A bar with `figures` between what is done and the time left; only on terminals."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        *figures,
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )


@contextmanager
def download_bar(name: str, size: int) -> Iterator[Callable[[int], None]]:
    """Show a download of `size` bytes; yields what is to be told the bytes that are there by now."""
    if not quiet and not console.is_terminal:
        note_line(f"downloading {name}, {size_text(size)}")
    bar = _bar(quiet, DownloadColumn(), TransferSpeedColumn())
    with bar:
        task = bar.add_task(escape(name), total=size)
        yield lambda done: bar.update(task, completed=done)


def print_json(record: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; JSON knows no NaN, which becomes null. Raises WriteError."""
    text = json.dumps(_plain(record), allow_nan=False) + "\n"
    if sys.stdout is None:
        raise WriteError("standard output is closed, so the JSON object cannot be written")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # a reader that went away, which Typer knows about
    except OSError as error:
        sys.stdout = None  # what it still holds would fail once more at the end
        raise WriteError(f"standard output cannot be written: {error.strerror}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
