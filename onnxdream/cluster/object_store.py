"""Files that travel through a cluster's object store."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .ray import ray_module

_CHUNK = 32 << 20  # bytes of a file in one object


class ObjectStoreFiles:
    """Files on their way through the cluster's object store, for machines that do not see them on a disk.

    Made where the files are, while connected; `unpack` gives, anywhere in the cluster, the folder with the files under
    the same names. Shipments of one `purpose` are taken for the same: what a killed driver could not discard is found
    by the next, and discarded then.
    """

    def __init__(self, files: dict[str, Path], purpose: str) -> None:
        self._folder = f"onnxdream-{hashlib.blake2b(purpose.encode(), digest_size=16).hexdigest()}"
        self._chunks = {name: [ray_module().put(chunk) for chunk in _chunks(path)] for name, path in files.items()}

    @property
    def folder(self) -> Path:
        """Where the files lie on this machine, once unpacked."""
        return Path(tempfile.gettempdir()) / self._folder

    def unpack(self) -> Path:
        """Fetch the files, once for each machine."""
        if self.folder.is_dir():
            return self.folder
        partial = Path(tempfile.mkdtemp(prefix=f"{self._folder}-"))
        for name, chunks in self._chunks.items():
            with (partial / name).open("wb") as file:
                for chunk in chunks:
                    file.write(ray_module().get(chunk))
        with suppress(OSError):  # another worker here was faster
            partial.rename(self.folder)
        shutil.rmtree(partial, ignore_errors=True)
        return self.folder

    def discard(self) -> None:
        """Delete what `unpack` left on this machine."""
        for folder in self.folder.parent.glob(f"{self._folder}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
