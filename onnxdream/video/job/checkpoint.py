"""The folder of an unfinished video job: finished segments, the states to continue from, and a manifest.

The manifest has one JSON line for the job and one for each finished segment, in the order they were finished. A line
counts once it is written whole. It names only files that are on the disk by then, with a digest of each.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ...errors import OnnxDreamError, OptionError, OutputError, VideoError, WriteError
from ..io.frames import VideoFrame
from ..io.fsync import keep_entries, write_data
from ..io.sequences import source_files

if sys.platform != "win32":
    import fcntl

PLAN = "plan.json"  # the source's chunks, in jobs whose chunks do not depend on each other
MANIFEST = "manifest.jsonl"


def segment_name(number: int) -> str:
    """The file of the `number`-th segment."""
    return f"segment-{number:05d}"


@dataclass
class Segment:
    """A finished segment: a file of consecutive frames."""

    file: str
    frames: int
    objective: float  # summed over the frames
    next_frame: int  # index in the source of the frame after the segment
    state: str  # file with the dreamer's state after it; empty if there is none
    digest: str  # of the source's frames, see `FramesDigest`
    file_digest: str = ""
    state_digest: str = ""


@dataclass
class Manifest:
    """What a manifest says."""

    job: dict[str, Any] | None  # None if there is no manifest
    segments: list[Segment]  # ordered by their files' names
    damaged: bool  # some lines cannot be read

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read the lines up to the first damaged one; an unfinished last line is no damage."""
        texts = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        if texts and not texts[-1].endswith(b"\n"):
            texts.pop()
        lines: list[Any] = []
        for text in texts:
            line = _parsed(text)
            if not isinstance(line, dict) or (lines and not _is_segment(line)):
                break
            lines.append(line)
        found = {line["file"]: Segment(**line) for line in lines[1:]}
        return cls(lines[0] if lines else None, [found[name] for name in sorted(found)], len(lines) < len(texts))


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


_KINDS = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(Segment)}


def _is_segment(line: Mapping[str, Any]) -> bool:
    return line.keys() == _KINDS.keys() and all(isinstance(line[name], kind) for name, kind in _KINDS.items())


def manifest_lines(job: Mapping[str, Any] | None, segments: Iterable[Segment] = ()) -> str:
    """The lines of a manifest; without `job`, those of segments alone."""
    lines = [*([] if job is None else [job]), *map(asdict, segments)]
    return "".join(json.dumps(line) + "\n" for line in lines)


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
    """Whether `frames` begin with the frames that `segments` were made from."""
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

    Two sources of one stamp are taken for the same; whether one of another stamp has changed, its frames tell.
    """
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in source_files(source)]
    return [str(source), hashlib.blake2b(repr(stats).encode(), digest_size=16).hexdigest()]


@dataclass
class Checkpoint:
    """The folder of an unfinished job, so that the job can be resumed."""

    folder: Path
    segments: list[Segment] = field(default_factory=list)
    _lock_file: IO[str] | None = None  # locked, to keep other runs out

    @classmethod
    def open(
        cls,
        target: Path,
        job: Mapping[str, Any],
        *,
        resume: bool,
        chain: bool,
        unchanged: Callable[[list[Segment]], bool],
    ) -> Checkpoint:
        """Open the checkpoint of `target`, with the segments that are finished and whole.

        Args:
            target: the job's result; the folder lies beside it.
            job: what identifies the job, in types that JSON knows.
            resume: whether to continue an unfinished job; otherwise its folder is emptied.
            chain: each segment continues from the state after the one before, so whatever follows a damaged segment is
                lost too.
            unchanged: tells whether the source's frames are still those that the given segments were made from. Called
                if the job's "source" has changed, which is then allowed.

        Raises:
            OptionError: the unfinished job is another one.
            OutputError: another run is at work in the folder.
            WriteError: the folder cannot be created or written.
        """
        checkpoint = cls(target.parent / f".{target.name}.onnxdream")
        header = json.loads(json.dumps(job))
        try:
            with checkpoint._write_errors("cannot be written"):
                if checkpoint.folder.is_dir():
                    checkpoint._lock(target)
                if resume and checkpoint._restore(target, header, chain, unchanged):
                    return checkpoint
        except OnnxDreamError:
            checkpoint.release(keep=True)
            raise
        checkpoint.segments = []
        checkpoint.release(keep=False)
        with checkpoint._write_errors("cannot be created"):
            checkpoint.folder.mkdir()
            checkpoint._lock(target)
            try:
                checkpoint._append(manifest_lines(header))
                keep_entries(checkpoint.folder)
                keep_entries(checkpoint.folder.parent)
            except OSError:
                checkpoint.release(keep=False)
                raise
        return checkpoint

    def _lock(self, target: Path) -> None:
        """Lock other runs out until `release` or the end of the process. Raises OutputError if one is at work."""
        if sys.platform == "win32":
            return
        self._lock_file = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{target}: another run is making it; let it finish, or stop it") from error
        except OSError:
            return  # a disk without locks

    def release(self, *, keep: bool) -> None:
        """Unlock the folder for other runs; without `keep` it is deleted first."""
        if not keep:
            self.remove()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def _restore(
        self, target: Path, header: dict[str, Any], chain: bool, unchanged: Callable[[list[Segment]], bool]
    ) -> bool:
        """Restore the unfinished job in the folder; False if there is none."""
        manifest = Manifest.read(self.folder / MANIFEST)
        job = manifest.job
        if job is not None:
            changed = sorted(k for k in {*header, *job} if header.get(k) != job.get(k))
            if changed not in ([], ["source"]):
                raise _other_job(target, changed)
            self.segments = self._intact(manifest.segments, chain)
            if changed and not unchanged(self.segments):
                raise _other_job(target, changed)
        if manifest.damaged or self.segments != manifest.segments:
            warnings.warn(
                f"{target}: parts of the unfinished job are damaged; {self.frames} frames are kept, the others are "
                "dreamed again",
                stacklevel=2,
            )
        if job is None:
            return False
        self._remove_unfinished(header)
        return True

    def _intact(self, segments: list[Segment], chain: bool) -> list[Segment]:
        """The segments that are whole; of a chain, those up to the last one with a state to continue from."""
        whole = [s for s in segments if s.file_digest and digest_of(self.folder / s.file) == s.file_digest]
        if not chain:
            return whole
        whole = [s for n, s in enumerate(whole) if s.file == segment_name(n)]
        while whole and whole[-1].state and digest_of(self.folder / whole[-1].state) != whole[-1].state_digest:
            whole.pop()
        return whole

    @property
    def frames(self) -> int:
        """Frames in finished segments."""
        return sum(s.frames for s in self.segments)

    def files(self) -> list[Path]:
        """The finished segments' files, in order."""
        return [self.folder / s.file for s in self.segments]

    def add(self, segment: Segment) -> None:
        """Record a finished segment, whose files are whole. Raises WriteError."""
        with self._write_errors("cannot be written"):
            state_digest = digest_of(self.folder / segment.state) if segment.state else ""
            segment = replace(segment, file_digest=digest_of(self.folder / segment.file), state_digest=state_digest)
            keep_entries(self.folder)
        # In memory first: an interruption here must not make the folder look empty.
        before = self.segments
        self.segments = sorted([*(s for s in before if s.file != segment.file), segment], key=lambda s: s.file)
        try:
            with self._write_errors("cannot be written"):
                self._append(manifest_lines(None, [segment]))
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
        """Delete the folder, once the result beside it is safe on the disk."""
        if self.folder.is_dir():
            keep_entries(self.folder.parent)
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _write_errors(self, what: str) -> Iterator[None]:
        """Turn an OSError into WriteError; `what` says what failed."""
        try:
            yield
        except OSError as error:
            raise WriteError(f"{self.folder}: {what}: {error.strerror or error}") from error

    def _append(self, lines: str) -> None:
        with (self.folder / MANIFEST).open("a") as manifest:
            manifest.write(lines)
            manifest.flush()
            os.fsync(manifest.fileno())

    def _known(self) -> set[str]:
        """The files in use."""
        return {MANIFEST, PLAN, "lock", *(s.file for s in self.segments), *(s.state for s in self.segments[-2:])}

    def _remove_unfinished(self, header: Mapping[str, Any]) -> None:
        known = self._known()
        for path in self.folder.iterdir():
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        # Rewritten, since a line that was cut off must not run into the next one.
        write_data(self.folder / MANIFEST, manifest_lines(header, self.segments).encode())
        keep_entries(self.folder)


class PipeCheckpoint(Checkpoint):
    """Replaces the checkpoint of a job whose frames go into a pipe: it counts segments and keeps nothing."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def add(self, segment: Segment) -> None:
        """Count a segment."""
        self.segments.append(segment)

    def remove(self) -> None:
        """There is no folder."""


def _other_job(target: Path, changed: list[str]) -> OptionError:
    return OptionError(
        f"{target}: an unfinished job with other settings is there ({', '.join(changed)} changed); "
        "use the same settings to resume it, or --restart to start over"
    )
