"""The folder of an unfinished video job: finished segments, the state to go on from, and a manifest.

The manifest has one JSON line for the job and one for each finished segment, in the order they were finished; a line
counts once it is written whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ..errors import InputError, OptionError, OutputError, VideoError
from ..images import write_whole
from .frames import VideoFrame
from .sequences import find_pictures

if sys.platform != "win32":
    import fcntl


PLAN = "plan.json"  # how the source is cut, in jobs whose segments do not depend on each other


@dataclass
class Segment:
    """A finished run of frames, as the manifest knows it."""

    file: str
    frames: int
    objective: float  # summed over the frames
    next_frame: int  # index in the source of the frame after it
    state: str  # file with the dreamer's state there
    digest: str  # of the source's frames, see `FramesDigest`


def segment_name(number: int) -> str:
    """The file of the `number`-th segment."""
    return f"segment-{number:05d}"


def write_data(path: Path, data: bytes) -> None:
    """Write a file that appears when it is whole. Raises OutputError."""

    def write(to: Path) -> None:
        to.write_bytes(data)

    write_whole(path, write)


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
    files = [] if str(source) == "-" else find_pictures(source) or [Path(source)]
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return [str(source), hashlib.blake2b(repr(stats).encode(), digest_size=16).hexdigest()]


@dataclass
class Workspace:
    """The folder of an unfinished job."""

    folder: Path
    segments: list[Segment] = field(default_factory=list)
    _held: IO[str] | None = None  # the lock that keeps other runs out

    @classmethod
    def open(
        cls, target: Path, job: Mapping[str, Any], *, resume: bool, unchanged: Callable[[list[Segment]], bool]
    ) -> Workspace:
        """The workspace of `target`, with the segments already finished.

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
                if resume and workspace._restore(target, header, unchanged):
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
                workspace._append(header)
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

    def _restore(self, target: Path, header: dict[str, Any], unchanged: Callable[[list[Segment]], bool]) -> bool:
        """Take up the job that is there; False when there is none, or not all of its files."""
        lines = _whole_lines(self.folder / "manifest.jsonl")
        if not lines:
            return False
        changed = sorted(k for k in {*header, *lines[0]} if header.get(k) != lines[0].get(k))
        if changed not in ([], ["source"]):
            raise _other_job(target, changed)
        segments = {line["file"]: Segment(**line) for line in lines[1:]}
        self.segments = [segments[name] for name in sorted(segments)]
        if not all((self.folder / name).is_file() for name in self._known()):
            return False
        if changed and not unchanged(self.segments):
            raise _other_job(target, changed)
        self._forget_unfinished(header)
        return True

    @property
    def frames(self) -> int:
        """Frames in finished segments."""
        return sum(s.frames for s in self.segments)

    def files(self) -> list[Path]:
        """The finished segments' files, in order."""
        return [self.folder / s.file for s in self.segments]

    def add(self, segment: Segment) -> None:
        """Note a finished segment; its files must be whole on the disk. Raises OutputError."""
        # In memory first: an interruption now must not make the folder look empty.
        self.segments = sorted([*self.segments, segment], key=lambda s: s.file)
        try:
            with self._told("cannot be written"):
                self._append(asdict(segment))
        except OutputError:
            self.segments.remove(segment)
            raise
        for old in self.segments[:-1]:
            if old.state:
                (self.folder / old.state).unlink(missing_ok=True)

    def has(self, number: int, count: int) -> bool:
        """Whether the `count` segments from the `number`-th on are finished."""
        return {segment_name(n) for n in range(number, number + count)} <= {s.file for s in self.segments}

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self.folder}: {what}: {error.strerror or error}") from error

    def _append(self, line: Mapping[str, Any]) -> None:
        with (self.folder / "manifest.jsonl").open("a") as manifest:
            manifest.write(json.dumps(line) + "\n")
            manifest.flush()
            os.fsync(manifest.fileno())

    def _known(self) -> set[str]:
        """The files that count."""
        known = {"manifest.jsonl", *(s.file for s in self.segments)}
        known |= {PLAN} if (self.folder / PLAN).is_file() else set()
        return known | {s.state for s in self.segments[-1:] if s.state}

    def _forget_unfinished(self, header: Mapping[str, Any]) -> None:
        known = self._known() | {"lock"}
        for path in self.folder.iterdir():
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        # Written anew, for a line that was cut off must not run into the next one.
        lines = [header, *map(asdict, self.segments)]
        temporary = self.folder / "manifest.tmp"
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        temporary.replace(self.folder / "manifest.jsonl")


def _other_job(target: Path, changed: list[str]) -> OptionError:
    return OptionError(
        f"{target}: an unfinished job with other settings is there ({', '.join(changed)} changed); "
        "use the same settings to go on, or --restart to begin anew"
    )


def _whole_lines(manifest: Path) -> list[dict[str, Any]]:
    """The manifest's lines that were written whole."""
    if not manifest.is_file():
        return []
    lines = []
    for text in manifest.read_text().splitlines(keepends=True):
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
        if not text.endswith("\n"):
            lines.pop()
    return lines
