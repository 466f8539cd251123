"""The folder of an unfinished video job: finished segments, the states to go on from, and a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ...errors import InputError, OptionError, OutputError, VideoError, WriteError
from ..io.frames import VideoFrame
from ..io.fsync import keep_entries, write_data
from ..io.sequences import source_files
from .manifest import Manifest, Segment, digest_of, written

if sys.platform != "win32":
    import fcntl


PLAN = "plan.json"  # how the source is cut, in jobs whose segments do not depend on each other
MANIFEST = "manifest.jsonl"


def segment_name(number: int) -> str:
    """The file of the `number`-th segment."""
    return f"segment-{number:05d}"


class FramesDigest:
    """Tells one run of source frames from another: pictures, opacity and times."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, frame: VideoFrame) -> None:
        """Take in the next frame."""
        self._hash.update(repr((frame.pts, frame.image.shape, frame.image.dtype.str)).encode())
        self._hash.update(frame.image.tobytes())
        if frame.alpha is not None:
            self._hash.update(frame.alpha.tobytes())

    def __str__(self) -> str:
        return self._hash.hexdigest()


def same_frames(segments: list[Segment], frames: Iterator[VideoFrame]) -> bool:
    """Whether `frames` begin with those that `segments` were made from."""
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


def fingerprint(source: str | Path) -> list[Any]:
    """What tells cheaply whether a source, a file or pictures, may have changed: names, sizes and times."""
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in source_files(source)]
    return [str(source), hashlib.blake2b(repr(stats).encode(), digest_size=16).hexdigest()]


@dataclass
class Checkpoint:
    """The folder of an unfinished job."""

    folder: Path
    segments: list[Segment] = field(default_factory=list)
    _held: IO[str] | None = None  # the lock that keeps other runs out

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
        """The workspace of `target`, with the segments already finished and still whole.

        In a `chain` each segment goes on from the state after the one before: what follows a damaged one is lost too.
        A job's "source" may have changed when `unchanged` says of the segments that what they were made from is still
        there. Raises OptionError when anything else has, and OutputError when the folder cannot be made or another run
        is at work in it.
        """
        workspace = cls(target.parent / f".{target.name}.onnxdream")
        header = json.loads(json.dumps(job))
        try:
            with workspace._told("cannot be written"):
                if workspace.folder.is_dir():
                    workspace._hold(target)
                if resume and workspace._restore(target, header, chain, unchanged):
                    return workspace
        except InputError:
            workspace.release(keep=True)
            raise
        workspace.segments = []
        workspace.release(keep=False)
        with workspace._told("cannot be created"):
            workspace.folder.mkdir()
            workspace._hold(target)
            try:
                workspace._append(written(header))
                keep_entries(workspace.folder)
                keep_entries(workspace.folder.parent)
            except OSError:
                workspace.release(keep=False)
                raise
        return workspace

    def _hold(self, target: Path) -> None:
        """Keep other runs out until `release`, or the end of the process. Raises OutputError when one is in."""
        if sys.platform == "win32":
            return
        self._held = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{target}: another run is making it; let it finish, or stop it") from error
        except OSError:
            return  # a disk on which nothing can be locked

    def release(self, *, keep: bool) -> None:
        """Let other runs in; without `keep` the folder is deleted."""
        if not keep:
            self.remove()
        if self._held is not None:
            self._held.close()
            self._held = None

    def _restore(
        self, target: Path, header: dict[str, Any], chain: bool, unchanged: Callable[[list[Segment]], bool]
    ) -> bool:
        """Take up the job that is there; False when there is none."""
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
        self._forget_unfinished(header)
        return True

    def _intact(self, segments: list[Segment], chain: bool) -> list[Segment]:
        """Those of `segments` that are whole; of a chain, those up to the last one that can be gone on from."""
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
        """Note a finished segment; its files must be whole. Raises OutputError."""
        with self._told("cannot be written"):
            state_digest = digest_of(self.folder / segment.state) if segment.state else ""
            segment = replace(segment, file_digest=digest_of(self.folder / segment.file), state_digest=state_digest)
            keep_entries(self.folder)
        # In memory first: an interruption now must not make the folder look empty.
        before = self.segments
        self.segments = sorted([*(s for s in before if s.file != segment.file), segment], key=lambda s: s.file)
        try:
            with self._told("cannot be written"):
                self._append(written(None, [segment]))
        except OutputError:
            self.segments = before
            raise
        for old in self.segments[:-2]:  # of two, for the last segment may be damaged one day
            if old.state:
                (self.folder / old.state).unlink(missing_ok=True)

    def has(self, number: int, count: int) -> bool:
        """Whether the `count` segments from the `number`-th on are finished."""
        return {segment_name(n) for n in range(number, number + count)} <= {s.file for s in self.segments}

    def remove(self) -> None:
        """Delete the folder, once the disk keeps the result beside it."""
        if self.folder.is_dir():
            keep_entries(self.folder.parent)
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
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
        """The files that count."""
        return {MANIFEST, PLAN, "lock", *(s.file for s in self.segments), *(s.state for s in self.segments[-2:])}

    def _forget_unfinished(self, header: Mapping[str, Any]) -> None:
        known = self._known()
        for path in self.folder.iterdir():
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        # Written anew, for a line that was cut off must not run into the next one.
        write_data(self.folder / MANIFEST, written(header, self.segments).encode())
        keep_entries(self.folder)


class Tally(Checkpoint):
    """In place of a workspace, for a job whose frames go into a pipe: segments are only counted."""

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
        "use the same settings to go on, or --restart to begin anew"
    )
