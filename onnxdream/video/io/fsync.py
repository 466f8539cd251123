"""What must be on the disk before something else, should the power fail in between."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ...images import write_whole


def fsync_file(path: Path) -> None:
    """Have the disk keep what is in a file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Have the disk keep the names in a folder; not every disk and system can."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_data(path: Path, data: bytes) -> None:
    """Write a file that appears when the disk has all of it.

    Raises:
        WriteError: It cannot be written.
    """

    def write(to: Path) -> None:
        to.write_bytes(data)
        fsync_file(to)

    write_whole(path, write)
