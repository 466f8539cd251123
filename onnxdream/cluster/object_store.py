"""Files sent through a cluster's object store."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .ray import ray_module

_PART = 32 << 20  # bytes of a file in one object


class ObjectStoreFiles:
    """Files in the cluster's object store, for machines that do not see them on a disk.

    Created where the files are, while connected. Anywhere in the cluster, `unpack` writes them into a folder.

    Args:
        files: The files by the names that they get there.
        purpose: What they are for. The same purpose gives the same folder, so the next driver finds and deletes what a
            killed one left behind.
    """

    def __init__(self, files: dict[str, Path], purpose: str) -> None:
        self._folder = f"onnxdream-{hashlib.blake2b(purpose.encode(), digest_size=16).hexdigest()}"
        self._parts = {name: [ray_module().put(part) for part in _parts(path)] for name, path in files.items()}

    @property
    def folder(self) -> Path:
        """The folder of the files on this machine, once unpacked."""
        return Path(tempfile.gettempdir()) / self._folder

    def unpack(self) -> Path:
        """Write the files into `folder`, once per machine, and return it."""
        if self.folder.is_dir():
            return self.folder
        partial = Path(tempfile.mkdtemp(prefix=f"{self._folder}-"))
        for name, parts in self._parts.items():
            with (partial / name).open("wb") as file:
                for part in parts:
                    file.write(ray_module().get(part))
        with suppress(OSError):  # another worker here was faster
            partial.rename(self.folder)
        shutil.rmtree(partial, ignore_errors=True)
        return self.folder

    def discard(self) -> None:
        """Delete what `unpack` left on this machine."""
        for folder in self.folder.parent.glob(f"{self._folder}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(_PART):
            yield part
