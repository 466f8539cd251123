"""The manifest of an unfinished job: one JSON line for the job and one for each finished segment.

Segments are in the order they were finished. A line counts once it is written whole, and names only files that are on
the disk by then, with a digest of each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass
class Segment:
    """A finished run of frames."""

    file: str
    frames: int
    objective: float  # summed over the frames
    next_frame: int  # index in the source of the frame after it
    state: str  # file with the dreamer's state there
    digest: str  # of the source's frames, see `FramesDigest`
    file_digest: str = ""
    state_digest: str = ""


@dataclass
class Manifest:
    """What a manifest says; `job` is None where there is none, `damaged` when lines of it cannot be read."""

    job: dict[str, Any] | None
    segments: list[Segment]  # by their files' names
    damaged: bool

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read as far as it is whole; a last line that was not finished is no damage."""
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


def written(job: Mapping[str, Any] | None, segments: Iterable[Segment] = ()) -> str:
    """The lines of a manifest, or, without `job`, of its segments."""
    lines = [*([] if job is None else [job]), *map(asdict, segments)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def digest_of(path: Path) -> str:
    """A digest of what is in a file; empty when it is missing or empty."""
    if not path.is_file() or not path.stat().st_size:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
