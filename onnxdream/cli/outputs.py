"""Where grids and single pictures go: names, checks before the work, writing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OutputError

if TYPE_CHECKING:
    from PIL import Image

_LONGEST = 100  # letters of a name made here; systems take 255 bytes


def default_name(about: str, layers: Sequence[str]) -> str:
    """A grid's name where none is given: what it is about and its layers, or the first and how many more."""
    named = "-".join(layers)
    if len(named) > _LONGEST:
        named = layers[0][: _LONGEST // 2] + (f"-and-{len(layers) - 1}-more" if len(layers) > 1 else "")
    return re.sub(r"[/\\:]", "_", f"{about[:_LONGEST]}-{named}.png")


def plain(text: str, most: int) -> str:
    """`text` as a part of a file's name, of at most `most` letters."""
    return re.sub(r"[^\w.-]+", "_", text)[:most]


def is_folder(path: Path) -> bool:
    """Whether there is a folder `path`. Raises OutputError where there cannot be, or that cannot be told."""
    try:
        return path.is_dir()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another name") from error


def check_file(path: Path, *inputs: Path | None, overwrite: bool, own_name: bool = False) -> None:
    """Raise OutputError, before any work is done, when a picture made of `inputs` cannot go to `path`.

    See `output_files.check_free` for what may be replaced.
    """
    from ..images import check_writable
    from ..output_files import check_apart, check_free

    is_folder(path)
    check_writable(path)
    check_apart(path, inputs)
    check_free(path, overwrite=overwrite, own_name=own_name)


def check_folder(path: Path) -> None:
    """Raise OutputError, before any work is done, when `path` is no folder and cannot become one."""
    if not is_folder(path) and path.exists():
        raise OutputError(f"{path}: is a file, not a folder; choose another name")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent} to make it in; create it first")


def make_folder(path: Path) -> None:
    """Make the folder `path` where there is none. Raises OutputError."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error


def write_grid(path: Path, grid: Image.Image, about: dict[str, Any]) -> None:
    """Write a Pillow picture, with what it shows inside. Raises OutputError."""
    import numpy as np

    from ..images import Picture, write_picture

    write_picture(path, Picture(np.asarray(grid.convert("RGB"), np.float32)), about)


def counted(count: int, what: str) -> str:
    """ "1 picture", "2 pictures"."""
    return f"{count} {what}{'' if count == 1 else 's'}"
