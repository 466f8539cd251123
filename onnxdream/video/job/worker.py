"""Chunks of a video dreamed on the machines of a cluster.

If all machines share the source and the job's folder, they read and write there. Otherwise source and results travel
through the cluster's object store.
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

import numpy as np

from ...cluster.object_store import ObjectStoreFiles
from ...cluster.ray import ClusterProgress, RayCluster, ReportProgress
from ...errors import WriteError
from ..io.frames import VideoSource
from ..io.fsync import write_data
from ..io.sequences import find_pictures
from .checkpoint import Segment, source_stamp
from .chunks import Chunk
from .pipeline import FrameInFlight, JobSpec, SegmentPipeline


@dataclass(frozen=True)
class SegmentResult:
    """What a worker has dreamed of a chunk.

    Attributes:
        segments: Its segments.
        image: Its last dreamed frame, RGB uint8 or uint16 [H,W,3].
        provider: What it was dreamed on (see `Dreamer.provider`).
        files: The segments' files by name; empty if they are in the job's folder.
    """

    segments: list[Segment]
    image: np.ndarray
    provider: str
    files: dict[str, bytes]


@dataclass
class SegmentWorker:
    """Dreams chunks in a process of a cluster.

    Attributes:
        spec: The job.
        folder: Where segments are written; None if they are returned.
        source_files: The source; None if the worker can open it by its name.
        pictures: Whether the source is a sequence of pictures.
    """

    spec: JobSpec
    folder: Path | None
    source_files: ObjectStoreFiles | None
    pictures: bool

    @cached_property
    def _video(self) -> VideoSource:
        """The source, opened once: seeking in a file may mean reading all of it."""
        if self.source_files is None:
            return self.spec.open()
        folder = self.source_files.unpack()
        source = folder if self.pictures else next(folder.iterdir())
        return replace(self.spec, source=source).open()

    def __call__(self, chunk: Chunk, report: ReportProgress) -> SegmentResult:
        """Dream one chunk.

        Args:
            chunk: The chunk.
            report: Called with the number of frames done.

        Returns:
            What was dreamed.

        Raises:
            VideoError: The source is damaged, or has fewer frames than the chunk.
            WriteError: A segment cannot be written.
        """
        image, done = np.zeros((0, 0, 3), np.uint8), 0

        def on_frame(frame: FrameInFlight) -> None:
            nonlocal image, done
            image, done = frame.dreamed, done + 1
            report(done)

        # Another worker may be dreaming the same chunk.
        with tempfile.TemporaryDirectory(prefix="task-", dir=self.folder, ignore_cleanup_errors=True) as own:
            segments = list(SegmentPipeline(self.spec, self._video, chunk, Path(own), on_frame=on_frame))
            files: dict[str, bytes] = {}
            for segment in segments:
                written = Path(own) / segment.file
                if self.folder is None:
                    files[segment.file] = written.read_bytes()
                else:
                    written.replace(self.folder / segment.file)
        return SegmentResult(segments, image, self.spec.dreamer.provider, files)


def dream_chunks(
    cluster: RayCluster,
    spec: JobSpec,
    folder: Path,
    chunks: Iterable[Chunk],
    on_progress: Callable[[ClusterProgress], bool | None],
) -> Generator[SegmentResult, None, None]:
    """Dream chunks on a cluster; when a result is yielded, its segments are complete files in `folder`.

    Args:
        cluster: The cluster.
        spec: The job.
        folder: The job's folder.
        chunks: What to dream; they may be found while the first are being dreamed.
        on_progress: See `RayCluster.map`.

    Yields:
        What was dreamed of each chunk, in the order they are finished.

    Raises:
        ClusterError: See `RayCluster.map`.
        WriteError: A segment cannot be written.
    """
    with cluster.connected():
        source = os.path.abspath(spec.source)
        shared = _is_shared(cluster, spec.source, folder)
        purpose = f"{source_stamp(source)} into {folder.absolute()}"
        files = None if shared else ObjectStoreFiles(_source_files(spec.source), purpose)
        try:
            spec = replace(spec, source=source, target=Path(os.path.abspath(spec.target)))
            pictures = find_pictures(source) is not None
            worker = SegmentWorker(spec, folder.absolute() if shared else None, files, pictures)
            with closing(cluster.map(worker, chunks, on_progress=on_progress)) as results:
                for _, result in results:
                    for name, data in result.files.items():
                        write_data(folder / name, data)
                    yield result
        finally:
            if files is not None:
                with suppress(Exception):
                    cluster.on_each_node(_discard, files)


def _is_shared(cluster: RayCluster, source: str | Path, folder: Path) -> bool:
    """Whether every node sees the job's folder, and the same source under its name."""
    token = folder.absolute() / f"seen-{uuid.uuid4().hex}"
    try:
        token.touch()
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        return all(
            cluster.on_each_node(_can_see, token, os.path.abspath(source), source_stamp(os.path.abspath(source)))
        )
    finally:
        token.unlink(missing_ok=True)


def _can_see(token: Path, source: str, expected: list[str]) -> bool:
    with suppress(OSError):
        return token.is_file() and os.access(token.parent, os.W_OK) and source_stamp(source) == expected
    return False


def _source_files(source: str | Path) -> dict[str, Path]:
    """The files of a source by the names they travel under, which keep pictures in order."""
    pictures = find_pictures(source)
    if pictures is None:
        return {Path(source).name: Path(source)}
    return {f"{number:08d}{path.suffix}": path for number, path in enumerate(pictures)}


def _discard(files: ObjectStoreFiles) -> None:
    files.discard()
