"""The folder of an unfinished video job: finished segments, the state to go on from, and a manifest.

The manifest has one JSON line for the job and one for each finished segment; a line counts once it is written whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OptionError, OutputError


@dataclass
class Segment:
    """A finished run of frames, as the manifest knows it."""

    file: str
    frames: int
    objective: float  # summed over the frames
    next_frame: int  # index in the source of the frame after it
    state: str  # file with the dreamer's state there


@dataclass
class Workspace:
    """The folder of an unfinished job."""

    folder: Path
    segments: list[Segment] = field(default_factory=list)

    @classmethod
    def open(cls, target: Path, job: Mapping[str, Any], *, resume: bool) -> Workspace:
        """The workspace of `target`, with the segments already finished.

        Raises OptionError when it belongs to a job with other settings, and OutputError when it cannot be made.
        """
        folder = target.parent / f".{target.name}.onnxdream"
        workspace = cls(folder)
        manifest = folder / "manifest.jsonl"
        header = json.loads(json.dumps(job))
        if folder.is_dir() and not resume:
            shutil.rmtree(folder)
        lines = _whole_lines(manifest)
        if lines:
            changed = sorted(k for k in {*header, *lines[0]} if header.get(k) != lines[0].get(k))
            if changed:
                raise OptionError(
                    f"{target}: an unfinished job with other settings is there ({', '.join(changed)} changed); "
                    "use the same settings to go on, or --restart to begin anew"
                )
            workspace.segments = [Segment(**line) for line in lines[1:]]
            workspace._forget_unfinished()
            return workspace
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            workspace._append(header)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be created: {error.strerror}") from error
        return workspace

    @property
    def frames(self) -> int:
        """Frames in finished segments."""
        return sum(s.frames for s in self.segments)

    def files(self) -> list[Path]:
        """The finished segments' files, in order."""
        return [self.folder / s.file for s in self.segments]

    def add(self, segment: Segment) -> None:
        """Note a finished segment; its files must be whole on the disk."""
        self._append(asdict(segment))
        self.segments.append(segment)
        for old in self.segments[:-1]:
            (self.folder / old.state).unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _append(self, line: Mapping[str, Any]) -> None:
        with (self.folder / "manifest.jsonl").open("a") as manifest:
            manifest.write(json.dumps(line) + "\n")
            manifest.flush()
            os.fsync(manifest.fileno())

    def _forget_unfinished(self) -> None:
        known = {"manifest.jsonl", *(s.file for s in self.segments)}
        if self.segments:
            known.add(self.segments[-1].state)
        for path in self.folder.iterdir():
            if path.name not in known:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        # A line that was cut off must not run into the next one.
        lines = _whole_lines(self.folder / "manifest.jsonl")
        temporary = self.folder / "manifest.tmp"
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        temporary.replace(self.folder / "manifest.jsonl")


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
