"""What a result may replace: nothing unless it is asked for, and never what it is made from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .errors import OnnxDreamError, OutputError
from .images import read_settings


def check_free(path: Path, *, overwrite: bool, own_name: bool = False) -> None:
    """Make sure, before any work is done, that a result replaces nothing by accident.

    Args:
        path: The file or folder that will be written. An empty folder counts as nothing.
        overwrite: Whether the user wants to replace what is there.
        own_name: Whether the name is the default one; what onnxdream made itself is replaced then.

    Raises:
        OutputError: There is something.
    """
    if overwrite or not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not own_name:
        raise OutputError(f"{path}: exists already; choose another name or use --overwrite")
    if not is_own(path):
        raise OutputError(
            f"{path}: exists already, and onnxdream did not make it; choose another name or use --overwrite"
        )


def is_own(path: Path) -> bool:
    """Whether onnxdream made a picture, or every picture in a folder: its settings are in them.

    Args:
        path: The picture or folder.
    """
    try:
        return all(bool(read_settings(file)) for file in (path.iterdir() if path.is_dir() else [path]))
    except (OnnxDreamError, OSError):
        return False


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file or folder, by links too.

    Args:
        one: A path; there need be nothing.
        other: Another.
    """
    return one.absolute() == other.absolute() or (one.exists() and other.exists() and one.samefile(other))


def check_apart(path: Path, inputs: Iterable[Path | str | None]) -> None:
    """Make sure, before any work is done, that a result does not replace what it is made from.

    Args:
        path: The file or folder that will be written.
        inputs: What is read; None and "" stand for nothing.

    Raises:
        OutputError: It would.
    """
    for given in inputs:
        if given and same_file(path, Path(given)):
            raise OutputError(f"{path}: would overwrite {given}, which it is made from; choose another name")
