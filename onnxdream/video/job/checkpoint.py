"""The folder of an unfinished video job: finished segments, the states to continue from, and a manifest.

The manifest has one JSON line for the job and one for each finished segment, in the order they were finished. A line
counts once all of it is written. The files that it names are on the disk by then; it has a digest of each.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import ConfigDict, Field, NonNegativeInt, TypeAdapter
from pydantic.dataclasses import dataclass

from ...errors import OnnxDreamError, OptionError, OutputError, VideoError, WriteError
from ..io.frames import VideoFrame
from ..io.fsync import fsync_folder, write_data
from ..io.sequences import source_files

log = logging.getLogger(__name__)

MANIFEST = "manifest.jsonl"
CHUNKS = "chunks.json"  # the source's chunks, in jobs whose chunks do not depend on each other
_LOCK = "lock"
_LONGEST_NAME = 255  # bytes that disks take
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # from disks that have none
STRICT = ConfigDict(strict=True, extra="forbid")  # of records that are read from files


def segment_name(number: int) -> str:
    """The file of the `number`-th segment."""
    return f"segment-{number:05d}"


@dataclass(frozen=True, config=STRICT)
class JobRecord:
    """What identifies a job, the first line of its manifest: an unfinished job is resumed only with the same.

    Attributes:
        source: The source's name and a digest of its files (see `source_stamp`).
        format: The source's size, rate, colours and pixel format.
        encoding: The target's codec, quality and pixel format.
        options: Arguments of `dream_video` that decide which frames are dreamed and how.
        settings: The settings of the dream, in types that JSON knows.
        network: A digest of the networks.
        guide: Digests of the guide pictures.
        engine: The names of the engines.
    """

    source: list[str]
    format: str
    encoding: str
    options: list[str]
    settings: dict[str, Any]
    network: str
    guide: str
    engine: str

    def changes(self, stored: Mapping[str, Any]) -> list[str]:
        """The names of the entries in which a stored record differs; it may be one of an earlier version."""
        own = json.loads(json.dumps(asdict(self)))
        return sorted(name for name in {*own, *stored} if own.get(name) != stored.get(name))


@dataclass(frozen=True, config=STRICT)
class Segment:
    """A finished segment, a line of the manifest.

    Attributes:
        file: The file of its frames, in the job's folder.
        frames: How many there are.
        objective: Summed over the frames.
        next_frame: Index in the source of the frame after the segment.
        state: The file of the dreamer's state after it; empty if there is none.
        digest: Of the source's frames (see `FramesDigest`).
        file_digest: Of `file`.
        state_digest: Of `state`; empty if there is none.
    """

    file: Annotated[str, Field(pattern="^segment-[0-9]+$")]
    frames: NonNegativeInt
    objective: float
    next_frame: NonNegativeInt
    state: Annotated[str, Field(pattern=r"^(state-[0-9]+\.npz)?$")]
    digest: str
    file_digest: str = ""
    state_digest: str = ""


_HEADER, _SEGMENT = TypeAdapter(dict[str, Any]), TypeAdapter(Segment)


@dataclasses.dataclass
class Manifest:
    """What a manifest says.

    Attributes:
        job: The record of the job, from this or an earlier version; None if there is none.
        segments: The finished segments, ordered by their files' names.
        damaged: Whether some lines cannot be read.
    """

    job: dict[str, Any] | None = None
    segments: list[Segment] = dataclasses.field(default_factory=list)
    damaged: bool = False

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read the lines up to the first damaged one; an unfinished last line is no damage."""
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        manifest, segments = cls(), {}
        for line in lines:
            try:
                if manifest.job is None:
                    manifest.job = _HEADER.validate_python(json.loads(line))
                else:
                    segment = _SEGMENT.validate_json(line)
                    segments[segment.file] = segment
            except ValueError:
                manifest.damaged = True
                break
        manifest.segments = [segments[name] for name in sorted(segments)]
        return manifest


def manifest_lines(*records: JobRecord | Segment) -> bytes:
    """The lines of a manifest, or some of them."""
    return "".join(json.dumps(asdict(record)) + "\n" for record in records).encode()


def digest_of(path: Path) -> str:
    """A digest of a file's content; empty if the file is missing or empty."""
    if not path.is_file() or not path.stat().st_size:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


class FramesDigest:
    """A digest of source frames: pictures, opacity and times."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, frame: VideoFrame) -> None:
        """Add the next frame."""
        self._hash.update(repr((frame.pts, frame.image.shape, frame.image.dtype.str)).encode())
        self._hash.update(frame.image.tobytes())
        if frame.alpha is not None:
            self._hash.update(frame.alpha.tobytes())

    def __str__(self) -> str:
        return self._hash.hexdigest()


def same_frames(segments: list[Segment], frames: Iterator[VideoFrame]) -> bool:
    """Whether a source still has the frames that segments were made from.

    Args:
        segments: The segments.
        frames: The source's frames from the beginning of the job on.
    """
    for segment in segments:
        digest = FramesDigest()
        try:
            for frame in islice(frames, segment.frames):
                digest.add(frame)
        except VideoError:
            return False
        if str(digest) != segment.digest:
            return False
    return True


def source_stamp(source: str | Path) -> list[str]:
    """The source's name and a digest of its files' names, sizes and times, to tell cheaply whether it may have changed.

    Sources with equal stamps are treated as the same. If they differ, the frames show whether the source has changed.
    """
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in source_files(source)]
    return [str(source), hashlib.blake2b(repr(stats).encode(), digest_size=16).hexdigest()]


def checkpoint_folder(target: Path) -> Path:
    """The folder of the unfinished job that makes `target`, beside it."""
    name = f".{target.name}.onnxdream"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.blake2b(os.fsencode(target.name), digest_size=16).hexdigest()}.onnxdream"
    return target.with_name(name)


class Checkpoint:
    """The folder of an unfinished job, so that the job can be resumed.

    Attributes:
        folder: The folder.
        segments: The finished segments, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.segments: list[Segment] = []
        self._lock = FileLock(folder / _LOCK)  # keeps other runs out

    @classmethod
    def open(
        cls,
        target: Path,
        job: JobRecord,
        *,
        resume: bool,
        chain: bool,
        unchanged: Callable[[list[Segment]], bool],
    ) -> Checkpoint:
        """Open the checkpoint of `target`, with the segments that are finished and intact.

        Args:
            target: The job's result; the folder lies beside it.
            job: What identifies the job.
            resume: Whether to continue an unfinished job; otherwise its folder is emptied.
            chain: Whether each segment continues from the state after the one before, so that all segments after a
                damaged one are lost too.
            unchanged: Tells whether the source's frames are still those that the given segments were made from. Called
                if the job's "source" has changed, which is then allowed.

        Raises:
            OptionError: The unfinished job is another one.
            OutputError: Another run is at work in the folder.
            WriteError: The folder cannot be created or written.
        """
        checkpoint = cls(checkpoint_folder(target))
        try:
            with checkpoint._write_errors("cannot be written"):
                if checkpoint.folder.is_dir():
                    checkpoint._acquire_lock(target)
                if resume and checkpoint._restore(target, job, chain, unchanged):
                    return checkpoint
        except OnnxDreamError:
            checkpoint.release(keep=True)
            raise
        checkpoint.segments = []
        checkpoint.release(keep=False)
        with checkpoint._write_errors("cannot be created"):
            checkpoint.folder.mkdir()
            checkpoint._acquire_lock(target)
            try:
                checkpoint._append(manifest_lines(job))
                fsync_folder(checkpoint.folder)
                fsync_folder(checkpoint.folder.parent)
            except OSError:
                checkpoint.release(keep=False)
                raise
        return checkpoint

    def _acquire_lock(self, target: Path) -> None:
        """Keep other runs out until `release` or the end of the process. Raises OutputError if one is at work."""
        try:
            self._lock.acquire(blocking=False)
        except Timeout as error:
            raise OutputError(f"{target}: another run is making it; let it finish, or stop it") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise

    def release(self, *, keep: bool) -> None:
        """Let other runs in; without `keep` the folder is deleted first."""
        if keep:
            self._lock.release()
        else:
            self.remove()

    def _restore(self, target: Path, job: JobRecord, chain: bool, unchanged: Callable[[list[Segment]], bool]) -> bool:
        """Restore the unfinished job in the folder; False if there is none."""
        manifest = Manifest.read(self.folder / MANIFEST)
        if manifest.job is not None:
            changes = job.changes(manifest.job)
            if changes not in ([], ["source"]):
                raise _other_job(target, changes)
            self.segments = self._intact(manifest.segments, chain)
            if changes and not unchanged(self.segments):
                raise _other_job(target, changes)
        if manifest.damaged or self.segments != manifest.segments:
            log.warning(
                f"{target}: parts of the unfinished job are damaged; {self.frames} frames are kept, the others are "
                "dreamed again"
            )
        if manifest.job is None:
            return False
        self._remove_unfinished(job)
        return True

    def _intact(self, segments: list[Segment], chain: bool) -> list[Segment]:
        """The intact segments; of a chain, those up to the last one with a state to continue from."""
        intact = [s for s in segments if s.file_digest and digest_of(self.folder / s.file) == s.file_digest]
        if not chain:
            return intact
        intact = [s for n, s in enumerate(intact) if s.file == segment_name(n)]
        while intact and intact[-1].state and digest_of(self.folder / intact[-1].state) != intact[-1].state_digest:
            intact.pop()
        return intact

    @property
    def frames(self) -> int:
        """Frames in finished segments."""
        return sum(s.frames for s in self.segments)

    def files(self) -> list[Path]:
        """The finished segments' files, in order."""
        return [self.folder / s.file for s in self.segments]

    def add(self, segment: Segment) -> None:
        """Record a finished segment, whose files are complete. Raises WriteError."""
        with self._write_errors("cannot be written"):
            state_digest = digest_of(self.folder / segment.state) if segment.state else ""
            segment = replace(segment, file_digest=digest_of(self.folder / segment.file), state_digest=state_digest)
            fsync_folder(self.folder)
        # In memory first, so that an interruption here does not make the folder look empty.
        before = self.segments
        self.segments = sorted([*(s for s in before if s.file != segment.file), segment], key=lambda s: s.file)
        try:
            with self._write_errors("cannot be written"):
                self._append(manifest_lines(segment))
        except WriteError:
            self.segments = before
            raise
        for old in self.segments[:-2]:  # two states are kept, in case the last segment gets damaged
            if old.state:
                (self.folder / old.state).unlink(missing_ok=True)

    def has(self, number: int, count: int) -> bool:
        """Whether the `count` segments starting at `number` are finished."""
        return {segment_name(n) for n in range(number, number + count)} <= {s.file for s in self.segments}

    def remove(self) -> None:
        """Delete the folder, once the result beside it is safe on the disk, and let other runs in."""
        if self.folder.is_dir():
            fsync_folder(self.folder.parent)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()
        with suppress(OSError):  # Windows keeps the lock's file, and with it the folder, until then
            self.folder.rmdir()

    @contextmanager
    def _write_errors(self, what: str) -> Iterator[None]:
        """Turn an OSError into WriteError; `what` says what failed."""
        try:
            yield
        except OSError as error:
            raise WriteError(f"{self.folder}: {what}: {error.strerror or error}") from error

    def _append(self, lines: bytes) -> None:
        with (self.folder / MANIFEST).open("ab") as manifest:
            manifest.write(lines)
            manifest.flush()
            os.fsync(manifest.fileno())

    def _known(self) -> set[str]:
        """The files in use."""
        return {MANIFEST, CHUNKS, _LOCK, *(s.file for s in self.segments), *(s.state for s in self.segments[-2:])}

    def _remove_unfinished(self, job: JobRecord) -> None:
        known = self._known()
        for path in self.folder.iterdir():
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        # Rewritten, since a line that was cut off must not run into the next one.
        write_data(self.folder / MANIFEST, manifest_lines(job, *self.segments))
        fsync_folder(self.folder)


class PipeCheckpoint(Checkpoint):
    """The checkpoint of a job whose frames go into a pipe: it counts segments and keeps nothing."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def add(self, segment: Segment) -> None:
        """Count a segment."""
        self.segments.append(segment)

    def remove(self) -> None:
        """There is no folder."""


def _other_job(target: Path, changes: list[str]) -> OptionError:
    return OptionError(
        f"{target}: an unfinished job with other settings is there ({', '.join(changes)} changed); "
        "use the same settings to resume it, or --restart to start over"
    )
