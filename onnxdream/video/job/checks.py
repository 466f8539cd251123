"""What is refused before any work on a video is done."""

from __future__ import annotations

from pathlib import Path

from ...errors import OptionError, OutputError
from ..io.codec import sink_kind
from ..io.frames import VideoInfo
from ..io.sequences import is_there, same_file, source_files, would_write


def check_options(method: str, every: int, segment_frames: int, overlap: int) -> None:
    """Raise OptionError for what is out of range or contradicts another option."""
    if every < 1:
        raise OptionError(f"every is {every}; it must be at least 1")
    if every > 1 and method != "flow":
        raise OptionError(f"every is {every}, but the method {method} dreams each frame anew; leave one of them out")
    if not 0 <= overlap <= segment_frames:
        raise OptionError(
            f"overlap is {overlap}; it must be at least 0 and at most the {segment_frames} frames of a segment"
        )


def check_files(source: str | Path, target: Path, preview: Path | None, *, overwrite: bool) -> None:
    """Raise OutputError where the result or the preview would take the place of a file that must stay."""
    given = source_files(source)
    piped = sink_kind(target) == "pipe"
    if not piped and any(would_write(target, file) for file in given):
        raise OutputError(f"{target}: is what the dream is made from; choose another name")
    if not (overwrite or piped) and is_there(target):
        raise OutputError(f"{target}: exists already; choose another name or use --overwrite")
    if preview is None:
        return
    if not preview.parent.is_dir():
        raise OutputError(f"{preview}: there is no folder {preview.parent} to write into; create it first")
    if any(same_file(preview, file) for file in given) or same_file(preview.parent, Path(source)):
        raise OutputError(f"{preview}: is what the dream is made from; choose another name for the preview")
    if not piped and would_write(target, preview):
        raise OutputError(f"{preview}: is where the result goes; choose another name for the preview")
    if preview.exists() and not _is_jpeg(preview):
        raise OutputError(f"{preview}: exists already and is no JPEG; choose another name for the preview")


def _is_jpeg(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(3) == b"\xff\xd8\xff"


def working_size(info: VideoInfo, scale: float, longest: int | None) -> tuple[int, int] | None:
    """(height, width) to dream at; None: the source's own. Raises OptionError."""
    if not 0 < scale <= 1:
        raise OptionError(f"scale is {scale}; it must be above 0 and at most 1")
    if longest is not None:
        scale = min(1.0, longest / max(info.height, info.width))
    return None if scale == 1 else (max(1, round(info.height * scale)), max(1, round(info.width * scale)))
