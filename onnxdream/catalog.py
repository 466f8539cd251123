"""Names of networks to files: the two bundled ones, or a path."""

from __future__ import annotations

import difflib
from pathlib import Path

from .errors import ModelError

DEFAULT = "squeezenet1_1"


def folder() -> Path:
    """Where the bundled networks lie: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).parent
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


def bundled() -> dict[str, Path]:
    """The bundled networks' files by name."""
    return {path.stem: path for path in sorted(folder().glob("*.onnx"))}


def find(name: str | Path) -> Path:
    """The ONNX file for a bundled network's name or a path. Raises ModelError when there is neither."""
    known = bundled()
    if str(name) in known:
        return known[str(name)]
    try:
        path = Path(name).expanduser()
        if path.exists():
            return path
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{name}: cannot be read ({error})") from error
    if path.suffix or path.parent != Path():
        raise ModelError(f"{path}: no such file")
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"bundled are {', '.join(known)}"
    raise ModelError(f"no network or file called {str(name)!r}; {hint}")
