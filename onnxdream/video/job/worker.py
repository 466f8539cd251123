"""Stretches of a video dreamed on the machines of a cluster.

Where all of them see the source and the job's folder, the segments are written there; else both travel through the
cluster's object store.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...cluster.object_store import ObjectStoreFiles
from ...cluster.ray import ClusterProgress, RayCluster, ReportProgress
from ...errors import WriteError
from ..io.frames import VideoSource
from ..io.fsync import write_data
from ..io.sequences import find_pictures
from .checkpoint import fingerprint
from .chunks import Chunk
from .manifest import Segment
from .pipeline import JobSpec, Segments, Step


@dataclass(frozen=True)
class SegmentResult:
    """What a worker has made of a stretch."""

    segments: list[Segment]
    image: np.ndarray  # its last dreamed frame, BGR uint8 or uint16 [H,W,3]
    provider: str
    files: dict[str, bytes]  # by name, where they are not in the job's folder


@dataclass
class SegmentWorker:
    """Dreams stretches, in a process of its own, into `folder`; where that is None the files are handed back."""

    recipe: JobSpec
    folder: Path | None
    shipment: ObjectStoreFiles | None
    pictures: bool  # the source is made of them

    @cached_property
    def _video(self) -> VideoSource:
        """Opened once: finding its way in a file may mean reading all of it."""
        if self.shipment is None:
            return self.recipe.open()
        folder = self.shipment.unpack()
        source = folder if self.pictures else next(folder.iterdir())
        return replace(self.recipe, source=source).open()

    def __call__(self, stretch: Chunk, report: ReportProgress) -> SegmentResult:
        """Dream one stretch; `report` is told the number of frames."""
        image, done = np.zeros((0, 0, 3), np.uint8), 0

        def on_step(step: Step) -> None:
            nonlocal image, done
            image, done = step.dreamed, done + 1
            report(done)

        # A folder of its own: the same stretch may be in hand twice.
        with tempfile.TemporaryDirectory(prefix="task-", dir=self.folder, ignore_cleanup_errors=True) as own:
            segments = list(Segments(self.recipe, self._video, stretch, Path(own), on_step=on_step))
            names = [segment.file for segment in segments]
            if self.folder is not None:
                for name in names:
                    (Path(own) / name).replace(self.folder / name)
                names = []
            files = {name: (Path(own) / name).read_bytes() for name in names}
        return SegmentResult(segments, image, self.recipe.dreamer.provider, files)


def dream_stretches(
    cluster: RayCluster,
    recipe: JobSpec,
    folder: Path,
    todo: Iterable[Chunk],
    on_progress: Callable[[ClusterProgress], None],
) -> Generator[tuple[Chunk, SegmentResult], None, None]:
    """Dream stretches on `cluster`; their segments are whole files in `folder` when they are yielded.

    Raises what `RayCluster.map` raises, and OutputError.
    """
    with cluster.connected():
        shared = _is_shared(cluster, recipe.source, folder)
        purpose = f"{fingerprint(_absolute(recipe.source))} into {folder.absolute()}"
        shipment = None if shared else ObjectStoreFiles(_files(recipe.source), purpose)
        try:
            recipe = replace(recipe, source=_absolute(recipe.source), target=Path(_absolute(recipe.target)))
            pictures = find_pictures(recipe.source) is not None
            hand = SegmentWorker(recipe, folder.absolute() if shared else None, shipment, pictures)
            with closing(cluster.map(hand, todo, on_progress=on_progress)) as results:
                for stretch, made in results:
                    for name, data in made.files.items():
                        write_data(folder / name, data)
                    yield stretch, made
        finally:
            if shipment is not None:
                with suppress(Exception):
                    cluster.on_each_node(_discard, shipment)


def _is_shared(cluster: RayCluster, source: str | Path, folder: Path) -> bool:
    """Whether every node sees the source as it is here, and the job's folder."""
    token = folder.absolute() / f"seen-{uuid.uuid4().hex}"
    try:
        token.touch()
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        return all(cluster.on_each_node(_sees, token, _absolute(source), fingerprint(_absolute(source))))
    finally:
        token.unlink(missing_ok=True)


def _sees(token: Path, source: str, expected: list[Any]) -> bool:
    with suppress(OSError):
        return token.is_file() and os.access(token.parent, os.W_OK) and fingerprint(source) == expected
    return False


def _absolute(source: str | Path) -> str:
    return os.path.abspath(source)


def _files(source: str | Path) -> dict[str, Path]:
    """The files of a source by the names they travel under, which keep the order of pictures."""
    pictures = find_pictures(source)
    if pictures is None:
        return {Path(source).name: Path(source)}
    return {f"{number:08d}{path.suffix}": path for number, path in enumerate(pictures)}


def _discard(shipment: ObjectStoreFiles) -> None:
    shipment.discard()
